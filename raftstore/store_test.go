package raftstore

import (
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// backends are those that every store test runs over.
var backends = []struct {
	name string
	new  func() wal.Backend
}{
	{"etcd", func() wal.Backend { return etcdwal.New(nil) }},
	{"native", func() wal.Backend { return wal.New(wal.Options{SegmentBytes: 64 << 10}) }},
}

func eachBackend(t *testing.T, test func(*testing.T, wal.Backend)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { test(t, b.new()) })
	}
}

func tryOpen(b wal.Backend, dir string, external bool) (sides, error) {
	return openSides(Options{FS: vfs.OS, Dir: dir, Backend: b, External: external})
}

// openStore opens a store that is closed when the test ends, if not before.
func openStore(t *testing.T, b wal.Backend, dir string) sides {
	t.Helper()
	s, err := tryOpen(b, dir, false)
	noError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen is what a restart does.
func reopen(t *testing.T, s sides) sides {
	t.Helper()
	noError(t, s.Close())
	return openStore(t, s.backend, s.dir)
}

// putSnapshot puts a snapshot file in place.
func putSnapshot(t *testing.T, s sides, h SnapshotHeader) {
	t.Helper()
	w, err := s.CreateSnapshot(h)
	noError(t, err)
	defer w.Abort()
	if !h.External {
		_, err = w.Write([]byte("the state"))
		noError(t, err)
	}
	_, err = w.Commit()
	noError(t, err)
}

// founded is a member in a new directory, whose log begins behind index 1.
func founded(t *testing.T, b wal.Backend) sides {
	t.Helper()
	s := openStore(t, b, filepath.Join(t.TempDir(), "member"))
	noError(t, s.SetIdentity(someIdentity))
	putSnapshot(t, s, headerOf(1, 1, 1))
	noError(t, s.Found(headerOf(1, 1, 1), raftpb.HardState{Term: 1, Commit: 1}))
	return s
}

// appendDurably appends as a member does: first to the disk, then for raft.
func appendDurably(t *testing.T, s sides, hs raftpb.HardState, entries []raftpb.Entry) {
	t.Helper()
	noError(t, s.Append([]wal.Batch{{Entries: entries, HardState: hs}}))
	s.Appended(entries)
}

// mark takes a local snapshot and lets the log begin behind it.
func mark(t *testing.T, s sides, h SnapshotHeader) {
	t.Helper()
	putSnapshot(t, s, h)
	noError(t, s.Mark(h))
	s.Marked(h, 0, 0)
}

// wantLog compares all that a store tells raft of its log.
func wantLog(t *testing.T, s sides, start uint64, hs raftpb.HardState, entries []raftpb.Entry) {
	t.Helper()
	if got := s.Start().Metadata.Index; got != start {
		t.Errorf("the log begins behind %d, want %d", got, start)
	}
	state, cs, err := s.InitialState()
	noError(t, err)
	if state != hs {
		t.Errorf("hard state %+v, want %+v", state, hs)
	}
	if diff := cmp.Diff(s.Start().Metadata.ConfState, cs); diff != "" {
		t.Errorf("configuration (-start +state):\n%s", diff)
	}
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if first != start+1 || last != start+uint64(len(entries)) {
		t.Errorf("entries %d to %d, want %d of them behind %d", first, last, len(entries), start)
		return
	}
	if len(entries) == 0 {
		return
	}
	got, err := s.Entries(first, last+1, 1<<62)
	noError(t, err)
	if diff := cmp.Diff(entries, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func wantCorrupt(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("%v, want wal.ErrCorrupt", err)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error %q does not say %q", err, p)
		}
	}
}

// namesIn are the names in a directory of the store, but for the file that a mark may need.
func namesIn(t *testing.T, s sides, dir string) []string {
	t.Helper()
	names, err := vfs.OS.ReadDir(filepath.Join(s.dir, dir))
	noError(t, err)
	return slices.DeleteFunc(names, func(n string) bool { return n == spareMarkName })
}

func wantFiles(t *testing.T, s sides, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, namesIn(t, s, dir)); diff != "" {
		t.Errorf("files in %s (-want +got):\n%s", dir, diff)
	}
}

func snap(term, index uint64) string { return snapshotName{Term: term, Index: index}.String() }

