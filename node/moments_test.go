package node_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
)

// held is a state machine of which one step takes as long as the test wants: the first
// restore, or writing a captured state.
type held struct {
	*history
	begun, let     chan struct{}
	write, restore atomic.Bool // true: the next one is held
}

func newHeld() *held { return &held{begun: make(chan struct{}), let: make(chan struct{})} }

// around is for member.around.
func (h *held) around(sm *history) node.StateMachine {
	h.history = sm
	return h
}

func (h *held) hold() {
	close(h.begun)
	<-h.let
}

func (h *held) Snapshot() (node.Snapshot, error) {
	s, err := h.history.Snapshot()
	return heldState{s, h}, err
}

type heldState struct {
	node.Snapshot
	h *held
}

func (s heldState) WriteTo(w io.Writer) (int64, error) {
	if s.h.write.Swap(false) {
		s.h.hold()
	}
	return s.Snapshot.WriteTo(w)
}

func (h *held) Restore(index uint64, r io.Reader) error {
	if h.restore.Swap(false) {
		h.hold()
	}
	return h.history.Restore(index, r)
}

// A snapshot that is asked for while another one is written is of a state from behind the
// question.
func TestTakeSnapshotBesideAnother(t *testing.T) {
	h := newHeld()
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.around = true, h.around
	m.start()
	propose(t, m, "before")
	h.write.Store(true)
	first := make(chan error, 1)
	go func() {
		_, err := m.TakeSnapshot(timeout(t))
		first <- err
	}()
	<-h.begun
	after := propose(t, m, "after")
	type taken struct {
		info node.SnapshotInfo
		err  error
	}
	second := make(chan taken, 1)
	go func() {
		info, err := m.TakeSnapshot(timeout(t))
		second <- taken{info, err}
	}()
	select {
	case got := <-second:
		t.Errorf("the second snapshot is taken before the first is written: %+v", got)
	case <-time.After(200 * time.Millisecond): // some ticks, in which it is asked for
	}
	close(h.let)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := <-second; got.err != nil || got.info.Index < after.Index {
		t.Errorf("the second snapshot is at index %d, %v; want one that has index %d", got.info.Index, got.err, after.Index)
	}
}

// A newcomer answers no read before its state machine has the snapshot that it was
// brought to life with.
func TestNewcomerReadsWhatItRestored(t *testing.T) {
	leads := founder(t)
	propose(t, leads, "before it came")
	h := newHeld()
	h.restore.Store(true)
	m := newMember(t, 2)
	m.around = h.around
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := leads.AddLearner(timeout(t), node.Member{ID: 2, Address: m.addr}); err != nil {
		t.Fatal(err)
	}
	// The snapshot has all that is committed: no entry behind it holds up the read.
	if info, err := leads.TakeSnapshot(timeout(t)); err != nil || info.Index != leads.Status().Commit {
		t.Fatalf("a snapshot at %d, %v; want it at %d", info.Index, err, leads.Status().Commit)
	}
	m.start()
	<-h.begun
	<-m.Initialized()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if index, err := m.ReadBarrier(ctx, node.Linearizable); err == nil {
		t.Errorf("a read before the snapshot is restored is answered at index %d", index)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read before the snapshot is restored: %v", err)
	}
	close(h.let)
	if _, err := m.ReadBarrier(timeout(t), node.Linearizable); err != nil {
		t.Fatal(err)
	}
	if got := m.sm.all(); len(got) == 0 || got[0] != "before it came" {
		t.Errorf("behind the barrier the newcomer has %q", got)
	}
}
