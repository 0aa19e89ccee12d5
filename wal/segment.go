package wal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/octopii/octopii/internal/vfs"
)

const (
	segmentSuffix = ".seg"
	spareSuffix   = ".spare"
	tmpSuffix     = ".tmp"
	lockName      = "LOCK"

	// readBytes is how much is read at once.
	readBytes = 256 << 10
)

// segment is one file of a log.
type segment struct {
	header
	path string
	file vfs.File
	// begin and beginTerm are index and term of the last entry when it was begun.
	begin, beginTerm uint64
	// readers counts the reads under way; gone: the last of them closes the file.
	// Both belong to the log's mutex.
	readers int
	gone    bool
}

func (s *segment) salt() uint32 { return saltSum(s.header.salt) }
func (s *segment) life() uint32 { return uint32(s.seq) }

// corrupt describes damage to this segment. reason is an error or a string.
func (s *segment) corrupt(off int64, intact, known uint64, reason any) error {
	if err, ok := reason.(error); ok && errors.Is(err, ErrVersion) {
		return fmt.Errorf("%s at offset %d: %w", s.path, off, err)
	}
	return &CorruptError{Segment: s.path, Offset: off, Intact: intact, Known: known, Reason: fmt.Sprint(reason)}
}

// unreadable is for bytes that could not be read. What the operating system says of
// its own state is no damage: the bytes may be whole, and be read another time.
func (s *segment) unreadable(off int64, intact, known uint64, err error) error {
	if vfs.MayPass(err) {
		return fmt.Errorf("read %s at offset %d: %w", s.path, off, err)
	}
	return fmt.Errorf("%w: %w", s.corrupt(off, intact, known, "it cannot be read"), err)
}

// openSegment opens a file and reads its header and the frame that begins it.
func openSegment(fsys vfs.FS, dir string, seq uint64, write bool) (*segment, error) {
	s := &segment{path: segmentPath(dir, seq)}
	open := fsys.Open
	if write {
		open = fsys.OpenReadWrite
	}
	f, err := open(s.path)
	if err != nil {
		return nil, err
	}
	s.file = f
	if err := s.readHeader(seq); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *segment) readHeader(seq uint64) error {
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	if size < 2*blockBytes {
		return s.corrupt(size, 0, 0, "the file was cut off")
	}
	w := window{file: s.file, size: size}
	b, err := w.bytes(0, blockBytes)
	if err != nil {
		return s.unreadable(0, 0, 0, err)
	}
	if s.header, err = decodeHeader(sector(b[:sectorBytes])); err != nil {
		return s.corrupt(0, 0, 0, err)
	}
	if !bytes.Equal(b[sectorBytes:], zeros[sectorBytes:blockBytes]) {
		return s.corrupt(sectorBytes, 0, 0, "there is something behind the header of the segment")
	}
	if s.seq != seq || s.size != size {
		return s.corrupt(0, 0, 0, fmt.Sprintf("the header is that of segment %d with %d bytes, the file has %d", s.seq, s.size, size))
	}
	sectors, bad, err := s.frameAt(&w, blockBytes, s.frame)
	if err != nil {
		return s.unreadable(blockBytes, 0, 0, err)
	}
	if bad >= 0 {
		return s.corrupt(bad, 0, 0, "the frame that begins the segment is damaged")
	}
	f, _, err := decodeFrame(sectors, nil)
	if err == nil && (f.kinds&kindBegin == 0 || f.previous != s.sum || f.seq != s.frame) {
		err = errors.New("the first frame does not belong to the header")
	}
	if err != nil {
		return s.corrupt(blockBytes, 0, 0, err)
	}
	s.begin, s.beginTerm = f.last, f.lastTerm
	return nil
}

// frameAt returns the sectors of the frame that should begin at off, valid until
// the next use of w. bad is the offset of the first sector that is not what it
// must be, or -1 when all are. What is left of the last block is not looked at.
func (s *segment) frameAt(w *window, off int64, seq uint64) (sectors []byte, bad int64, err error) {
	b, err := w.bytes(off, sectorBytes)
	if err != nil {
		return nil, 0, err
	}
	first, salt := sector(b), s.salt()
	if !s.ours(first, salt, off) || first.frame() != uint32(seq) || first.place()&frameBegins == 0 {
		return nil, off, nil
	}
	_, n := frameSize(first)
	if off+n*sectorBytes > w.size {
		return nil, off, nil
	}
	if b, err = w.bytes(off, n*sectorBytes); err != nil {
		return nil, 0, err
	}
	for at := int64(sectorBytes); at < int64(len(b)); at += sectorBytes {
		if p := sector(b[at:]); !s.ours(p, salt, off+at) || p.frame() != uint32(seq) || p.place()&frameBegins != 0 {
			return nil, off + at, nil
		}
	}
	return b, -1, nil
}

