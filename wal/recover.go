package wal

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/octopii/octopii/internal/vfs"
)

// scan reads a log from the segment in which a mark's entries begin to the end,
// and changes nothing.
type scan struct {
	fs       vfs.FS
	dir      string
	segments []*segment
	// started: the first frame has been read, and what follows continues it.
	started bool
	// tip is that of the frames up to here.
	tip
	// lastAt is where the last frame begins in the newest segment.
	lastAt int64
	// ended: an end mark stands at the tip. torn is the end of the last sector of a
	// write that did not become whole; 0: there is none.
	ended bool
	torn  int64
	found

	// visit, if set, is called for every whole frame. Its error, kept in stop, ends
	// the scan.
	visit func(s *segment, off, size int64, f *frame) error
	stop  error
	// read, if set, is told how many bytes were read.
	read func(n int64)
	body []byte
}

// close closes the segments from i on.
func (c *scan) close(from int) error {
	var errs []error
	for _, s := range c.segments[from:] {
		errs = append(errs, s.file.Close())
	}
	c.segments = c.segments[:from]
	return errors.Join(errs...)
}

// open opens the segments from the newest back to the one in which the entries
// behind index begin, or as far as want says.
func (c *scan) open(seqs []uint64, index uint64, write bool) error {
	for i := len(seqs) - 1; i >= 0; i-- {
		s, err := openSegment(c.fs, c.dir, seqs[i], write)
		if err != nil {
			var damage *CorruptError
			if errors.As(err, &damage) {
				damage.Intact = index // what is in the mark's snapshot
				if len(c.segments) > 0 {
					damage.Known = c.segments[0].begin
				}
			}
			return err
		}
		c.segments = append([]*segment{s}, c.segments...)
		if len(c.segments) > 1 && c.segments[1].header.salt != s.header.salt {
			return s.corrupt(0, index, c.segments[1].begin, "the segment is of another log")
		}
		if s.begin <= index {
			return nil
		}
	}
	return c.segments[0].corrupt(0, index, c.segments[0].begin,
		fmt.Sprintf("the log begins behind entry %d, and not with the mark at %d", c.segments[0].begin, index))
}

