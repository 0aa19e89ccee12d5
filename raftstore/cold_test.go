package raftstore

import (
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// readAll reads all that raft sees in pages.
func readAll(t *testing.T, s sides, pageBytes uint64) []raftpb.Entry {
	t.Helper()
	var all []raftpb.Entry
	last, _ := s.LastIndex()
	for lo, _ := s.FirstIndex(); lo <= last; {
		page, err := s.Entries(lo, last+1, pageBytes)
		noError(t, err)
		noError(t, s.ReadErr())
		if len(page) == 0 {
			t.Fatalf("no entry came back at %d", lo)
		}
		all = append(all, page...)
		lo += uint64(len(page))
	}
	return all
}

func wantEntries(t *testing.T, want, got []raftpb.Entry) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func sizeOf(entries []raftpb.Entry) uint64 {
	var size uint64
	for i := range entries {
		size += entryBytes(&entries[i])
	}
	return size
}

// A log larger than the memory for it is read back from disk, also after a
// restart, when all of it is on disk only.
func TestColdEntries(t *testing.T) { eachBackend(t, testColdEntries) }

func testColdEntries(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	s.tail.limit = 4000
	want := append(entriesOf(2, 2, 700), entriesOf(3, 701, 1000)...)
	for i := 0; i < len(want); i += 37 {
		appendDurably(t, s, raftpb.HardState{Term: want[i].Term, Commit: 1}, want[i:min(i+37, len(want))])
	}
	if s.tail.cached > 4000 || s.tail.cached < 3000 {
		t.Errorf("%d bytes of the log are in memory, want nearly 4000", s.tail.cached)
	}
	if got := s.LogBytes(); got != sizeOf(want) {
		t.Errorf("the log takes %d bytes, want %d, in memory or not", got, sizeOf(want))
	}
	for _, page := range []uint64{0, 500, 1 << 62} {
		wantEntries(t, want, readAll(t, s, page))
	}
	// A leader of a new term replaces what is only on disk.
	appendDurably(t, s, raftpb.HardState{Term: 4, Commit: 1}, entriesOf(4, 650, 660))
	want = append(want[:648:648], entriesOf(4, 650, 660)...)
	wantEntries(t, want, readAll(t, s, 500))

	noError(t, s.Close())
	s = openStore(t, b, s.dir)
	if s.tail.cached != 0 || s.LogBytes() != 0 {
		t.Errorf("%d bytes are in memory at the start and %d counted, want none: nothing was read", s.tail.cached, s.LogBytes())
	}
	for i := range want {
		if term, err := s.Term(want[i].Index); term != want[i].Term || err != nil {
			t.Fatalf("term of %d is %d, %v; want %d", want[i].Index, term, err, want[i].Term)
		}
	}
	for range 2 { // what is read twice counts once
		wantEntries(t, want, readAll(t, s, 500))
	}
	if got := s.LogBytes(); got != sizeOf(want) {
		t.Errorf("the log takes %d bytes after it was read, want %d", got, sizeOf(want))
	}

	// What was replaced before anybody read it never counts.
	s = reopen(t, s)
	s.tail.limit = 1
	appendDurably(t, s, raftpb.HardState{}, entriesOf(5, 640, 650))
	want = append(want[:638:638], entriesOf(5, 640, 650)...)
	wantEntries(t, want, readAll(t, s, 500))
	if got := s.LogBytes(); got != sizeOf(want) {
		t.Errorf("the log takes %d bytes after its end was replaced and it was read, want %d", got, sizeOf(want))
	}
}

// However much of the log should stay for slow followers, what a mark released
// and memory does not hold is not seen.
func TestReleasedIsNotSeen(t *testing.T) { eachBackend(t, testReleasedIsNotSeen) }

func testReleasedIsNotSeen(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	s.tail.limit = 2000
	next := uint64(2)
	for _, index := range []uint64{500, 1000, 1500, 1600} {
		var previous = s.SnapshotIndex()
		for ; next <= index+20; next++ {
			appendDurably(t, s, raftpb.HardState{Term: 2, Commit: next}, entriesOf(2, next, next))
		}
		h := headerOf(2, index, 1)
		putSnapshot(t, s, h)
		noError(t, s.Mark(h))
		// The files may be gone and Marked is to come: no error to stop for.
		if first, _ := s.FirstIndex(); first <= previous {
			if _, err := s.Entries(first, next, 1<<62); err != nil && err != raft.ErrCompacted {
				t.Errorf("entries from %d on between Mark and Marked: %v", first, err)
			}
			noError(t, s.ReadErr())
		}
		s.Marked(h, 1<<40, 1<<40)
		if first, _ := s.FirstIndex(); first > previous+1 && first > s.tail.firstCached() {
			t.Errorf("the log begins at %d, and from %d on it is there", first, previous+1)
		}
		all := readAll(t, s, 1000)
		wantEntries(t, entriesOf(2, all[0].Index, next-1), all)
	}
	// What memory holds stays, released or not, until it has to go.
	s.tail.limit = 1 << 30
	for _, index := range []uint64{1610, 1615} {
		mark := headerOf(2, index, 1)
		putSnapshot(t, s, mark)
		noError(t, s.Mark(mark))
		s.Marked(mark, 1<<40, 1<<40)
	}
	if first, _ := s.FirstIndex(); first != s.tail.firstCached() || first > 1600 {
		t.Errorf("the log begins at %d, want it to begin where memory does, at %d", first, s.tail.firstCached())
	}
	s.tail.limit = 1
	appendDurably(t, s, raftpb.HardState{}, entriesOf(2, next, next))
	if first, _ := s.FirstIndex(); first != 1611 {
		t.Errorf("the log begins at %d, want 1611: memory had to let go what was released", first)
	}
	wantEntries(t, entriesOf(2, 1611, next), readAll(t, s, 1000))
}

// cold is a store all of whose entries are on disk: 2 to 9, the last two of
// term 3.
func cold(t *testing.T, b wal.Backend, commit uint64) sides {
	t.Helper()
	s := founded(t, b)
	appendDurably(t, s, raftpb.HardState{Term: 3, Commit: commit}, append(entriesOf(2, 2, 7), entriesOf(3, 8, 9)...))
	return reopen(t, s)
}

// lying is a log whose entries come back otherwise than they were written.
type lying struct {
	wal.Log
	lie func([]raftpb.Entry, error) ([]raftpb.Entry, error)
}

func (l lying) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	return l.lie(l.Log.Entries(lo, hi, maxBytes))
}

