package tcp

import (
	"fmt"
	"net"
	"sync"

	"github.com/octopii/octopii/transport"
)

// registry holds the peers that SetPeer named and the connections that are open, and knows
// which connection is whose. Under its mutex those of a route and of the lifetime may be taken,
// never the other way round.
type registry struct {
	life *lifetime

	mu    sync.RWMutex
	peers map[uint64]*peer
	// conns holds every open connection.
	conns map[*conn]struct{}
	// flows is the newest incoming message connection of each sender and lane.
	flows map[flowKey]*flow
	slots slots
}

// entry is what the registry knows of a connection. Its mutex guards it.
type entry struct {
	// peer is the member at the other end of a connection for messages or a snapshot, else
	// 0; removed says that RemovePeer closed it.
	peer    uint64
	removed bool
	// host is the process that made an incoming connection.
	host transport.Host
	stay stay
}

func newRegistry(cfg Config, life *lifetime) registry {
	return registry{
		life:  life,
		peers: make(map[uint64]*peer),
		conns: make(map[*conn]struct{}),
		flows: make(map[flowKey]*flow),
		slots: slots{handshakesMax: cfg.HandshakesMax, strangersMax: cfg.StrangersMax, peersMax: cfg.ConnectionsMax},
	}
}

// setPeer makes a member reachable, or moves it.
func (r *registry) setPeer(t *Transport, id uint64, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.peers[id]; p != nil {
		p.route.move(address)
		return
	}
	p := newPeer(t, id, address)
	// Whom a member knows when it starts it calls at once: what it has to say, such as that
	// its place is taken, should not wait for the first message.
	p.route.wanted = !isClosed(r.life.started)
	if !r.life.goes(p.run) {
		return
	}
	r.peers[id] = p
	for key, f := range r.flows { // it was a stranger until now
		if key.id == id {
			r.slots.promote(f.c)
		}
	}
}

// removePeer forgets a member and closes its connections.
func (r *registry) removePeer(id uint64) {
	r.mu.Lock()
	p := r.peers[id]
	delete(r.peers, id)
	var doomed []*conn
	for c := range r.conns {
		if id != 0 && c.entry.peer == id {
			c.entry.removed = true
			doomed = append(doomed, c)
		}
	}
	r.mu.Unlock()
	if p != nil {
		p.remove()
	}
	for _, c := range doomed {
		c.close()
	}
}

// close removes all peers and closes all connections. Call it when the lifetime has ended.
func (r *registry) close() {
	r.mu.Lock()
	doomed := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		doomed = append(doomed, c)
	}
	peers := r.peers
	r.peers = nil
	r.mu.Unlock()
	for _, p := range peers {
		p.remove()
	}
	for _, c := range doomed {
		c.close()
	}
}

func (r *registry) peer(id uint64) *peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.peers[id]
}

// wayTo is how messages reach a member: as a peer, or as a guest; nil: not.
func (r *registry) wayTo(id uint64) (*peer, *guest) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if f := r.flows[flowKey{id, 0}]; f != nil {
		return r.peers[id], f.guest
	}
	return r.peers[id], nil
}

// hurry ends the wait before dialing a peer that is evidently alive.
func (r *registry) hurry(id uint64) {
	if p := r.peer(id); p != nil {
		signal(p.route.hurry)
	}
}

// connectOthers makes the connections to all peers but one, where there are none. If
// that one led, the others have an election before them, and may never have had
// anything to say to each other before.
func (r *registry) connectOthers(id uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for other, p := range r.peers {
		if other != id {
			p.want()
		}
	}
}

// track makes the connection one that Close closes.
func (r *registry) track(c *conn) error {
	r.mu.Lock()
	if r.life.closed() {
		r.mu.Unlock()
		return transport.ErrClosed
	}
	r.conns[c] = struct{}{}
	var oldest *conn
	if c.inbound {
		oldest = r.slots.shake(c, r.fromPeer(c.raw.RemoteAddr()))
	}
	r.mu.Unlock()
	oldest.giveWay("many connections do not shake hands: closing the oldest")
	return nil
}