// run reads all segments that were opened.
func (c *scan) run() error {
	for i, s := range c.segments {
		if !c.started {
			c.seq, c.sum = s.frame, s.sum
		}
		if c.seq != s.frame || c.sum != s.sum {
			return s.corrupt(0, c.last, s.begin, "the segment does not continue the one before it")
		}
		w := window{file: s.file, size: s.size, read: c.read}
		var err error
		if i+1 < len(c.segments) {
			err = c.segment(s, &w, c.segments[i+1])
		} else {
			err = c.newestSegment(s, &w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// segment reads a segment that has a successor: all of it is durable.
func (c *scan) segment(s *segment, w *window, next *segment) error {
	off := int64(blockBytes)
	for c.seq != next.frame {
		sectors, bad, err := s.frameAt(w, off, c.seq)
		if err != nil {
			return c.unreadable(s, off, err)
		}
		if bad >= 0 {
			return s.corrupt(bad, c.last, next.begin, fmt.Sprintf("frame %d is damaged, and segment %d proves that it was durable", c.seq, next.seq))
		}
		n := int64(len(sectors))
		end, err := c.take(s, off, sectors)
		if c.stop != nil {
			return c.stop
		}
		if err == nil && end != 0 {
			err = fmt.Errorf("the log ends before frame %d, and segment %d proves that it went on", c.seq, next.seq)
		}
		if err != nil {
			return s.corrupt(off, c.last, next.begin, err)
		}
		if err := c.padding(s, w, off+n); err != nil {
			return err
		}
		off += blocksUpTo(n)
	}
	return c.sealed(s, w, off, next)
}

// sealed checks what follows the last frame of a segment that has a successor:
// an end mark, unless the writer was stopped before it made one, and nothing.
func (c *scan) sealed(s *segment, w *window, off int64, next *segment) error {
	if next.before != off {
		return next.corrupt(0, c.last, next.begin, fmt.Sprintf("the segment before it ends at offset %d, and not at %d", off, next.before))
	}
	mark, bad, err := s.frameAt(w, off, c.seq)
	if err != nil {
		return c.unreadable(s, off, err)
	}
	if bad < 0 && len(mark) == sectorBytes && kindsOf(sector(mark))&(kindEnd|kindSealed) != 0 {
		off += sectorBytes
	}
	rest, err := c.judge(s, w, off)
	if err != nil {
		return err
	}
	if bad := firstOf(rest.damage, firstOf(rest.part, rest.proof)); bad >= 0 {
		return s.corrupt(bad, c.last, next.begin, "there is something behind the last frame of the segment")
	}
	return nil
}

// padding checks what a frame that ends at off leaves of its last block.
func (c *scan) padding(s *segment, w *window, off int64) error {
	salt := s.salt()
	for end := blocksUpTo(off); off < end; off += sectorBytes {
		p, err := w.bytes(off, sectorBytes)
		if err != nil {
			return c.unreadable(s, off, err)
		}
		if !s.unwritten(sector(p), salt, off) {
			return s.corrupt(off, c.last, 0, "there is something between two frames")
		}
	}
	return nil
}

// newestSegment reads the last segment and judges what follows its last whole
// frame.
func (c *scan) newestSegment(s *segment, w *window) error {
	for off := int64(blockBytes); ; {
		c.at = off
		sectors, bad, err := s.frameAt(w, off, c.seq)
		if err != nil {
			return c.unreadable(s, off, err)
		}
		if bad >= 0 {
			return c.tail(s, w, off)
		}
		n := int64(len(sectors))
		end, err := c.take(s, off, sectors)
		if c.stop != nil {
			return c.stop
		}
		if err == nil && end == kindSealed {
			err = fmt.Errorf("the log goes on in segment %d, which is missing", s.seq+1)
		}
		if err != nil {
			return s.corrupt(off, c.last, 0, err)
		}
		if end == kindEnd {
			c.ended = true
			return c.tail(s, w, off+sectorBytes)
		}
		if err := c.padding(s, w, off+n); err != nil {
			return err
		}
		c.lastAt = off
		if off += blocksUpTo(n); off+blockBytes > s.size {
			return s.corrupt(off, c.last, 0, "the segment is full to its end, and a log leaves room there")
		}
	}
}

// tail judges what follows the last whole frame of the log. A write that did not
// become whole leaves some sectors as they were: zero, or from an earlier life of
// the file. That is all that a crash can do, so anything else is damage; and a
// later frame is written only when the one before it is durable, so a sector of
// one proves that more was lost.
func (c *scan) tail(s *segment, w *window, off int64) error {
	rest, err := c.judge(s, w, off)
	switch {
	case err != nil:
		return err
	case rest.proof >= 0:
		return s.corrupt(c.at, c.last, rest.known, fmt.Sprintf("frame %d is damaged, and a later one at offset %d proves that it was durable", c.seq, rest.proof))
	case rest.damage >= 0:
		return s.corrupt(rest.damage, c.last, 0, "a sector that was neither written nor left alone")
	}
	if rest.part >= 0 {
		c.torn = rest.end
	}
	return nil
}

// rest is what is behind the last whole frame of a segment: where there is the
// first sector of each kind, or -1.
type rest struct {
	// part: of the frame that should be there; end is where the last of them ends.
	// proof: of a later frame; known is the last index that such frames name.
	// damage: of none, and yet not unwritten.
	part, proof, damage int64
	end                 int64
	known               uint64
}

// judge looks at every sector from off to the end of the segment.
func (c *scan) judge(s *segment, w *window, off int64) (rest, error) {
	salt := s.salt()
	r := rest{part: -1, proof: -1, damage: -1}
	for off < s.size {
		n := min(s.size-off, blockBytes-off%blockBytes)
		b, err := w.bytes(off, n)
		if err != nil {
			return r, c.unreadable(s, off, err)
		}
		if bytes.Equal(b, zeros[:n]) {
			off += n
			continue
		}
		for ; len(b) > 0; b, off = b[sectorBytes:], off+sectorBytes {
			p := sector(b[:sectorBytes])
			switch {
			case s.unwritten(p, salt, off):
			case !s.ours(p, salt, off):
				r.damage = firstOf(r.damage, off)
			case p.frame() == uint32(c.seq):
				r.part, r.end = firstOf(r.part, off), off+sectorBytes
			case int32(p.frame()-uint32(c.seq)) > 0:
				r.proof = firstOf(r.proof, off)
				r.known = max(r.known, lastOf(p))
			default:
				r.damage = firstOf(r.damage, off)
			}
		}
	}
	return r, nil
}

func firstOf(a, b int64) int64 {
	if a >= 0 {
		return a
	}
	return b
}

// lastOf is the last index of the log after the frame that begins in p; 0 if
// none begins there.
func lastOf(p sector) uint64 {
	if p.place()&frameBegins == 0 {
		return 0
	}
	return le.Uint64(p.body()[32:])
}

// take adds a whole frame to what is known. It returns kindEnd or kindSealed if
// the frame is such a mark.
func (c *scan) take(s *segment, off int64, sectors []byte) (end kinds, err error) {
	f, body, err := decodeFrame(sectors, c.body)
	c.body = body
	switch {
	case err != nil:
		return 0, err
	case f.seq != c.seq || f.previous != c.sum:
		return 0, fmt.Errorf("frame %d does not continue the one before it", f.seq)
	case (f.kinds&kindBegin != 0) != (off == blockBytes):
		return 0, fmt.Errorf("frame %d begins a segment in its middle, or not at its beginning", f.seq)
	}
	if end = f.kinds & (kindEnd | kindSealed); end == 0 {
		err = c.add(s, off, &f)
	}
	if err != nil {
		return 0, err
	}
	c.hard = f.hard
	if c.visit != nil {
		if c.stop = c.visit(s, off, int64(len(sectors)), &f); c.stop != nil {
			return 0, c.stop
		}
	}
	if end == 0 {
		c.seq, c.sum = c.seq+1, sumOf(sectors)
		c.last, c.lastTerm = f.last, f.lastTerm
	}
	return end, nil
}

// add checks a frame against what came before it and takes in what it holds.
func (c *scan) add(s *segment, off int64, f *frame) error {
	switch {
	case f.kinds&kindBegin != 0:
		if c.started && (f.last != c.last || f.lastTerm != c.lastTerm) {
			return fmt.Errorf("the segment begins behind entry %d of term %d, the one before it ended at %d of %d", f.last, f.lastTerm, c.last, c.lastTerm)
		}
		c.started = true
		c.marks = append(c.marks[:0], f.marks...)
		c.noteTerm(f.last, f.lastTerm)
		return nil
	case f.count == 0:
		if f.last != c.last || f.lastTerm != c.lastTerm {
			return fmt.Errorf("frame %d without entries moves the end of the log from %d to %d", f.seq, c.last, f.last)
		}
	case f.first > c.last+1, (f.first <= c.last) != (f.kinds&kindTruncates != 0):
		return fmt.Errorf("entries from %d on in a log that ends at %d", f.first, c.last)
	default:
		if err := c.addEntries(point{index: f.first, seq: f.seq, off: off, segment: s}, f); err != nil {
			return err
		}
	}
	c.marks = append(c.marks, f.marks...)
	return nil
}

func (c *scan) unreadable(s *segment, off int64, err error) error {
	return s.unreadable(off, c.last, 0, err)
}

func (c *scan) newest() *segment { return c.segments[len(c.segments)-1] }

func blocksOf(sectors []byte) int64 { return blocksUpTo(int64(len(sectors))) }

// blocksUpTo rounds up to whole blocks.
func blocksUpTo(n int64) int64 { return (n + blockBytes - 1) / blockBytes * blockBytes }
