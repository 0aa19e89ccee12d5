package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// A snapshot is sections, in a file and on its way to another member:
//
//	"OCTOSNAP"  u32 version  u32 crc
//	u8 kind  u8 flags  u16 0  u32 crc               a section begins
//	u32 length  u32 crc of length and bytes  bytes  any number of times
//	u32 0  u64 sum of all lengths  u32 crc          and ends
//	...
//	u8 255  u8 flags  u16 0  u32 crc                and nothing more
//
// Sections stand in the order of their kinds, and none of them twice. Every checksum
// continues the one before it, so that pieces that are right by themselves, but not at their
// place, are found out. Of an external snapshot there is no section for the state machine.
const (
	snapshotMagic   = "OCTOSNAP"
	snapshotVersion = 2
	// sectionsBytesMax bounds what stands before the state machine's section, as a reader
	// holds all of it in memory.
	sectionsBytesMax  = 4 << 20
	chunkBytesMax     = 256 << 10
	preambleBytes     = 16
	sectionHeadBytes  = 8
	chunkHeadBytes    = 8
	sectionTailBytes  = 16
	sectionMandatory  = 1
	sectionFlagsKnown = sectionMandatory
)

// sectionKind says what a section holds. The numbers are in files and never reused; 3 is
// reserved for the sessions of clients.
type sectionKind uint8

const (
	// sectionMeta holds an octopiipb.SnapshotMeta, and sectionMembership an
	// octopiipb.Membership.
	sectionMeta       sectionKind = 1
	sectionMembership sectionKind = 2
	// sectionState holds what the state machine wrote.
	sectionState sectionKind = 240
	// sectionEnd holds nothing, and nothing follows it.
	sectionEnd sectionKind = 255
)

// sectionLevels are the format levels of a cluster from which on a section is written. What
// is new gets the next level here, and is refused below it: see node/format.go.
var sectionLevels = map[sectionKind]uint32{sectionMeta: 1, sectionMembership: 1, sectionState: 1, sectionEnd: 1}

// SnapshotHeader is what a snapshot says before the state machine's part of it.
type SnapshotHeader struct {
	Metadata   raftpb.SnapshotMetadata
	Membership octopiipb.Membership
	// External: a durable state machine holds the data itself, and the snapshot has none.
	External bool
	// Terms are those of the log up to here, by where each begins, oldest first: the newest
	// 512 at most. Where the first one begins may be later than in the log.
	Terms []octopiipb.TermStart
	// Sums are checksums of the last 1, 4 and 32 entries up to here, 0 for one that is not
	// known; empty if none is.
	Sums []uint64
}

// sectionWriter writes sections. The first error is final.
type sectionWriter struct {
	w io.Writer
	// chunk is the next chunk: its head, then what was written.
	chunk []byte
	// size of all so far, and total of the data in the section that is open.
	size  int64
	total uint64
	// crc is the last checksum that was written.
	crc uint32
	// level is the format level of the cluster.
	level uint32
	err   error
}

// begin writes all that stands before the state machine's data.
func (s *sectionWriter) begin(h SnapshotHeader) error {
	meta := octopiipb.SnapshotMeta{Metadata: h.Metadata, External: h.External, Terms: h.Terms, Sums: h.Sums}
	first, err := meta.Marshal()
	if err != nil {
		return err
	}
	second, err := h.Membership.Marshal()
	if err != nil {
		return err
	}
	s.level = h.Membership.Settings.Level()
	s.chunk = make([]byte, chunkHeadBytes, chunkHeadBytes+chunkBytesMax)
	head := s.apart(func() {
		s.seal(binary.LittleEndian.AppendUint32([]byte(snapshotMagic), snapshotVersion))
		for _, part := range []struct {
			kind sectionKind
			data []byte
		}{{sectionMeta, first}, {sectionMembership, second}} {
			s.open(part.kind)
			_, _ = s.Write(part.data)
			s.close()
		}
		if !h.External {
			s.open(sectionState)
		}
	})
	if len(head) > sectionsBytesMax {
		return fmt.Errorf("%d bytes before the state machine's data, more than %d", len(head), sectionsBytesMax)
	}
	s.put(head)
	return s.err
}

