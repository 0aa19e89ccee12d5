package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3"

	"github.com/octopii/octopii/internal/vfs"
)

// errInput: a caller broke the contract of Log. It is final, as any error is.
var errInput = errors.New("not what a log can take")

// segmentedLog is an open log in the native format.
type segmentedLog struct {
	opts Options
	dir  string
	lock io.Closer
	// names is dir, to make the names in it durable.
	names *vfs.Dir
	salt  uint32
	// readable is what readers see.
	readable readable
	spares   spares

	// What follows belongs to the goroutine that appends.

	// err is why nothing is written any more; nil while all is well.
	err error
	tip
	// ended: an end mark of this log's own stands at the tip, and says all there is to
	// say. One that was read may be in no place but the memory of the system.
	ended   bool
	encoder encoder
	spans   spans
	// older are segments before those that were opened: of an older mark.
	older []uint64
}

// newLog makes a log that was read ready to append.
func newLog(opts Options, dir string, lock io.Closer, c *scan, files listing) (*segmentedLog, error) {
	l := &segmentedLog{
		dir: dir, opts: opts, lock: lock, salt: c.newest().salt(), tip: c.tip,
		readable: readable{segments: c.segments, index: c.index, after: c.after, last: c.last},
	}
	l.older = files.segments[:len(files.segments)-len(c.segments)]
	l.spares = spares{fs: opts.FS, dir: dir, size: opts.SegmentBytes}
	if err := l.spares.adopt(files); err != nil {
		return nil, err
	}
	var err error
	if l.names, err = vfs.OpenDir(opts.FS, dir); err != nil {
		return nil, err
	}
	if err := l.begin(c); err != nil {
		return nil, errors.Join(err, l.names.Close())
	}
	return l, nil
}

// begin makes durable what was read, so that it can be continued.
func (l *segmentedLog) begin(c *scan) error {
	// Whoever made the names may have ended before they were durable.
	if err := l.names.Sync(); err != nil {
		return err
	}
	if err := l.opts.FS.SyncDir(filepath.Dir(l.dir)); err != nil {
		return err
	}
	if err := l.seal(); err != nil {
		return err
	}
	if !c.ended || c.torn > 0 {
		if err := l.settle(c); err != nil {
			return err
		}
	}
	return l.Idle()
}

// seal makes the mark at the end of the segment before the newest, if whoever cut
// the log was stopped before that.
func (l *segmentedLog) seal() (err error) {
	segments := l.readable.segments
	newest, old := l.newest(), (*segment)(nil)
	switch {
	case len(segments) > 1:
		old = segments[len(segments)-2]
	case len(l.older) > 0:
		old, err = openSegment(l.opts.FS, l.dir, newest.seq-1, true)
		if errors.Is(err, ErrCorrupt) {
			return nil // it is of an older mark, and not needed to open the log here
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, old.file.Close()) }()
	default:
		return nil
	}
	w := window{file: old.file, size: old.size}
	mark, bad, err := old.frameAt(&w, newest.before, newest.frame)
	if err != nil || bad < 0 && kindsOf(sector(mark)) == kindSealed {
		return err
	}
	return l.end(old, newest.before, kindSealed)
}

// settle makes durable what recovery found without proof, before an end mark may
// prove it. The last frame is written once more, for a system that failed to write
// it may still show it and take it for clean. What is left of a torn write is wiped
// out, so that nobody ever takes it for a part of the next one.
func (l *segmentedLog) settle(c *scan) error {
	s := c.newest()
	last := vfs.Aligned(int(c.at - c.lastAt))
	if _, err := s.file.ReadAt(last, c.lastAt); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(last, c.lastAt); err != nil {
		return err
	}
	if err := writeZeros(s.file, c.at+blockBytes, blocksUpTo(c.torn)); err != nil {
		return err
	}
	return s.file.Sync()
}

// newest is the segment that is written.
func (l *segmentedLog) newest() *segment { return l.readable.newest() }

// Append implements Log.
func (l *segmentedLog) Append(batches []Batch) error {
	if l.err != nil {
		return l.err
	}
	hard := l.hard
	for i := range batches {
		if !raft.IsEmptyHardState(batches[i].HardState) {
			hard = batches[i].HardState
		}
	}
	f := frame{last: l.last, lastTerm: l.lastTerm, hard: hard}
	if err := l.join(batches, &f); err != nil {
		return l.fail("append to", err)
	}
	if hard.Commit > f.last {
		return l.fail("append to", fmt.Errorf("%w: commit index %d in a log that ends at %d", errInput, hard.Commit, f.last))
	}
	if len(l.spans) == 0 && hard.Term == l.hard.Term && hard.Vote == l.hard.Vote {
		l.ended = l.ended && hard.Commit == l.hard.Commit
		l.hard = hard
		return nil
	}
	err := l.write(&f)
	clear(l.spans)
	l.spans = l.spans[:0]
	return err
}

