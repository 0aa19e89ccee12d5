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
		s, p, limit, err := l.readable.locate(want, hi)
		if err != nil {
			switch {
			case err == raft.ErrCompacted && want > lo:
				return r.entries, nil // released meanwhile: what was read is right
			case err == os.ErrClosed:
				err = fmt.Errorf("wal: log %s: %w", l.dir, err)
			}
			return nil, err
		}
		err = r.read(s, p, want, limit)
		if closeErr := l.readable.unlocate(s); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, fmt.Errorf("wal: read entries from %d on: %w", want, err)
		}
		want = limit
	}
	return r.entries, nil
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