// copyOf is the directory as a crash at this moment would leave it, with all
// that was written on the disk.
func copyOf(t *testing.T, s sides) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	noError(t, os.CopyFS(dir, os.DirFS(s.dir)))
	return dir
}

func TestNewDirectory(t *testing.T) { eachBackend(t, testNewDirectory) }

func testNewDirectory(t *testing.T, b wal.Backend) {
	s := openStore(t, b, filepath.Join(t.TempDir(), "not", "there", "yet"))
	if _, ok := s.Identity(); ok || s.Initialized() {
		t.Error("a new directory has an identity or a log")
	}
	noError(t, s.SetIdentity(someIdentity))
	s = reopen(t, s)
	if id, ok := s.Identity(); !ok || id != someIdentity {
		t.Errorf("identity %+v, %v after a restart, want %+v", id, ok, someIdentity)
	}
	if s.Initialized() {
		t.Error("a directory with nothing but an identity is initialized")
	}
	if err := s.SetIdentity(someIdentity); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("a second identity: %v", err)
	}
}

func TestFoundAndRestart(t *testing.T) { eachBackend(t, testFoundAndRestart) }

func testFoundAndRestart(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	for range 3 {
		if !s.Initialized() {
			t.Fatal("a founded member is not initialized")
		}
		wantLog(t, s, 1, raftpb.HardState{Term: 1, Commit: 1}, nil)
		if diff := cmp.Diff(headerOf(1, 1, 1), s.Start()); diff != "" {
			t.Errorf("start (-want +got):\n%s", diff)
		}
		s = reopen(t, s)
	}
}

func TestAppendAndRestart(t *testing.T) { eachBackend(t, testAppendAndRestart) }

func testAppendAndRestart(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	hs := raftpb.HardState{Term: 2, Vote: 7, Commit: 3}
	noError(t, s.Append([]wal.Batch{{Entries: entriesOf(2, 2, 4), HardState: hs}}))
	if last, _ := s.LastIndex(); last != 1 {
		t.Errorf("raft sees index %d before Appended said that it is durable", last)
	}
	s.Appended(entriesOf(2, 2, 4))
	if last, _ := s.LastIndex(); last != 4 {
		t.Errorf("raft sees the log end at %d after Appended, want 4", last)
	}
	s = reopen(t, s)
	wantLog(t, s, 1, hs, entriesOf(2, 2, 4))
	// What is appended after a restart follows what was there.
	appendDurably(t, s, raftpb.HardState{}, entriesOf(2, 5, 6))
	wantLog(t, reopen(t, s), 1, hs, entriesOf(2, 2, 6))
}

func TestOverwrittenSuffixAndRestart(t *testing.T) { eachBackend(t, testOverwrittenSuffixAndRestart) }

func testOverwrittenSuffixAndRestart(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 3}, entriesOf(2, 2, 9))
	appendDurably(t, s, raftpb.HardState{Term: 3, Vote: 5, Commit: 3}, entriesOf(3, 5, 6))
	want := append(entriesOf(2, 2, 4), entriesOf(3, 5, 6)...)
	if diff := cmp.Diff(want, mustEntries(t, s)); diff != "" {
		t.Errorf("before the restart (-want +got):\n%s", diff)
	}
	wantLog(t, reopen(t, s), 1, raftpb.HardState{Term: 3, Vote: 5, Commit: 3}, want)
}

func mustEntries(t *testing.T, s sides) []raftpb.Entry {
	t.Helper()
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	entries, err := s.Entries(first, last+1, 1<<62)
	noError(t, err)
	return entries
}

// Batches that become durable together replace each other in order.
func TestBatchesOverwriteInOrder(t *testing.T) { eachBackend(t, testBatchesOverwriteInOrder) }

func testBatchesOverwriteInOrder(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	noError(t, s.Append([]wal.Batch{
		{Entries: entriesOf(2, 2, 6), HardState: raftpb.HardState{Term: 2, Commit: 1}},
		{Entries: entriesOf(3, 4, 4), HardState: raftpb.HardState{Term: 3, Commit: 2}},
		{HardState: raftpb.HardState{Term: 4, Vote: 2, Commit: 2}},
	}))
	wantLog(t, reopen(t, s), 1, raftpb.HardState{Term: 4, Vote: 2, Commit: 2}, append(entriesOf(2, 2, 3), entriesOf(3, 4, 4)...))
}

