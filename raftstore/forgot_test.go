package raftstore

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// beginLog makes the first log of a directory, whose disk ends after so many changes.
func beginLog(t *testing.T, after int) (mem *vfstest.Mem, ended bool) {
	t.Helper()
	mem = vfstest.NewMem()
	changes := -1 // of the log
	fs := vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		if changes < 0 || !op.Changes() {
			return nil
		}
		if changes++; changes > after {
			return vfstest.ErrCrashed
		}
		return nil
	})
	s, err := openSides(Options{FS: fs, Dir: "/d", Backend: wal.New(wal.Options{FS: fs, SegmentBytes: 64 << 10})})
	noError(t, err)
	noError(t, s.SetIdentity(someIdentity))
	h := SnapshotHeader{
		Metadata:   raftpb.SnapshotMetadata{Index: 7, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{1}}},
		Membership: octopiipb.Membership{Cluster: 0xc, Index: 7},
	}
	putSnapshot(t, s, h)
	changes = 0
	err = s.Found(h, raftpb.HardState{Term: 3, Commit: 7})
	return mem, err != nil
}

func openMem(t *testing.T, mem *vfstest.Mem) sides {
	t.Helper()
	s, err := openSides(Options{FS: mem, Dir: "/d", Backend: wal.New(wal.Options{FS: mem, SegmentBytes: 64 << 10})})
	noError(t, err)
	return s
}

// A directory whose log is gone knows that it had one. Wherever a process ends that makes
// the first log, and whatever of that the disk keeps, there is a log or nothing was
// forgotten; and a log that is opened is noted, before anything of it is acknowledged.
func TestForgot(t *testing.T) {
	for after := 0; ; after++ {
		mem, ended := beginLog(t, after)
		for i, m := range []*vfstest.Mem{mem.CrashKeepingAll(), mem.CrashLosingAll(), mem.Crash(rand.New(rand.NewPCG(uint64(after), 0))), mem.Crash(rand.New(rand.NewPCG(uint64(after), 1)))} {
			what := fmt.Sprintf("ended after %d changes, crash %d", after, i)
			s := openMem(t, m)
			if s.Forgot() {
				t.Fatalf("%s: it says that it forgot", what)
			}
			had := s.Initialized()
			if !ended && !had {
				t.Fatalf("%s: the log that was made is gone", what)
			}
			noError(t, s.Close())
			lost := m.CrashLosingAll()
			noError(t, lost.RemoveAll(filepath.Join("/d", "wal")))
			s = openMem(t, lost)
			if s.Forgot() != had {
				t.Fatalf("%s: it had a log: %v; without it it says that it forgot: %v", what, had, s.Forgot())
			}
			if id, _ := s.Identity(); had && id.Cluster != 0xc || id.Node != someIdentity.Node || id.Incarnation != someIdentity.Incarnation {
				t.Fatalf("%s: identity %+v", what, id)
			}
			noError(t, s.Close())
		}
		if !ended {
			return
		}
	}
}

// A log of an older program, which noted nothing, is noted when it is opened.
func TestForgotOlderLog(t *testing.T) {
	mem, _ := beginLog(t, 1<<20)
	mem = mem.CrashKeepingAll()
	data, err := encodeIdentity(someIdentity)
	noError(t, err)
	mem.WriteFile("/d/identity", data)
	noError(t, openMem(t, mem).Close())
	noError(t, mem.RemoveAll("/d/wal"))
	if s := openMem(t, mem); !s.Forgot() {
		t.Error("it does not know that it had a log")
	}
}

// What a newcomer received and made no log of goes at the next start; in a directory that
// had a log, or that nobody knows, it stays.
func TestOrphanSnapshots(t *testing.T) {
	for name, c := range map[string]struct {
		identity *Identity
		left     int
	}{
		"a newcomer's":        {&Identity{Node: 1, Incarnation: 2}, 0},
		"of one with a log":   {&Identity{Node: 1, Incarnation: 2, Cluster: 0xc}, 1},
		"without an identity": {nil, 1},
	} {
		mem := vfstest.NewMem()
		s := openMem(t, mem)
		w, err := s.CreateSnapshot(SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: 5, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1}}}})
		noError(t, err)
		_, err = w.Commit()
		noError(t, err)
		noError(t, s.Close())
		if c.identity != nil {
			data, err := encodeIdentity(*c.identity)
			noError(t, err)
			mem.WriteFile("/d/identity", data)
		}
		noError(t, openMem(t, mem).Close())
		names, err := listSnapshots(mem, "/d/snap")
		noError(t, err)
		if len(names) != c.left {
			t.Errorf("%s: %d snapshots are left, want %d", name, len(names), c.left)
		}
	}
}
