package node

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// fakeLog is a log whose disk a test fills.
type fakeLog struct {
	mu sync.Mutex
	fakeDisk
}

// fakeDisk is what a fakeLog has room for, and what became of it.
type fakeDisk struct {
	// room is how many appends fit into the current file; reserved says that
	// there is a next one, of roomNext.
	room, roomNext int
	reserved       bool
	// full: no file can be made. broken is what making one fails with otherwise.
	full   bool
	broken error

	appended []uint64
	marks    []uint64
	installs int
	// idles, reserves and busy count calls; busy those that did not fit.
	idles, reserves, busy int
}

// see returns what is true now.
func (l *fakeLog) see() fakeDisk {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fakeDisk
}

// change changes the disk.
func (l *fakeLog) change(f func(d *fakeDisk)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.fakeDisk)
}

// take takes the room of one append; mu is held.
func (l *fakeLog) take() error {
	if l.room == 0 && l.reserved {
		l.reserved, l.room = false, l.roomNext
	}
	if l.room == 0 {
		l.busy++
		return fmt.Errorf("fake: %w", wal.ErrNoSpace)
	}
	l.room--
	return nil
}

func (l *fakeLog) Append(batches []wal.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.take(); err != nil {
		return err
	}
	for _, b := range batches {
		for _, e := range b.Entries {
			l.appended = append(l.appended, e.Index)
		}
	}
	return nil
}

func (l *fakeLog) SetMark(m wal.Mark) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.take(); err != nil {
		return err
	}
	l.marks = append(l.marks, m.Index)
	return nil
}

func (l *fakeLog) Reserve() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserves++
	switch {
	case l.broken != nil:
		return l.broken
	case l.full:
		return fmt.Errorf("fake: %w", wal.ErrNoSpace)
	}
	l.reserved = true
	return nil
}

func (l *fakeLog) Idle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idles++
	return nil
}
func (l *fakeLog) Reserved() bool       { return l.see().reserved }
func (l *fakeLog) Release(uint64) error { return nil }
func (l *fakeLog) Close() error         { return nil }
func (l *fakeLog) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	return nil, errors.New("fake: keeps no entries")
}

// fakeBackend makes its one log.
type fakeBackend struct{ log *fakeLog }

func (fakeBackend) Format() string { return "fake" }

func (b fakeBackend) Create(string, wal.Mark, raftpb.HardState) (wal.Log, error) {
	b.log.mu.Lock()
	defer b.log.mu.Unlock()
	if b.log.full && b.log.installs > 0 {
		b.log.busy++
		return nil, fmt.Errorf("fake: %w", wal.ErrNoSpace)
	}
	b.log.installs++
	return b.log, nil
}
func (b fakeBackend) Open(string, wal.Mark) (wal.Log, wal.State, error) {
	return nil, wal.State{}, wal.ErrNotFound
}
func (b fakeBackend) Marks(string) ([]wal.Mark, error) { return nil, wal.ErrNotFound }

// bench is an appender on its own: the test plays the loop.
type appenderBench struct {
	*appender
	t    *testing.T
	log  *fakeLog
	next uint64
}

