// Package transporttest checks that a transport keeps the contract of package
// transport, and has a Handler for tests that records what it is told.
package transporttest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/transport"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// Run checks one implementation. listen makes a transport, not yet started,
// that can reach all others it makes in the same test, and whose messages
// neither get lost nor change order; Run closes it.
func Run(t *testing.T, listen func(t *testing.T) transport.Transport) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, func() transport.Transport)
	}{
		{"Messages", testMessages},
		{"MessagesAreCopied", testMessagesAreCopied},
		{"UnknownPeer", testUnknownPeer},
		{"RefusedByAcceptor", testRefusedByAcceptor},
		{"RefusedByDialer", testRefusedByDialer},
		{"WrongMember", testWrongMember},
		{"PeerDownAndBack", testPeerDownAndBack},
		{"PeerGone", testPeerGone},
		{"RemovePeer", testRemovePeer},
		{"Call", testCall},
		{"CallCancelled", testCallCancelled},
		{"Hosts", testHosts},
		{"Probe", testProbe},
		{"ProbeByStranger", testProbeByStranger},
		{"UnnamedCall", testUnnamedCall},
		{"AnswerToStranger", testAnswerToStranger},
		{"Snapshot", testSnapshot},
		{"SnapshotRefused", testSnapshotRefused},
		{"SnapshotSenderFails", testSnapshotSenderFails},
		{"SnapshotCancelled", testSnapshotCancelled},
		{"CloseInFlight", testCloseInFlight},
		{"UseAfterClose", testUseAfterClose},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, func() transport.Transport {
				tr := listen(t)
				t.Cleanup(func() {
					if err := tr.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				return tr
			})
		})
	}
}

// member is a started transport and its Handler.
type member struct {
	transport.Transport
	h *Handler
}

func start(t *testing.T, listen func() transport.Transport, id uint64) member {
	t.Helper()
	return startWith(t, listen, NewHandler(id))
}

func startWith(t *testing.T, listen func() transport.Transport, h *Handler) member {
	t.Helper()
	tr := listen()
	h.SetAddress(tr.Address())
	if err := tr.Start(h); err != nil {
		t.Fatalf("Start: %v", err)
	}
	return member{tr, h}
}

// Until waits until condition holds, trying again after every millisecond.
func Until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// within fails the test when ch stays silent.
func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain: %s", patience, what)
		panic("unreachable")
	}
}

func number(n uint64) Bytes { return binary.BigEndian.AppendUint64(nil, n) }

// sameHello says whether got is what a Handler said of itself: its transport has put an ID to
// the host.
func sameHello(got, want transport.Hello) bool {
	want.Host.ID = got.Host.ID
	return got.Host.ID != 0 && got == want
}

// testHosts: a process has one ID for all that it says, and each has another one.
func testHosts(t *testing.T, listen func() transport.Transport) {
	a, b, c := start(t, listen, 1), start(t, listen, 2), start(t, listen, 2)
	idOf := func(address string) uint64 {
		got, err := a.Probe(context.Background(), address)
		if err != nil {
			t.Fatalf("Probe: %v", err)
		}
		return got.Host.ID
	}
	if first, again, other := idOf(b.Address()), idOf(b.Address()), idOf(c.Address()); first != again || first == other {
		t.Errorf("one host has the IDs %x and %x, and another one %x", first, again, other)
	}
}

func testMessages(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	const count = 2000
	for i := range uint64(count) {
		if !a.Send(2, transport.Kind(i%7), number(i)) {
			t.Fatalf("Send of message %d returned false on an empty network", i)
		}
	}
	Until(t, "all messages arrive", func() bool { return b.h.Received(1) >= count })
	for i, in := range b.h.Messages(1) {
		if got := binary.BigEndian.Uint64(in.Payload); got != uint64(i) || in.Kind != transport.Kind(i%7) {
			t.Fatalf("message %d is number %d of kind %d: order, content or kind was lost", i, got, in.Kind)
		}
	}
	want := a.h.Hello(b.h.Hello(0).Node)
	want.To = b.h.Hello(0).Node
	if accepted := b.h.Accepted(); len(accepted) == 0 || !sameHello(accepted[0], want) {
		t.Fatalf("the acceptor was asked about %+v, not about %+v", accepted, want)
	}
	want = b.h.Hello(a.h.Hello(0).Node)
	want.At, want.Dialed = b.Address(), b.Address()
	if accepted := a.h.Accepted(); len(accepted) == 0 || !sameHello(accepted[0], want) {
		t.Fatalf("the dialer was asked about %+v, not about %+v", accepted, want)
	}
}

