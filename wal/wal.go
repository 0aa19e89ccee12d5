// Package wal is the write-ahead log that a member's raft state lives in.
//
// It holds the words that raftstore and every backend share, and the interface
// between them. wal/etcdwal keeps the log in etcd's format.
package wal

import (
	"errors"

	"go.etcd.io/raft/v3/raftpb"
)

// Batch is what one append makes durable together. Entries of a later batch
// replace those of an earlier one from their first index on.
type Batch struct {
	// Entries are consecutive in index.
	Entries []raftpb.Entry
	// HardState replaces the last one; an empty one leaves it as it is.
	HardState raftpb.HardState
}

// Mark says that everything up to and including Index is in a snapshot: a log
// is opened at its newest mark, and what lies before it may be freed.
type Mark struct {
	Index, Term uint64
	ConfState   raftpb.ConfState
}

// State is what a log holds when it is opened.
type State struct {
	// HardState is the last one appended.
	HardState raftpb.HardState
	// Entries follow the mark at which the log was opened, without a gap.
	Entries []raftpb.Entry
}

var (
	// ErrCorrupt: the log holds bytes that it did not write. Nothing was changed
	// on disk.
	ErrCorrupt = errors.New("wal: corrupt")
	// ErrNotFound: there is no log in that directory.
	ErrNotFound = errors.New("wal: not found")
	// ErrLocked: another process has the log open.
	ErrLocked = errors.New("wal: in use by another process")
)

// Log is one write-ahead log, as raftstore needs it. One goroutine calls it.
// After any error a Log refuses every further write with the same error: a
// failed fsync may have dropped the pages that it should have written, so trying again
// would report as durable what is lost (ATC'20, "Can applications recover from
// fsync failures?").
type Log interface {
	// Append writes the batches in order with one write and, unless only commit
	// indexes changed, one fsync. It returns when all of it is durable.
	Append(batches []Batch) error
	// SetMark makes a mark durable: the next Open may name it.
	SetMark(m Mark) error
	// Release frees the files that hold nothing behind index.
	Release(index uint64) error
	// Close makes everything durable and releases the directory's lock.
	Close() error
}

// Backend creates and opens logs in one format.
type Backend interface {
	// Create makes a new log in dir, which must not exist, that begins behind m
	// and holds hs. It appears under its name only when all of that is durable:
	// a crash leaves no dir or the whole of it.
	Create(dir string, m Mark, hs raftpb.HardState) (Log, error)
	// Open recovers the log at mark m, which must be one that SetMark or Create
	// made durable. It cuts off a torn tail and nothing else.
	Open(dir string, m Mark) (Log, State, error)
	// Marks lists the durable marks that are covered by the log's committed
	// part, oldest first, or ErrNotFound.
	Marks(dir string) ([]Mark, error)
}