// end closes the state machine's section, if there is one, and ends the snapshot.
func (s *sectionWriter) end(external bool) error {
	s.flush()
	last := s.apart(func() {
		if !external {
			s.close()
		}
		s.open(sectionEnd)
	})
	s.put(last)
	return s.err
}

// apart returns what f writes, which is to become one write.
func (s *sectionWriter) apart(f func()) []byte {
	var b bytes.Buffer
	out, size := s.w, s.size
	s.w = &b
	f()
	s.w, s.size = out, size
	return b.Bytes()
}

func (s *sectionWriter) open(kind sectionKind) {
	if need, known := sectionLevels[kind]; s.err == nil && (!known || need > s.level) {
		s.err = fmt.Errorf("section %d of a snapshot is written from format level %d on, and the cluster's is %d", kind, need, s.level)
	}
	s.seal([]byte{byte(kind), sectionMandatory, 0, 0})
}

func (s *sectionWriter) close() {
	s.flush()
	s.seal(binary.LittleEndian.AppendUint64(make([]byte, 4, sectionTailBytes), s.total))
	s.total = 0
}

// Write adds to the section that is open.
func (s *sectionWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 && s.err == nil {
		n := min(len(p), cap(s.chunk)-len(s.chunk))
		s.chunk = append(s.chunk, p[:n]...)
		p = p[n:]
		written += n
		if len(s.chunk) == cap(s.chunk) {
			s.flush()
		}
	}
	return written, s.err
}

// flush writes the chunk that was gathered, if there is one.
func (s *sectionWriter) flush() {
	n := len(s.chunk) - chunkHeadBytes
	if n == 0 {
		return
	}
	binary.LittleEndian.PutUint32(s.chunk, uint32(n))
	s.crc = chunkSum(s.crc, s.chunk[:4], s.chunk[chunkHeadBytes:])
	binary.LittleEndian.PutUint32(s.chunk[4:], s.crc)
	s.total += uint64(n)
	s.put(s.chunk)
	s.chunk = s.chunk[:chunkHeadBytes]
}

func chunkSum(crc uint32, length, data []byte) uint32 {
	return crc32.Update(crc32.Update(crc, castagnoli, length), castagnoli, data)
}

// seal writes a piece with its checksum behind it.
func (s *sectionWriter) seal(b []byte) {
	s.crc = crc32.Update(s.crc, castagnoli, b)
	s.put(binary.LittleEndian.AppendUint32(b, s.crc))
}

func (s *sectionWriter) put(b []byte) {
	if s.err != nil {
		return
	}
	n, err := s.w.Write(b)
	s.size += int64(n)
	s.err = err
}

// WriteSnapshot writes a whole snapshot as its file would be. data writes the state machine's
// part; nil: the snapshot is external.
func WriteSnapshot(w io.Writer, h SnapshotHeader, data io.WriterTo) (int64, error) {
	h.External = data == nil
	s := &sectionWriter{w: w}
	if err := s.begin(h); err != nil {
		return s.size, err
	}
	if data != nil {
		if _, err := data.WriteTo(s); err != nil {
			return s.size, err
		}
	}
	err := s.end(h.External)
	return s.size, err
}

// piece is what a snapshot is made of.
type piece uint8

const (
	pieceHead  piece = iota + 1 // a section begins
	pieceChunk                  // some of its data
	pieceTail                   // it ends
	pieceEnd                    // the snapshot ends
)

// sectionReader reads a snapshot piece by piece, and verifies each before it hands it out.
type sectionReader struct {
	r io.Reader
	// raw is the last piece as it was read, and data what it has for the section.
	raw, data []byte
	// kind is that of the last section; opened: it has not ended; total is what it has so far.
	kind   sectionKind
	opened bool
	total  uint64
	// offset is how much was read, and crc the last checksum that was found right.
	offset int64
	crc    uint32
}

