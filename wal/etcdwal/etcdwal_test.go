package etcdwal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"github.com/octopii/octopii/wal"
)

// segmentBytes makes a few dozen entries fill a file.
const segmentBytes = 16 << 10

func TestMain(m *testing.M) {
	etcd.SegmentSizeBytes = segmentBytes
	goleak.VerifyTestMain(m)
}

// tester is what a *testing.T and a *rapid.T share.
type tester interface {
	Helper()
	Fatal(args ...any)
}

func check(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func markAt(index, term uint64) wal.Mark {
	return wal.Mark{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, index}}}
}

// entriesOf are the entries lo to hi of one term; their data names them.
func entriesOf(term, lo, hi uint64) []raftpb.Entry {
	var entries []raftpb.Entry
	for i := lo; i <= hi; i++ {
		data := bytes.Repeat(fmt.Appendf(nil, "entry %d of term %d.", i, term), 10)
		entries = append(entries, raftpb.Entry{Index: i, Term: term, Data: data})
	}
	return entries
}

func hard(term, commit uint64) raftpb.HardState {
	return raftpb.HardState{Term: term, Vote: 1, Commit: commit}
}

func batch(hs raftpb.HardState, entries []raftpb.Entry) wal.Batch {
	return wal.Batch{Entries: entries, HardState: hs}
}

// create makes a log that begins behind mark 1 of term 1.
func create(t testing.TB) (wal.Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := New(nil).Create(dir, markAt(1, 1), hard(1, 1))
	check(t, err)
	return l, dir
}

func open(t testing.TB, dir string, m wal.Mark) (wal.Log, wal.State) {
	t.Helper()
	l, state, err := New(nil).Open(dir, m)
	check(t, err)
	return l, state
}

func wantState(t testing.TB, l wal.Log, m wal.Mark, got wal.State, hs raftpb.HardState, entries []raftpb.Entry) {
	t.Helper()
	if diff := cmp.Diff(hs, got.HardState); diff != "" {
		t.Errorf("hard state (-want +got):\n%s", diff)
	}
	if all := allEntries(t, l, m.Index, got); !sameEntries(entries, all) {
		t.Errorf("entries (-want +got):\n%s", cmp.Diff(entries, all))
	}
}

// allEntries reads what is behind the index of the mark at which a log was
// opened, and compares its terms with those that the state tells.
func allEntries(t tester, l wal.Log, index uint64, state wal.State) []raftpb.Entry {
	t.Helper()
	if state.Last == index {
		if len(state.Terms) > 0 {
			t.Fatal("terms of no entries:", state.Terms)
		}
		return nil
	}
	entries, err := l.Entries(index+1, state.Last+1, 1<<62)
	check(t, err)
	var terms []wal.TermRun
	for i := range entries {
		if n := len(terms); n == 0 || terms[n-1].Term != entries[i].Term {
			terms = append(terms, wal.TermRun{First: entries[i].Index, Term: entries[i].Term})
		}
	}
	if diff := cmp.Diff(terms, state.Terms); diff != "" {
		t.Fatal("terms of the entries (-entries +state):", diff)
	}
	return entries
}

