package wal

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// A full disk must not keep what frees space from being written.
func TestFullLogIsFreedByAMark(t *testing.T) {
	mem := vfstest.NewMem()
	mem.SetCapacity(256 << 10)
	l := must[Log](t)(New(Options{FS: mem, SegmentBytes: 64 << 10}).Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	next := uint64(2)
	grow := func() error {
		err := l.Append([]Batch{{
			Entries:   []raftpb.Entry{{Index: next, Term: 1, Data: make([]byte, 3000)}},
			HardState: raftpb.HardState{Term: 1, Commit: next},
		}})
		if err == nil {
			next++
		}
		return err
	}
	var err error
	for err == nil {
		err = grow()
	}
	if !errors.Is(err, ErrNoSpace) || next < 40 {
		t.Fatalf("the log took entries up to %d, and then: %v", next-1, err)
	}
	check(t, l.SetMark(Mark{Index: next - 1, Term: 1}))
	check(t, l.Release(next-1))
	if !l.Reserved() {
		t.Error("what was released is not ready to be used again")
	}
	for range 10 {
		check(t, grow())
	}
	check(t, l.Close())
}