func newAppenderBench(t *testing.T, disk fakeDisk) *appenderBench {
	log := &fakeLog{fakeDisk: disk}
	t.Helper()
	store, _, writer, err := raftstore.Open(raftstore.Options{FS: vfstest.NewMem(), Dir: "/m", Backend: fakeBackend{log}})
	if err != nil {
		t.Fatal(err)
	}
	n := bareGroup()
	n.store = store
	if n.metrics, err = newMetrics(n); err != nil {
		t.Fatal(err)
	}
	b := &appenderBench{t: t, log: log, next: 2}
	if err := store.SetIdentity(raftstore.Identity{Node: 1, Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	h := snapshotAt(t, store, 1)
	if err := store.Found(h, raftpb.HardState{Term: 1, Commit: 1}); err != nil {
		t.Fatal(err)
	}
	b.appender = newAppender(n, writer)
	return b
}

func snapshotAt(t *testing.T, store *raftstore.Store, index uint64) raftstore.SnapshotHeader {
	t.Helper()
	h := raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}
	w, err := store.CreateSnapshot(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return h
}

// put queues an append of one entry and lets everything run that can.
func (b *appenderBench) put() {
	b.jobs.put(appendJob{append: &core.Append{Entries: []raftpb.Entry{{Index: b.next, Term: 1}}}})
	b.next++
	synctest.Wait()
}

// pass lets time pass.
func (b *appenderBench) pass(d time.Duration) {
	time.Sleep(d) // in the bubble
	synctest.Wait()
}

// told returns the indexes of the appends that the loop was told of.
func (b *appenderBench) told() []uint64 {
	var in core.Input
	b.node.inbox.take(&in, nil)
	var indexes []uint64
	for _, a := range in.Appended {
		for _, e := range a.Entries {
			indexes = append(indexes, e.Index)
		}
	}
	return indexes
}

func (b *appenderBench) want(what string, want, got any) {
	b.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func indexes(from, to uint64) []uint64 {
	var s []uint64
	for i := from; i <= to; i++ {
		s = append(s, i)
	}
	return s
}

// plenty is a disk that never fills.
const plenty = 1 << 30

// Once after the last append the log is told that it rests: not under load, and
// not again while nothing comes.
func TestAppenderIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: plenty, reserved: true})
		defer b.close()
		b.pass(time.Hour)
		b.want("rests before anything was appended", 0, b.log.see().idles)
		for range 1000 {
			b.put()
			b.pass(idleAfter - time.Millisecond)
		}
		b.want("rests under load", 0, b.log.see().idles)
		b.pass(time.Millisecond)
		b.want("rests after the load", 1, b.log.see().idles)
		b.pass(time.Hour)
		b.want("rests an hour later", 1, b.log.see().idles)
		b.put()
		b.pass(idleAfter)
		b.want("rests after one more append", 2, b.log.see().idles)
		b.want("told", indexes(2, 1002), b.told())
	})
}

// The next file is made as soon as there is none, also before the first append,
// and once.
func TestAppenderReserves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: 3, roomNext: 3})
		defer b.close()
		synctest.Wait()
		b.want("reserved at the start", 1, b.log.see().reserves)
		for range 7 {
			b.put()
		}
		b.want("reserved after two were used", 3, b.log.see().reserves)
		b.want("full", false, b.node.space.full.Load())
		b.want("appends that did not fit", 0, b.log.see().busy)
		b.want("told", indexes(2, 8), b.told())
	})
}

// While the disk is full what is left of the current file is used, then appends
// wait; when there is space again they go first, in their order.
func TestAppenderWaitsForSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: 2, roomNext: 2, full: true})
		defer b.close()
		synctest.Wait()
		b.want("full before it hurts", true, b.node.space.full.Load())
		b.put()
		b.put()
		b.want("stuck with room left", false, b.node.space.stuck.Load())
		b.want("told of what fitted", indexes(2, 3), b.told())
		b.pass(idleAfter)
		b.want("rests", 1, b.log.see().idles)
		for range 10 {
			b.put()
		}
		b.want("stuck", true, b.node.space.stuck.Load())
		b.want("told of what did not fit", []uint64(nil), b.told())
		b.want("tries of a full disk within no time", 1, b.log.see().busy)
		before := b.log.see().reserves
		b.pass(10*time.Second + time.Millisecond)
		b.want("tries in ten seconds", before+10, b.log.see().reserves)
		b.want("rests while something waits", 1, b.log.see().idles)

		b.log.change(func(d *fakeDisk) { d.full = false })
		b.pass(spaceRetry)
		b.want("told when there is space", indexes(4, 13), b.told())
		b.want("on disk", indexes(2, 13), b.log.see().appended)
		b.want("stuck afterwards", false, b.node.space.stuck.Load())
		b.want("full afterwards", false, b.node.space.full.Load())
		b.pass(idleAfter)
		b.want("rests afterwards", 2, b.log.see().idles)
		reserves := b.log.see().reserves
		b.pass(time.Hour)
		b.want("tries of a disk that is well", reserves, b.log.see().reserves)
	})
}