// sameEntries is much faster than cmp.
func sameEntries(a, b []raftpb.Entry) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func wantMarks(t testing.TB, dir string, want ...wal.Mark) {
	t.Helper()
	got, err := New(nil).Marks(dir)
	check(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

// files reads all that is in a directory, without what etcd reserves for later.
func files(t tester, dir string) map[string][]byte {
	t.Helper()
	names, err := os.ReadDir(dir)
	check(t, err)
	content := make(map[string][]byte)
	for _, n := range names {
		if filepath.Ext(n.Name()) == ".tmp" {
			continue
		}
		content[n.Name()], err = os.ReadFile(filepath.Join(dir, n.Name()))
		check(t, err)
	}
	return content
}

// writeDir makes a directory with these files, as after a crash.
func writeDir(t tester, dir string, content map[string][]byte) {
	t.Helper()
	check(t, os.RemoveAll(dir))
	check(t, os.MkdirAll(dir, 0o700))
	for name, data := range content {
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

func segmentNames(t testing.TB, dir string) []string {
	t.Helper()
	segments, err := listSegments(dir)
	check(t, err)
	var names []string
	for _, s := range segments {
		names = append(names, s.name)
	}
	return names
}

// usedBytes is how far the newest file has been written.
func usedBytes(t testing.TB, dir string) int64 {
	t.Helper()
	names := segmentNames(t, dir)
	var crc uint32
	discard := func(*walpb.Record) error { return nil }
	n, err := readSegment(filepath.Join(dir, names[len(names)-1]), &crc, discard)
	check(t, err)
	return n
}

// syncs counts the fsyncs that etcd's logs have made in this process.
func syncs(t testing.TB) uint64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	check(t, err)
	for _, f := range families {
		if f.GetName() == "etcd_disk_wal_fsync_duration_seconds" {
			return f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("etcd's log does not count its fsyncs any more: find another way to see them")
	return 0
}

func TestRoundTrip(t *testing.T) {
	l, dir := create(t)
	wantMarks(t, dir, markAt(1, 1))
	check(t, l.Append([]wal.Batch{batch(hard(2, 3), entriesOf(2, 2, 5))}))
	check(t, l.Append([]wal.Batch{
		batch(raftpb.HardState{}, entriesOf(2, 6, 9)),
		batch(hard(3, 4), entriesOf(3, 8, 10)),
		batch(raftpb.HardState{}, nil),
	}))
	check(t, l.Append([]wal.Batch{batch(hard(3, 6), nil)}))
	check(t, l.Append(nil))
	check(t, l.Close())

	l, state := open(t, dir, markAt(1, 1))
	wantState(t, l, markAt(1, 1), state, hard(3, 6), append(entriesOf(2, 2, 7), entriesOf(3, 8, 10)...))
	check(t, l.Close())
	if err := l.Append(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Append after Close returned %v, want os.ErrClosed", err)
	}
}

func TestScratchHoldsNothing(t *testing.T) {
	l, _ := create(t)
	defer l.Close()
	check(t, l.Append([]wal.Batch{batch(hard(1, 1), entriesOf(1, 2, 5)), batch(hard(1, 2), entriesOf(1, 6, 7))}))
	for i, e := range l.(*Log).scratch[:cap(l.(*Log).scratch)] {
		if e.Data != nil {
			t.Fatalf("scratch entry %d keeps %d bytes alive", i, len(e.Data))
		}
	}
}

func TestCommitAloneIsNotSynced(t *testing.T) {
	l, dir := create(t)
	defer l.Close()
	check(t, l.Append([]wal.Batch{batch(hard(2, 1), entriesOf(2, 2, 9))}))
	count := func(what string, want uint64, do func() error) {
		t.Helper()
		before := syncs(t)
		check(t, do())
		if got := syncs(t) - before; got != want {
			t.Errorf("%s: %d fsyncs, want %d", what, got, want)
		}
	}
	count("commit index", 0, func() error {
		return l.Append([]wal.Batch{batch(hard(2, 3), nil), batch(hard(2, 4), nil)})
	})
	count("three batches", 1, func() error {
		return l.Append([]wal.Batch{
			batch(hard(2, 5), entriesOf(2, 10, 11)), batch(hard(2, 6), entriesOf(2, 12, 13)), batch(hard(2, 7), nil)})
	})
	count("vote", 1, func() error {
		return l.Append([]wal.Batch{batch(raftpb.HardState{Term: 3, Vote: 2, Commit: 7}, nil)})
	})
	// A snapshot from the leader is acknowledged with the commit index.
	check(t, l.SetMark(markAt(100, 3)))
	covering := raftpb.HardState{Term: 3, Vote: 2, Commit: 100}
	count("commit index that covers a mark", 1, func() error {
		return l.Append([]wal.Batch{batch(covering, nil)})
	})
	wantMarks(t, dir, markAt(1, 1), markAt(100, 3))
	// What came without a sync gets it when the log falls idle, and once.
	check(t, l.Append([]wal.Batch{batch(raftpb.HardState{Term: 3, Vote: 2, Commit: 101}, entriesOf(3, 101, 102))}))
	count("idle behind a synced append", 0, l.Idle)
	check(t, l.Append([]wal.Batch{batch(raftpb.HardState{Term: 3, Vote: 2, Commit: 102}, nil)}))
	count("idle behind a commit index", 1, l.Idle)
	count("idle for longer", 0, l.Idle)
}

func TestCreate(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "wal")
	// What crashes left of two attempts.
	for _, rest := range []string{dir + ".tmp", dir + ".tmp.tmp"} {
		writeDir(t, rest, map[string][]byte{"0000000000000000-0000000000000000.wal": []byte("rest"), "1.tmp": nil})
	}
	if _, _, err := New(nil).Open(dir, markAt(1, 1)); !errors.Is(err, wal.ErrNotFound) {
		t.Errorf("Open beside rests returned %v, want wal.ErrNotFound", err)
	}
	if _, err := New(nil).Create(dir, markAt(7, 2), hard(2, 6)); err == nil {
		t.Error("Create took a commit index that does not cover the mark")
	}
	l, err := New(nil).Create(dir, markAt(7, 2), hard(2, 7))
	check(t, err)
	check(t, l.Close())
	if names, err := os.ReadDir(parent); err != nil || len(names) != 1 {
		t.Errorf("beside the log there is %v, %v", names, err)
	}
	if _, err := New(nil).Create(dir, markAt(7, 2), hard(2, 7)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create returned %v, want fs.ErrExist", err)
	}
	writeDir(t, dir+".tmp", map[string][]byte{"0000000000000000-0000000000000000.wal": []byte("rest")})
	l, state := open(t, dir, markAt(7, 2))
	wantState(t, l, markAt(7, 2), state, hard(2, 7), nil)
	check(t, l.Close())
}

func TestNotFound(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := New(nil).Marks(d); !errors.Is(err, wal.ErrNotFound) {
			t.Errorf("Marks(%s) returned %v, want wal.ErrNotFound", d, err)
		}
		if _, _, err := New(nil).Open(d, markAt(1, 1)); !errors.Is(err, wal.ErrNotFound) {
			t.Errorf("Open(%s) returned %v, want wal.ErrNotFound", d, err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("looking made %v, %v", names, err)
	}
}

// A log in the native format is named, and never taken for an empty directory.
func TestNativeFormatIsNamed(t *testing.T) {
	dir := t.TempDir()
	writeDir(t, dir, map[string][]byte{"0000000000000001.seg": []byte("segment"), "1.spare": nil, "LOCK": nil})
	_, err := New(nil).Marks(dir)
	_, _, openErr := New(nil).Open(dir, markAt(1, 1))
	for _, err := range []error{err, openErr} {
		if !errors.Is(err, wal.ErrFormat) || !strings.Contains(err.Error(), "native format") || !strings.Contains(err.Error(), "octopiictl log convert") {
			t.Errorf("%v, want wal.ErrFormat, the format and what to do", err)
		}
	}
}

func TestEntries(t *testing.T) {
	l, _ := create(t)
	defer l.Close()
	check(t, l.Append([]wal.Batch{batch(hard(2, 1), entriesOf(2, 2, 20))}))
	size := uint64(entriesOf(2, 10, 10)[0].Size())
	for _, c := range []struct {
		lo, hi, maxBytes uint64
		want             []raftpb.Entry
		err              error
	}{
		{lo: 1, hi: 5, err: raft.ErrCompacted},
		{lo: 20, hi: 22, err: raft.ErrUnavailable},
		{lo: 21, hi: 21, err: raft.ErrUnavailable},
		{lo: 2, hi: 21, maxBytes: 1 << 62, want: entriesOf(2, 2, 20)},
		{lo: 10, hi: 21, want: entriesOf(2, 10, 10)},
		{lo: 10, hi: 21, maxBytes: 3 * size, want: entriesOf(2, 10, 12)},
		{lo: 10, hi: 21, maxBytes: 3*size - 1, want: entriesOf(2, 10, 11)},
		{lo: 10, hi: 11, maxBytes: 3 * size, want: entriesOf(2, 10, 10)},
	} {
		got, err := l.Entries(c.lo, c.hi, c.maxBytes)
		if err != c.err || !sameEntries(c.want, got) {
			t.Errorf("entries [%d, %d) of %d bytes: %v, %v; want %v, %v", c.lo, c.hi, c.maxBytes, got, err, c.want, c.err)
		}
	}
	held, err := l.Entries(2, 21, 1<<62)
	check(t, err)
	check(t, l.Append([]wal.Batch{batch(hard(3, 8), entriesOf(3, 10, 12))}))
	if _, err := l.Entries(10, 14, 1<<62); err != raft.ErrUnavailable {
		t.Errorf("entries that were cut off: %v, want ErrUnavailable", err)
	}
	check(t, l.SetMark(markAt(8, 2)))
	check(t, l.Release(8))
	if _, err := l.Entries(8, 10, 1<<62); err != raft.ErrCompacted {
		t.Errorf("entries that were released: %v, want ErrCompacted", err)
	}
	got, err := l.Entries(9, 13, 1<<62)
	check(t, err)
	if want := append(entriesOf(2, 9, 9), entriesOf(3, 10, 12)...); !sameEntries(want, got) {
		t.Errorf("entries behind the mark (-want +got):\n%s", cmp.Diff(want, got))
	}
	if !sameEntries(entriesOf(2, 2, 20), held) {
		t.Error("entries that were handed out changed afterwards")
	}
	check(t, l.SetMark(markAt(100, 3))) // replaces the log
	if _, err := l.Entries(10, 11, 1<<62); err != raft.ErrCompacted {
		t.Errorf("entries that a mark replaced: %v, want ErrCompacted", err)
	}
	if !l.Reserved() || l.Reserve() != nil {
		t.Error("etcd's log reserves its own files, and says that it does not")
	}
}

// The race detector looks at this one: a reader beside the one that writes.
func TestEntriesBesideAppend(t *testing.T) {
	l, _ := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(1, 1), entriesOf(1, 2, 10))}))
	done := make(chan error)
	go func() {
		defer close(done)
		for range 2000 {
			entries, err := l.Entries(8, 11, 1<<62)
			if err == raft.ErrCompacted {
				return
			}
			if err != nil || len(entries) != 3 || entries[0].Index != 8 {
				done <- fmt.Errorf("entries 8 to 10: %v, %w", entries, err)
				return
			}
		}
	}()
	for i := uint64(11); i < 40; i++ {
		check(t, l.Append([]wal.Batch{batch(hard(1, i), entriesOf(1, i, i))}))
	}
	check(t, l.SetMark(markAt(30, 1)))
	check(t, l.Release(30))
	check(t, <-done)
	check(t, l.Close())
}

func TestLocked(t *testing.T) {
	l, dir := create(t)
	if _, _, err := New(nil).Open(dir, markAt(1, 1)); !errors.Is(err, wal.ErrLocked) {
		t.Errorf("second Open returned %v, want wal.ErrLocked", err)
	}
	wantMarks(t, dir, markAt(1, 1))
	check(t, l.Append([]wal.Batch{batch(hard(1, 1), entriesOf(1, 2, 3))}))
	check(t, l.Close())
	l, state := open(t, dir, markAt(1, 1))
	wantState(t, l, markAt(1, 1), state, hard(1, 1), entriesOf(1, 2, 3))
	check(t, l.Close())
}

func TestMarks(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(2, 30), entriesOf(2, 2, 40))}))
	check(t, l.SetMark(markAt(10, 2)))
	check(t, l.SetMark(markAt(20, 2)))
	check(t, l.SetMark(markAt(35, 2)))
	wantMarks(t, dir, markAt(1, 1), markAt(10, 2), markAt(20, 2))
	check(t, l.Append([]wal.Batch{batch(hard(2, 36), entriesOf(2, 41, 41))}))
	check(t, l.Close())
	before := files(t, dir)
	wantMarks(t, dir, markAt(1, 1), markAt(10, 2), markAt(20, 2), markAt(35, 2))
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("Marks changed the log:\n%s", diff)
	}
	for _, m := range []wal.Mark{markAt(1, 1), markAt(10, 2), markAt(20, 2), markAt(35, 2)} {
		l, state := open(t, dir, m)
		wantState(t, l, m, state, hard(2, 36), entriesOf(2, m.Index+1, 41))
		check(t, l.Close())
	}
	before = files(t, dir)
	for _, m := range []wal.Mark{markAt(11, 2), markAt(20, 3), markAt(50, 2), {}} {
		if _, _, err := New(nil).Open(dir, m); !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("Open at %d of term %d returned %v, want wal.ErrCorrupt", m.Index, m.Term, err)
		}
	}
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("a refused Open changed the log:\n%s", diff)
	}
}

