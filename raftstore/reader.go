package raftstore

import (
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// reader lends the log, which belongs to the side that writes, to the side that
// raft reads and to Reserve.
//
// An Install on the one side puts a new log in the place of the old one before
// the other side hears of it in Installed. In between, nothing is read: raft wants
// no entry from its storage while a snapshot is pending, and what raft sees is of
// a log that is gone.
type reader struct {
	mu sync.RWMutex
	// log is nil while there is none; seq is its number.
	log wal.Log
	seq uint64
	// released is the index up to which it may be gone.
	released uint64
	// reserving is held while Reserve runs.
	reserving sync.Mutex
}

// errReplaced: the log that raft sees is not the one in force.
var errReplaced = errors.New("raftstore: the log was replaced")

// replace puts another log, or none, in the place of the old one, which it closes
// when nobody uses it any more.
func (r *reader) replace(log wal.Log, seq, released uint64) error {
	r.mu.Lock()
	old := r.log
	r.log, r.seq, r.released = log, seq, released
	r.mu.Unlock()
	if old == nil {
		return nil
	}
	r.reserving.Lock()
	defer r.reserving.Unlock()
	return old.Close()
}

func (r *reader) entries(seq, lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.log == nil || r.seq != seq {
		return nil, errReplaced
	}
	return r.log.Entries(lo, hi, maxSize)
}

func (r *reader) reserve() error {
	r.reserving.Lock()
	defer r.reserving.Unlock()
	r.mu.RLock()
	log := r.log
	r.mu.RUnlock()
	if log == nil {
		return nil
	}
	return log.Reserve()
}

func (r *reader) release(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released = index
}

func (r *reader) releasedIndex() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.released
}

// readCold reads [lo, hi) from disk.
//
// raft cannot be told that the disk failed: it panics. So it is given nothing,
// which makes it wait, and the error is kept for ReadErr.
func (s *Store) readCold(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	if s.readErr != nil {
		return nil, nil
	}
	entries, err := s.reader.entries(s.seq, lo, hi, maxSize)
	switch {
	case errors.Is(err, errReplaced):
		return nil, raft.ErrCompacted
	case errors.Is(err, raft.ErrCompacted) && lo <= s.tail.snap.Index:
		// A new mark released it, and Marked is still to come: the follower that
		// wants it gets a snapshot. What is yet to be applied is behind the newest
		// mark that Marked told of, and that much is never released.
		return nil, raft.ErrCompacted
	}
	if err == nil {
		err = s.tail.compare(entries, lo, hi)
	}
	if err != nil {
		s.readErr = fmt.Errorf("raftstore: read entries %d to %d of the log back: %w", lo, hi-1, err)
		return nil, nil
	}
	s.tail.count(entries)
	return entries, nil
}

// compare checks what came from disk against what is known of it.
func (t *tail) compare(entries []raftpb.Entry, lo, hi uint64) error {
	if len(entries) == 0 || uint64(len(entries)) > hi-lo {
		return fmt.Errorf("%w: %d entries came back", wal.ErrCorrupt, len(entries))
	}
	r := t.run(lo)
	for i := range entries {
		index := lo + uint64(i)
		if r+1 < len(t.runs) && t.runs[r+1].First <= index {
			r++
		}
		if e := &entries[i]; e.Index != index || e.Term != t.runs[r].Term {
			return fmt.Errorf("%w: entry %d of term %d came back as entry %d of term %d", wal.ErrCorrupt, index, t.runs[r].Term, e.Index, e.Term)
		}
	}
	return nil
}
