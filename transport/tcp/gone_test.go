package tcp

import (
	"bufio"
	"net"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport/transporttest"
)

// dying is what listens where member 2 should be, and does as a process in the middle
// of dying.
type dying struct {
	t  *testing.T
	ln net.Listener
}

func newDying(t *testing.T) *dying {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return &dying{t, ln}
}

// accept takes one connection; with greet it shakes hands.
func (d *dying) accept(greet bool) net.Conn {
	d.t.Helper()
	nc, err := d.ln.Accept()
	if err != nil {
		d.t.Fatal(err)
	}
	if !greet {
		return nc
	}
	r := &frameReader{r: bufio.NewReader(nc)}
	if _, _, err := r.next(helloBytesMax, nil); err != nil {
		d.t.Fatalf("no hello came: %v", err)
	}
	hello := octopiipb.Hello{Version: protocolVersion, Purpose: purposeMessages, Member: octopiipb.HelloMember{Cluster: 1, From: 2, To: 1}}
	body, err := hello.Marshal()
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := nc.Write(newFrame(frameHello, body)); err != nil {
		d.t.Fatal(err)
	}
	return nc
}

// TestDyingListensLongest: the connections of a process that dies may break before it
// stops listening. Whoever redials meanwhile is cut off, and tries again.
func TestDyingListensLongest(t *testing.T) {
	a, h := start(t, 1, Config{})
	d := newDying(t)
	a.SetPeer(2, d.ln.Addr().String())
	a.Send(2, 1, number(1))
	first := d.accept(true)
	transporttest.Until(t, "it is connected", func() bool { return a.Stats().Connections == 1 })
	_ = first.Close()
	_ = d.accept(false).Close() // nothing was queued, and it dials at once
	if err := d.ln.Close(); err != nil {
		t.Fatal(err)
	}
	transporttest.Until(t, "it is told that nobody listens there", func() bool { return h.Gone(2) == 1 })
}

// TestRefusedButHeard: an address that refuses while the peer's own connection stands is
// a firewall, or a listener that was lost, and no dead process.
func TestRefusedButHeard(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	a, h := start(t, 1, Config{Logger: zap.New(core)})
	d := newDying(t)
	a.SetPeer(2, d.ln.Addr().String())
	a.Send(2, 1, number(1))
	first := d.accept(true)
	transporttest.Until(t, "it is connected", func() bool { return a.Stats().Connections == 1 })
	back := dialRaw(t, a, purposeMessages, 2)
	back.write(messagesFrame(number(1)))
	transporttest.Until(t, "the peer's own connection works", func() bool { return h.Received(2) == 1 })
	_ = d.ln.Close()
	_ = first.Close()
	transporttest.Until(t, "it has tried as often as it does", func() bool {
		return logs.FilterMessage("cannot connect").Len() == redialsMax
	})
	if n := h.Gone(2); n != 0 {
		t.Errorf("PeerGone was called %d times for a peer whose own connection stands", n)
	}
}

// TestBriefConnections: a peer that breaks every connection as soon as it stands is not
// dialed all the time: after a few it waits until there is something to send.
func TestBriefConnections(t *testing.T) {
	var b backoff
	for i := range briefMax {
		if !b.broke(0) {
			t.Fatalf("brief connection %d is not made again at once", i+1)
		}
	}
	b.redials = 0
	if b.broke(0) || b.redials != 0 {
		t.Error("so many brief connections in a row, and the next is made at once")
	}
	if !b.broke(briefTime) || !b.broke(0) {
		t.Error("after one that lasted the next is not made at once")
	}
}