// A snapshot from the leader replaces a log that conflicts with it: nothing of
// the old log is seen again, and the vote is not forgotten.
func TestInstallRevivesNothing(t *testing.T) { eachBackend(t, testInstallRevivesNothing) }

func testInstallRevivesNothing(t *testing.T, b wal.Backend) {
	for _, restart := range []string{"at once", "after an append", "after a restart"} {
		t.Run(restart, func(t *testing.T) {
			s := founded(t, b)
			vote := raftpb.HardState{Term: 5, Vote: 3, Commit: 2}
			appendDurably(t, s, vote, entriesOf(2, 2, 30))
			if restart == "after a restart" {
				s = reopen(t, s) // the hard state must come from the disk then
			}
			h := headerOf(4, 10, 1, 2, 3)
			putSnapshot(t, s, h)
			noError(t, s.Install(h, raftpb.HardState{}, nil))
			s.Installed(h)
			noError(t, s.Restored(10))
			if first, _ := s.FirstIndex(); first != 11 {
				t.Errorf("raft sees a log that begins at %d, want 11", first)
			}
			var want []raftpb.Entry
			if restart == "after an append" {
				want = entriesOf(5, 11, 12)
				appendDurably(t, s, raftpb.HardState{}, want)
			}
			s = reopen(t, s)
			wantLog(t, s, 10, raftpb.HardState{Term: 5, Vote: 3, Commit: 10}, want)
			wantFiles(t, s, "wal", "0000000000000002")
			wantFiles(t, s, "snap", snap(4, 10))
			if diff := cmp.Diff(h, s.Start()); diff != "" {
				t.Errorf("start (-want +got):\n%s", diff)
			}
		})
	}
}

// Raft may hand over a snapshot, the entries behind it and a new state at once.
func TestInstallWithEntries(t *testing.T) { eachBackend(t, testInstallWithEntries) }

func testInstallWithEntries(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 2}, entriesOf(2, 2, 5))
	h := headerOf(3, 10, 1, 2)
	putSnapshot(t, s, h)
	hs := raftpb.HardState{Term: 4, Vote: 2, Commit: 10}
	noError(t, s.Install(h, hs, entriesOf(4, 11, 13)))
	s.Installed(h)
	s.Appended(entriesOf(4, 11, 13))
	wantLog(t, reopen(t, s), 10, hs, entriesOf(4, 11, 13))
}

func TestMarksKeepTwoSnapshots(t *testing.T) { eachBackend(t, testMarksKeepTwoSnapshots) }

func testMarksKeepTwoSnapshots(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 2, 30))
	mark(t, s, headerOf(2, 10, 1))
	wantFiles(t, s, "snap", snap(1, 1), snap(2, 10))
	mark(t, s, headerOf(2, 20, 1))
	wantFiles(t, s, "snap", snap(2, 10), snap(2, 20))
	noError(t, s.Mark(headerOf(2, 10, 1))) // older than what there is: nothing happens
	if s.SnapshotIndex() != 20 {
		t.Errorf("the newest snapshot is at %d, want 20", s.SnapshotIndex())
	}
	s = reopen(t, s)
	wantLog(t, s, 20, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 21, 30))
	mark(t, s, headerOf(2, 25, 1))
	wantFiles(t, s, "snap", snap(2, 20), snap(2, 25))
	wantLog(t, reopen(t, s), 25, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 26, 30))
}

// Without room the older mark goes, and the log before the newest one with it.
func TestShed(t *testing.T) { eachBackend(t, testShed) }

func testShed(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 2, 30))
	mark(t, s, headerOf(2, 10, 1))
	mark(t, s, headerOf(2, 20, 1))
	noError(t, s.CheckSnapshot(headerOf(2, 20, 1).Metadata))
	noError(t, s.Shed())
	s.Marked(headerOf(2, 20, 1), 0, 0)
	wantFiles(t, s, "snap", snap(2, 20))
	if first, _ := s.FirstIndex(); first != 21 {
		t.Errorf("the log begins at %d, want 21", first)
	}
	noError(t, s.Shed()) // again: there is nothing
	s = reopen(t, s)
	wantLog(t, s, 20, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 21, 30))
	noError(t, s.Shed())
	mark(t, s, headerOf(2, 25, 1))
	wantFiles(t, s, "snap", snap(2, 20), snap(2, 25))
	wantLog(t, reopen(t, s), 25, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 26, 30))
	if err := s.CheckSnapshot(headerOf(2, 24, 1).Metadata); err == nil {
		t.Error("a snapshot that there is not is readable")
	}
}

