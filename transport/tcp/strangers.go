package tcp

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// A stranger is whoever connects and is no peer that SetPeer named: a client at the wrong
// port, a scanner, an adversary, a new member, or a leader that this member does not know
// of yet. All that is kept for strangers is bounded, for each and in all:
//
//   - Connections that have not shaken hands have HandshakesMax places, and as many more are
//     reserved for the machines of peers. The oldest makes room for the newest, so that
//     unfinished ones never keep out one that would finish.
//   - Connections that have shaken hands have StrangersMax places of the same kind. Those
//     of peers count for ConnectionsMax alone.
//   - Memory for frames grows with what has been read, and comes from a budget of
//     FrameBytesMax and strangerBytes for all of them. Peers have a budget of their own.
//   - What a Handler sends to a stranger goes over the connection that the stranger made,
//     and nothing is kept of it when that ends: see guest.
const (
	strangerBytes = 8 << 20
	// memberFrames is how many frames of the largest size the peers may have under way.
	memberFrames = 4
	// strangerCallBytesMax bounds the message of a stranger's call. A request to join is a few
	// hundred bytes.
	strangerCallBytesMax = 64 << 10
	// guestMessagesMax and guestBytesMax bound what waits for one stranger.
	guestMessagesMax = 64
	guestBytesMax    = 1 << 20
	// peerIPsMax is how many IP addresses of one peer are known at most.
	peerIPsMax = 4
)

// budget is memory that several connections share.
type budget struct {
	max  int64
	used atomic.Int64
}

func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.max {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// charge takes memory for the frame that is being read.
func (c *conn) charge(n int) error {
	if c.held == 0 {
		c.payer = &c.t.strangerBudget
		if c.member.Load() {
			c.payer = &c.t.memberBudget
		}
	}
	if !c.payer.take(n) {
		return fmt.Errorf("no memory is left for a frame from %s: %d bytes are used by others; the sender will try again", c.address, c.payer.used.Load())
	}
	c.held += n
	return nil
}

// discharge gives back what charge took: the frame was handed over, or its memory is
// bounded elsewhere. Only the reader of c may call it.
func (c *conn) discharge() {
	if c.held > 0 {
		c.payer.give(c.held)
		c.held = 0
	}
}

// place is a list of connections of which the oldest gives way.
type place struct{ open list.List }

// add returns the connection that gives way, nil if there is room. Call it with t.mu held.
func (p *place) add(c *conn, limit int) (oldest *conn) {
	if p.open.Len() >= limit {
		oldest = p.open.Front().Value.(*conn)
		oldest.leavePlace()
	}
	c.place, c.element = p, p.open.PushBack(c)
	return oldest
}

// leavePlace frees the place of a connection. Call it with t.mu held.
func (c *conn) leavePlace() {
	if c.place != nil {
		c.place.open.Remove(c.element)
		c.place, c.element = nil, nil
	}
}

// evict closes a connection that gave way to another one.
func (t *Transport) evict(c *conn, reason string) {
	if c == nil {
		return
	}
	t.counters.refused.Add(1)
	t.warnStrangers(reason, zap.String("address", c.address))
	c.close()
}

// settle gives a connection that has shaken hands its place: as one of a peer, or of a
// stranger.
func (t *Transport) settle(c *conn, id uint64) error {
	t.mu.Lock()
	if _, open := t.conns[c]; !open {
		t.mu.Unlock()
		return net.ErrClosed
	}
	c.leavePlace()
	if t.peers[id] == nil {
		oldest := t.strangers.add(c, t.config.StrangersMax)
		t.mu.Unlock()
		t.evict(oldest, "many strangers are connected: closing the oldest")
		return nil
	}
	defer t.mu.Unlock()
	if t.established >= t.config.ConnectionsMax {
		return errTooMany
	}
	t.promote(c)
	return nil
}

// promote makes a connection one of a peer. Call it with t.mu held.
func (t *Transport) promote(c *conn) {
	c.leavePlace()
	if !c.member.Swap(true) {
		t.established++
	}
}

var errTooMany = errors.New("too many connections")

// fromPeer says whether an address is one of a peer's machine, as far as is known: a hint
// only. Call it with t.mu held.
func (t *Transport) fromPeer(remote net.Addr) bool {
	ip, ok := ipOf(remote)
	if !ok {
		return false
	}
	for _, p := range t.peers {
		if p.isAt(ip) {
			return true
		}
	}
	return false
}

func ipOf(a net.Addr) (netip.Addr, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	return ip.Unmap(), ok
}

// metAt remembers from which IP address a peer has spoken.
func (p *peer) metAt(remote net.Addr) {
	ip, ok := ipOf(remote)
	if !ok || p.isAt(ip) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ips = append([]netip.Addr{ip}, p.ips[:min(len(p.ips), peerIPsMax-1)]...)
}

func (p *peer) isAt(ip netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.ips {
		if known == ip {
			return true
		}
	}
	host, _, err := net.SplitHostPort(p.address)
	if err != nil {
		return false
	}
	recorded, err := netip.ParseAddr(host)
	return err == nil && recorded.Unmap() == ip
}

// guest is the way back to a stranger that opened a message connection: a leader that this
// member does not know of yet must get its answers. It ends with that connection.
type guest struct {
	queue chan outgoing
	bytes atomic.Int64
}

func newGuest() *guest { return &guest{queue: make(chan outgoing, guestMessagesMax)} }

// send queues a message and never blocks.
func (g *guest) send(kind transport.Kind, m transport.Message) bool {
	size := m.Size()
	if g.bytes.Add(int64(size)) > guestBytesMax {
		g.bytes.Add(-int64(size))
		return false
	}
	select {
	case g.queue <- outgoing{kind, m, size}:
		return true
	default:
		g.bytes.Add(-int64(size))
		return false
	}
}

// answerGuest writes what is queued for a stranger until the connection is closed.
func (c *conn) answerGuest() {
	for {
		select {
		case o := <-c.guest.queue:
			frame, _, failed := appendMessages(nil, []outgoing{o}, c.t.config.FrameBytesMax)
			c.guest.bytes.Add(-int64(o.size))
			if failed > 0 {
				continue
			}
			if err := c.writeFrame(frame); err != nil {
				c.close()
				return
			}
		case <-c.gone:
			return
		}
	}
}

// warnStrangers logs about strangers, who must not fill the disk with it.
func (t *Transport) warnStrangers(message string, fields ...zap.Field) {
	others, ok := t.strangerWarnings.Pass(time.Now())
	if !ok {
		return
	}
	if others > 0 {
		fields = append(fields, zap.Int("more of the kind", others))
	}
	t.log.Warn(message, fields...)
}
