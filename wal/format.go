package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
)

// What is on disk; docs/FORMATS.md draws it. All numbers are little-endian.
const (
	sectorBytes  = 512
	sectorHeader = 16
	sectorBody   = sectorBytes - sectorHeader
	// blockBytes is what two frames never share: what a disk or a file system
	// rewrites as a whole is then never rewritten after it was acknowledged.
	blockBytes      = 4096
	sectorsPerBlock = blockBytes / sectorBytes

	// frameBegins is the bit of a sector's place that marks the first one of a
	// frame.
	frameBegins = 1 << 31

	version     = 2
	magic       = "OCTOPWAL"
	frameHeader = 72
	entryHeader = 16

	// frameBytesMax bounds what a damaged or malicious length can ask for, and what
	// one Append may bring.
	frameBytesMax = 1 << 30
)

// kinds of a frame, as bits.
type kinds uint32

const (
	kindEntries   kinds = 1 << iota // entries
	kindTruncates                   // the first entry replaces one that is there, and all behind it
	kindMarks                       // marks; in a frame that begins a segment: all that count
	kindBegin                       // the first frame of a segment
	kindEnd                         // an end mark: the next frame takes its place
	kindSealed                      // an end mark that stays: the log goes on in the next segment
	kindsKnown    = 1<<iota - 1
)

var kindNames = []string{"entries", "truncates", "mark", "begin", "end", "sealed"}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// sector is one sector of a segment, header included.
type sector []byte

func (s sector) sum() uint32   { return le.Uint32(s) }
func (s sector) life() uint32  { return le.Uint32(s[4:]) }
func (s sector) place() uint32 { return le.Uint32(s[8:]) }
func (s sector) frame() uint32 { return le.Uint32(s[12:]) }
func (s sector) body() []byte  { return s[sectorHeader:] }

// whole says whether the sector is what was once written at that place of a
// segment of the log with this salt, in whatever life of it.
func (s sector) whole(salt uint32, number int64) bool {
	return s.place()&^frameBegins == uint32(number) && s.sum() == checksum(salt, s)
}

func checksum(salt uint32, s sector) uint32 {
	return crc32.Update(salt, castagnoli, s[4:sectorBytes])
}

// saltSum is where every checksum of a log begins.
func saltSum(salt uint64) uint32 {
	var b [8]byte
	le.PutUint64(b[:], salt)
	return crc32.Update(0, castagnoli, b[:])
}

// finish writes the headers of all sectors of a frame, or of a segment's header,
// and returns the frame's checksum: that of the checksums of its sectors.
func finish(sectors []byte, salt, life, frame uint32, number int64) (sum uint32) {
	first := uint32(frameBegins)
	for len(sectors) > 0 {
		s := sector(sectors[:sectorBytes])
		le.PutUint32(s[4:], life)
		le.PutUint32(s[8:], uint32(number)|first)
		le.PutUint32(s[12:], frame)
		le.PutUint32(s, checksum(salt, s))
		sum = crc32.Update(sum, castagnoli, s[:4])
		sectors = sectors[sectorBytes:]
		number, first = number+1, 0
	}
	return sum
}

// header is what the first sector of a segment holds.
type header struct {
	salt uint64
	// seq counts the segments of a log from 1; its low half is the life that every
	// sector carries.
	seq uint64
	// size of the file.
	size int64
	// frame is the sequence of the first frame, sum the checksum of the one
	// before it.
	frame uint64
	sum   uint32
	// before is where the segment before it ends; 0: there is none.
	before int64
}

// encode fills a block.
func (h header) encode(block []byte) {
	clear(block)
	b := block[sectorHeader:]
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint64(b[16:], h.salt)
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], uint64(h.size))
	le.PutUint64(b[40:], h.frame)
	le.PutUint32(b[48:], h.sum)
	le.PutUint64(b[56:], uint64(h.before))
	finish(block[:sectorBytes], saltSum(h.salt), uint32(h.seq), 0, 0)
}

func decodeHeader(s sector) (header, error) {
	b := s.body()
	h := header{
		salt:   le.Uint64(b[16:]),
		seq:    le.Uint64(b[24:]),
		size:   int64(le.Uint64(b[32:])),
		frame:  le.Uint64(b[40:]),
		sum:    le.Uint32(b[48:]),
		before: int64(le.Uint64(b[56:])),
	}
	switch {
	case string(b[:8]) != magic:
		return h, errors.New("the header of the segment is not one")
	case !s.whole(saltSum(h.salt), 0):
		// Before the version, so that damage to it is not taken for a newer one.
		return h, errors.New("the header of the segment has a wrong checksum")
	case le.Uint32(b[8:]) != version:
		return h, errVersion(le.Uint32(b[8:]))
	case uint32(h.seq) != s.life() || h.size < 3*blockBytes || h.size%blockBytes != 0:
		return h, errors.New("the header of the segment contradicts itself")
	}
	return h, nil
}