// preamble reads what stands before the first section.
func (s *sectionReader) preamble() error {
	b, err := s.take(0, preambleBytes)
	if err != nil {
		return err
	}
	version := binary.LittleEndian.Uint32(b[8:])
	switch {
	case !bytes.HasPrefix(b, []byte(snapshotMagic)):
		return fmt.Errorf("%w: begins with %q instead of %q", wal.ErrCorrupt, b[:8], snapshotMagic)
	case version == 1: // of before the first release: what follows is a length there
		return errVersion(version, snapshotVersion)
	}
	if err := s.check(b); err != nil {
		return err
	}
	if version != snapshotVersion {
		return errVersion(version, snapshotVersion)
	}
	return nil
}

// next reads a piece. What it leaves in raw and data is good until the next one.
func (s *sectionReader) next() (piece, error) {
	s.data = nil
	if !s.opened {
		return s.head()
	}
	b, err := s.take(0, chunkHeadBytes)
	if err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 {
		return pieceTail, s.tail()
	}
	if n > chunkBytesMax {
		return 0, fmt.Errorf("%w: chunk of %d bytes, more than %d", wal.ErrCorrupt, n, chunkBytesMax)
	}
	if s.kind < sectionState && s.offset+int64(n) > sectionsBytesMax {
		return 0, fmt.Errorf("%w: more than %d bytes before the state machine's data", wal.ErrCorrupt, sectionsBytesMax)
	}
	if b, err = s.take(chunkHeadBytes, int(n)); err != nil {
		return 0, err
	}
	s.data = b[chunkHeadBytes:]
	if s.crc = chunkSum(s.crc, b[:4], s.data); s.crc != binary.LittleEndian.Uint32(b[4:]) {
		return 0, fmt.Errorf("%w: wrong checksum of a chunk", wal.ErrCorrupt)
	}
	s.total += uint64(n)
	return pieceChunk, nil
}

// head reads where a section begins, or that none does.
func (s *sectionReader) head() (piece, error) {
	b, err := s.take(0, sectionHeadBytes)
	if err == nil {
		err = s.check(b)
	}
	if err != nil {
		return 0, err
	}
	kind, flags := sectionKind(b[0]), b[1]
	switch {
	case kind <= s.kind:
		return 0, fmt.Errorf("%w: section %d behind section %d", wal.ErrCorrupt, kind, s.kind)
	case flags&^sectionFlagsKnown != 0 || b[2] != 0 || b[3] != 0:
		return 0, fmt.Errorf("section %d has the unknown flags %x: %s", kind, b[1:4], adviceNewer)
	}
	s.kind = kind
	switch kind {
	case sectionEnd:
		return pieceEnd, nil
	case sectionMeta, sectionMembership, sectionState:
	default:
		if flags&sectionMandatory != 0 {
			return 0, fmt.Errorf("section %d is unknown to this program and must be read: %s", kind, adviceNewer)
		}
	}
	s.opened, s.total = true, 0
	return pieceHead, nil
}

// tail reads the rest of what ends a section.
func (s *sectionReader) tail() error {
	b, err := s.take(chunkHeadBytes, sectionTailBytes-chunkHeadBytes)
	if err == nil {
		err = s.check(b)
	}
	if err != nil {
		return err
	}
	if total := binary.LittleEndian.Uint64(b[4:]); total != s.total {
		return fmt.Errorf("%w: %d bytes of section %d instead of %d", wal.ErrCorrupt, s.total, s.kind, total)
	}
	s.opened = false
	return nil
}

// take appends n bytes to the first keep of raw, and returns all of it.
func (s *sectionReader) take(keep, n int) ([]byte, error) {
	if cap(s.raw) < keep+n {
		grown := make([]byte, keep, keep+n)
		copy(grown, s.raw)
		s.raw = grown
	}
	s.raw = s.raw[:keep+n]
	read, err := io.ReadFull(s.r, s.raw[keep:])
	s.offset += int64(read)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: ends too early", wal.ErrCorrupt)
	}
	return s.raw, err
}

// check compares the checksum at the end of a piece.
func (s *sectionReader) check(b []byte) error {
	end := len(b) - crcBytes
	s.crc = crc32.Update(s.crc, castagnoli, b[:end])
	if s.crc != binary.LittleEndian.Uint32(b[end:]) {
		return fmt.Errorf("%w: wrong checksum", wal.ErrCorrupt)
	}
	return nil
}

