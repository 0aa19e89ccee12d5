package nodetest

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// watched is a member's backend. It changes nothing, and notes what its logs
// said that they have taken, so that nobody else need be believed about it.
type watched struct {
	wal.Backend
	m *member
}

func (b watched) Create(dir string, mark wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	log, err := b.Backend.Create(dir, mark, hs)
	if err != nil {
		return log, err
	}
	return b.watch(log, hs, mark.Index), nil
}

func (b watched) Open(dir string, mark wal.Mark) (wal.Log, wal.State, error) {
	log, state, err := b.Backend.Open(dir, mark)
	if err != nil {
		return log, state, err
	}
	return b.watch(log, state.HardState, state.Last), state, nil
}

func (b watched) watch(log wal.Log, hs raftpb.HardState, last uint64) *watchedLog {
	l := &watchedLog{Log: log, m: b.m, before: b.m.log, hard: hs, last: last}
	b.m.log = l
	return l
}

// watchedLog is a log and what it has taken.
type watchedLog struct {
	wal.Log
	m *member
	// before is the log whose place it took.
	before *watchedLog
	hard   raftpb.HardState
	last   uint64
}

func (l *watchedLog) Append(batches []wal.Batch) error {
	if err := l.Log.Append(batches); err != nil {
		return err
	}
	for i := range batches {
		if n := len(batches[i].Entries); n > 0 {
			l.last = batches[i].Entries[n-1].Index
		}
		if hs := batches[i].HardState; !raft.IsEmptyHardState(hs) {
			l.hard = hs
		}
	}
	return nil
}

func (l *watchedLog) Close() error {
	if l.m.log == l && l.before != nil { // it was given up
		l.m.log = l.before
	}
	return l.Log.Close()
}