func testMessagesAreCopied(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	m := Bytes("original")
	for range 2 {
		if !a.Send(2, 1, m) {
			t.Fatal("Send returned false on an empty network")
		}
	}
	Until(t, "both arrive", func() bool { return b.h.Received(1) == 2 })
	got := b.h.Messages(1)
	_ = append(got[0].Payload, "overwritten?"...)
	got[0].Payload[0] = 'X'
	if string(m) != "original" || string(got[1].Payload) != "original" {
		t.Fatalf("writing to one received payload changed another: sent %q, second received %q", m, got[1].Payload)
	}
}

func testUnknownPeer(t *testing.T, listen func() transport.Transport) {
	a := start(t, listen, 1)
	if a.Send(9, 1, Bytes("x")) {
		t.Error("Send to a member that was never set returned true")
	}
	if err := a.SendSnapshot(context.Background(), 9, Bytes("h"), Stream(1, 1)); !errors.Is(err, transport.ErrUnknownPeer) {
		t.Errorf("SendSnapshot to a member that was never set: %v, want ErrUnknownPeer", err)
	}
}

func testRefusedByAcceptor(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	const code, reason = 7, "cluster 7 is not cluster 8"
	b.h.SetAccept(func(transport.Hello) error {
		return fmt.Errorf("no: %w", transport.Refuse(code, errors.New(reason)))
	})
	a.SetPeer(2, b.Address())

	_, err := a.Call(context.Background(), b.Address(), 1, Bytes("x"))
	wantRemote(t, "Call", err, code, reason)
	err = a.SendSnapshot(context.Background(), 2, Bytes("h"), Stream(1, 1))
	wantRemote(t, "SendSnapshot", err, code, reason)
	a.Send(2, 1, Bytes("x"))
	Until(t, "the message connection is refused, too", func() bool { return len(b.h.Accepted()) >= 3 })

	Until(t, "the refused member is told why, each time", func() bool { return len(a.h.Refusals()) >= 3 })
	if got := a.h.Refusals()[0]; got.Code != code || !strings.Contains(got.Reason, reason) {
		t.Errorf("told %+v, want %q and code %d", got, reason, code)
	}

	// The refusal is not for ever.
	b.h.SetAccept(nil)
	Until(t, "messages arrive once accepted", func() bool {
		a.Send(2, 1, Bytes("y"))
		return b.h.Received(1) > 0
	})
}

func wantRemote(t *testing.T, what string, err error, code uint32, reason string) {
	t.Helper()
	var remote *transport.RemoteError
	if !errors.As(err, &remote) || remote.Code != code || !strings.Contains(remote.Reason, reason) {
		t.Errorf("%s: %#v, want a RemoteError that says %q with code %d", what, err, reason, code)
	}
}

func testRefusedByDialer(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.h.SetAccept(func(transport.Hello) error { return errors.New("not with that one") })
	a.SetPeer(2, b.Address())
	_, err := a.Call(context.Background(), b.Address(), 1, Bytes("x"))
	var remote *transport.RemoteError
	if err == nil || errors.As(err, &remote) || !strings.Contains(err.Error(), "not with that one") {
		t.Errorf("Call that the caller's own Accept refuses: %v, want its text, and no RemoteError", err)
	}
	a.Send(2, 1, Bytes("x"))
	Until(t, "both connections are judged", func() bool { return len(a.h.Accepted()) >= 2 })
	if n := b.h.Received(1) + b.h.Calls(); n != 0 {
		t.Errorf("%d payloads travelled on refused connections", n)
	}
	Until(t, "the acceptor hears why", func() bool {
		return slices.ContainsFunc(b.h.Refusals(), func(r transport.Refusal) bool {
			return r.Code == 0 && strings.Contains(r.Reason, "not with that one")
		})
	})
}

func testWrongMember(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(3, b.Address())
	err := a.SendSnapshot(context.Background(), 3, Bytes("h"), Stream(1, 1))
	if err == nil || !strings.Contains(err.Error(), "correct its address") {
		t.Errorf("snapshot to member 3 at the address of member 2: %v, want advice to correct the address", err)
	}
	if n := b.h.Snapshots(); n != 0 {
		t.Errorf("member 2 handled %d snapshots meant for member 3", n)
	}
}