// finish expects that nothing follows the end.
func (s *sectionReader) finish() error {
	var more [1]byte
	n, err := io.ReadFull(s.r, more[:])
	if n > 0 {
		return fmt.Errorf("%w: goes on behind its end", wal.ErrCorrupt)
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// header reads up to where the state machine's data begins, or the whole of an external
// snapshot, and returns that as it was read, too.
func (s *sectionReader) header() (h SnapshotHeader, raw []byte, err error) {
	if err := s.preamble(); err != nil {
		return h, nil, err
	}
	raw = append(raw, s.raw...)
	var body []byte
	seen := map[sectionKind]bool{}
	for {
		p, err := s.next()
		if err != nil {
			return h, nil, err
		}
		raw = append(raw, s.raw...)
		switch p {
		case pieceHead:
			body, seen[s.kind] = body[:0], true
		case pieceChunk:
			body = append(body, s.data...)
		case pieceTail:
			if err := h.read(s.kind, body); err != nil {
				return h, nil, err
			}
		}
		if p != pieceEnd && !(p == pieceHead && s.kind == sectionState) {
			continue
		}
		switch {
		case !seen[sectionMeta] || !seen[sectionMembership]:
			return h, nil, fmt.Errorf("%w: no section %d or %d before section %d", wal.ErrCorrupt, sectionMeta, sectionMembership, s.kind)
		case h.External != (p == pieceEnd):
			return h, nil, fmt.Errorf("%w: external is %v, and the state machine has a section: %v", wal.ErrCorrupt, h.External, p != pieceEnd)
		case p == pieceEnd:
			return h, raw, s.finish()
		}
		return h, raw, nil
	}
}

// read takes what a section says. One that is not known was optional.
func (h *SnapshotHeader) read(kind sectionKind, body []byte) (err error) {
	switch kind {
	case sectionMeta:
		var m octopiipb.SnapshotMeta
		err = m.Unmarshal(body)
		h.Metadata, h.External, h.Terms, h.Sums = m.Metadata, m.External, m.Terms, m.Sums
	case sectionMembership:
		err = h.Membership.Unmarshal(body)
	}
	if err != nil {
		return fmt.Errorf("%w: section %d: %w", wal.ErrCorrupt, kind, err)
	}
	return nil
}

// SnapshotStream is a snapshot that comes from another member, as the file there is.
type SnapshotStream struct {
	Header SnapshotHeader
	sections
}

// sections are those of a snapshot behind its header. head is what stands before them.
type sections struct {
	sectionReader
	head []byte
}

// ReadSnapshotStream reads the header of a snapshot. The error is wal.ErrCorrupt when what
// comes is no snapshot, or was damaged on its way.
func ReadSnapshotStream(r io.Reader) (*SnapshotStream, error) {
	s := &SnapshotStream{sections: sections{sectionReader: sectionReader{r: r}}}
	var err error
	if s.Header, s.head, err = s.header(); err != nil {
		return nil, fmt.Errorf("raftstore: read a snapshot stream at offset %d: %w", s.offset, err)
	}
	if s.Header.External {
		return nil, errors.New("raftstore: the snapshot that comes has no data")
	}
	return s, nil
}

// WriteTo writes the snapshot as it came: every byte of it, and none before it is verified.
// Without an error all of it was there, and right.
func (s *SnapshotStream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.copyTo(w)
	if err != nil {
		return n, fmt.Errorf("raftstore: copy a snapshot stream at offset %d: %w", s.offset, err)
	}
	return n, nil
}

// copyTo writes all pieces as they are.
func (s *sections) copyTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.head)
	written := int64(n)
	for ended := s.kind == sectionEnd; err == nil && !ended; {
		var p piece
		if p, err = s.next(); err != nil {
			break
		}
		if ended = p == pieceEnd; ended {
			if err = s.finish(); err != nil {
				break
			}
		}
		n, err = w.Write(s.raw)
		written += int64(n)
	}
	return written, err
}
