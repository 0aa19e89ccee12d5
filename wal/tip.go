package wal

import "go.etcd.io/raft/v3/raftpb"

// tip is where a log ends, and what all of its frames amount to. Whoever reads the log moves
// it from frame to frame, and then whoever appends to it.
type tip struct {
	// seq is the sequence of the next frame, sum the checksum of the one before
	// it, at where in the newest segment it goes.
	seq uint64
	sum uint32
	at  int64
	// hard is the last hard state. The commit index of an open log may not be on disk yet.
	hard raftpb.HardState
	// last and lastTerm are index and term of the last entry.
	last, lastTerm uint64
	// marks are those that the log can be opened at, oldest first.
	marks []Mark
}

// frame returns the next frame, which changes nothing yet.
func (t *tip) frame(k kinds) frame {
	return frame{seq: t.seq, previous: t.sum, kinds: k, last: t.last, lastTerm: t.lastTerm, hard: t.hard}
}

// mark is the newest mark.
func (t *tip) mark() Mark { return t.marks[len(t.marks)-1] }
