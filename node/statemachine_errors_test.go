package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/node"
)

// failing is a state machine of which one step fails while a test says so.
type failing struct {
	*history
	snapshot, write, restore atomic.Pointer[error]
	restores                 atomic.Int64
}

// around is for member.around.
func (f *failing) around(sm *history) node.StateMachine {
	f.history = sm
	return f
}

func fault(p *atomic.Pointer[error]) error {
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *failing) Snapshot() (node.Snapshot, error) {
	if err := fault(&f.snapshot); err != nil {
		return nil, err
	}
	s, err := f.history.Snapshot()
	return failingState{s, f}, err
}

type failingState struct {
	node.Snapshot
	of *failing
}

func (s failingState) WriteTo(w io.Writer) (int64, error) {
	if err := fault(&s.of.write); err != nil {
		return 0, err
	}
	return s.Snapshot.WriteTo(w)
}

func (f *failing) Restore(index uint64, r io.Reader) error {
	f.restores.Add(1)
	if err := fault(&f.restore); err != nil {
		return err
	}
	return f.history.Restore(index, r)
}

// observed lets a test wait for lines of a member's log.
func observed(m *member) func(text string) bool {
	seen, logs := newObserver()
	m.cfg.Logger = seen
	return func(text string) bool {
		for _, l := range logs.All() {
			if strings.Contains(l.Message, text) {
				return true
			}
		}
		return false
	}
}

func newObserver() (*zap.Logger, *observer.ObservedLogs) {
	seen, logs := observer.New(zapcore.DebugLevel)
	return zap.New(seen), logs
}

// A snapshot that the state machine cannot give, or not write, is an error of the one who asked
// for it, and nobody else's: the member goes on, and the next one may succeed.
func TestSnapshotThatTheStateMachineCannotGive(t *testing.T) {
	odd := errors.New("not now")
	f := &failing{}
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.around = true, f.around
	m.start()
	propose(t, m, "a")
	for name, p := range map[string]*atomic.Pointer[error]{"capture": &f.snapshot, "write": &f.write} {
		p.Store(&odd)
		before := m.Status().SnapshotIndex
		if info, err := m.TakeSnapshot(timeout(t)); !errors.Is(err, odd) || m.Status().SnapshotIndex != before {
			t.Errorf("%s fails: %+v, %v; the newest snapshot is at %d, and was at %d", name, info, err, m.Status().SnapshotIndex, before)
		}
		p.Store(nil)
		r := propose(t, m, "after "+name)
		if info, err := m.TakeSnapshot(timeout(t)); err != nil || info.Index < r.Index {
			t.Errorf("after %s failed: %+v, %v", name, info, err)
		}
	}
	m.kill()
	m.start()
	leader(t, m)
	if _, err := m.ReadBarrier(timeout(t), node.Linearizable); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.sm.all(), ","); got != "a,after capture,after write" && got != "a,after write,after capture" {
		t.Errorf("after a restart: %s", got)
	}
}

// A founder whose state machine cannot give its first state founds nothing, and does at the next
// start.
func TestFounderWithoutAState(t *testing.T) {
	odd := errors.New("not now")
	for name, pick := range map[string]func(*failing) *atomic.Pointer[error]{
		"capture": func(f *failing) *atomic.Pointer[error] { return &f.snapshot },
		"write":   func(f *failing) *atomic.Pointer[error] { return &f.write },
	} {
		f := &failing{}
		m := newMember(t, 1)
		m.cfg.Bootstrap, m.around = true, f.around
		pick(f).Store(&odd)
		err := m.tryStart()
		if err == nil {
			<-m.Done()
			err = m.Err()
			_ = m.Node.Close()
			m.Node = nil
		}
		if !errors.Is(err, odd) {
			t.Errorf("%s fails: %v", name, err)
		}
		pick(f).Store(nil)
		m.start()
		propose(t, m, "founded")
		m.close()
	}
}