// Marked keeps so much of the log for slow followers, and only in memory.
func TestMarkedCompacts(t *testing.T) { eachBackend(t, testMarkedCompacts) }

func testMarkedCompacts(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 2, 30))
	all := s.LogBytes()
	h := headerOf(2, 20, 1)
	putSnapshot(t, s, h)
	noError(t, s.Mark(h))
	if first, _ := s.FirstIndex(); first != 2 {
		t.Errorf("the log begins at %d before Marked, want 2", first)
	}
	s.Marked(h, 4, 1<<30)
	if first, _ := s.FirstIndex(); first != 17 {
		t.Errorf("the log begins at %d, want 17: 4 entries trail 20", first)
	}
	if _, err := s.Term(15); err != raft.ErrCompacted {
		t.Errorf("term of 15: %v, want ErrCompacted", err)
	}
	if got := s.LogBytes(); got == 0 || got >= all {
		t.Errorf("%d bytes after compaction, %d before", got, all)
	}
	got, err := s.Snapshot()
	if err != nil || got.Metadata.Index != 20 {
		t.Errorf("raft is offered %v, %v; want the snapshot at 20", got.Metadata, err)
	}
	wantLog(t, reopen(t, s), 20, raftpb.HardState{Term: 2, Commit: 30}, entriesOf(2, 21, 30))
}

// A file without a mark is harmless, newer or not.
func TestOrphanSnapshotIsIgnored(t *testing.T) { eachBackend(t, testOrphanSnapshotIsIgnored) }

func testOrphanSnapshotIsIgnored(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 2, 9))
	putSnapshot(t, s, headerOf(2, 8, 1, 2, 3))
	putSnapshot(t, s, headerOf(9, 500, 1, 2, 3))
	noError(t, os.WriteFile(filepath.Join(s.snapDir(), snap(9, 600)), []byte("damaged"), 0o600))
	s = reopen(t, s)
	wantLog(t, s, 1, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 2, 9))
	if s.SnapshotIndex() != 1 {
		t.Errorf("the newest snapshot is at %d, want 1", s.SnapshotIndex())
	}
	mark(t, s, headerOf(2, 8, 1)) // in the place of the orphan
	r, err := s.OpenSnapshot(2, 8)
	noError(t, err)
	if diff := cmp.Diff(headerOf(2, 8, 1), r.Header); diff != "" {
		t.Errorf("the snapshot at 8 (-want +got):\n%s", diff)
	}
	if data, err := io.ReadAll(r); err != nil || string(data) != "the state" {
		t.Errorf("the snapshot holds %q, %v", data, err)
	}
	noError(t, r.Close())
}

// Without the snapshot at which the log begins nothing is true: the error names
// the file, and the disk stays as it is.
func TestBadSnapshotIsNamed(t *testing.T) { eachBackend(t, testBadSnapshotIsNamed) }

func testBadSnapshotIsNamed(t *testing.T, b wal.Backend) {
	damage := map[string]func(path string) error{
		"missing": os.Remove,
		"cut off": func(path string) error { return os.Truncate(path, 40) },
		"flipped": func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)-20] ^= 1
			return os.WriteFile(path, data, 0o600)
		},
	}
	for what, harm := range damage {
		t.Run(what, func(t *testing.T) {
			s := founded(t, b)
			appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 2, 9))
			mark(t, s, headerOf(2, 5, 1))
			noError(t, s.Close())
			path := filepath.Join(s.snapDir(), snap(2, 5))
			whole, err := os.ReadFile(path)
			noError(t, err)
			noError(t, harm(path))
			for range 2 { // a second attempt finds the same
				_, err = tryOpen(b, s.dir, false)
				wantCorrupt(t, err, path, "behind index 5", "rebuild this member")
			}
			noError(t, os.WriteFile(path, whole, 0o600))
			wantLog(t, openStore(t, b, s.dir), 5, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 6, 9))
		})
	}
}

func TestLogWithoutIdentity(t *testing.T) { eachBackend(t, testLogWithoutIdentity) }