func testPeerDownAndBack(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	a.Send(2, 1, number(0))
	Until(t, "the first message arrives", func() bool { return b.h.Received(1) == 1 })
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	Until(t, "the other side hears of the end without sending", func() bool { return a.h.Downs(2) > 0 })

	again := start(t, listen, 2)
	a.SetPeer(2, again.Address())
	next := uint64(0)
	Until(t, "messages arrive where the member moved to", func() bool {
		next++
		a.Send(2, 1, number(next))
		return again.h.Received(1) >= 20
	})
	last := uint64(0)
	for _, in := range again.h.Messages(1) {
		n := binary.BigEndian.Uint64(in.Payload)
		if n <= last {
			t.Fatalf("message %d came after %d", n, last)
		}
		last = n
	}
	if err := a.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	Until(t, "the receiving side hears of the end as well", func() bool { return again.h.Downs(1) > 0 })
}

// testPeerGone: that nobody listens any more is told once, behind all that the peer
// had sent, and not of a connection that merely broke.
func testPeerGone(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	b.SetPeer(1, a.Address())
	a.Send(2, 1, number(0))
	Until(t, "the first message arrives", func() bool { return b.h.Received(1) == 1 })
	b.RemovePeer(1) // closes the connection, and lives
	b.SetPeer(1, a.Address())
	Until(t, "a new connection is made", func() bool {
		a.Send(2, 1, number(1))
		return b.h.Received(1) > 1
	})
	if n := a.h.Gone(2); n != 0 {
		t.Errorf("PeerGone was called %d times for a member that lives", n)
	}

	const count = 500
	for i := range uint64(count) {
		b.Send(1, 1, number(i))
	}
	Until(t, "messages are on their way", func() bool { return a.h.Received(2) > 0 })
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	Until(t, "the other side hears that nobody listens there any more", func() bool { return a.h.Gone(2) > 0 })
	if early, n := a.h.ReceivedBeforeGone(2), a.h.Received(2); early != n {
		t.Errorf("%d messages came before PeerGone, and %d behind it", early, n-early)
	}

	again := startWith(t, listen, NewHandler(2))
	a.SetPeer(2, again.Address())
	Until(t, "messages arrive where it came back", func() bool {
		a.Send(2, 1, number(2))
		return again.h.Received(1) > 0
	})
	if n := a.h.Gone(2); n != 1 {
		t.Errorf("PeerGone was called %d times for one break", n)
	}
	a.RemovePeer(2)
	if err := again.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if n := a.h.Gone(2); n != 1 {
		t.Errorf("PeerGone was called for a member that was removed on purpose")
	}
}

func testRemovePeer(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	a.Send(2, 1, number(0))
	Until(t, "the first message arrives", func() bool { return b.h.Received(1) == 1 })
	a.RemovePeer(2)
	if a.Send(2, 1, number(1)) {
		t.Error("Send to a removed member returned true")
	}
	Until(t, "its connection is closed", func() bool { return b.h.Downs(1) == 1 })
	if n := a.h.Downs(2); n != 0 {
		t.Errorf("PeerDown was called %d times for a member that was removed on purpose", n)
	}

	a.SetPeer(2, b.Address())
	Until(t, "messages arrive after it is set again", func() bool {
		a.Send(2, 1, number(2))
		return b.h.Received(1) > 1
	})
	b.RemovePeer(1)
	Until(t, "the receiver closes the connection of whom it removed", func() bool { return a.h.Downs(2) > 0 })
}

func testCall(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	b.h.SetCall(func(_ context.Context, from transport.Hello, in transport.Inbound) (transport.Message, error) {
		switch in.Kind {
		case 1:
			return Bytes(fmt.Sprintf("%d said %s", from.Node, in.Payload)), nil
		case 2:
			return nil, nil
		default:
			return nil, errors.New("kind is not known")
		}
	})
	got, err := a.Call(context.Background(), b.Address(), 1, Bytes("hello"))
	if err != nil || string(got) != "1 said hello" {
		t.Errorf("Call: %q, %v", got, err)
	}
	got, err = a.Call(context.Background(), b.Address(), 2, Bytes(""))
	if err != nil || len(got) != 0 {
		t.Errorf("Call with an empty message and no answer: %q, %v", got, err)
	}
	_, err = a.Call(context.Background(), b.Address(), 3, Bytes("hello"))
	wantRemote(t, "Call that fails over there", err, 0, "kind is not known")
}

