package wal

import (
	"fmt"
	"os"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Entries implements Log.
func (l *segmentedLog) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	var r reading
	r.maxBytes = maxBytes
	for want := lo; want < hi && !r.full; {
		s, p, limit, err := l.locate(want, hi)
		if err != nil {
			if err == raft.ErrCompacted && want > lo {
				break // released meanwhile: what was read is right
			}
			return nil, err
		}
		err = r.read(s, p, want, limit)
		if closeErr := l.unlocate(s); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, fmt.Errorf("wal: read entries from %d on: %w", want, err)
		}
		want = limit
	}
	return r.entries, nil
}

// locate returns where to look for an entry, and up to which index the frames
// from there on hold the log. The segment stays until unlocate.
func (l *segmentedLog) locate(want, hi uint64) (*segment, point, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.segments == nil:
		return nil, point{}, 0, fmt.Errorf("wal: log %s: %w", l.dir, os.ErrClosed)
	case want <= l.first:
		return nil, point{}, 0, raft.ErrCompacted
	case hi > l.last+1:
		return nil, point{}, 0, raft.ErrUnavailable
	}
	p, next, ok := l.index.find(want)
	if !ok {
		panic(fmt.Sprintf("wal: no frame is known for entry %d of %d to %d", want, l.first+1, l.last))
	}
	if next == 0 || next > hi {
		next = hi
	}
	p.segment.readers++
	return p.segment, p, next, nil
}

// unlocate ends a read.
func (l *segmentedLog) unlocate(s *segment) error {
	l.mu.Lock()
	s.readers--
	last := s.gone && s.readers == 0
	l.mu.Unlock()
	if last {
		return s.file.Close()
	}
	return nil
}

// closeSegment closes a segment that is in no list any more, when nobody reads
// it.
func (l *segmentedLog) closeSegment(s *segment) error {
	l.mu.Lock()
	s.gone = true
	idle := s.readers == 0
	l.mu.Unlock()
	if idle {
		return s.file.Close()
	}
	return nil
}

// closeUnread is closeSegment, and says whether nobody reads it.
func (l *segmentedLog) closeUnread(s *segment) bool {
	l.mu.Lock()
	s.gone = true
	idle := s.readers == 0
	l.mu.Unlock()
	if idle {
		_ = s.file.Close() // it was synced, and its content counts no more
	}
	return idle
}

// reading collects entries.
type reading struct {
	entries  []raftpb.Entry
	bytes    uint64
	maxBytes uint64
	full     bool
}

// read collects the entries from want up to limit from the frames at p.
func (r *reading) read(s *segment, p point, want, limit uint64) error {
	w := window{file: s.file, size: s.size, most: pointBytes + blockBytes}
	for seq, off := p.seq, p.off; want < limit && !r.full; seq++ {
		sectors, bad, err := s.frameAt(&w, off, seq)
		if err != nil {
			return s.unreadable(off, want-1, limit-1, err)
		}
		if bad >= 0 {
			return s.corrupt(bad, want-1, limit-1, fmt.Sprintf("frame %d was whole and is not any more", seq))
		}
		f, _, err := decodeFrame(sectors, nil)
		if err == nil && f.count > 0 {
			err = f.eachEntry(func(e raftpb.Entry) {
				if e.Index == want && want < limit && !r.full {
					r.add(e)
					want++
				}
			})
		}
		if err != nil {
			return s.corrupt(off, want-1, limit-1, err)
		}
		off += blocksOf(sectors)
	}
	return nil
}

func (r *reading) add(e raftpb.Entry) {
	r.bytes += uint64(e.Size())
	if len(r.entries) > 0 && r.bytes > r.maxBytes {
		r.full = true
		return
	}
	r.entries = append(r.entries, e)
}
