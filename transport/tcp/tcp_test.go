package tcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transport.Transport { return listen(t, Config{}) })
}

func TestContractOverTLS(t *testing.T) {
	files := newAuthority(t).issue(t)
	transporttest.Run(t, func(t *testing.T) transport.Transport { return listen(t, Config{TLS: files}) })
}

// listen makes a transport on a free port of the loopback interface.
func listen(t testing.TB, cfg Config) *Transport {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	tr, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return tr
}

// start is listen and Start with a recording Handler. The transport is closed
// when the test ends.
func start(t testing.TB, id uint64, cfg Config) (*Transport, *transporttest.Handler) {
	t.Helper()
	h := transporttest.NewHandler(id)
	return startWith(t, h, cfg), h
}

func startWith(t testing.TB, h transport.Handler, cfg Config) *Transport {
	t.Helper()
	tr := listen(t, cfg)
	if err := tr.Start(h); err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tr
}

type bytesMessage = transporttest.Bytes

func number(n uint64) bytesMessage { return binary.BigEndian.AppendUint64(nil, n) }

// breakConnections ends everything that is open, as a reset would.
func breakConnections(tr *Transport) {
	tr.registry.mu.Lock()
	var open []*conn
	for c := range tr.registry.conns {
		open = append(open, c)
	}
	tr.registry.mu.Unlock()
	for _, c := range open {
		c.close()
	}
}

func TestNewNamesTheAddressInUse(t *testing.T) {
	first := listen(t, Config{})
	defer first.Close()
	_, err := New(Config{Listen: first.Address()})
	if err == nil || !strings.Contains(err.Error(), first.Address()) {
		t.Errorf("New on an address in use: %v, want an error that names %s", err, first.Address())
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "Listen is empty"},
		{Config{Listen: ":0"}, "set Advertise"},
		{Config{Listen: "0.0.0.0:0"}, "set Advertise"},
		{Config{Listen: "127.0.0.1:0", Advertise: "nowhere"}, "host:port"},
		{Config{Listen: "127.0.0.1:0", FrameBytesMax: 10}, "FrameBytesMax"},
		{Config{Listen: "127.0.0.1:0", QueueBytesMax: -1}, "negative"},
		{Config{Listen: "127.0.0.1:0", StallTimeout: -1}, "negative"},
		{Config{Listen: "127.0.0.1:0", TLS: TLS{CertFile: "x"}}, "mutual"},
		{Config{Listen: "127.0.0.1:0", TLS: TLS{CertFile: "x", KeyFile: "x", CAFile: "x"}}, "load certificate"},
	} {
		tr, err := New(test.cfg)
		if err == nil {
			_ = tr.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("New(%+v): %v, want an error about %q", test.cfg, err, test.want)
		}
	}
}

func TestAddress(t *testing.T) {
	for _, test := range []struct{ listen, advertise, host string }{
		{"127.0.0.1:0", "", "127.0.0.1:"},
		{"localhost:0", "", "localhost:"}, // certificates may name it
		{"0.0.0.0:0", "db1.example.org:2380", "db1.example.org:2380"},
	} {
		tr, err := New(Config{Listen: test.listen, Advertise: test.advertise})
		if err != nil {
			t.Fatalf("New: %v", err)
		}
		if got := tr.Address(); !strings.HasPrefix(got, test.host) || strings.HasSuffix(got, ":0") {
			t.Errorf("Listen %q, Advertise %q: Address is %q", test.listen, test.advertise, got)
		}
		if err := tr.Close(); err != nil {
			t.Errorf("Close before Start: %v", err)
		}
	}
}

func TestBeforeStart(t *testing.T) {
	tr := listen(t, Config{})
	if _, err := tr.Call(t.Context(), "127.0.0.1:1", 1, bytesMessage("x")); err == nil || !strings.Contains(err.Error(), "call Start first") {
		t.Errorf("Call before Start: %v", err)
	}
	to, h := start(t, 2, Config{})
	tr.SetPeer(2, to.Address())
	tr.Send(2, 1, number(1))
	if err := tr.Start(transporttest.NewHandler(1)); err != nil {
		t.Fatalf("Start: %v", err)
	}
	defer tr.Close()
	if err := tr.Start(transporttest.NewHandler(1)); err == nil {
		t.Error("Start can be called twice")
	}
	transporttest.Until(t, "a message queued before Start arrives", func() bool { return h.Received(1) == 1 })
}

func TestOrderOverReconnects(t *testing.T) {
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, b.Address())
	next := uint64(0)
	for round := range 5 {
		want := hb.Received(1) + 200
		transporttest.Until(t, "messages arrive", func() bool {
			for range 50 {
				next++
				a.Send(2, 1, number(next))
			}
			return hb.Received(1) >= want
		})
		breakConnections([]*Transport{a, b}[round%2])
	}
	last := uint64(0)
	for _, in := range hb.Messages(1) {
		n := binary.BigEndian.Uint64(in.Payload)
		if n <= last {
			t.Fatalf("message %d came after %d: order was lost over a reconnect", n, last)
		}
		last = n
	}
	if a.Stats().Connections < 3 {
		t.Errorf("only %d connections were made: nothing was broken", a.Stats().Connections)
	}
}