// name notes who says that it made an incoming connection. After it removePeer finds the
// connection.
func (r *registry) name(c *conn, peer transport.Hello) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.entry.peer, c.entry.host = peer.Node, peer.Host
}

// settle gives a connection that has shaken hands its place: as one of a peer, or of a
// stranger.
func (r *registry) settle(c *conn, id uint64) error {
	r.mu.Lock()
	if _, open := r.conns[c]; !open {
		r.mu.Unlock()
		return net.ErrClosed
	}
	oldest, err := r.slots.settle(c, r.peers[id] != nil)
	r.mu.Unlock()
	oldest.giveWay("many strangers are connected: closing the oldest")
	return err
}

// forget lets go of a connection that is closed.
func (r *registry) forget(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	r.slots.leave(c)
}

// fromPeer says whether an address is one of a peer's machine, as far as is known: a hint
// only. Call it with mu held.
func (r *registry) fromPeer(remote net.Addr) bool {
	ip, ok := ipOf(remote)
	if !ok {
		return false
	}
	for _, p := range r.peers {
		if p.route.isAt(ip) {
			return true
		}
	}
	return false
}

// replaceFlow makes c the message connection of a peer. An older one is closed,
// and c will wait for its reader: so one peer's messages stay in order.
func (r *registry) replaceFlow(key flowKey, c *conn) {
	r.mu.Lock()
	older, p := r.flows[key], r.peers[key.id]
	c.flow = &flow{c: c, key: key, older: older, done: make(chan struct{})}
	r.flows[key] = c.flow
	if p == nil {
		c.flow.guest = newGuest()
	}
	if p != nil && older != nil && older.c.entry.host.ID != c.entry.host.ID {
		p.before.Store(older.c.entry.host.ID)
	}
	r.mu.Unlock()
	if older != nil {
		older.c.close()
	}
}

// endFlow forgets a flow that has ended. It says whether the peer is to be called down for it.
func (r *registry) endFlow(f *flow) (down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flows[f.key] == f {
		delete(r.flows, f.key)
	}
	// A lane above 0 is closed when it is idle; the session is over when lane 0 is.
	return !f.c.entry.removed && !r.life.closed() && f.key.lane == 0
}

// flowing says whether a peer has a connection for its messages to this member, or
// what came on one is still being handed over: then it lives, or has not died yet.
func (r *registry) flowing(id uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for lane := range uint32(lanesEnd) {
		if r.flows[flowKey{id, lane}] != nil {
			return true
		}
	}
	return false
}

// copied refuses a process that speaks for a peer while another process does: a copy of the
// peer's disk runs. One that restarted is another process, too, and takes over the connection
// of the one before. So a process is refused
//
//   - if it comes from elsewhere, while the peer is connected from where its record has it,
//     or the other way round while the one at the record doubts its own log;
//   - if another one took over from it and is still connected, as then both are alive: unless
//     it is the one that answers where this side calls the peer.
func (r *registry) copied(peer transport.Hello) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p, there := r.peers[peer.Node], r.flows[flowKey{peer.Node, 0}]
	if p == nil || there == nil || there.c.entry.host.ID == peer.Host.ID {
		return nil
	}
	said, connected := peer.Host.Address, there.c.entry.host.Address
	switch record, doubted := p.route.recorded(); {
	case said != "" && !doubted && said != record && connected == record:
		return fmt.Errorf("member %x is connected from %s, where it is recorded, and comes from %s as well: a copy of its disk must not run; stop one of the two",
			peer.Node, record, said)
	case said != "" && doubted && said == record && connected != record:
		return fmt.Errorf("member %x is connected from %s, and the one at %s, where it is recorded, may have forgotten something: a copy of its disk must not run; stop one of the two",
			peer.Node, connected, record)
	}
	if p.tookOver(peer.Host.ID) {
		return fmt.Errorf("member %x runs twice: a process that took over from this one is connected from %s, which both say that they are at: a copy of its disk must not run; stop one of the two",
			peer.Node, there.c.address)
	}
	return nil
}
