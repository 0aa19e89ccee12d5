package tcp

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

// leftovers is what strangers could leave in a transport.
type leftovers struct{ conns, flows, peers, places, established int }

func (t *Transport) leftovers() leftovers {
	r, s := &t.registry, &t.registry.slots
	r.mu.RLock()
	defer r.mu.RUnlock()
	return leftovers{len(r.conns), len(r.flows), len(r.peers),
		s.shaking.open.Len() + s.shakingPeers.open.Len() + s.strangers.open.Len(), s.established}
}

// announced is the header of a frame of which nothing else comes.
func announced(kind frameType, bytes uint32) []byte {
	h := seal(make([]byte, headerBytes), kind)
	binary.LittleEndian.PutUint32(h, bytes)
	binary.LittleEndian.PutUint16(h[10:], headerChecksum(h))
	return h
}

// TestStrangersLeaveNothing: whatever strangers do, two members talk meanwhile, and
// afterwards there are as many goroutines, connections and bytes as before.
func TestStrangersLeaveNothing(t *testing.T) {
	a, ha := start(t, 1, Config{})
	b, hb := start(t, 2, Config{HandshakesMax: 16, StrangersMax: 16, HandshakeTimeout: time.Minute})
	a.SetPeer(2, b.Address())
	b.SetPeer(1, a.Address())
	a.Send(2, 1, number(1))
	b.Send(1, 1, number(1))
	transporttest.Until(t, "the members are connected", func() bool { return hb.Received(1) == 1 && ha.Received(2) == 1 })
	before, goroutines := b.leftovers(), runtime.NumGoroutine()

	for name, disturb := range map[string]func(i int) *rawConn{
		"half-open": func(int) *rawConn { return dialBytes(t, b) },
		"garbage":   func(int) *rawConn { c := dialBytes(t, b); c.write([]byte(strings.Repeat("x", 100))); return c },
		"a huge hello": func(int) *rawConn {
			c := dialBytes(t, b)
			c.write(announced(frameHello, 64<<20))
			return c
		},
		"invented members": func(i int) *rawConn { return dialRaw(t, b, purposeMessages, 1000+uint64(i)) },
		"huge frames": func(i int) *rawConn {
			c := dialRaw(t, b, purposeMessages, 1000+uint64(i))
			c.write(announced(frameMessages, 64<<20))
			return c
		},
		"slow calls": func(i int) *rawConn {
			c := dialRaw(t, b, purposeCall, 1000+uint64(i))
			c.write(announced(frameCall, 60<<10))
			return c
		},
	} {
		received := hb.Received(1)
		var conns []*rawConn
		for i := range 100 {
			conns = append(conns, disturb(i))
		}
		if l := b.leftovers(); l.places > 48 || l.peers != before.peers {
			t.Errorf("%s: while they are there: %+v", name, l)
		}
		a.Send(2, 1, number(2))
		transporttest.Until(t, name+": a member's message arrives", func() bool { return hb.Received(1) == received+1 })
		for _, c := range conns {
			_ = c.nc.Close()
		}
		transporttest.Until(t, name+": nothing is left", func() bool { return b.leftovers() == before })
	}
	transporttest.Until(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines+2 }) // those that wait for a condition come and go
	if used := b.memory.strangers.used.Load(); used != 0 {
		t.Errorf("%d bytes of the strangers' memory are not given back", used)
	}
}

// TestStrangersShareMemory: ten strangers that send frames of 64 MiB, all but the last byte,
// hold no more than the budget of all strangers.
func TestStrangersShareMemory(t *testing.T) {
	const frame = 1 << 20
	b, hb := start(t, 2, Config{FrameBytesMax: frame})
	limit := b.memory.strangers.max
	part := make([]byte, frame-1)
	var conns []*rawConn
	for i := range int(4 * limit / frame) {
		c := dialRaw(t, b, purposeMessages, 1000+uint64(i))
		conns = append(conns, c)
		c.write(announced(frameMessages, frame))
		c.write(part)
		if used := b.memory.strangers.used.Load(); used > limit {
			t.Fatalf("strangers hold %d bytes, the limit is %d", used, limit)
		}
	}
	transporttest.Until(t, "some were cut off", func() bool { return b.leftovers().flows < len(conns) })
	b.SetPeer(1, "127.0.0.1:1") // a member is not kept out of memory by them
	dialRaw(t, b, purposeMessages, 1).write(messagesFrame(bytesMessage(strings.Repeat("x", frame-20))))
	transporttest.Until(t, "a member's large frame arrives", func() bool { return hb.Received(1) == 1 })
	for _, c := range conns {
		_ = c.nc.Close()
	}
	transporttest.Until(t, "all memory is given back", func() bool { return b.memory.strangers.used.Load() == 0 })
}

// TestStrangersMayNotTrickle: a stranger must send a frame within a time, however it spreads
// its bytes.
func TestStrangersMayNotTrickle(t *testing.T) {
	const limit = 100 * time.Millisecond
	b, _ := start(t, 2, Config{HandshakeTimeout: limit, StallTimeout: limit, ProgressTimeout: limit})
	for name, c := range map[string]*rawConn{
		"hello":    dialBytes(t, b),
		"messages": dialRaw(t, b, purposeMessages, 9),
		"call":     dialRaw(t, b, purposeCall, 9),
	} {
		// At this pace all of it would take 10 min.
		rest := append(announced(frameMessages, 60<<10), make([]byte, 60<<10)...)
		trickle := func(n int) { c.write(rest[:n]); rest = rest[n:] }
		trickle(headerBytes - 1)
		if name == "messages" {
			trickle(1) // the header is whole: from here on the time runs
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			c.wantClosed()
		}()
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				trickle(1)
				continue
			case <-closed:
			}
			tick.Stop()
			break
		}
	}
}

// TestRefusalsSayLittle: what a member answers to somebody of another cluster names neither
// its own cluster nor what it remembers.
func TestRefusalsSayLittle(t *testing.T) {
	b, hb := start(t, 2, Config{})
	ask := func(cluster uint64) octopiipb.Hello {
		return dialBytes(t, b).greet(octopiipb.Hello{Version: protocolVersion, Purpose: purposeCall, Member: octopiipb.HelloMember{Cluster: cluster, From: 1}})
	}
	if got := ask(1); got.Member.Cluster != 1 || got.Member.Remembers.Match == 0 {
		t.Errorf("one of the same cluster is told %+v", got)
	}
	for _, refuse := range []error{nil, errors.New("no")} {
		hb.SetAccept(func(transport.Hello) error { return refuse })
		for _, cluster := range []uint64{0, 7} {
			if got := ask(cluster); got.Member.Cluster != transport.SomeCluster || got.Member.Incarnation != 0 || got.Member.Remembers.Match != 0 {
				t.Errorf("one of cluster %d, refused with %v, is told %+v", cluster, refuse, got)
			}
		}
	}
}

func TestPeersAreKnownByAddress(t *testing.T) {
	b, _ := start(t, 2, Config{})
	b.SetPeer(1, "[::ffff:10.1.2.3]:7")
	b.SetPeer(3, "somewhere.example:7")
	b.registry.mu.Lock()
	b.registry.peers[3].route.metAt(&net.TCPAddr{IP: net.IPv4(10, 9, 9, 9)})
	defer b.registry.mu.Unlock()
	for ip, want := range map[string]bool{"10.1.2.3": true, "10.9.9.9": true, "10.1.2.4": false} {
		if got := b.registry.fromPeer(&net.TCPAddr{IP: net.ParseIP(ip)}); got != want {
			t.Errorf("%s is of a peer: %v, want %v", ip, got, want)
		}
	}
}