// A snapshot from the leader replaces a log that went another way, also where
// that log is longer; etcd's own reading would bring its end back to life.
func TestMarkReplacesLog(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(5, 10), append(entriesOf(2, 2, 10), entriesOf(5, 11, 50)...))}))
	check(t, l.SetMark(markAt(10, 2)))
	check(t, l.SetMark(markAt(30, 3)))
	check(t, l.Append([]wal.Batch{batch(hard(6, 30), nil)}))
	check(t, l.Close())
	if _, _, err := New(nil).Open(dir, markAt(10, 2)); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("Open at the mark before returned %v, want wal.ErrCorrupt: entries 11-30 are not those that were committed", err)
	}
	for range 3 {
		l, state := open(t, dir, markAt(30, 3))
		wantState(t, l, markAt(30, 3), state, hard(6, 30), nil)
		check(t, l.Close())
	}
	l, _ = open(t, dir, markAt(30, 3))
	check(t, l.Append([]wal.Batch{batch(raftpb.HardState{}, entriesOf(6, 31, 33))}))
	check(t, l.Close())
	l, state := open(t, dir, markAt(30, 3))
	wantState(t, l, markAt(30, 3), state, hard(6, 30), entriesOf(6, 31, 33))
	check(t, l.Close())
}

// A crash between the mark and the commit index that covers it leaves the log
// as it was; later the entries come one by one.
func TestMarkThatNeverCounted(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(2, 10), entriesOf(2, 2, 10))}))
	check(t, l.SetMark(markAt(30, 3)))
	check(t, l.Close())
	wantMarks(t, dir, markAt(1, 1))
	l, state := open(t, dir, markAt(1, 1))
	wantState(t, l, markAt(1, 1), state, hard(2, 10), entriesOf(2, 2, 10))
	for i := uint64(11); i <= 200; i++ {
		check(t, l.Append([]wal.Batch{batch(hard(3, i), entriesOf(3, i, i))}))
	}
	if n := len(segmentNames(t, dir)); n < 3 {
		t.Fatalf("%d files: make the log longer, the mark must be in a file before its entries", n)
	}
	check(t, l.SetMark(markAt(40, 3)))
	check(t, l.Release(35))
	check(t, l.Close())
	marks, err := New(nil).Marks(dir)
	check(t, err)
	for _, m := range marks {
		l, state := open(t, dir, m)
		if n, want := len(allEntries(t, l, m.Index, state)), int(200-m.Index); n != want {
			t.Errorf("at mark %d: %d entries, want %d", m.Index, n, want)
		}
		check(t, l.Close())
	}
	if last := marks[len(marks)-1]; last.Index != 40 {
		t.Errorf("the newest mark is %d, want 40", last.Index)
	}
}