// raft panics when its storage fails. It is given nothing instead, and the error
// is there for who calls it.
func TestReadErr(t *testing.T) {
	broken := errors.New("the disk cannot read it")
	for what, c := range map[string]struct {
		lie  func([]raftpb.Entry, error) ([]raftpb.Entry, error)
		want error
	}{
		"an error":          {func([]raftpb.Entry, error) ([]raftpb.Entry, error) { return nil, broken }, broken},
		"damage":            {func([]raftpb.Entry, error) ([]raftpb.Entry, error) { return nil, &wal.CorruptError{} }, wal.ErrCorrupt},
		"compacted":         {func([]raftpb.Entry, error) ([]raftpb.Entry, error) { return nil, raft.ErrCompacted }, raft.ErrCompacted},
		"unavailable":       {func([]raftpb.Entry, error) ([]raftpb.Entry, error) { return nil, raft.ErrUnavailable }, raft.ErrUnavailable},
		"nothing":           {func([]raftpb.Entry, error) ([]raftpb.Entry, error) { return nil, nil }, wal.ErrCorrupt},
		"another index":     {func(e []raftpb.Entry, _ error) ([]raftpb.Entry, error) { return e[1:], nil }, wal.ErrCorrupt},
		"a gap":             {func(e []raftpb.Entry, _ error) ([]raftpb.Entry, error) { return append(e[:1:1], e[2:]...), nil }, wal.ErrCorrupt},
		"too many":          {func(e []raftpb.Entry, _ error) ([]raftpb.Entry, error) { return append(e, e...), nil }, wal.ErrCorrupt},
		"another last term": {func(e []raftpb.Entry, _ error) ([]raftpb.Entry, error) { e[len(e)-1].Term++; return e, nil }, wal.ErrCorrupt},
	} {
		t.Run(what, func(t *testing.T) {
			s := cold(t, backends[0].new(), 9)
			s.reader.log = lying{s.reader.log, func(e []raftpb.Entry, err error) ([]raftpb.Entry, error) {
				return c.lie(append([]raftpb.Entry(nil), e...), err)
			}}
			rn, err := raft.NewRawNode(&raft.Config{ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: s, Applied: 1,
				MaxInflightMsgs: 1, MaxSizePerMsg: 1 << 20, AsyncStorageWrites: true, Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}})
			noError(t, err)
			if !rn.HasReady() {
				t.Fatal("raft has nothing to do: the test is wrong")
			}
			if rd := rn.Ready(); len(rd.CommittedEntries) > 0 {
				t.Errorf("raft hands out %v, which are not what was committed", rd.CommittedEntries)
			}
			if err := s.ReadErr(); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "entries 2 to 9") {
				t.Errorf("the error is %v; want %v, and that of entries 2 to 9", err, c.want)
			}
			first := s.ReadErr()
			if got, err := s.Entries(8, 10, 100); len(got) > 0 || err != nil || s.ReadErr() != first {
				t.Errorf("later: %v, %v, %v; want nothing, and the first error", got, err, s.ReadErr())
			}
		})
	}
}