// errVersion refuses a segment by its version, and says what to do.
func errVersion(is uint32) error {
	if is < version {
		return fmt.Errorf("%w: version %d of the log, which no release wrote; this program knows version %d: use the one that wrote it, or let the member join anew with an empty directory",
			ErrVersion, is, version)
	}
	return fmt.Errorf("%w: version %d of the log; this program knows version %d: use the one that wrote it, or a newer one", ErrVersion, is, version)
}

// frame is one write.
type frame struct {
	seq uint64
	// previous is the checksum of the frame before.
	previous uint32
	kinds    kinds
	// first index of the entries, 0 without; last index of the log from here on,
	// and its term.
	first, last, lastTerm uint64
	hard                  raftpb.HardState
	marks                 []Mark
	// raw are the encoded entries of a frame that was read, count how many.
	raw   []byte
	count int
}

// spans are entries in memory in their order: of one frame, in several slices.
type spans [][]raftpb.Entry

func (s spans) count() (n int) {
	for _, ents := range s {
		n += len(ents)
	}
	return n
}

func (s spans) bytes() (n int) {
	for _, ents := range s {
		for i := range ents {
			n += entryHeader + len(ents[i].Data)
		}
	}
	return n
}

// blocksFor is how many bytes of whole blocks a frame with such a body takes.
func blocksFor(body int) int64 {
	sectors := (frameHeader + int64(body) + sectorBody - 1) / sectorBody
	return (sectors + sectorsPerBlock - 1) / sectorsPerBlock * blockBytes
}

// encoder lays a frame out in sectors. Its memory is aligned, as all is that is
// written to a segment, and is used again.
type encoder struct {
	buf []byte
	at  int
	tmp [frameHeader]byte
}

// encode returns the blocks of a frame that begins at offset off of a segment,
// until the next call, and the frame's checksum.
func (e *encoder) encode(f *frame, entries spans, salt, life uint32, off int64) ([]byte, uint32) {
	marks := encodeMarks(f.marks)
	body := len(marks) + entries.bytes()
	blocks := int(blocksFor(body))
	if cap(e.buf) < blocks {
		e.buf = vfs.Aligned(blocks + blocks/4)
	}
	e.buf = e.buf[:cap(e.buf)]
	e.at = sectorHeader
	b := e.tmp[:frameHeader]
	le.PutUint64(b, f.seq)
	le.PutUint32(b[8:], f.previous)
	le.PutUint32(b[12:], uint32(body))
	le.PutUint32(b[16:], uint32(f.kinds))
	le.PutUint32(b[20:], uint32(entries.count()))
	le.PutUint64(b[24:], f.first)
	le.PutUint64(b[32:], f.last)
	le.PutUint64(b[40:], f.lastTerm)
	le.PutUint64(b[48:], f.hard.Term)
	le.PutUint64(b[56:], f.hard.Vote)
	le.PutUint64(b[64:], f.hard.Commit)
	e.put(b)
	e.put(marks)
	for _, ents := range entries {
		for i := range ents {
			b := e.tmp[:entryHeader]
			le.PutUint64(b, ents[i].Term)
			le.PutUint32(b[8:], uint32(ents[i].Type))
			le.PutUint32(b[12:], uint32(len(ents[i].Data)))
			e.put(b)
			e.put(ents[i].Data)
		}
	}
	clear(e.buf[e.at:blocks])
	used := (e.at + sectorBytes - 1) / sectorBytes * sectorBytes
	sum := finish(e.buf[:used], salt, life, uint32(f.seq), off/sectorBytes)
	return e.buf[:blocks], sum
}

// put copies p behind what is there and leaves room for the sectors' headers.
func (e *encoder) put(p []byte) {
	for len(p) > 0 {
		if e.at%sectorBytes == 0 {
			e.at += sectorHeader
		}
		n := copy(e.buf[e.at:e.at+sectorBytes-e.at%sectorBytes], p)
		e.at += n
		p = p[n:]
	}
}

func encodeMarks(marks []Mark) []byte {
	if len(marks) == 0 {
		return nil
	}
	b := le.AppendUint32(nil, uint32(len(marks)))
	for i := range marks {
		conf, err := marks[i].ConfState.Marshal()
		if err != nil {
			panic(fmt.Sprintf("wal: marshal the configuration of mark %d: %v", marks[i].Index, err)) // it never fails
		}
		b = le.AppendUint64(b, marks[i].Index)
		b = le.AppendUint64(b, marks[i].Term)
		b = le.AppendUint32(b, uint32(len(conf)))
		b = append(b, conf...)
	}
	return b
}