// The same without a crash: Release must not remove the mark with its file.
func TestReleaseKeepsMark(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(2, 10), entriesOf(2, 2, 10))}))
	check(t, l.SetMark(markAt(150, 3)))
	for i := uint64(11); i <= 200; i++ {
		check(t, l.Append([]wal.Batch{batch(hard(3, i), entriesOf(3, i, i))}))
	}
	check(t, l.Release(200))
	check(t, l.Close())
	wantMarks(t, dir, markAt(150, 3))
	l, state := open(t, dir, markAt(150, 3))
	wantState(t, l, markAt(150, 3), state, hard(3, 200), entriesOf(3, 151, 200))
	check(t, l.Close())
}

func TestOverwrittenBelowMark(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(2, 5), entriesOf(2, 2, 20))}))
	check(t, l.Append([]wal.Batch{batch(hard(3, 10), entriesOf(3, 8, 10))}))
	check(t, l.SetMark(markAt(10, 3)))
	check(t, l.Close())
	l, state := open(t, dir, markAt(10, 3))
	wantState(t, l, markAt(10, 3), state, hard(3, 10), nil)
	check(t, l.Close())
	l, state = open(t, dir, markAt(1, 1))
	wantState(t, l, markAt(1, 1), state, hard(3, 10), append(entriesOf(2, 2, 7), entriesOf(3, 8, 10)...))
	check(t, l.Close())
}

