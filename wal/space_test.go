package wal

import (
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// Whatever could not be made for want of space leaves nothing that takes space, however
// often it is tried: others need it, and what frees the log does.
func TestFullDiskIsNotFilledByTries(t *testing.T) {
	mem := vfstest.NewMem()
	l := must[Log](t)(New(Options{FS: mem, SegmentBytes: 64 << 10}).Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	for index := uint64(2); l.Reserved(); index++ { // use up what is ready
		check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}}}))
	}
	used := mem.Used()
	mem.SetCapacity(used + 40<<10) // room for a part of a segment
	for range 5 {
		if err := l.Reserve(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("reserve on a full disk: %v; want %v", err, ErrNoSpace)
		}
		if now := mem.Used(); now != used {
			t.Fatalf("a try leaves %d bytes on a full disk", now-used)
		}
	}
	for _, name := range mem.Names("wal") {
		if filepath.Ext(name) == tmpSuffix {
			t.Errorf("%s is left", name)
		}
	}
	mem.SetCapacity(0)
	check(t, l.Close())
}
