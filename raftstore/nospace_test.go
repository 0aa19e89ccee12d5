package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// fullDisk is a backend whose disk can be full for one kind of write at a time.
type fullDisk struct {
	wal.Backend
	full string
}

func (b *fullDisk) Create(dir string, m wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	if b.full == "create" {
		return nil, wal.ErrNoSpace
	}
	l, err := b.Backend.Create(dir, m, hs)
	if err != nil {
		return nil, err
	}
	return &fullLog{l, b}, nil
}

type fullLog struct {
	wal.Log
	disk *fullDisk
}

func (l *fullLog) Append(batches []wal.Batch) error {
	if l.disk.full == "append" {
		return wal.ErrNoSpace
	}
	return l.Log.Append(batches)
}

func (l *fullLog) SetMark(m wal.Mark) error {
	if l.disk.full == "mark" {
		return wal.ErrNoSpace
	}
	return l.Log.SetMark(m)
}

func wantNoSpace(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, wal.ErrNoSpace) {
		t.Errorf("%s on a full disk: %v, want wal.ErrNoSpace", what, err)
	}
}

// A full disk leaves everything as it was, and what failed may come again.
func TestNoSpace(t *testing.T) { eachBackend(t, testNoSpace) }

func testNoSpace(t *testing.T, b wal.Backend) {
	disk := &fullDisk{Backend: b}
	s := founded(t, disk)
	old := raftpb.HardState{Term: 2, Vote: 2, Commit: 9}
	appendDurably(t, s, old, entriesOf(2, 2, 9))

	disk.full = "append"
	newer := raftpb.HardState{Term: 3, Vote: 3, Commit: 9}
	wantNoSpace(t, "Append", s.Append([]wal.Batch{{Entries: entriesOf(3, 10, 11), HardState: newer}}))
	if s.writer.hardState != old {
		t.Errorf("the hard state is %+v after an Append that wrote nothing, want %+v", s.writer.hardState, old)
	}

	disk.full = "mark"
	h := headerOf(2, 5, 1)
	putSnapshot(t, s, h)
	wantNoSpace(t, "Mark", s.Mark(h))
	if s.SnapshotIndex() != 1 || s.writer.mark != 1 {
		t.Errorf("there is a mark at %d after a Mark that wrote nothing", s.writer.mark)
	}

	received := headerOf(3, 20, 1, 2)
	putSnapshot(t, s, received)
	wal1 := filepath.Base(s.logPath(1))
	for _, full := range []string{"create", "append"} {
		disk.full = full
		wantNoSpace(t, "Install", s.Install(received, newer, entriesOf(3, 21, 22)))
		wantFiles(t, s, "wal", wal1)
		wantEntries(t, entriesOf(2, 2, 9), readAll(t, s, 1<<62))
		// A crash here finds the old log.
		c := openStore(t, b, copyOf(t, s))
		wantLog(t, c, 1, old, entriesOf(2, 2, 9))
	}

	disk.full = ""
	appendDurably(t, s, newer, entriesOf(3, 10, 11))
	noError(t, s.Mark(h))
	s.Marked(h, 0, 0)
	noError(t, s.Install(received, raftpb.HardState{}, entriesOf(3, 21, 22)))
	s.Installed(received)
	s.Appended(entriesOf(3, 21, 22))
	wantFiles(t, s, "wal", filepath.Base(s.logPath(2)))
	wantLog(t, openStore(t, b, copyOf(t, s)), 20, raftpb.HardState{Term: 3, Vote: 3, Commit: 20}, entriesOf(3, 21, 22))
}

// Where the log that found no space cannot be removed again, it is the one that
// the next Open finds: nothing must be written to the old one.
func TestNoSpaceAndNoWayBack(t *testing.T) { eachBackend(t, testNoSpaceAndNoWayBack) }

func testNoSpaceAndNoWayBack(t *testing.T, b wal.Backend) {
	disk := &fullDisk{Backend: b}
	s := founded(t, disk)
	received := headerOf(3, 20, 1, 2)
	putSnapshot(t, s, received)
	disk.full = "append"
	// A file in the way of the name that it should get.
	disk.Backend = blocking{b, s.logPath(2) + ".tmp"}
	err := s.Install(received, raftpb.HardState{Term: 3, Commit: 20}, entriesOf(3, 21, 22))
	if err == nil || errors.Is(err, wal.ErrNoSpace) {
		t.Errorf("%v, want an error that is final", err)
	}
	disk.full = ""
	if err := s.Append([]wal.Batch{{Entries: entriesOf(1, 2, 2)}}); err == nil {
		t.Error("an Append was taken after an Install that failed half-way")
	}
	_ = s.Close()
	noError(t, os.Remove(s.logPath(2)+".tmp"))
	wantLog(t, openStore(t, b, s.dir), 20, raftpb.HardState{Term: 3, Commit: 20}, nil)
}

// blocking puts a file under a name as soon as a log was made.
type blocking struct {
	wal.Backend
	name string
}

func (b blocking) Create(dir string, m wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	l, err := b.Backend.Create(dir, m, hs)
	return l, errors.Join(err, os.WriteFile(b.name, []byte("in the way"), 0o600))
}

// slowReserve is a log whose Reserve takes until told to end.
type slowReserve struct {
	wal.Log
	began, end chan struct{}
	reserving  bool
	t          *testing.T
}

func (l *slowReserve) Reserve() error {
	l.reserving = true
	close(l.began)
	<-l.end
	l.reserving = false
	return nil
}

// Close reads what Reserve writes: the race detector, too, sees them overlap.
func (l *slowReserve) Close() error {
	if l.reserving {
		l.t.Error("the log was closed while a Reserve was under way")
	}
	return l.Log.Close()
}

// A log that Reserve works on is closed when that has ended, and the next Reserve
// is for the new one.
func TestReserveBesideInstall(t *testing.T) { eachBackend(t, testReserveBesideInstall) }

func testReserveBesideInstall(t *testing.T, b wal.Backend) {
	s := founded(t, b)
	slow := &slowReserve{Log: s.writer.log, began: make(chan struct{}), end: make(chan struct{}), t: t}
	s.writer.log, s.reader.log = slow, slow
	reserved, installed := make(chan error, 1), make(chan error, 1)
	go func() { reserved <- s.Reserve() }()
	<-slow.began
	h := headerOf(4, 50, 1)
	putSnapshot(t, s, h)
	go func() { installed <- s.Install(h, raftpb.HardState{Term: 4, Commit: 50}, nil) }()
	// Until the new log is the one in force: from here on the old one is closed.
	for in := uint64(1); in == 1; {
		s.reader.mu.RLock()
		in = s.reader.seq
		s.reader.mu.RUnlock()
	}
	close(slow.end)
	noError(t, <-reserved)
	noError(t, <-installed)
	noError(t, s.Reserve())
	if !s.Reserved() {
		t.Error("the log is not reserved after Reserve")
	}
	noError(t, s.Idle())
	noError(t, s.Close())
	noError(t, s.Reserve())
	noError(t, s.Idle())
	if !s.Reserved() {
		t.Error("a store without a log is not reserved")
	}
}