// kindsOf are those of the frame whose first sector s is.
func kindsOf(s sector) kinds { return kinds(le.Uint32(s.body()[16:])) }

// frameSize reads how many sectors the frame has whose first sector s is, and
// its sequence.
func frameSize(s sector) (seq uint64, sectors int64) {
	b := s.body()
	body := int64(le.Uint32(b[12:]))
	return le.Uint64(b), (frameHeader + body + sectorBody - 1) / sectorBody
}

// decodeFrame reads a frame from its sectors, whose checksums are right. body is
// memory that it may use, and the frame refers to it; it returns it, grown.
func decodeFrame(sectors, body []byte) (frame, []byte, error) {
	b := sectors[sectorHeader:]
	f := frame{
		seq:      le.Uint64(b),
		previous: le.Uint32(b[8:]),
		kinds:    kinds(le.Uint32(b[16:])),
		first:    le.Uint64(b[24:]),
		last:     le.Uint64(b[32:]),
		lastTerm: le.Uint64(b[40:]),
		hard:     raftpb.HardState{Term: le.Uint64(b[48:]), Vote: le.Uint64(b[56:]), Commit: le.Uint64(b[64:])},
	}
	length, count := int(le.Uint32(b[12:])), int(le.Uint32(b[20:]))
	if f.kinds&^kindsKnown != 0 {
		return f, body, fmt.Errorf("%w: a frame of kinds %#x; this program knows %#x: use the one that wrote it, or a newer one", ErrVersion, uint32(f.kinds), uint32(kindsKnown))
	}
	if cap(body) < length+sectorBody {
		body = make([]byte, 0, max(length+sectorBody, 2*cap(body)))
	}
	body = append(body[:0], b[frameHeader:sectorBody]...)
	for at := sectorBytes; at < len(sectors); at += sectorBytes {
		body = append(body, sectors[at+sectorHeader:at+sectorBytes]...)
	}
	if len(body) < length {
		return f, body, fmt.Errorf("a frame of %d bytes in sectors that hold %d", length, len(body))
	}
	rest := body[:length]
	if f.kinds&kindMarks != 0 {
		var err error
		if f.marks, rest, err = decodeMarks(rest); err != nil {
			return f, body, err
		}
	}
	f.raw, f.count = rest, count
	if (count > 0) != (f.kinds&kindEntries != 0) || count == 0 && len(rest) > 0 {
		return f, body, fmt.Errorf("a frame of kinds %#x with %d entries and %d bytes of them", uint32(f.kinds), count, len(rest))
	}
	if count > 0 && (f.first == 0 || f.last < f.first || f.last-f.first != uint64(count)-1) {
		return f, body, fmt.Errorf("a frame of %d entries from %d to %d", count, f.first, f.last)
	}
	return f, body, nil
}

var errShort = errors.New("a frame that ends too early")

func decodeMarks(b []byte) ([]Mark, []byte, error) {
	if len(b) < 4 {
		return nil, nil, errShort
	}
	count := le.Uint32(b)
	b = b[4:]
	var marks []Mark
	for range count {
		if len(b) < 20 {
			return nil, nil, errShort
		}
		m := Mark{Index: le.Uint64(b), Term: le.Uint64(b[8:])}
		n := uint64(le.Uint32(b[16:]))
		if b = b[20:]; uint64(len(b)) < n {
			return nil, nil, errShort
		}
		if err := m.ConfState.Unmarshal(b[:n]); err != nil {
			return nil, nil, fmt.Errorf("the configuration of mark %d: %v", m.Index, err)
		}
		marks, b = append(marks, m), b[n:]
	}
	return marks, b, nil
}

// eachEntry visits the entries of a frame that was read. Their data is that of
// the body it was read into.
func (f *frame) eachEntry(visit func(e raftpb.Entry)) error {
	b := f.raw
	for i := range f.count {
		if len(b) < entryHeader {
			return errShort
		}
		e := raftpb.Entry{Term: le.Uint64(b), Index: f.first + uint64(i), Type: raftpb.EntryType(le.Uint32(b[8:]))}
		n := uint64(le.Uint32(b[12:]))
		if b = b[entryHeader:]; uint64(len(b)) < n {
			return errShort
		}
		if n > 0 {
			e.Data = b[:n:n]
		}
		visit(e)
		b = b[n:]
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes too many in a frame", len(b))
	}
	return nil
}
