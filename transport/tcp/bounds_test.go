package tcp

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

// However often connections break under messages, the queue of a peer is empty when there
// is nothing to send: what was on its way counts no longer.
func TestBrokenConnectionsLeaveNothingQueued(t *testing.T) {
	a, _ := start(t, 1, Config{})
	b, hb := start(t, 2, Config{})
	a.SetPeer(2, b.Address())
	large := make(bytesMessage, 1<<20)
	for round := range 6 {
		received := hb.Received(1)
		transporttest.Until(t, "messages arrive", func() bool {
			for a.Send(2, 1, large) { // until the queue is full: a write is under way
				continue
			}
			return hb.Received(1) > received
		})
		breakConnections([]*Transport{a, b}[round%2])
	}
	q := &a.registry.peer(2).queue
	transporttest.Until(t, "nothing is queued", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.messages == 0 && q.bytes == 0
	})
}

// unhurried takes the first batch when it is told to, and a while for each.
type unhurried struct {
	*transporttest.Handler
	inside chan struct{}
	let    chan struct{}
	once   sync.Once
}

func (h *unhurried) HandleMessages(from uint64, batch []transport.Inbound) {
	h.once.Do(func() {
		close(h.inside)
		<-h.let
	})
	<-time.After(2 * time.Millisecond) // who waits for its turn meanwhile is the next
	h.Handler.HandleMessages(from, batch)
}

// The newer connection of a peer waits until all that came on the older one was handed
// over, also what was read and not yet handed over when the newer one came.
func TestNewerConnectionWaitsForAllOfTheOlder(t *testing.T) {
	h := &unhurried{Handler: transporttest.NewHandler(2), inside: make(chan struct{}), let: make(chan struct{})}
	b := startWith(t, h, Config{})
	first := dialRaw(t, b, purposeMessages, 1)
	var sent []byte // in one write, so that one read takes all of it
	const older = 20
	for i := range older {
		sent = append(sent, messagesFrame(number(uint64(i)))...)
	}
	first.write(sent)
	<-h.inside
	second := dialRaw(t, b, purposeMessages, 1)
	second.write(messagesFrame(number(older)))
	first.wantClosed()
	close(h.let)
	transporttest.Until(t, "the message of the newer connection arrives", func() bool {
		got := h.Messages(1)
		return len(got) > 0 && binary.BigEndian.Uint64(got[len(got)-1].Payload) == older
	})
	for i, in := range h.Messages(1) {
		if n := binary.BigEndian.Uint64(in.Payload); n != uint64(i) {
			t.Fatalf("message %d came at place %d", n, i)
		}
	}
}

// A stranger that becomes a peer while it sends a frame gives the memory of that frame back
// to those from whom it took it.
func TestMemoryGoesBackWhereItCameFrom(t *testing.T) {
	b, hb := start(t, 2, Config{})
	frame := messagesFrame(bytesMessage(strings.Repeat("x", 1<<20)))
	for id := uint64(10); id < 13; id++ {
		c := dialRaw(t, b, purposeMessages, id)
		c.write(frame[:len(frame)-1])
		transporttest.Until(t, "a stranger has memory", func() bool { return b.memory.strangers.used.Load() > 0 })
		b.SetPeer(id, "127.0.0.1:1")
		c.write(frame[len(frame)-1:])
		transporttest.Until(t, "its frame arrives", func() bool { return hb.Received(id) == 1 })
		_ = c.nc.Close()
	}
	transporttest.Until(t, "all memory is given back", func() bool {
		return b.memory.strangers.used.Load() == 0 && b.memory.members.used.Load() == 0
	})
}

// Whatever a peer's connection was for, its place is free when it has ended.
func TestConnectionsOfPeersGiveTheirPlacesBack(t *testing.T) {
	const most = 4
	b, _ := start(t, 2, Config{ConnectionsMax: most})
	b.SetPeer(1, "127.0.0.1:1")
	for name, purpose := range map[string]uint32{"messages": purposeMessages, "a snapshot": purposeSnapshot, "a call": purposeCall} {
		for range 2 * most {
			_ = dialRaw(t, b, purpose, 1).nc.Close()
			transporttest.Until(t, name+": its place is free", func() bool {
				b.registry.mu.RLock()
				defer b.registry.mu.RUnlock()
				return b.registry.slots.established == 0
			})
		}
	}
}

// writes calls before each write.
type writes struct {
	*scripted
	before func()
}

func (w *writes) Write(p []byte) (int, error) {
	w.before()
	return w.scripted.Write(p)
}

// A dialer that knows that it may send has the connection that is registered: otherwise an
// older connection could take the place of a newer one.
func TestRegisteredBeforeTheDialerKnows(t *testing.T) {
	hello := octopiipb.Hello{Version: protocolVersion, Purpose: purposeMessages, Member: octopiipb.HelloMember{Cluster: 1, From: 1}}
	body, err := hello.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, nc, _ := unconnected(t, newFrame(frameHello, body), true)
	answers := 0
	c.nc = &writes{nc, func() {
		answers++
		r := &c.t.registry
		r.mu.RLock()
		defer r.mu.RUnlock()
		if c.flow == nil || r.flows[flowKey{1, 0}] != c.flow {
			t.Error("the dialer is told that it may send on a connection that is not registered")
		}
	}}
	c.t.serve(c)
	if answers == 0 {
		t.Error("there was no answer")
	}
	finish(t, c)
}

// A frame may take as long as it does: a peer has stalled when it takes no part of a frame
// for the stall timeout.
func TestLargeFrameOnASlowNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 2 * time.Second
		near, far := net.Pipe()
		c, _, _ := unconnected(t, nil, false)
		c.nc, c.writeTimeout = near, timeout
		var reader sync.WaitGroup
		reader.Go(func() {
			part := make([]byte, 64<<10)
			for {
				if _, err := io.ReadFull(far, part); err != nil {
					return
				}
				<-time.After(100 * time.Millisecond) // virtual: 1.6 s for writeStepBytes
			}
		})
		began := time.Now()
		if err := c.writeFrame(make([]byte, 8*writeStepBytes)); err != nil {
			t.Errorf("a frame on a slow network: %v", err)
		}
		if took := time.Since(began); took < 2*timeout {
			t.Errorf("it took %v, which says nothing", took)
		}
		_, _ = near.Close(), far.Close()
		reader.Wait()
		finish(t, c)
	})
}

// reads calls before each read.
type reads struct {
	*scripted
	before func()
}

func (r *reads) Read(p []byte) (int, error) {
	r.before()
	return r.scripted.Read(p)
}

// A stranger must send a frame within a time. One that becomes a peer within a frame has no such
// deadline after it: its connection would break, and what is under way would be lost.
func TestNoDeadlineIsLeftOfAStranger(t *testing.T) {
	c, nc, _ := unconnected(t, newFrame(frameMessages, make([]byte, 2*readBufferBytes)), true)
	c.timed.stall = time.Minute
	c.timed.nc = &reads{nc, func() {
		if c.timed.begun {
			c.member.Store(true)
		}
	}}
	if _, _, err := c.readFrame(4*readBufferBytes, nil); err != nil {
		t.Fatal(err)
	}
	if !c.member.Load() || !c.timed.until.IsZero() {
		t.Errorf("peer: %v; everything that it sends must come until %v", c.member.Load(), c.timed.until)
	}
	c.member.Store(false)
	finish(t, c)
}
