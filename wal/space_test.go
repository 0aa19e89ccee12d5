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

// A volume has room for one segment and for half of another one. A full log goes on there each
// time that a mark covers it, though there is no room for a whole segment beside what it has.
func TestFullLogUnderAMarkGoesOn(t *testing.T) {
	const segment = 1 << 20
	mem := vfstest.NewMem()
	format := New(Options{FS: mem, SegmentBytes: segment})
	l := must[Log](t)(format.Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	mem.SetCapacity(mem.Used() + segment/2)
	last := uint64(1)
	for round := range 20 {
		before := last
		var err error
		for err == nil {
			err = l.Append([]Batch{{
				Entries:   []raftpb.Entry{{Index: last + 1, Term: 1, Data: make([]byte, 3000)}},
				HardState: raftpb.HardState{Term: 1, Commit: last + 1},
			}})
			if err == nil {
				last++
			}
		}
		if !errors.Is(err, ErrNoSpace) {
			t.Fatal(err)
		}
		if last == before {
			t.Fatalf("round %d: the log takes nothing more behind the mark at %d", round, last)
		}
		check(t, l.SetMark(Mark{Index: last, Term: 1}))
		check(t, l.Release(last))
		if round%5 == 4 {
			check(t, l.Close())
			l, _, err = format.Open("wal", Mark{Index: last, Term: 1})
			check(t, err)
		}
	}
	check(t, l.Close())
}

// A log begins under a mark that covers it. Where a volume has no room for a whole segment,
// such as beside a snapshot that fills it, the log begins in a short one.
func TestLogBeginsOnAFullDisk(t *testing.T) {
	const segment = 1 << 20
	mem := vfstest.NewMem()
	mem.SetCapacity(segment / 2)
	format := New(Options{FS: mem, SegmentBytes: segment})
	l := must[Log](t)(format.Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: 2, Term: 1, Data: make([]byte, 3000)}}, HardState: raftpb.HardState{Term: 1, Commit: 2}}}))
	mem.SetCapacity(4 * segment)
	check(t, l.Reserve())
	for index := uint64(3); index < 300; index++ {
		check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}}}))
	}
	check(t, l.Close())
	l, _, err := format.Open("wal", Mark{Index: 1, Term: 1})
	check(t, err)
	check(t, l.Close())
}

// A log gives the space of its spare files back, and goes on when it needs one.
func TestGiveSpares(t *testing.T) {
	const segment = 64 << 10
	mem := vfstest.NewMem()
	format := New(Options{FS: mem, SegmentBytes: segment})
	l := must[Log](t)(format.Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	check(t, l.Reserve())
	before := mem.Used()
	check(t, l.(*segmentedLog).GiveSpares())
	if got := before - mem.Used(); got < segment || l.Reserved() {
		t.Errorf("%d bytes are given back, want %d; still reserved: %v", got, segment, l.Reserved())
	}
	for index := uint64(2); index < 40; index++ {
		check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: index, Term: 1, Data: make([]byte, 3000)}}}}))
	}
	check(t, l.Close())
}