func testCallCancelled(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	inside, gone := make(chan struct{}), make(chan error, 1)
	b.h.SetCall(func(ctx context.Context, _ transport.Hello, _ transport.Inbound) (transport.Message, error) {
		close(inside)
		<-ctx.Done()
		gone <- ctx.Err()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-inside
		cancel()
	}()
	if _, err := a.Call(ctx, b.Address(), 1, Bytes("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled Call: %v, want context.Canceled", err)
	}
	if err := within(t, "the handler's context ends", gone); err == nil {
		t.Error("the handler's context ended without an error")
	}
	if _, err := a.Call(ctx, b.Address(), 1, Bytes("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Call under a context that has ended: %v, want context.Canceled", err)
	}
}

func testProbe(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	refuse := func(transport.Hello) error { return errors.New("no") }
	a.h.SetAccept(refuse)
	b.h.SetAccept(refuse)
	got, err := a.Probe(context.Background(), b.Address())
	want := b.h.Hello(a.h.Hello(0).Node)
	want.Remembers, want.Dialed = transport.Memory{}, b.Address()
	if err != nil || !sameHello(got, want) {
		t.Errorf("Probe: %+v, %v, want %+v", got, err, want)
	}
	if n := len(a.h.Accepted()) + len(b.h.Accepted()); n != 0 {
		t.Errorf("Probe asked for Accept %d times", n)
	}
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if got, err := a.Probe(context.Background(), b.Address()); err == nil {
		t.Errorf("Probe of a closed transport answered %+v", got)
	}
}

// testProbeByStranger: a member says who and where it is to those that it does not know, and
// that it is part of a cluster; nothing else.
func testProbeByStranger(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	for _, cluster := range []uint64{0, 99} {
		a.h.SetCluster(cluster)
		got, err := a.Probe(context.Background(), b.Address())
		want := transport.Hello{Host: b.h.Hello(0).Host, Cluster: transport.SomeCluster, Node: 2, Dialed: b.Address()}
		if err != nil || !sameHello(got, want) {
			t.Errorf("Probe by one of cluster %d: %+v, %v, want %+v", cluster, got, err, want)
		}
	}
	b.h.SetCluster(0)
	if got, err := a.Probe(context.Background(), b.Address()); err != nil || got.Cluster != 0 || got.Incarnation == 0 {
		t.Errorf("Probe of one without a cluster: %+v, %v, want its incarnation", got, err)
	}
}

// testUnnamedCall: whoever is called by an Unnamed message learns where the caller is and that
// it is part of a cluster; nothing else.
func testUnnamedCall(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	var from transport.Hello
	b.h.SetCall(func(_ context.Context, peer transport.Hello, in transport.Inbound) (transport.Message, error) {
		from = peer
		return Bytes(in.Payload), nil
	})
	if got, err := a.Call(context.Background(), b.Address(), 1, transport.Unnamed{Message: Bytes("x")}); err != nil || string(got) != "x" {
		t.Fatalf("Call: %q, %v", got, err)
	}
	want := transport.Hello{Host: a.h.Hello(0).Host, Cluster: transport.SomeCluster, Node: 1, Call: true}
	if !sameHello(from, want) {
		t.Errorf("b was called by %+v, want %+v", from, want)
	}
}

// testAnswerToStranger: b does not know a, and answers over the connection that a made.
func testAnswerToStranger(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	if b.Send(1, 1, Bytes("x")) {
		t.Error("Send to a member that is not known and not connected returned true")
	}
	a.SetPeer(2, b.Address())
	a.Send(2, 1, Bytes("x"))
	Until(t, "the message arrives", func() bool { return b.h.Received(1) == 1 })
	for range 5 {
		if !b.Send(1, 1, Bytes("x")) {
			t.Error("Send to a member that is connected returned false")
		}
	}
	Until(t, "the answers arrive", func() bool { return a.h.Received(2) == 5 })
	a.RemovePeer(2)
	Until(t, "the connection has ended", func() bool { return b.h.Downs(1) == 1 })
	Until(t, "there is no way back any more", func() bool { return !b.Send(1, 1, Bytes("x")) })
}

func testSnapshot(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	for _, size := range []int64{0, 1, 256 << 10, 3<<20 + 17} {
		received := make(chan string, 1)
		b.h.SetSnapshot(func(from uint64, header []byte, body io.Reader) error {
			sum, n, err := Sum(body)
			received <- fmt.Sprintf("%d %s %d %x", from, header, n, sum)
			return err
		})
		if err := a.SendSnapshot(context.Background(), 2, Bytes("header"), Stream(uint64(size), size)); err != nil {
			t.Fatalf("SendSnapshot of %d bytes: %v", size, err)
		}
		want := fmt.Sprintf("1 header %d %x", size, StreamSum(uint64(size), size))
		if got := within(t, "the snapshot is handled", received); got != want {
			t.Errorf("snapshot of %d bytes: received %s, want %s", size, got, want)
		}
	}
	// Whoever knows enough from the header need not read.
	b.h.SetSnapshot(func(uint64, []byte, io.Reader) error { return nil })
	if err := a.SendSnapshot(context.Background(), 2, Bytes("header"), Stream(1, 1<<20)); err != nil {
		t.Errorf("SendSnapshot to a handler that does not read: %v", err)
	}
}

func testSnapshotRefused(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	b.h.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.CopyN(io.Discard, body, 1000)
		return errors.Join(err, errors.New("disk full"))
	})
	err := a.SendSnapshot(context.Background(), 2, Bytes("header"), Stream(1, 64<<20))
	wantRemote(t, "SendSnapshot to a handler that fails halfway", err, 0, "disk full")
}