func testLogWithoutIdentity(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	noError(t, s.Close())
	noError(t, os.Remove(filepath.Join(s.dir, identityFile)))
	_, err := tryOpen(b, s.dir, false)
	wantCorrupt(t, err, s.dir, "no identity file")
}

func TestDirectoryIsLocked(t *testing.T) { eachBackend(t, testDirectoryIsLocked) }

func testDirectoryIsLocked(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	_, err := tryOpen(b, s.dir, false)
	if !errors.Is(err, wal.ErrLocked) || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("opened twice: %v, want wal.ErrLocked with the directory", err)
	}
	// Who was refused must not have freed the lock.
	if _, err := tryOpen(b, s.dir, false); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("opened a third time: %v, want wal.ErrLocked", err)
	}
	reopen(t, s)
}

// A failed Open gives the lock back.
func TestFailedOpenFreesTheLock(t *testing.T) { eachBackend(t, testFailedOpenFreesTheLock) }

func testFailedOpenFreesTheLock(t *testing.T, b wal.Backend) {
	s := openStore(t, b, t.TempDir())
	noError(t, s.SetIdentity(someIdentity))
	noError(t, s.Close())
	path := filepath.Join(s.dir, identityFile)
	whole, err := os.ReadFile(path)
	noError(t, err)
	noError(t, os.WriteFile(path, []byte("damaged"), 0o600))
	_, err = tryOpen(b, s.dir, false)
	wantCorrupt(t, err, path)
	noError(t, os.WriteFile(path, whole, 0o600))
	openStore(t, b, s.dir)
}

// TestCrashPoints opens the directory as it is after every step of taking a
// local snapshot, and of installing one.
func TestCrashPoints(t *testing.T) { eachBackend(t, testCrashPoints) }

func testCrashPoints(t *testing.T, b wal.Backend) {
	hs := raftpb.HardState{Term: 3, Vote: 1, Commit: 9}
	s := founded(t, b)
	appendDurably(t, s, hs, entriesOf(3, 2, 9))
	local, received := headerOf(3, 5, 1), headerOf(4, 20, 1, 2)
	crash := func(what string, start uint64, hs raftpb.HardState, entries []raftpb.Entry, then ...func(dir string)) {
		t.Helper()
		dir := copyOf(t, s)
		t.Run(what, func(t *testing.T) {
			for _, f := range then {
				f(dir)
			}
			c := openStore(t, b, dir)
			wantLog(t, c, start, hs, entries)
			for _, where := range []string{"snap", "wal"} {
				for _, name := range namesIn(t, c, where) {
					if strings.HasSuffix(name, ".tmp") {
						t.Errorf("%s/%s is still there", where, name)
					}
				}
			}
			wantFiles(t, c, "wal", filepath.Base(c.logPath(c.writer.seq)))
			// And life goes on, and is remembered.
			last, _ := c.LastIndex()
			appendDurably(t, c, raftpb.HardState{}, entriesOf(9, last+1, last+2))
			wantLog(t, reopen(t, c), start, hs, append(entries[:len(entries):len(entries)], entriesOf(9, last+1, last+2)...))
		})
	}
	unfinished := func(dir string) {
		noError(t, os.WriteFile(filepath.Join(dir, "snap", snap(3, 7)+".0.tmp"), []byte("half"), 0o600))
		noError(t, os.MkdirAll(filepath.Join(dir, "wal", "0000000000000007.tmp"), 0o700))
		noError(t, os.WriteFile(filepath.Join(dir, "wal", "0000000000000007.tmp", "half"), []byte("half"), 0o600))
		noError(t, os.MkdirAll(filepath.Join(dir, "wal", "0000000000000007.tmp.tmp"), 0o700))
	}

	crash("before anything", 1, hs, entriesOf(3, 2, 9))
	crash("with unfinished files of all kinds", 1, hs, entriesOf(3, 2, 9), unfinished)
	w, err := s.CreateSnapshot(local)
	noError(t, err)
	crash("while the file is written", 1, hs, entriesOf(3, 2, 9))
	_, err = w.Commit()
	noError(t, err)
	crash("file made and not marked", 1, hs, entriesOf(3, 2, 9))
	noError(t, s.Mark(local))
	crash("marked", 5, hs, entriesOf(3, 6, 9))
	s.Marked(local, 0, 0)

	putSnapshot(t, s, received)
	crash("received and not installed", 5, hs, entriesOf(3, 6, 9))
	before := copyOf(t, s)
	noError(t, s.Install(received, raftpb.HardState{Term: 4, Vote: 2, Commit: 20}, nil))
	after := raftpb.HardState{Term: 4, Vote: 2, Commit: 20}
	crash("installed", 20, after, nil)
	noError(t, s.Restored(20))
	crash("installed and restored", 20, after, nil)
	crash("new log made and the old one not removed", 20, after, nil, func(dir string) {
		name := "0000000000000001"
		noError(t, os.CopyFS(filepath.Join(dir, "wal", name), os.DirFS(filepath.Join(before, "wal", name))))
		for _, name := range []string{snap(1, 1), snap(3, 5)} { // they go after the log
			noError(t, os.Link(filepath.Join(before, "snap", name), filepath.Join(dir, "snap", name)))
		}
	})
}

