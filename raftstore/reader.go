package raftstore

import (
	"errors"
	"sync"

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
