package raftstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

var errCrash = errors.New("crash")

// crashing is a backend whose new logs die before their first append.
type crashing struct {
	wal.Backend
	on bool
}

func (b *crashing) Create(dir string, m wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	l, err := b.Backend.Create(dir, m, hs)
	if err == nil && b.on {
		l = dead{l}
	}
	return l, err
}

type dead struct{ wal.Log }

func (dead) Append([]wal.Batch) error { return errCrash }

func write(t *testing.T, s *raftstore.Store, h raftstore.SnapshotHeader) {
	w, err := s.CreateSnapshot(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func head(index uint64) raftstore.SnapshotHeader {
	return raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}
}

// One Append holds a snapshot at 100, entries 101 and 102, and a HardState that
// commits 102. A crash between the new log and its entries.
func TestCrashWithinInstall(t *testing.T) {
	for name, b := range map[string]wal.Backend{"etcd": etcdwal.New(nil), "native": wal.New(wal.Options{SegmentBytes: 64 << 10})} {
		t.Run(name, func(t *testing.T) { testCrashWithinInstall(t, b) })
	}
}

func testCrashWithinInstall(t *testing.T, backend wal.Backend) {
	dir := t.TempDir()
	b := &crashing{Backend: backend}
	opts := raftstore.Options{FS: vfs.OS, Dir: dir, Backend: b}
	s, _, writer, err := raftstore.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetIdentity(raftstore.Identity{Node: 1, Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, s, head(1))
	if err := s.Found(head(1), raftpb.HardState{Term: 1, Commit: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, s, head(100))
	b.on = true
	err = writer.Install(head(100), raftpb.HardState{Term: 2, Commit: 102}, []raftpb.Entry{{Index: 101, Term: 1}, {Index: 102, Term: 2}})
	if !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	_ = s.Close()
	b.on = false
	s, _, _, err = raftstore.Open(opts)
	if err != nil {
		t.Fatalf("a crash in Install leaves a log that cannot be opened: %v", err)
	}
	_ = s.Close()
}

// badSync is a file system that is full when a snapshot is synced.
type badSync struct{ vfs.FS }

func (f badSync) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	if filepath.Ext(name) == ".tmp" && filepath.Base(filepath.Dir(name)) == "snap" {
		return badFile{file}, err
	}
	return file, err
}

type badFile struct{ vfs.File }

func (badFile) Sync() error { return errors.New("no space left on device") }

// A snapshot that cannot be committed leaves nothing behind.
func TestCommitFailureLeaksTemporary(t *testing.T) {
	dir := t.TempDir()
	s, _, _, err := raftstore.Open(raftstore.Options{FS: badSync{vfs.OS}, Dir: dir, Backend: etcdwal.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range uint64(3) {
		w, err := s.CreateSnapshot(head(10 + i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(); err == nil {
			t.Fatal("no error")
		}
	}
	files, _ := os.ReadDir(filepath.Join(dir, "snap"))
	if len(files) > 0 {
		t.Errorf("%d temporary files, open and on disk, after as many failures", len(files))
	}
}