func TestSetPeerMoves(t *testing.T) {
	a, ha := start(t, 1, Config{})
	old, hold := start(t, 2, Config{})
	moved, hmoved := start(t, 2, Config{})
	a.SetPeer(2, old.Address())
	a.Send(2, 1, number(1))
	transporttest.Until(t, "the first message arrives", func() bool { return hold.Received(1) == 1 })
	a.SetPeer(2, moved.Address())
	transporttest.Until(t, "the old connection is closed", func() bool { return ha.Downs(2) == 1 && hold.Downs(1) == 1 })
	a.Send(2, 1, number(2))
	transporttest.Until(t, "the second arrives at the new address", func() bool { return hmoved.Received(1) == 1 })
	if hold.Received(1) != 1 {
		t.Error("the second message went to the old address")
	}
}

// TestMoveEndsADial moves a peer from an address that accepts and never
// answers.
func TestMoveEndsADial(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a, _ := start(t, 1, Config{HandshakeTimeout: time.Hour})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, silent.Addr().String())
	a.Send(2, 1, number(1))
	nc, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	a.SetPeer(2, b.Address())
	transporttest.Until(t, "the message that waited goes to the new address", func() bool { return hb.Received(1) == 1 })
}

func TestFailedDialDropsTheQueue(t *testing.T) {
	a, _ := start(t, 1, Config{})
	gone := listen(t, Config{})
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	a.SetPeer(2, gone.Address())
	for range 10 {
		a.Send(2, 1, number(1))
	}
	transporttest.Until(t, "all are dropped", func() bool { return a.Stats().Dropped == 10 })
}

// TestIncomingEndsTheBackoff: a peer that dials us can be dialed.
func TestIncomingEndsTheBackoff(t *testing.T) {
	tr := listen(t, Config{})
	defer tr.Close()
	p := newPeer(tr, 7, "127.0.0.1:1")
	p.backoff.failures = 1 << 20
	tr.registry.peers[7] = p
	paused := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(paused)
		p.pause()
	}()
	tr.registry.hurry(7)
	<-paused
	if d := time.Since(begun); d > backoffMax/2 {
		t.Errorf("the pause took %v although the peer had dialed in", d)
	}
	p.remove()
	p.pause() // returns at once, or the test times out in the end
}

// blocked is a Handler that lets nothing past.
type blocked struct {
	*transporttest.Handler
	inside chan struct{}
	let    chan struct{}
}

func (b *blocked) HandleMessages(from uint64, batch []transport.Inbound) {
	b.inside <- struct{}{}
	<-b.let
	b.Handler.HandleMessages(from, batch)
}

func TestQueueFull(t *testing.T) {
	a, _ := start(t, 1, Config{QueueBytesMax: 1 << 20, QueueMessagesMax: 100})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a.SetPeer(2, silent.Addr().String())
	a.SetPeer(3, silent.Addr().String())
	for i := range 100 {
		if !a.Send(2, 1, number(uint64(i))) {
			t.Fatalf("Send of message %d returned false below the bound of 100", i)
		}
	}
	if a.Send(2, 1, number(100)) {
		t.Error("Send returned true beyond QueueMessagesMax")
	}
	if !a.Send(3, 1, make(bytesMessage, 1<<20)) {
		t.Error("Send of QueueBytesMax returned false")
	}
	if a.Send(3, 1, bytesMessage("x")) {
		t.Error("Send returned true beyond QueueBytesMax")
	}
	if got := a.Stats().Dropped; got != 2 {
		t.Errorf("Dropped is %d, want 2", got)
	}
}

func TestTooLargeForAFrame(t *testing.T) {
	a, _ := start(t, 1, Config{FrameBytesMax: 4096})
	b, hb := start(t, 2, Config{FrameBytesMax: 4096})
	a.SetPeer(2, b.Address())
	if a.Send(2, 1, make(bytesMessage, 4096)) {
		t.Error("Send of a message larger than a frame returned true")
	}
	const largest = 4096 - messageOverheadMax
	for range 10 { // together they need several frames
		if !a.Send(2, 1, make(bytesMessage, largest)) {
			t.Error("Send of the largest message returned false")
		}
	}
	transporttest.Until(t, "the largest messages arrive", func() bool { return hb.Received(1) == 10 })
	if got := b.Stats(); got.BadFrames != 0 {
		t.Errorf("%d bad frames", got.BadFrames)
	}
}

// shifty changes its mind about its size.
type shifty struct{}

func (shifty) Size() int                     { return 8 }
func (shifty) MarshalTo([]byte) (int, error) { return 3, nil }

