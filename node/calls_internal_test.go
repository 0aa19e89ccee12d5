package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// A call that gives up while the loop takes a turn hears what became of it at the end of the
// turn; if the turn does not end, it hears that the outcome is unknown. In any case the next
// Step is told.
func TestQuitWaitsForTheTurn(t *testing.T) {
	n := bareGroup()
	gone := func() int {
		n.inbox.mu.Lock()
		defer n.inbox.mu.Unlock()
		return len(n.inbox.input.Gone)
	}
	<-n.inbox.turn
	if err := n.quit(newWaiter()); err != ErrUnknownOutcome || gone() != 1 {
		t.Errorf("in a turn that does not end: %v, %d are told to be gone; want ErrUnknownOutcome and 1", err, gone())
	}
	quit := make(chan error)
	go func() { quit <- n.quit(newWaiter()) }()
	n.inbox.turn <- struct{}{}
	if err := <-quit; err != ErrNotCommitted || gone() != 2 {
		t.Errorf("behind a turn: %v, %d are told to be gone; want ErrNotCommitted and 2", err, gone())
	}
}

// The waiter of a call that gave up is not that of another call: it may still be answered.
func TestWaiterOfAGoneCallIsItsOwn(t *testing.T) {
	n := verbs{bareGroup()}
	for _, known := range []bool{false, true} {
		if !known {
			<-n.inbox.turn
		}
		w := newWaiter()
		if _, err := n.giveUp(w, context.Canceled); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		w.finish(answer{}) // late
		for range 10 {
			other := newWaiter()
			if other == w {
				t.Fatalf("outcome known: %v: another call waits at the waiter of one that gave up", known)
			}
			if len(other.done) > 0 {
				t.Fatalf("outcome known: %v: another call has the answer of one that gave up", known)
			}
		}
		if !known {
			n.inbox.turn <- struct{}{}
		}
	}
}

// What is refused for want of room does not count: there is room when what was taken is
// done.
func TestRefusedCallsDoNotCount(t *testing.T) {
	n := bareGroup()
	n.cfg = Config{PendingProposalsMax: 3, PendingBytesMax: 1000}
	for name, bytes := range map[string]int{"calls": 1, "bytes": 400} {
		for round := range 3 {
			admitted := 0
			for range 20 {
				switch err := n.admit(bytes); {
				case err == nil:
					admitted++
				case !errors.Is(err, ErrOverloaded):
					t.Fatal(err)
				}
			}
			if want := min(3, 1000/bytes); admitted != want {
				t.Errorf("%s, round %d: %d calls are admitted; want %d", name, round, admitted, want)
			}
			for range admitted {
				n.leave(bytes)
			}
		}
	}
	if calls, bytes := n.pending.Load(), n.pendingBytes.Load(); calls != 0 || bytes != 0 {
		t.Errorf("%d calls with %d bytes count at the end", calls, bytes)
	}
}

// A removed member stops when more than half of the remaining voters know of the removal:
// half of them may not be able to elect a leader without it.
func TestRemovedMemberStaysUntilAMajorityKnows(t *testing.T) {
	for voters := 1; voters <= 7; voters++ {
		ms := &octopiipb.Membership{Members: []octopiipb.Member{{ID: 100, Kind: octopiipb.Learner}}}
		set := map[uint64]bool{100: true, 200: true} // a learner, and one that was removed, too
		for id := range uint64(voters) {
			ms.Members = append(ms.Members, octopiipb.Member{ID: id + 1, Kind: octopiipb.Voter})
		}
		for know := 0; know <= voters; know++ {
			if know > 0 {
				set[uint64(know)] = true
			}
			if got, want := inMajority(ms, set), 2*know > voters; got != want {
				t.Errorf("%d of %d voters know: it stops: %v; want %v", know, voters, got, want)
			}
		}
	}
}

// closes counts how often a captured state is closed.
type closes struct {
	bytes.Reader
	closed int
}

func (c *closes) Close() error { c.closed++; return nil }