// Cold reads go on beside everything that the other side does, and an Install
// takes the log away under them.
func TestReadBesideInstall(t *testing.T) { eachBackend(t, testReadBesideInstall) }

func testReadBesideInstall(t *testing.T, b wal.Backend) {
	s := cold(t, b, 9)
	want := append(entriesOf(2, 2, 7), entriesOf(3, 8, 9)...)
	var wg sync.WaitGroup
	reading, installed := make(chan struct{}), make(chan struct{})
	h := headerOf(4, 50, 1)
	putSnapshot(t, s, h)
	wg.Go(func() { // the side that appends
		defer close(installed)
		<-reading
		for i := uint64(10); i < 30; i++ {
			if err := s.Append([]wal.Batch{{Entries: entriesOf(3, i, i), HardState: raftpb.HardState{Term: 3, Commit: i}}}); err != nil {
				t.Error(err)
			}
		}
		if err := s.Install(h, raftpb.HardState{Term: 4, Commit: 50}, entriesOf(4, 51, 52)); err != nil {
			t.Error(err)
		}
	})
	for n := 0; ; n++ {
		got, err := s.Entries(2, 10, 1<<62)
		if err == raft.ErrCompacted {
			break // between Install and Installed
		}
		noError(t, err)
		wantEntries(t, want, got)
		if n == 0 {
			close(reading)
		}
	}
	<-installed
	wg.Wait()
	noError(t, s.ReadErr())
	s.Installed(h)
	s.Appended(entriesOf(4, 51, 52))
	wantEntries(t, entriesOf(4, 51, 52), readAll(t, s, 1<<62))
	s.tail.limit = 1
	appendDurably(t, s, raftpb.HardState{}, entriesOf(4, 53, 54))
	wantEntries(t, entriesOf(4, 51, 54), readAll(t, s, 1<<62)) // from the new log
}

// Who asks for a log in another format than it is in learns that, and the
// directory stays as it is.
func TestOtherFormat(t *testing.T) {
	for i, b := range backends {
		other := backends[1-i]
		t.Run(b.name, func(t *testing.T) {
			s := founded(t, b.new())
			noError(t, s.Close())
			_, err := tryOpen(other.new(), s.dir, false)
			if !errors.Is(err, wal.ErrFormat) || !strings.Contains(err.Error(), s.dir) {
				t.Errorf("opened as %s: %v, want wal.ErrFormat with the directory", other.name, err)
			}
			openStore(t, b.new(), s.dir)
		})
	}
}

// A log appears with all of its files, so one without them has lost them.
func TestLogWithoutFiles(t *testing.T) { eachBackend(t, testLogWithoutFiles) }

func testLogWithoutFiles(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	noError(t, s.Close())
	path := s.logPath(1)
	noError(t, os.RemoveAll(path))
	noError(t, os.Mkdir(path, 0o700))
	_, err := tryOpen(b, s.dir, false)
	wantCorrupt(t, err, filepath.Base(path), "rebuild this member")
}
