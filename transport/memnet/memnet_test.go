package memnet

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	n := New(1)
	var made atomic.Int64
	transporttest.Run(t, func(*testing.T) transport.Transport {
		return n.Transport(fmt.Sprintf("node-%d", made.Add(1)))
	})
}

// pair starts members 1 and 2 at addresses a and b.
func pair(t *testing.T, n *Network) (a, b transport.Transport, ha, hb *transporttest.Handler) {
	t.Helper()
	a, b = n.Transport("a"), n.Transport("b")
	ha, hb = transporttest.NewHandler(1), transporttest.NewHandler(2)
	for tr, h := range map[transport.Transport]*transporttest.Handler{a: ha, b: hb} {
		if err := tr.Start(h); err != nil {
			t.Fatalf("Start: %v", err)
		}
		t.Cleanup(func() { _ = tr.Close() })
	}
	a.SetPeer(2, "b")
	b.SetPeer(1, "a")
	return a, b, ha, hb
}

func number(n uint64) transporttest.Bytes { return binary.BigEndian.AppendUint64(nil, n) }

func numbers(in []transport.Inbound) []uint64 {
	var ns []uint64
	for _, m := range in {
		ns = append(ns, binary.BigEndian.Uint64(m.Payload))
	}
	return ns
}

// fateOf sends 1000 messages over a faulty link and returns those that arrive.
func fateOf(t *testing.T, seed uint64, f Faults) []uint64 {
	n := New(seed)
	a, _, _, hb := pair(t, n)
	a.Send(2, 1, number(0)) // makes the connection, unharmed
	transporttest.Until(t, "the first message arrives", func() bool { return hb.Received(1) == 1 })
	n.SetLinkFaults("a", "b", f)
	const count = 1000
	for i := range uint64(count) {
		if !a.Send(2, 1, number(i)) {
			t.Fatalf("Send of message %d returned false", i)
		}
	}
	l := a.(*endpoint).links[2]
	transporttest.Until(t, "the queue drains", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queue) == 0
	})
	// Close waits for the link, and with it for the batch that it took last.
	if err := a.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return numbers(hb.Messages(1)[1:])
}

func TestFaultsFollowTheSeed(t *testing.T) {
	faults := Faults{Drop: 0.2, Duplicate: 0.1}
	first, again, other := fateOf(t, 7, faults), fateOf(t, 7, faults), fateOf(t, 8, faults)
	if !slices.Equal(first, again) {
		t.Errorf("one seed, two fates: %d and %d messages arrived", len(first), len(again))
	}
	if slices.Equal(first, other) {
		t.Error("two seeds led to the same fate of 1000 messages")
	}
	distinct := slices.Compact(slices.Clone(first))
	if lost := 1000 - len(distinct); lost < 100 || lost > 300 {
		t.Errorf("%d of 1000 messages were lost with probability 0.2", lost)
	}
	if twice := len(first) - len(distinct); twice < 30 || twice > 160 {
		t.Errorf("%d of 1000 messages came twice with probability 0.08", twice)
	}
}

func TestDelayReordersAndLosesNothing(t *testing.T) {
	n := New(3)
	a, _, _, hb := pair(t, n)
	n.SetFaults(Faults{Delay: 0.5, DelayMax: 5 * time.Millisecond})
	const count = 200
	for i := range uint64(count) {
		a.Send(2, 1, number(i))
	}
	transporttest.Until(t, "all messages arrive", func() bool { return hb.Received(1) == count })
	got := numbers(hb.Messages(1))
	if slices.IsSorted(got) {
		t.Error("200 messages, half of them delayed, came in order")
	}
	slices.Sort(got)
	if got[0] != 0 || got[count-1] != count-1 || len(slices.Compact(got)) != count {
		t.Error("a delay lost or repeated messages")
	}
}

func TestOneWayCutAndHeal(t *testing.T) {
	n := New(1)
	a, b, ha, hb := pair(t, n)
	n.Cut("a", "b")
	a.Send(2, 1, number(1))
	transporttest.Until(t, "the other direction works", func() bool {
		b.Send(1, 1, number(2))
		return ha.Received(2) > 0
	})
	if got := hb.Received(1); got != 0 {
		t.Fatalf("%d messages crossed a cut", got)
	}
	if _, err := b.Probe(t.Context(), "a"); err == nil {
		t.Error("a probe, which needs both directions, crossed a cut")
	}
	n.Heal()
	transporttest.Until(t, "messages cross after healing", func() bool {
		a.Send(2, 1, number(3))
		return hb.Received(1) > 0
	})
	if got := numbers(hb.Messages(1)); got[0] != 3 {
		t.Errorf("message %d was kept for after the healing", got[0])
	}
}

func TestPartitionOfAConnection(t *testing.T) {
	n := New(1)
	a, _, ha, hb := pair(t, n)
	a.Send(2, 1, number(1))
	transporttest.Until(t, "the first message arrives", func() bool { return hb.Received(1) == 1 })
	n.Partition("a", "b")
	a.Send(2, 1, number(2))
	if err := a.SendSnapshot(t.Context(), 2, transporttest.Bytes("h"), transporttest.Stream(1, 1)); err == nil {
		t.Error("a snapshot crossed a partition")
	}
	transporttest.Until(t, "the message is lost", func() bool {
		l := a.(*endpoint).links[2]
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queue) == 0
	})
	if ha.Downs(2) != 0 {
		t.Error("a partition was reported although nothing on a real network would tell")
	}
	n.Break("a", "b")
	transporttest.Until(t, "both sides hear of the break", func() bool { return ha.Downs(2) == 1 && hb.Downs(1) == 1 })
	if got := hb.Received(1); got != 1 {
		t.Errorf("%d messages arrived, one of them across a partition", got)
	}
}

func TestRestartAtTheSameAddress(t *testing.T) {
	n := New(1)
	a, b, _, _ := pair(t, n)
	second := n.Transport("b")
	if err := second.Start(transporttest.NewHandler(2)); err == nil {
		t.Fatal("two transports listen at one address")
	}
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	again, h := n.Transport("b"), transporttest.NewHandler(2)
	if err := again.Start(h); err != nil {
		t.Fatalf("Start at an address that was closed: %v", err)
	}
	t.Cleanup(func() { _ = again.Close() })
	transporttest.Until(t, "messages reach the new one", func() bool {
		a.Send(2, 1, number(1))
		return h.Received(1) > 0
	})
}