// A full disk that comes and goes loses nothing and keeps the order.
func TestAppenderKeepsOrderOverManyTroubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: 1, roomNext: 3})
		defer b.close()
		var told []uint64
		for i := range 200 {
			b.log.change(func(d *fakeDisk) { d.full = i%7 > 2 })
			b.put()
			b.pass(time.Duration(i%5) * 400 * time.Millisecond)
			told = append(told, b.told()...)
		}
		b.log.change(func(d *fakeDisk) { d.full = false })
		b.pass(2 * spaceRetry)
		told = append(told, b.told()...)
		b.want("told", indexes(2, 201), told)
		b.want("on disk", indexes(2, 201), b.log.see().appended)
		b.want("full", false, b.node.space.full.Load())
	})
}

// A mark that does not fit is a snapshot that failed, and nothing else.
func TestAppenderMarkWithoutSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: 1, full: true})
		defer b.close()
		b.put()
		h := snapshotAt(t, b.node.store, 2)
		mark := func() (ends int, err error) {
			j := snapshotJob{loop: &loop{group: b.node}, header: h}
			b.jobs.put(appendJob{mark: j.mark})
			synctest.Wait()
			return len(b.node.inbox.take(new(core.Input), nil)), j.err
		}
		if ends, err := mark(); ends != 1 || !errors.Is(err, wal.ErrNoSpace) {
			t.Fatalf("the snapshot ended %d times, with %v; want once, with ErrNoSpace", ends, err)
		}
		b.want("stuck", false, b.node.space.stuck.Load())
		b.log.change(func(d *fakeDisk) { d.full, d.roomNext = false, 1 })
		b.pass(spaceRetry)
		ends, err := mark()
		b.want("ends of the second try", 1, ends)
		b.want("error of the second try", error(nil), err)
		b.want("marks", []uint64{2}, b.log.see().marks)
		b.want("fatal", error(nil), b.node.err())
	})
}

// A snapshot that a leader sent waits, and what comes behind it waits with it.
func TestAppenderInstallWithoutSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{room: plenty, reserved: true, full: true})
		defer b.close()
		h := snapshotAt(t, b.node.store, 50)
		b.jobs.put(appendJob{append: &core.Append{Snapshot: &raftpb.Snapshot{Metadata: h.Metadata}}})
		b.next = 51
		b.put()
		b.want("stuck", true, b.node.space.stuck.Load())
		b.want("appended in front of the snapshot", []uint64(nil), b.log.see().appended)
		b.pass(10*spaceRetry + time.Millisecond)
		if tries := b.log.see().busy; tries < 11 || tries > 12 { // the first attempt to make the next file may end before or after
			t.Errorf("%d tries in ten seconds, want 11 or 12", tries)
		}
		b.log.change(func(d *fakeDisk) { d.full = false })
		b.pass(spaceRetry)
		b.want("logs made", 2, b.log.see().installs)
		b.want("appended behind the snapshot", []uint64{51}, b.log.see().appended)
		b.want("full", false, b.node.space.full.Load())
	})
}

// Any other error of making the next file ends the node.
func TestAppenderReserveFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("fake: input/output error")
		b := newAppenderBench(t, fakeDisk{room: plenty, broken: broken})
		defer b.close()
		synctest.Wait()
		if err := b.node.err(); !errors.Is(err, broken) {
			t.Errorf("it stopped with %v, want %v", err, broken)
		}
	})
}

// What waits for space does not keep a node from closing.
func TestAppenderClosesWhileStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAppenderBench(t, fakeDisk{full: true})
		b.put()
		b.want("stuck", true, b.node.space.stuck.Load())
		start := time.Now()
		b.close()
		b.want("time that it took", time.Duration(0), time.Since(start))
		b.want("told", []uint64(nil), b.told())
		b.want("on disk", []uint64(nil), b.log.see().appended)
	})
}

// What waits is written in portions: a disk that has a little room again must
// not be asked for all of it at once.
func TestGroupIsBounded(t *testing.T) {
	big := make([]byte, groupBytesMax/4)
	var jobs []appendJob
	for i := range uint64(10) {
		jobs = append(jobs, appendJob{append: &core.Append{Entries: []raftpb.Entry{{Index: i + 1, Data: big}}}})
	}
	jobs = append(jobs, appendJob{mark: func(*raftstore.Writer) error { return nil }})
	var got []int
	for rest := jobs; len(rest) > 0; {
		n := nextGroup(rest)
		got = append(got, n)
		rest = rest[max(n, 1):]
	}
	if diff := cmp.Diff([]int{4, 4, 2, 0}, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}
