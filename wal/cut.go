package wal

import (
	"errors"
	"fmt"
)

// Reserved implements Log.
func (l *segmentedLog) Reserved() bool { return l.spares.any() }

// Reserve implements Log.
func (l *segmentedLog) Reserve() error {
	if err := l.spares.make(); err != nil {
		return fmt.Errorf("wal: reserve the next segment in %s: %w", l.dir, err)
	}
	return nil
}

// GiveSpares gives the space back that is ready for the next segments. The log makes a new
// one, or a short one, when it needs it.
func (l *segmentedLog) GiveSpares() error {
	if l.err != nil {
		return l.err
	}
	return l.fail("remove spare files of", l.spares.give())
}

// cut begins the next segment, with room for a frame of so many bytes. It
// appears under its name with all that makes it one, so that a segment without a
// header is damage. The end of the old one then says that there is a next: a log
// whose newest file was lost is found out.
func (l *segmentedLog) cut(need int64, frees bool) error {
	old := l.newest()
	begin := l.frame(kindBegin | kindMarks)
	begin.marks = l.marks
	size := max(l.opts.SegmentBytes, begin.beginsSegmentOf(need))
	spare, f, err := l.spares.take(size)
	if errors.Is(err, ErrNoSpace) {
		leave := l.spares.size / spareShare
		if frees || l.mark().Index == l.last {
			leave = min(leave, bridgeSpareBytes)
		}
		size = begin.beginsSegmentOf(need + bridgeBytes)
		spare, f, err = l.spares.bridge(size, leave)
	}
	if errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("wal: begin a segment in %s: %w", l.dir, err)
	}
	if err != nil {
		return l.fail("begin a segment in", err)
	}
	next := &segment{
		header: header{salt: old.header.salt, seq: old.seq + 1, size: size, frame: l.seq, sum: l.sum, before: l.at},
		path:   segmentPath(l.dir, old.seq+1),
		file:   f,
		begin:  l.last, beginTerm: l.lastTerm,
	}
	at, sum, err := beginSegment(f, &l.encoder, next.header, &begin)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.opts.FS.Rename(spare, next.path)
	}
	if err == nil {
		err = l.names.Sync()
	}
	if err == nil {
		err = l.end(old, l.at, kindSealed)
	}
	if err != nil {
		return l.fail("begin a segment in", errors.Join(err, f.Close()))
	}
	l.readable.goOn(next)
	l.seq, l.sum, l.at, l.ended = l.seq+1, sum, at, false
	return l.fail("remove spare files of", l.spares.trim())
}
