package wal

import (
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
)

// small is a volume with so much space free.
type small struct {
	vfs.FS
	free int64
}

func (s *small) Free(string) (int64, error) { return s.free, nil }

func (s *small) Remove(path string) error {
	if filepath.Ext(path) == spareSuffix {
		s.free += 64 << 10
	}
	return s.FS.Remove(path)
}

// A log keeps one file ready, and others only where the volume has as much space free as
// they take: a database beside it may need that to apply what would free more.
func TestSparesGiveWay(t *testing.T) {
	fs := &small{FS: vfs.OS, free: 1 << 40}
	b := New(Options{FS: fs, SegmentBytes: 64 << 10})
	dir := filepath.Join(t.TempDir(), "log")
	log, err := b.Create(dir, Mark{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}, raftpb.HardState{Term: 1, Commit: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	last := uint64(1)
	put := func() {
		t.Helper()
		last++
		e := raftpb.Entry{Index: last, Term: 1, Data: make([]byte, 20<<10)}
		if err := log.Append([]Batch{{Entries: []raftpb.Entry{e}, HardState: raftpb.HardState{Term: 1, Commit: last}}}); err != nil {
			t.Fatal(err)
		}
	}
	spares := func() int {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "*"+spareSuffix))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for range 30 {
		put()
	}
	if err := log.SetMark(Mark{Index: last, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}); err != nil {
		t.Fatal(err)
	}
	if err := log.Release(last); err != nil {
		t.Fatal(err)
	}
	many := spares()
	if many < 5 {
		t.Fatalf("%d files are kept where there is space; want all that were released", many)
	}
	fs.free = 0
	put()
	if err := log.Idle(); err != nil {
		t.Fatal(err)
	}
	if n, most := spares(), many/2+1; n > most || n < 1 {
		t.Errorf("%d of %d files are kept on a full volume; want 1 to %d", n, many, most)
	}
	fs.free = 0
	for range 10 {
		fs.free = 72 << 10 // room for what the log needs next
		put()
		fs.free = 0
		if err := log.Idle(); err != nil {
			t.Fatal(err)
		}
		fs.free = 0
	}
	if n := spares(); n > 1 {
		t.Errorf("%d files are kept on a volume that stays full; want 1", n)
	}
}
