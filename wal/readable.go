package wal

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"go.etcd.io/raft/v3"
)

// readable is what can be read of an open log: its segments, and where in them entries are.
// The goroutine that appends changes it, and may look at segments without the lock; any
// goroutine may read.
type readable struct {
	mu       sync.Mutex
	segments []*segment
	index    index
	// after is the index behind which entries can be read, last that of the last.
	after, last uint64
}

// newest is the segment that is written.
func (r *readable) newest() *segment { return r.segments[len(r.segments)-1] }

// append shows the entries of a frame at p.
func (r *readable) append(p point, f *frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.add(p, f.kinds&kindTruncates != 0)
	r.last = f.last
}

// goOn makes a segment the newest.
func (r *readable) goOn(next *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments = append(r.segments, next)
}

// release hides the entries up to index. It returns the segments that hold no others, which
// are in the list no more.
func (r *readable) release(index uint64) []*segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.after = max(r.after, index)
	n := 0
	for n+1 < len(r.segments) && r.segments[n+1].begin <= index {
		r.index.drop(r.segments[n])
		n++
	}
	released := r.segments[:n:n]
	r.segments = append([]*segment(nil), r.segments[n:]...)
	return released
}

// close lets nobody read any more.
func (r *readable) close() error {
	r.mu.Lock()
	segments := r.segments
	r.segments, r.index = nil, index{}
	r.mu.Unlock()
	var errs []error
	for _, s := range segments {
		_, err := r.closeSegment(s)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// locate returns where to look for an entry, and up to which index the frames
// from there on hold the log. The segment stays until unlocate. os.ErrClosed: there is
// nothing to read.
func (r *readable) locate(want, hi uint64) (*segment, point, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.segments == nil:
		return nil, point{}, 0, os.ErrClosed
	case want <= r.after:
		return nil, point{}, 0, raft.ErrCompacted
	case hi > r.last+1:
		return nil, point{}, 0, raft.ErrUnavailable
	}
	p, next, ok := r.index.find(want)
	if !ok {
		panic(fmt.Sprintf("wal: no frame is known for entry %d of %d to %d", want, r.after+1, r.last))
	}
	if next == 0 || next > hi {
		next = hi
	}
	p.segment.readers++
	return p.segment, p, next, nil
}

// unlocate ends a read.
func (r *readable) unlocate(s *segment) error {
	r.mu.Lock()
	s.readers--
	last := s.gone && s.readers == 0
	r.mu.Unlock()
	if last {
		return s.file.Close()
	}
	return nil
}

// closeSegment closes a segment that is in the list no more. If it is read, the last
// reader does.
func (r *readable) closeSegment(s *segment) (idle bool, err error) {
	r.mu.Lock()
	s.gone = true
	idle = s.readers == 0
	r.mu.Unlock()
	if idle {
		err = s.file.Close()
	}
	return idle, err
}