// join puts the entries of all batches into l.spans as one run without a gap,
// and notes in f where it begins and ends.
func (l *segmentedLog) join(batches []Batch, f *frame) error {
	for i := range batches {
		ents := batches[i].Entries
		if len(ents) == 0 {
			continue
		}
		first := ents[0].Index
		for j := range ents {
			if want := first + uint64(j); ents[j].Index != want {
				return fmt.Errorf("%w: entry %d where %d must be", errInput, ents[j].Index, want)
			}
		}
		if first > f.last+1 || first <= l.mark().Index {
			return fmt.Errorf("%w: entry %d in a log that ends at %d and has a mark at %d", errInput, first, f.last, l.mark().Index)
		}
		// What it replaces need not be written at all.
		for n := len(l.spans); n > 0; n-- {
			if head := l.spans[n-1][0].Index; head < first {
				l.spans[n-1] = l.spans[n-1][:min(uint64(len(l.spans[n-1])), first-head)]
				break
			}
			l.spans = l.spans[:n-1]
		}
		l.spans = append(l.spans, ents)
		f.first = l.spans[0][0].Index
		f.last, f.lastTerm = ents[len(ents)-1].Index, ents[len(ents)-1].Term
	}
	if len(l.spans) > 0 {
		f.kinds |= kindEntries
		if f.first <= l.last {
			f.kinds |= kindTruncates
		}
	}
	return nil
}

// SetMark implements Log. What a mark covers counts as committed.
func (l *segmentedLog) SetMark(m Mark) error {
	if l.err != nil {
		return l.err
	}
	if newest := l.mark(); m.Index > l.last || m.Index < newest.Index {
		return l.fail("mark", fmt.Errorf("%w: a mark at %d in a log that ends at %d and has one at %d: a snapshot that replaces the log begins a new one", errInput, m.Index, l.last, newest.Index))
	}
	f := l.frame(kindMarks)
	f.marks, f.hard.Commit = []Mark{m}, max(f.hard.Commit, m.Index)
	if err := l.write(&f); err != nil {
		return err
	}
	l.marks = append(l.marks, m)
	return nil
}

// write makes a frame with l.spans durable, in the next segment if this one has
// no room for it.
func (l *segmentedLog) write(f *frame) error {
	body := int64(len(encodeMarks(f.marks)) + l.spans.bytes())
	if body > frameBytesMax {
		return l.fail("append to", fmt.Errorf("%w: %d bytes at once, and at most %d are possible", errInput, body, frameBytesMax))
	}
	room := l.newest().size - l.at - blockBytes
	if len(l.spans) > 0 {
		room -= slackBytes
	}
	if need := blocksFor(int(body)); need > room {
		if err := l.cut(need, len(l.spans) == 0 && len(f.marks) > 0); err != nil {
			return err
		}
	}
	s := l.newest()
	f.seq, f.previous = l.seq, l.sum
	blocks, sum := l.encoder.encode(f, l.spans, l.salt, s.life(), l.at)
	l.ended = false
	if _, err := s.file.WriteAt(blocks, l.at); err != nil {
		return l.fail("write to", err)
	}
	if err := s.file.Sync(); err != nil {
		return l.fail("sync", err)
	}
	if len(l.spans) > 0 {
		l.readable.append(point{index: f.first, seq: f.seq, off: l.at, segment: s}, f)
	}
	l.last, l.lastTerm, l.hard = f.last, f.lastTerm, f.hard
	l.seq, l.sum, l.at = l.seq+1, sum, l.at+int64(len(blocks))
	return nil
}

// Idle implements Log: it writes an end mark where the next frame will go.
func (l *segmentedLog) Idle() error {
	if l.err != nil || l.ended {
		return l.err
	}
	if err := l.end(l.newest(), l.at, kindEnd); err != nil {
		return err
	}
	l.ended = true
	return l.fail("remove spare files of", l.spares.trim())
}

// end makes an end mark durable behind the last frame of a segment, which has
// room for it.
func (l *segmentedLog) end(s *segment, at int64, kind kinds) error {
	f := l.frame(kind)
	if s != l.newest() { // what the newest begins with
		f.seq, f.previous = l.newest().frame, l.newest().sum
	}
	blocks, _ := l.encoder.encode(&f, nil, l.salt, s.life(), at)
	if _, err := s.file.WriteAt(blocks, at); err != nil {
		return l.fail("end", err)
	}
	return l.fail("sync", s.file.Sync())
}

// Close implements Log. After an error it returns that, and gives up the lock
// nevertheless.
func (l *segmentedLog) Close() error {
	if l.readable.segments == nil {
		return l.err
	}
	err := l.Idle()
	err = errors.Join(err, l.readable.close(), l.spares.close(), l.names.Close(), l.lock.Close())
	if l.err == nil {
		l.err = fmt.Errorf("wal: log %s: %w", l.dir, os.ErrClosed)
	}
	return err
}

// fail makes the first error final. A failed fsync may have dropped the pages
// that it should have written: a second one that succeeds would prove nothing.
func (l *segmentedLog) fail(what string, err error) error {
	if err != nil {
		l.err = fmt.Errorf("wal: %s %s: %w", what, l.dir, err)
	}
	return l.err
}