func TestRelease(t *testing.T) {
	l, dir := create(t)
	commit := uint64(1)
	grow := func(to uint64) {
		for commit < to {
			commit++
			check(t, l.Append([]wal.Batch{batch(hard(2, commit), entriesOf(2, commit, commit))}))
		}
	}
	grow(300)
	all := segmentNames(t, dir)
	check(t, l.Release(300))
	if got := segmentNames(t, dir); len(got) != len(all) {
		t.Fatalf("Release went past the only mark: %q of %q are left", got, all)
	}
	check(t, l.SetMark(markAt(150, 2)))
	check(t, l.SetMark(markAt(250, 2)))
	check(t, l.SetMark(markAt(400, 2)))
	check(t, l.Release(150))
	kept := segmentNames(t, dir)
	if len(kept) >= len(all) || len(kept) < 2 {
		t.Fatalf("Release(150) left %d of %d files", len(kept), len(all))
	}
	wantMarks(t, dir, markAt(150, 2), markAt(250, 2))
	check(t, l.Release(1000))
	if got := segmentNames(t, dir); len(got) >= len(kept) {
		t.Errorf("Release(1000) left %d of %d files", len(got), len(kept))
	}
	check(t, l.Append([]wal.Batch{batch(hard(2, 300), entriesOf(2, 301, 302))}))
	check(t, l.Close())
	wantMarks(t, dir, markAt(250, 2))
	l, state := open(t, dir, markAt(250, 2))
	wantState(t, l, markAt(250, 2), state, hard(2, 300), entriesOf(2, 251, 302))
	check(t, l.Close())
}

