package wal

import (
	"bytes"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// A segment that is released while somebody reads it is not written again before the
// reader is through: the reader gets the entries that were there.
func TestReadBesideRelease(t *testing.T) {
	mem := vfstest.NewMem()
	var meanwhile func()
	fs := vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		if f := meanwhile; f != nil && op.Kind == vfstest.Read {
			meanwhile = nil
			f()
		}
		return nil
	})
	l := must[Log](t)(New(Options{FS: fs, SegmentBytes: 64 << 10}).Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	next := uint64(2)
	data := func(index uint64) []byte { return bytes.Repeat([]byte{byte(index)}, 3000) }
	grow := func(entries int) {
		for range entries {
			check(t, l.Append([]Batch{{
				Entries:   []raftpb.Entry{{Index: next, Term: 1, Data: data(next)}},
				HardState: raftpb.HardState{Term: 1, Commit: next},
			}}))
			next++
		}
	}
	grow(40)
	meanwhile = func() {
		check(t, l.SetMark(Mark{Index: next - 1, Term: 1}))
		check(t, l.Release(next-1))
		grow(200) // into what was released, as often as there is any
	}
	got, err := l.Entries(2, 6, 1<<30)
	check(t, err)
	if meanwhile != nil {
		t.Fatal("nothing was read from the disk")
	}
	if len(got) == 0 {
		t.Error("the read returns nothing")
	}
	for i, e := range got {
		if want := uint64(i) + 2; e.Index != want || !bytes.Equal(e.Data, data(want)) {
			t.Errorf("entry %d is read as entry %d, with other data: %v", want, e.Index, !bytes.Equal(e.Data, data(want)))
		}
	}
	check(t, l.Close())
}