// sendsTo is a transport whose streams end with err.
type sendsTo struct {
	transport.Transport
	err error
}

func (s sendsTo) SendSnapshot(context.Context, uint64, transport.Message, io.WriterTo) error {
	return s.err
}

// What was captured for a stream is closed, whether it arrived or not.
func TestStreamsCloseWhatWasCaptured(t *testing.T) {
	for _, broken := range []error{nil, errors.New("the connection broke")} {
		data := new(closes)
		j := &snapshotJob{loop: &loop{group: bareGroupOn(sendsTo{err: broken})}, to: 2, state: data}
		if j.stream(); !errors.Is(j.err, broken) {
			t.Errorf("a stream that ends with %v: %v", broken, j.err)
		}
		if data.closed != 1 {
			t.Errorf("a stream that ends with %v: the state is closed %d times; want once", broken, data.closed)
		}
	}
}

// noTime has timers that nobody waits for; the test lets them end.
type noTime struct {
	machine
	timers []func()
}

func (h *noTime) timer(f func()) stepped.Timer {
	h.timers = append(h.timers, f)
	return neverTimer{}
}

type neverTimer struct{ stepped.Timer }

func (neverTimer) Reset(time.Duration) bool { return true }
func (neverTimer) Stop() bool               { return true }

// Whoever asks while a barrier is under way is answered behind the next one: that one
// began before the question.
func TestQuestionsWaitForABarrierOfTheirOwn(t *testing.T) {
	h := &noTime{}
	n := service{trust{bareGroup()}, new(voucher)}
	n.host = h

	n.members.Store(&octopiipb.Membership{})
	answered := make([]bool, 2)
	ask := func(i int) {
		v := n.voucher
		v.mu.Lock()
		v.waiting = append(v.waiting, vouchAsker{done: func(transport.Message, error) { answered[i] = true }})
		v.mu.Unlock()
	}
	barrier := func() core.Waiter {
		n.inbox.mu.Lock()
		defer n.inbox.mu.Unlock()
		r := n.inbox.input.Requests
		return r[len(r)-1].Waiter
	}
	ask(0)
	n.vouch()
	first := barrier()
	ask(1)
	first.(*waiter).finish(answer{})
	if !answered[0] || answered[1] {
		t.Fatalf("behind the first barrier the questions before and after its begin are answered: %v; want only the former", answered)
	}
	n.vouch()
	barrier().(*waiter).finish(answer{})
	if !answered[1] {
		t.Error("the second question is not answered behind the second barrier")
	}
}

// told is a transport that notes where it is told that peers are.
type told struct {
	transport.Transport
	at map[uint64]string
}

func (t told) SetPeer(id uint64, address string) { t.at[id] = address }
func (t told) RemovePeer(id uint64)              { delete(t.at, id) }

// The transport knows of each other member the address of its record: of new ones, of those
// that moved, and of no others.
func TestTransportHasTheMembership(t *testing.T) {
	tr := told{at: map[uint64]string{}}
	l := &loop{group: bareGroupOn(tr)}
	l.peers = map[uint64]string{}
	l.events = &events{bell: machine{}.bell()}
	for i, want := range []map[uint64]string{
		{},
		{2: "a:2"},
		{2: "a:2", 3: "a:3"},
		{2: "b:2", 3: "a:3"},
		{2: "a:3", 3: "b:2"}, // they swap
		{3: "b:2", 4: "a:4"},
		{2: "c:2"},
	} {
		ms := &octopiipb.Membership{Index: uint64(i) + 1, Members: []octopiipb.Member{{ID: 1, Address: "a:1", Kind: octopiipb.Voter}}}
		for id := uint64(2); id <= 4; id++ {
			if at, ok := want[id]; ok {
				ms.Members = append(ms.Members, octopiipb.Member{ID: id, Address: at, Kind: octopiipb.Voter})
			}
		}
		l.setMembership(ms)
		if !maps.Equal(tr.at, want) {
			t.Errorf("membership %d: the transport has %v; want %v", i, tr.at, want)
		}
	}
}
