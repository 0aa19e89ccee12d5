package node

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/tcp"
)

// lasting is a durable state machine that outlives its node.
type lasting struct {
	mu    sync.Mutex
	index uint64
}

func (l *lasting) Durable() (uint64, bool) { l.mu.Lock(); defer l.mu.Unlock(); return l.index, true }
func (l *lasting) Apply(es []Entry) ([][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index = es[len(es)-1].Index
	return nil, nil
}
func (l *lasting) Snapshot() (Snapshot, error)     { return nothing{&bytes.Buffer{}}, nil }
func (l *lasting) Restore(uint64, io.Reader) error { return nil }

// hooked calls started before the loop runs.
type hooked struct {
	transport.Transport
	started func(*Node)
}

func (h hooked) Start(x transport.Handler) error {
	err := h.Transport.Start(x)
	if h.started != nil {
		h.started(&Node{verbs: verbs{x.(handler).group}})
	}
	return err
}

func startLasting(t *testing.T, dir string, sm StateMachine, started func(*Node)) *Node {
	t.Helper()
	tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(Config{ID: 1, Dir: dir, StateMachine: sm, Transport: hooked{tr, started}, Bootstrap: true, TickInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A restart of a durable state machine, 20 MiB of log, a change of membership at
// its end, and TakeSnapshot as the first call: the mark gets the membership of
// what was handed out so far.
func TestMarkWithOldMembership(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	dir, sm := t.TempDir(), &lasting{}
	n := startLasting(t, dir, sm, nil)
	for range 20 {
		if _, err := n.Propose(ctx, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.AddLearner(ctx, Member{ID: 9, Name: "nine", Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Propose(ctx, []byte("last")); err != nil {
		t.Fatal(err)
	}
	n.Kill()

	done := make(chan struct{})
	n = startLasting(t, dir, sm, func(n *Node) {
		go func() {
			defer close(done)
			info, err := n.TakeSnapshot(ctx)
			if err != nil {
				t.Errorf("a snapshot while the log is read back: %+v, %v; want the mark that there is", info, err)
			}
		}()
		for {
			n.inbox.mu.Lock()
			c := len(n.inbox.calls)
			n.inbox.mu.Unlock()
			if c > 0 {
				return
			}
			<-time.After(time.Millisecond)
		}
	})
	<-done
	n.Kill()

	n = startLasting(t, dir, sm, nil)
	if _, err := n.Propose(ctx, []byte("again")); err != nil {
		t.Fatal(err)
	}
	if _, ok := n.Status().Membership.Member(9); !ok {
		t.Errorf("learner 9 is lost: %+v, mark at %d", n.Status().Membership, n.Status().SnapshotIndex)
	}
	n.Kill()
}

// The main goroutine asks whether the store is initialized while the loop may
// already be bringing the member to life.
func TestStartReadsStoreBesideLoop(t *testing.T) {
	a := startLasting(t, t.TempDir(), &lasting{}, nil)
	defer a.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if _, err := a.Propose(ctx, []byte("x")); err != nil {
		t.Fatal(err)
	}
	tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	// The leader streams to it as soon as it listens: wait in Start until the
	// snapshot's message is in the inbox.
	if _, err := a.AddLearner(ctx, Member{ID: 2, Name: "b", Address: tr.Address()}); err != nil {
		t.Fatal(err)
	}
	b, err := Start(Config{ID: 2, Dir: t.TempDir(), StateMachine: &lasting{}, TickInterval: 20 * time.Millisecond,
		Transport: hooked{tr, func(n *Node) {
			for {
				n.inbox.mu.Lock()
				found := false
				for _, m := range n.inbox.input.Messages {
					found = found || m.Snapshot != nil
				}
				// heartbeats must be answered for the leader to send it
				ms := n.inbox.input.Messages
				if !found {
					n.inbox.input.Messages = nil
				}
				n.inbox.mu.Unlock()
				if found {
					return
				}
				for i := range ms {
					if reply, ok := core.AnswerUninitialized(&ms[i].Message, n.id); ok {
						n.transport.Send(reply.To, kindRaft, &octopiipb.PeerMessage{Message: reply})
					}
				}
				<-time.After(time.Millisecond)
			}
		}}})
	if err != nil {
		t.Fatal(err)
	}
	<-b.Initialized()
	b.Kill()
}

// ahead is a durable state machine that has everything up to 5.
type ahead struct{ durable uint64 }

func (a ahead) Durable() (uint64, bool)       { return a.durable, true }
func (ahead) Apply([]Entry) ([][]byte, error) { return nil, nil }
func (ahead) Restore(uint64, io.Reader) error { return nil }
func (ahead) Snapshot() (Snapshot, error)     { return nothing{&bytes.Buffer{}}, nil }

// speaker is a transport that remembers to whom it spoke.
type speaker struct {
	transport.Transport
	to []uint64
}

func (s *speaker) Send(to uint64, _ transport.Kind, _ transport.Message) bool {
	s.to = append(s.to, to)
	return true
}

// Requests for which there is no room may be copies of what was taken before: to
// refuse them would tell a caller that what is in the log is not.
func TestRequestsWithoutRoomAreNotRefused(t *testing.T) {
	s := &speaker{}
	n := bareGroupOn(s)
	n.inbox.peer(inboxItemsMax, 0, func(*core.Input) {})
	payload, err := (&octopiipb.Requests{Term: 3, Requests: []octopiipb.Request{{ID: 7, Transfer: true}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := newHandler(n).handleRequests(2, payload); err != nil {
		t.Fatal(err)
	}
	if len(s.to) > 0 || len(n.inbox.input.Remote) > 0 {
		t.Errorf("answered %v, queued %v", s.to, n.inbox.input.Remote)
	}
}

type nothing struct{ *bytes.Buffer }

func (nothing) Close() error { return nil }

// After a restart the label lags behind what a durable state machine has: a
// snapshot that is streamed then says index 2 and holds 5.
func TestCaptureBehindDurable(t *testing.T) {
	n := bareGroupOn(sendsTo{})
	n.cfg.StateMachine = ahead{5}
	a := newApplier(n)
	ms := &octopiipb.Membership{}
	a.start(core.Label{Index: 1, Term: 1, Membership: ms}, 5)
	defer a.close()
	a.jobs.put(applyJob{apply: &core.Apply{
		Entries: []core.Committed{{Index: 2, Term: 1}},
		Label:   core.Label{Index: 2, Term: 1, ConfState: raftpb.ConfState{}, Membership: ms}}})
	j := &snapshotJob{loop: &loop{group: n}, to: 2}
	a.jobs.put(applyJob{snapshot: j})
	for deadline := time.After(5 * time.Second); len(n.inbox.take(new(core.Input), nil)) == 0; {
		select {
		case <-n.inbox.bell.(token):
		case <-deadline:
			t.Fatal("the stream does not end")
		}
	}
	if index := j.header.Metadata.Index; j.err == nil && index < 5 {
		t.Errorf("a snapshot of a state at 5 is labelled %d: whoever restores it applies %d to 5 twice", index, index+1)
	}
}