// unwritten says whether a sector was not written in this life of the file.
func (s *segment) unwritten(p sector, salt uint32, off int64) bool {
	return bytes.Equal(p, zeros[:sectorBytes]) || p.whole(salt, off/sectorBytes) && p.life() < s.life()
}

// ours says whether a sector was written in this life of the file, here.
func (s *segment) ours(p sector, salt uint32, off int64) bool {
	return p.life() == s.life() && p.whole(salt, off/sectorBytes)
}

// sumOf is the checksum of a frame that was read.
func sumOf(sectors []byte) (sum uint32) {
	for ; len(sectors) > 0; sectors = sectors[sectorBytes:] {
		sum = crc32.Update(sum, castagnoli, sectors[:4])
	}
	return sum
}

// window reads a file in large pieces, from front to back.
type window struct {
	file vfs.File
	size int64
	buf  []byte
	at   int64
	// read, if set, is told how many bytes were read.
	read func(n int64)
	// most is how much is read at once; 0: readBytes.
	most int64
}

// bytes returns n bytes at off, until the next call.
func (w *window) bytes(off, n int64) ([]byte, error) {
	if off < 0 || off+n > w.size {
		return nil, fmt.Errorf("read %d bytes at %d of a file with %d: %w", n, off, w.size, io.ErrUnexpectedEOF)
	}
	if off < w.at || off+n > w.at+int64(len(w.buf)) {
		if w.most == 0 {
			w.most = readBytes
		}
		size := max(n, min(w.most, w.size-off))
		if int64(cap(w.buf)) < size {
			w.buf = make([]byte, size)
		}
		w.buf = w.buf[:size]
		w.at = off
		if _, err := w.file.ReadAt(w.buf, off); err != nil && err != io.EOF {
			w.buf = w.buf[:0]
			return nil, err
		}
		if w.read != nil {
			w.read(size)
		}
	}
	return w.buf[off-w.at:][:n:n], nil
}

func segmentPath(dir string, seq uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", seq, segmentSuffix))
}

// listing is what is in a log's directory.
type listing struct {
	// segments without a gap, up to the newest: what is before a gap is a rest of
	// Release.
	segments []uint64
	// rests are segments before a gap.
	rests  []uint64
	spares []uint64
	tmp    []string
}

// list returns ErrNotFound where there is no log, and ErrFormat where there is
// one of etcd's.
func list(fsys vfs.FS, dir string) (listing, error) {
	var l listing
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return l, ErrNotFound
	}
	if err != nil {
		return l, err
	}
	other := false
	for _, name := range names {
		switch suffix := filepath.Ext(name); suffix {
		case segmentSuffix, spareSuffix:
			seq, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 16, 64)
			if err != nil || len(name) != 16+len(suffix) {
				continue
			}
			if suffix == spareSuffix {
				l.spares = append(l.spares, seq)
			} else {
				l.segments = append(l.segments, seq)
			}
		case tmpSuffix:
			l.tmp = append(l.tmp, name)
		case ".wal":
			other = true
		}
	}
	slices.Sort(l.segments) // as names they are sorted already, unless a disk says otherwise
	for i := len(l.segments) - 1; i > 0; i-- {
		if l.segments[i-1]+1 != l.segments[i] {
			l.rests, l.segments = l.segments[:i], l.segments[i:]
			break
		}
	}
	switch {
	case len(l.segments) > 0:
		return l, nil
	case other:
		return l, fmt.Errorf("%w: this is a log of etcd's: open it with that backend (--wal=etcd), or convert it (octopiictl log convert)", ErrFormat)
	case len(l.spares) > 0:
		return l, &CorruptError{Segment: dir, Reason: "all segments are missing"}
	}
	return l, ErrNotFound
}

// full says whether an error means that the disk has no room.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// zeros are aligned. They are never written to, so that they take no memory.
var (
	zeroSpace [1<<20 + blockBytes]byte
	zeros     = vfs.AlignedIn(zeroSpace[:])[:1<<20]
)

// writeZeros fills a file from one offset to another.
func writeZeros(f vfs.File, from, to int64) error {
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