// A second snapshot may come before the state machine has read the first.
func TestInstallKeepsWhatIsNotRestored(t *testing.T) {
	eachBackend(t, func(t *testing.T, b wal.Backend) {
		s := founded(t, b)
		for _, h := range []SnapshotHeader{headerOf(4, 10, 1), headerOf(4, 20, 1)} {
			putSnapshot(t, s, h)
			noError(t, s.Install(h, raftpb.HardState{Term: 4, Commit: h.Metadata.Index}, nil))
			s.Installed(h)
		}
		wantFiles(t, s, "snap", snap(1, 1), snap(4, 10), snap(4, 20))
		noError(t, s.Restored(10))
		wantFiles(t, s, "snap", snap(4, 10), snap(4, 20))
		noError(t, s.Restored(20))
		wantFiles(t, s, "snap", snap(4, 20))
	})
}

// What is left of removing an old log may be any part of it.
func TestRestOfAnOldLog(t *testing.T) { eachBackend(t, testRestOfAnOldLog) }

func testRestOfAnOldLog(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	h := headerOf(4, 20, 1, 2)
	putSnapshot(t, s, h)
	noError(t, s.Install(h, raftpb.HardState{Term: 4, Commit: 20}, nil))
	noError(t, s.Close())
	noError(t, os.MkdirAll(s.logPath(1), 0o700))
	c := openStore(t, b, s.dir)
	wantLog(t, c, 20, raftpb.HardState{Term: 4, Commit: 20}, nil)
	wantFiles(t, c, "wal", "0000000000000002")
}

// A founder, or a newcomer, that crashed between file and log is new still, and
// can begin again.
func TestCrashBeforeTheFirstLog(t *testing.T) { eachBackend(t, testCrashBeforeTheFirstLog) }

func testCrashBeforeTheFirstLog(t *testing.T, b wal.Backend) {
	s := openStore(t, b, filepath.Join(t.TempDir(), "member"))
	noError(t, s.SetIdentity(someIdentity))
	putSnapshot(t, s, headerOf(1, 1, 1))
	s = reopen(t, s)
	if s.Initialized() {
		t.Fatal("a snapshot file alone makes a member")
	}
	putSnapshot(t, s, headerOf(1, 1, 1))
	noError(t, s.Found(headerOf(1, 1, 1), raftpb.HardState{Term: 1, Commit: 1}))
	wantLog(t, reopen(t, s), 1, raftpb.HardState{Term: 1, Commit: 1}, nil)
}

// Raft is never handed a snapshot of another configuration than the one in
// force; and the wish for a new one is told once.
func TestSnapshotOfTheConfigurationInForce(t *testing.T) {
	eachBackend(t, testSnapshotOfTheConfigurationInForce)
}

