package wal_test

import (
	"errors"
	"path"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

// A frame names the checksum of the one before it. Two copies of one log that went
// different ways have frames at the same places, under the same numbers and with right
// checksums; one of the other copy, as a disk that lost a write or a restored block
// shows it, is damage.
func TestFrameOfAnotherPast(t *testing.T) {
	const dir = "/wal"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mark := wal.Mark{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}
	hard := raftpb.HardState{Term: 1, Commit: 1}
	one := vfstest.NewMem()
	log, err := wal.New(wal.Options{FS: one}).Create(dir, mark, hard)
	check(err)
	check(log.Close())
	other := one.CrashKeepingAll()

	write := func(mem *vfstest.Mem, data string) (before, after []byte) {
		log, _, err := wal.New(wal.Options{FS: mem}).Open(dir, mark)
		check(err)
		for i := range 2 {
			before = segmentOf(t, mem)
			check(log.Append([]wal.Batch{{Entries: []raftpb.Entry{{Index: uint64(i) + 2, Term: 1, Data: []byte(data)}}, HardState: hard}}))
		}
		return before, segmentOf(t, mem)
	}
	_, right := write(one, "the one past")
	before, after := write(other, "other things")
	const block = 4096
	at := 0
	for string(before[at:at+block]) == string(after[at:at+block]) {
		at += block
	}
	copy(right[at:at+block], after[at:]) // the second frame follows another first one

	crashed := one.CrashKeepingAll()
	for name := range crashed.Image() {
		if path.Ext(name) == ".seg" {
			crashed.WriteFile(name, right)
		}
	}
	if _, _, err := wal.New(wal.Options{FS: crashed}).Open(dir, mark); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("a frame that follows another one than its own: %v, want ErrCorrupt", err)
	}
}

// segmentOf is the log's only segment.
func segmentOf(t *testing.T, mem *vfstest.Mem) []byte {
	t.Helper()
	for name, data := range mem.Image() {
		if path.Ext(name) == ".seg" {
			return append([]byte(nil), data...)
		}
	}
	t.Fatal("there is no segment")
	return nil
}