func testSnapshotSenderFails(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	read := make(chan error, 1)
	b.h.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		read <- err
		return err
	})
	bad := errors.New("bad sector")
	err := a.SendSnapshot(context.Background(), 2, Bytes("header"), Failing(1, 1<<20, bad))
	if !errors.Is(err, bad) {
		t.Errorf("SendSnapshot of a body that fails: %v, want %v", err, bad)
	}
	if err := within(t, "the receiver sees the end", read); err == nil {
		t.Error("the receiver took half a snapshot for a whole one")
	}
}

func testSnapshotCancelled(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	ctx, cancel := context.WithCancel(context.Background())
	read := make(chan error, 1)
	b.h.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.CopyN(io.Discard, body, 1<<20)
		cancel()
		if err == nil {
			_, err = io.Copy(io.Discard, body)
		}
		read <- err
		return err
	})
	err := a.SendSnapshot(ctx, 2, Bytes("header"), Endless())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled SendSnapshot: %v, want context.Canceled", err)
	}
	if err := within(t, "the receiver sees the end", read); err == nil {
		t.Error("the receiver took a cancelled snapshot for a whole one")
	}
}

func testCloseInFlight(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	b.SetPeer(1, a.Address())
	inCall, inBody := make(chan struct{}), make(chan struct{})
	b.h.SetCall(func(ctx context.Context, _ transport.Hello, _ transport.Inbound) (transport.Message, error) {
		close(inCall)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	b.h.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		close(inBody)
		_, err := io.Copy(io.Discard, body)
		return err
	})
	errs := make(chan error, 2)
	go func() {
		_, err := a.Call(context.Background(), b.Address(), 1, Bytes("x"))
		errs <- err
	}()
	go func() { errs <- a.SendSnapshot(context.Background(), 2, Bytes("h"), Endless()) }()
	within(t, "the call is inside the handler", inCall)
	within(t, "the snapshot is inside the handler", inBody)
	for i := range uint64(100) {
		a.Send(2, 1, number(i))
		b.Send(1, 1, number(i))
	}
	closed := make(chan error, 2)
	go func() { closed <- a.Close() }()
	for range 2 {
		if err := within(t, "calls end with Close", errs); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("a call that Close ended: %v, want ErrClosed", err)
		}
	}
	go func() { closed <- b.Close() }()
	for range 2 {
		if err := within(t, "Close returns", closed); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func testUseAfterClose(t *testing.T, listen func() transport.Transport) {
	a, b := start(t, listen, 1), start(t, listen, 2)
	a.SetPeer(2, b.Address())
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if a.Send(2, 1, Bytes("x")) {
		t.Error("Send after Close returned true")
	}
	if err := a.SendSnapshot(context.Background(), 2, Bytes("h"), Stream(1, 1)); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("SendSnapshot after Close: %v, want ErrClosed", err)
	}
	if _, err := a.Call(context.Background(), b.Address(), 1, Bytes("x")); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Call after Close: %v, want ErrClosed", err)
	}
	if _, err := a.Probe(context.Background(), b.Address()); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Probe after Close: %v, want ErrClosed", err)
	}
	if err := a.Start(NewHandler(1)); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Start after Close: %v, want ErrClosed", err)
	}
	a.SetPeer(3, b.Address())
	a.RemovePeer(2)
}