func TestMessageThatChangesIsDropped(t *testing.T) {
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, b.Address())
	for _, m := range []transport.Message{shifty{}, number(1), shifty{}, number(2)} {
		a.Send(2, 1, m)
	}
	transporttest.Until(t, "the sound ones arrive", func() bool { return hb.Received(1) == 2 })
	if got := a.Stats().Dropped; got != 2 {
		t.Errorf("Dropped is %d, want 2", got)
	}
}

// TestNewerConnectionReplacesOlder: the newer one is read only when the Handler
// has returned from the last batch of the older.
func TestNewerConnectionReplacesOlder(t *testing.T) {
	h := &blocked{transporttest.NewHandler(2), make(chan struct{}, 2), make(chan struct{})}
	b := startWith(t, h, Config{})
	first := dialRaw(t, b, purposeMessages, 1)
	first.write(messagesFrame(number(1)))
	<-h.inside
	second := dialRaw(t, b, purposeMessages, 1)
	second.write(messagesFrame(number(2)))
	first.wantClosed()
	select {
	case <-h.inside:
		t.Fatal("the newer connection was read while the older was inside the Handler")
	default:
	}
	close(h.let)
	transporttest.Until(t, "both messages arrive", func() bool { return h.Received(1) == 2 })
	if got := h.Messages(1); binary.BigEndian.Uint64(got[0].Payload) != 1 {
		t.Error("the message of the newer connection came first")
	}
	if got := h.Downs(1); got != 1 {
		t.Errorf("PeerDown was called %d times, want once for the older connection", got)
	}
}

func TestSnapshotOf50MiB(t *testing.T) {
	const size = 50 << 20
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, b.Address())
	var got string
	hb.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		sum, n, err := transporttest.Sum(body)
		got = fmt.Sprintf("%d bytes, sum %x", n, sum)
		return err
	})
	if err := a.SendSnapshot(t.Context(), 2, bytesMessage("h"), transporttest.Stream(5, size)); err != nil {
		t.Fatalf("SendSnapshot: %v", err)
	}
	if want := fmt.Sprintf("%d bytes, sum %x", size, transporttest.StreamSum(5, size)); got != want {
		t.Errorf("received %s, want %s", got, want)
	}
}

func TestSnapshotBrokenOff(t *testing.T) {
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, b.Address())
	read := make(chan error, 1)
	hb.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.CopyN(io.Discard, body, 1<<20)
		breakConnections(b)
		if err == nil {
			_, err = io.Copy(io.Discard, body)
		}
		read <- err
		return err
	})
	if err := a.SendSnapshot(t.Context(), 2, bytesMessage("h"), transporttest.Endless()); err == nil {
		t.Error("SendSnapshot over a connection that broke returned nil")
	}
	if err := <-read; err == nil {
		t.Error("the receiver took half a snapshot for a whole one")
	}
}

// TestSnapshotStalled: a sender that stops moving is given up.
func TestSnapshotStalled(t *testing.T) {
	b, hb := start(t, 2, Config{ProgressTimeout: 20 * time.Millisecond})
	read := make(chan error, 1)
	hb.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		read <- err
		return err
	})
	c := dialRaw(t, b, purposeSnapshot, 1)
	c.write(newFrame(frameSnapshot, []byte("h")))
	var timeout net.Error
	if err := <-read; !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a stalled stream: %v, want a timeout", err)
	}
}

func TestCallTooLarge(t *testing.T) {
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	hb.SetCall(func(context.Context, transport.Hello, transport.Inbound) (transport.Message, error) {
		return make(bytesMessage, callBytesMax+1), nil
	})
	if _, err := a.Call(t.Context(), b.Address(), 1, make(bytesMessage, callBytesMax)); err == nil || hb.Calls() != 0 {
		t.Errorf("Call with a request beyond the limit: %v, handled %d times", err, hb.Calls())
	}
	_, err := a.Call(t.Context(), b.Address(), 1, bytesMessage("x"))
	var remote *transport.RemoteError
	if !errors.As(err, &remote) {
		t.Errorf("Call with an answer beyond the limit: %v, want a RemoteError", err)
	}
}

// countingHandler counts messages and keeps none.
type countingHandler struct {
	*transporttest.Handler
	count chan int
}

func (h *countingHandler) HandleMessages(_ uint64, batch []transport.Inbound) { h.count <- len(batch) }

func BenchmarkSmallMessages(b *testing.B) {
	h := &countingHandler{transporttest.NewHandler(2), make(chan int, 1024)}
	to := startWith(b, h, Config{})
	from, _ := start(b, 1, Config{})
	from.SetPeer(2, to.Address())
	var m transport.Message = make(bytesMessage, 64)
	b.SetBytes(int64(m.Size()))
	b.ReportAllocs()
	b.ResetTimer()
	sent, received := 0, 0
	for received < b.N {
		if sent < b.N && from.Send(2, 1, m) {
			sent++
			if sent%64 != 0 {
				continue
			}
		}
		for more := true; more && received < sent; {
			select {
			case n := <-h.count:
				received += n
			default:
				if more = sent == b.N || sent-received > 1<<15; more {
					received += <-h.count
				}
			}
		}
	}
}