// A leader whose state machine keeps its own data, and cannot give it to a newcomer now, tries
// again later.
func TestStreamThatTheStateMachineCannotGive(t *testing.T) {
	odd := errors.New("not now")
	m := newMember(t, 1)
	k := &stubborn{keeper: newKeeper()}
	m.around = func(*history) node.StateMachine { return k }
	m.cfg.Bootstrap = true
	m.start()
	propose(t, m, "a")
	k.fails.Store(&odd)
	n := newMember(t, 2)
	n.disk = newKeeper()
	n.start()
	if _, err := m.AddLearner(timeout(t), node.Member{ID: 2, Address: n.addr}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was asked for a snapshot", func() bool { return k.failed.Load() > 0 })
	k.fails.Store(nil)
	eventually(t, "the newcomer has it all the same", func() bool {
		return n.Status().Applied >= m.Status().Commit && len(n.sm.all()) == 1
	})
}

// stubborn is a durable state machine that gives no snapshot while a test says so.
type stubborn struct {
	*keeper
	fails  atomic.Pointer[error]
	failed atomic.Int64
}

func (s *stubborn) Snapshot() (node.Snapshot, error) {
	if err := fault(&s.fails); err != nil {
		s.failed.Add(1)
		return nil, err
	}
	return s.keeper.Snapshot()
}

// A snapshot that cannot be restored for want of space, descriptors or memory is tried again
// until it can be. Close does not wait for that, and a restart goes on with it. Any other error
// ends the member.
func TestRestoreIsTriedAgain(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable %v", durable), func(t *testing.T) {
			leads := founder(t)
			propose(t, leads, "a")
			m := newMember(t, 2)
			f := &failing{}
			m.around = f.around
			if durable {
				d := &failingKeeper{keeper: newKeeper(), failing: f}
				f.history = d.history
				m.around = func(*history) node.StateMachine { return d }
			}
			again := observed(m)
			full, odd := error(syscall.ENOSPC), errors.New("it cannot be read")
			f.restore.Store(&full)
			m.start()
			if _, err := leads.AddLearner(timeout(t), node.Member{ID: 2, Address: m.addr}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is tried again", func() bool { return f.restores.Load() > 1 && again("cannot be restored yet") })
			if err := m.Err(); err != nil {
				t.Fatalf("it ended: %v", err)
			}
			done := make(chan struct{})
			go func() { m.close(); close(done) }()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("Close waits for a restore that waits for space")
			}
			f.restore.Store(&odd)
			err := m.tryStart()
			if err == nil {
				<-m.Done()
				err = m.Err()
				_ = m.Node.Close()
				m.Node = nil
			}
			if !errors.Is(err, odd) {
				t.Errorf("a restore that fails for good: %v", err)
			}
			f.restore.Store(nil)
			m.start()
			eventually(t, "it has what it was sent", func() bool { return len(f.all()) == 1 && m.Status().Applied >= leads.Status().Commit })
		})
	}
	// While it runs, too.
	leads, m, f := founder(t), newMember(t, 2), &failing{}
	odd := errors.New("it cannot be read")
	f.restore.Store(&odd)
	m.around = f.around
	m.start()
	if _, err := leads.AddLearner(timeout(t), node.Member{ID: 2, Address: m.addr}); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	if err := m.Err(); !errors.Is(err, odd) {
		t.Errorf("a restore that fails for good while it runs: %v", err)
	}
	_ = m.Node.Close()
	m.Node = nil
}

// failingKeeper is a durable state machine that has nothing before it has restored something.
type failingKeeper struct {
	*keeper
	failing *failing
}

func (k *failingKeeper) Restore(index uint64, r io.Reader) error {
	k.failing.restores.Add(1)
	if err := fault(&k.failing.restore); err != nil {
		return err
	}
	return k.keeper.Restore(index, r)
}

// A TakeSnapshot whose context ends returns, and the snapshot is taken all the same.
func TestTakeSnapshotGivenUp(t *testing.T) {
	h := newHeld()
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.around = true, h.around
	m.start()
	r := propose(t, m, "a")
	h.write.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := m.TakeSnapshot(ctx)
		given <- err
	}()
	<-h.begun
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	close(h.let)
	eventually(t, "it is taken", func() bool { return m.Status().SnapshotIndex >= r.Index })
}
