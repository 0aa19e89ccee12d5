package node_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// AddVoter looks at the status right after its change was answered, and the loop
// publishes the status after it has answered.
func TestAddVoterRace(t *testing.T) {
	ms := []*member{founder(t)}
	bad := 0
	for i := range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		// nobody listens there: it stays a learner and ctx ends, or should
		_, err := ms[0].AddVoter(ctx, node.Member{ID: uint64(100 + i), Address: "127.0.0.1:1"})
		cancel()
		if errors.Is(err, node.ErrRemoved) {
			bad++
		}
	}
	if bad > 0 {
		t.Errorf("%d of 50 calls of AddVoter said that the member was removed", bad)
	}
}

// Proposals that each fit into a frame are forwarded in one message that does
// not, for ever.
func TestForwardTooLarge(t *testing.T) {
	ms := []*member{}
	for id := uint64(1); id <= 2; id++ {
		m := newMember(t, id)
		m.cfg.Bootstrap = id == 1
		tr, err := tcp.New(tcp.Config{Listen: m.addr, FrameBytesMax: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		m.addr = tr.Address()
		cfg := m.cfg
		m.sm = &history{}
		cfg.MessageBytesMax = 16 << 10
		cfg.ProposalBytesMax = 32 << 10
		cfg.StateMachine, cfg.Transport = m.sm, tr
		if m.Node, err = node.Start(cfg); err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	add(t, ms[0], ms[1])
	leader(t, ms...)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, err := ms[1].Propose(ctx, make([]byte, 30<<10))
			t.Logf("burst: %v", err)
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := ms[1].Propose(ctx, []byte("small")); err != nil {
		t.Errorf("the follower is wedged: a proposal of 5 bytes, after the burst is over: %v", err)
	}
}

// kept is a durable state machine that syncs every entry.
type kept struct{ history }

func (k *kept) Durable() (uint64, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.indexes) == 0 {
		return 0, true
	}
	return k.indexes[len(k.indexes)-1], true
}

// The second TakeSnapshot of a durable state machine names an old mark.
func TestTakeSnapshotTwice(t *testing.T) {
	m := newMember(t, 1)
	tr, err := tcp.New(tcp.Config{Listen: m.addr})
	if err != nil {
		t.Fatal(err)
	}
	cfg := m.cfg
	cfg.Bootstrap = true
	cfg.StateMachine, cfg.Transport = &kept{}, tr
	if m.Node, err = node.Start(cfg); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := m.Propose(timeout(t), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	one, err := m.TakeSnapshot(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	two, err := m.TakeSnapshot(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	if two.Index < one.Index {
		t.Errorf("first %+v, then %+v", one, two)
	}
}

// A transfer that is asked for while there is no leader waits for one, and is
// not mistaken for done when somebody else is elected first.
func TestTransferAskedWithoutLeader(t *testing.T) {
	ms := cluster(t, 3)
	ms[1].kill()
	ms[2].kill()
	eventually(t, "the rest has no leader", func() bool { return ms[0].Status().Leader == 0 })
	done := make(chan error)
	go func() { done <- ms[0].TransferLeadership(timeout(t), 3) }()
	ms[2].start()
	if err := <-done; err != nil {
		t.Errorf("%v; member %d leads, 3 was asked for", err, ms[0].Status().Leader)
	}
}

// A member that AddVoter gave a priority loses it when it asks to join.
func TestJoinForgetsPriority(t *testing.T) {
	a := founder(t)
	tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	addr := tr.Address()
	_ = tr.Close()
	if _, err := a.AddLearner(timeout(t), node.Member{ID: 7, Name: "seven", Address: addr, Priority: 3}); err != nil {
		t.Fatal(err)
	}
	b := newMember(t, 7)
	b.addr = addr
	b.cfg.Join = []string{a.addr}
	b.start()
	eventually(t, "7 votes", func() bool { m, _ := a.Status().Membership.Member(7); return m.ID == 7 && !m.Learner })
	if m, _ := a.Status().Membership.Member(7); m.Priority != 3 {
		t.Errorf("priority %d, want 3; name %q", m.Priority, m.Name)
	}
}

// A learner does not campaign, so nobody ever tells it that it was removed: the
// leader drops what waits for it, the commit of its removal as well.
func TestRemovedLearnerIsNotTold(t *testing.T) {
	a := founder(t)
	b := newMember(t, 5)
	b.start()
	if _, err := a.AddLearner(timeout(t), node.Member{ID: 5, Address: b.addr}); err != nil {
		t.Fatal(err)
	}
	<-b.Initialized()
	if _, err := a.Remove(timeout(t), 5); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Done():
	case <-timeout(t).Done():
		t.Errorf("the learner runs on: %+v", b.Status())
	}
}