// Of files that Release removed a crash may bring some back.
func TestReleaseThenCrash(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(2, 2), entriesOf(2, 2, 2))}))
	for i := uint64(3); i <= 300; i++ {
		check(t, l.Append([]wal.Batch{batch(hard(2, i), entriesOf(2, i, i))}))
	}
	check(t, l.SetMark(markAt(280, 2)))
	before := files(t, dir)
	check(t, l.Release(280))
	check(t, l.Close())
	after := files(t, dir)
	for name, data := range before {
		if _, kept := after[name]; kept {
			continue
		}
		crashed := map[string][]byte{name: data}
		for n, d := range after {
			crashed[n] = d
		}
		writeDir(t, dir, crashed)
		marks, err := New(nil).Marks(dir)
		check(t, err)
		last := marks[len(marks)-1]
		if last.Index != 280 {
			t.Fatalf("with %s back the newest mark is %d, want 280", name, last.Index)
		}
		l, state := open(t, dir, last)
		wantState(t, l, last, state, hard(2, 300), entriesOf(2, 281, 300))
		check(t, l.Close())
	}
}

// etcd's log forgets the hard state when it is opened, and begins the next file
// without one.
func TestHardStateOutlivesFiles(t *testing.T) {
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(7, 50), entriesOf(7, 2, 50))}))
	check(t, l.SetMark(markAt(50, 7)))
	check(t, l.Close())
	l, _ = open(t, dir, markAt(50, 7))
	files := len(segmentNames(t, dir))
	next := uint64(51)
	for ; len(segmentNames(t, dir)) < files+2; next++ {
		check(t, l.Append([]wal.Batch{batch(raftpb.HardState{}, entriesOf(7, next, next))}))
	}
	check(t, l.Append([]wal.Batch{batch(hard(7, next-1), nil)}))
	check(t, l.SetMark(markAt(next-1, 7)))
	check(t, l.Release(next-1))
	check(t, l.Close())
	l, state := open(t, dir, markAt(next-1, 7))
	wantState(t, l, markAt(next-1, 7), state, hard(7, next-1), nil)
	check(t, l.Close())
}

func TestReopenOften(t *testing.T) {
	l, dir := create(t)
	m := markAt(1, 1)
	for i := uint64(2); i < 60; i++ {
		check(t, l.Append([]wal.Batch{batch(hard(i, i), entriesOf(i, i, i))}))
		if i%7 == 0 {
			m = markAt(i, i)
			check(t, l.SetMark(m))
		}
		check(t, l.Close())
		var state wal.State
		l, state = open(t, dir, m)
		if n := len(allEntries(t, l, m.Index, state)); uint64(n) != i-m.Index || state.HardState != hard(i, i) {
			t.Fatalf("after entry %d at mark %d: %d entries, %v", i, m.Index, n, state.HardState)
		}
	}
	check(t, l.Close())
}

func TestAppendRefusesGap(t *testing.T) {
	for name, entries := range map[string][]raftpb.Entry{
		"behind the end": entriesOf(1, 5, 6),
		"inside":         append(entriesOf(1, 3, 3), entriesOf(1, 5, 5)...),
		"index 0":        {{Term: 1}},
	} {
		l, dir := create(t)
		check(t, l.Append([]wal.Batch{batch(hard(1, 1), entriesOf(1, 2, 3))}))
		first := l.Append([]wal.Batch{batch(raftpb.HardState{}, entries)})
		if first == nil {
			t.Fatalf("%s: Append took a gap", name)
		}
		for what, err := range map[string]error{
			"Append": l.Append(nil), "SetMark": l.SetMark(markAt(2, 1)), "Release": l.Release(2), "Close": l.Close(), "second Close": l.Close(),
		} {
			if err != first {
				t.Errorf("%s: %s after the first error returned %v, want the same", name, what, err)
			}
		}
		l, state := open(t, dir, markAt(1, 1))
		wantState(t, l, markAt(1, 1), state, hard(1, 1), entriesOf(1, 2, 3))
		check(t, l.Close())
	}
}