func testSnapshotOfTheConfigurationInForce(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 2, 9))
	s.Handed(5, 2, raftpb.ConfState{Voters: []uint64{1}})
	if got, err := s.Snapshot(); err != nil || got.Metadata.Index != 1 {
		t.Errorf("offered %v, %v; want the one at 1, whose configuration is in force", got.Metadata, err)
	}
	if s.SnapshotWanted() {
		t.Error("a snapshot is wanted, and nobody asked")
	}
	s.Handed(6, 2, raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}})
	for range 2 {
		for range 3 {
			if got, err := s.Snapshot(); err != raft.ErrSnapshotTemporarilyUnavailable {
				t.Errorf("offered %v, %v after a change of membership; want it temporarily unavailable", got.Metadata, err)
			}
		}
		if !s.SnapshotWanted() {
			t.Error("raft asked, and no snapshot is wanted")
		}
		if s.SnapshotWanted() {
			t.Error("the same wish is told twice")
		}
	}
	h := headerOf(2, 6, 1)
	h.Metadata.ConfState.Learners = []uint64{2}
	mark(t, s, h)
	if got, err := s.Snapshot(); err != nil || got.Metadata.Index != 6 {
		t.Errorf("offered %v, %v; want the new one at 6", got.Metadata, err)
	}
	// The order of the members in it is no difference.
	s.Handed(7, 2, raftpb.ConfState{Voters: []uint64{3, 1, 2}})
	mark(t, s, headerOf(2, 7, 1, 2, 3))
	if got, err := s.Snapshot(); err != nil || got.Metadata.Index != 7 {
		t.Errorf("offered %v, %v; want the one at 7", got.Metadata, err)
	}
}

// A state machine that keeps its own data is streamed as it is when asked: what
// is offered is what it was handed.
func TestExternalOffersWhatWasHanded(t *testing.T) { eachBackend(t, testExternalOffersWhatWasHanded) }

func testExternalOffersWhatWasHanded(t *testing.T, b wal.Backend) {
	dir := filepath.Join(t.TempDir(), "member")
	s, err := tryOpen(b, dir, true)
	noError(t, err)
	noError(t, s.SetIdentity(someIdentity))
	h := headerOf(1, 1, 1)
	h.External = true
	putSnapshot(t, s, h)
	noError(t, s.Found(h, raftpb.HardState{Term: 1, Commit: 1}))
	for restart := range 2 {
		appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 9}, entriesOf(2, 2, 9))
		if got, err := s.Snapshot(); err != nil || got.Metadata.Index != 1 {
			t.Errorf("restart %d: offered %v, %v before anything was handed; want index 1", restart, got.Metadata, err)
		}
		want := raftpb.SnapshotMetadata{Index: 8, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}}
		s.Handed(want.Index, want.Term, want.ConfState)
		got, err := s.Snapshot()
		noError(t, err)
		if diff := cmp.Diff(want, got.Metadata); diff != "" || s.SnapshotWanted() {
			t.Errorf("restart %d: wanted, or offered (-want +got):\n%s", restart, diff)
		}
		noError(t, s.Close())
		s, err = tryOpen(b, dir, true)
		noError(t, err)
	}
	noError(t, s.Close())
}

// Close may be called again, and nothing is written after it.
func TestCloseTwice(t *testing.T) { eachBackend(t, testCloseTwice) }

func testCloseTwice(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	noError(t, s.Close())
	noError(t, s.Close())
}

// Raft may hand over a snapshot and entries behind it, of which some are already
// committed: MsgSnap at 10 and MsgApp with 11 to 13 and commit 11 in one Step.
// Install makes the new log with commit 11 before it holds entry 11; the backend
// refuses that as corrupt, and the member stops for good.
func TestInstallWithCommittedEntries(t *testing.T) { eachBackend(t, testInstallWithCommittedEntries) }

func testInstallWithCommittedEntries(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 2}, entriesOf(2, 2, 5))
	h := headerOf(3, 10, 1, 2)
	putSnapshot(t, s, h)
	hs := raftpb.HardState{Term: 4, Vote: 2, Commit: 11}
	noError(t, s.Install(h, hs, entriesOf(4, 11, 13)))
	s.Installed(h)
	s.Appended(entriesOf(4, 11, 13))
	wantLog(t, reopen(t, s), 10, hs, entriesOf(4, 11, 13))
}

// What a state machine has applied is committed, though the log does not say so.
func TestCommittedByTheStateMachine(t *testing.T) { eachBackend(t, testCommittedByTheStateMachine) }

func testCommittedByTheStateMachine(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 2, Commit: 3}, entriesOf(2, 2, 6))
	for index, want := range map[uint64]uint64{2: 3, 5: 5} {
		s = reopen(t, s)
		s.Committed(index)
		if hs, _, err := s.InitialState(); err != nil || hs.Commit != want {
			t.Errorf("at 3, and with everything up to %d applied, the commit index is %d, %v; want %d", index, hs.Commit, err, want)
		}
	}
}
