package wal

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// Where the segment of the only mark is damaged or gone, the error says where, and
// which entries that takes away.
func TestNoMarkIsDamage(t *testing.T) {
	mem := vfstest.NewMem()
	b := New(Options{FS: mem, SegmentBytes: 32 << 10})
	l := must[Log](t)(b.Create("wal", Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	var begins []uint64
	for next := uint64(2); len(begins) < 2; next++ {
		check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: next, Term: 1, Data: make([]byte, 5000)}}}}))
		if n := len(l.(*segmentedLog).readable.segments); n > len(begins)+1 {
			begins = append(begins, next-1)
		}
	}
	check(t, l.Close())
	flip := func(mem *vfstest.Mem, offset int) {
		data := mem.ReadFile(segmentPath("wal", 1))
		data[offset] ^= 1
		mem.WriteFile(segmentPath("wal", 1), data)
	}
	for name, c := range map[string]struct {
		harm    func(mem *vfstest.Mem)
		segment string
		offset  int64
		known   uint64
	}{
		"a flipped bit in the header":      {func(mem *vfstest.Mem) { flip(mem, 40) }, segmentPath("wal", 1), 0, begins[0]},
		"a flipped bit in its first frame": {func(mem *vfstest.Mem) { flip(mem, blockBytes+40) }, segmentPath("wal", 1), blockBytes, begins[0]},
		"the first segment is missing":     {func(mem *vfstest.Mem) { check(t, mem.Remove(segmentPath("wal", 1))) }, segmentPath("wal", 3), 0, begins[0]},
		"the second segment is missing":    {func(mem *vfstest.Mem) { check(t, mem.Remove(segmentPath("wal", 2))) }, segmentPath("wal", 3), 0, begins[1]},
	} {
		t.Run(name, func(t *testing.T) {
			mem := mem.Clone()
			c.harm(mem)
			marks, err := New(Options{FS: mem}).Marks("wal")
			var where *CorruptError
			if !errors.As(err, &where) || len(marks) > 0 {
				t.Fatalf("Marks returned %v, %v; want a CorruptError", marks, err)
			}
			if where.Segment != c.segment || where.Offset != c.offset || where.Intact != 1 || where.Known != c.known {
				t.Errorf("%+v; want %s at offset %d, and the entries from 2 to %d", where, c.segment, c.offset, c.known)
			}
		})
	}
}

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
