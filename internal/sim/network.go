package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/stepped"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// network connects the members of a world, in the world's time. It is the one model of what
// befalls messages: tests on a real clock have TCP over the loopback interface.
type network struct {
	w    *world
	ends map[string]*endpoint
	// cuts are the directions in which nothing arrives.
	cuts map[direction]bool
	// walls are the directions in which connections are refused, though somebody
	// listens: firewalls.
	walls map[direction]bool
	// clogs hold everything back until a moment.
	clogs map[direction]time.Duration
	// losses are how many messages of a hundred are lost on the way, beside lose.
	losses map[direction]int
	// lossy are the directions in which packets are lost, so that streams stand still.
	lossy map[direction]*lossy
	// fast and slow bound how long a message takes; the rest is what befalls it,
	// one in so many (0: never).
	fast, slow                   time.Duration
	lose, double, late, breaking int
	// lateMax is by how much a late one comes later.
	lateMax time.Duration
	// script, if set, sees the messages of raft.
	script interface {
		// sent is called as one leaves.
		sent(from *member, m *raftpb.Message)
		// holds is called as one is to arrive, which it does with arrive, unless holds
		// returns true.
		holds(from, to *member, m *raftpb.Message, arrive func()) bool
	}
}

type direction struct{ from, to string }

func newNetwork(w *world) *network {
	n := &network{w: w, ends: map[string]*endpoint{}, cuts: map[direction]bool{}, walls: map[direction]bool{}, losses: map[direction]int{}, clogs: map[direction]time.Duration{}, lossy: map[direction]*lossy{}}
	n.calm()
	return n
}

// calm takes all faults away, but not the cuts.
func (n *network) calm() {
	n.fast, n.slow = 50*time.Microsecond, 500*time.Microsecond
	n.lose, n.double, n.late, n.breaking = 0, 0, 0, 0
	clear(n.clogs)
	clear(n.losses)
	clear(n.lossy)
}

// troubled says whether anything befalls messages.
func (n *network) troubled() bool {
	return len(n.cuts)+len(n.walls)+len(n.clogs)+len(n.losses)+len(n.lossy)+n.lose+n.double+n.late+n.breaking > 0
}

// heal mends every cut, and takes the firewalls away.
func (n *network) heal() {
	clear(n.cuts)
	clear(n.walls)
}

// wall breaks the connections between two addresses, and refuses new ones from one
// to the other.
func (n *network) wall(from, to string) {
	n.walls[direction{from, to}] = true
	for _, d := range []direction{{from, to}, {to, from}} {
		e, other := n.ends[d.from], n.ends[d.to]
		if e == nil || other == nil {
			continue
		}
		if l := e.links[route{other.m.id, d.to}]; l != nil && l.to != nil && l.to.alive() {
			e.lose(l)
		}
	}
}

func (n *network) cut(from, to string) { n.cuts[direction{from, to}] = true }

// apart cuts both directions.
func (n *network) apart(a, b string) {
	n.cut(a, b)
	n.cut(b, a)
}

// travel is how long a message takes from one address to another.
func (n *network) travel(from, to string) time.Duration {
	t := n.w.between(n.fast, n.slow)
	if n.late > 0 && n.w.oneIn(n.late) {
		t += n.w.between(0, n.lateMax)
	}
	d := direction{from, to}
	return t + max(0, n.clogs[d]-n.w.now-t, n.arrives(d)-n.w.now)
}

// reachable returns who listens at an address, if a conversation is possible.
func (n *network) reachable(from, to string) (*endpoint, error) {
	e := n.ends[to]
	switch {
	case n.cuts[direction{from, to}] || n.cuts[direction{to, from}]:
		return nil, fmt.Errorf("%s is cut off from %s", to, from)
	case n.walls[direction{from, to}]:
		return nil, fmt.Errorf("%s refuses connections from %s", to, from)
	case e == nil || e.handler == nil:
		return nil, fmt.Errorf("nobody listens at %s", to)
	case e.m.paused:
		return nil, fmt.Errorf("%s does not answer", to)
	}
	return e, nil
}

// refuses says whether an attempt to connect is refused: nobody listens, and the
// machine is up and can be reached, or a firewall says so. All else is silence.
func (n *network) refuses(from, to string) bool {
	if n.cuts[direction{from, to}] || n.cuts[direction{to, from}] {
		return false
	}
	if n.walls[direction{from, to}] {
		return true
	}
	dark := slices.ContainsFunc(n.w.members, func(m *member) bool { return m.address == to && m.dark })
	return n.ends[to] == nil && !dark
}

// endpoint is the transport of one life of a member.
type endpoint struct {
	net     *network
	m       *member
	life    int
	handler transport.Handler
	peers   map[uint64]string
	// said is where peers said that they are, when they called.
	said map[uint64]string
	// removed are those that RemovePeer named last.
	removed map[uint64]bool
	links   map[route]*link
}

// route is whom a link is for, and where.
type route struct {
	id      uint64
	address string
}

// link is the way from an endpoint to an address.
type link struct {
	// to is who is connected; nil: nobody.
	to         *endpoint
	connecting bool
	waiting    []parcel
}

type parcel struct {
	kind    transport.Kind
	message transport.Message
	// sum is that of its bytes as it was sent. It is encoded when it arrives, for a
	// transport may do that at any time: nothing in it may change.
	sum uint64
	// raft is the message if it is one of raft; gist is for the trace.
	raft *octopiipb.PeerMessage
	gist string
}

var (
	_ transport.Transport = (*endpoint)(nil)
	_ stepped.Asker       = (*endpoint)(nil)
)

func newEndpoint(m *member) *endpoint {
	return &endpoint{net: m.w.net, m: m, life: m.life, peers: map[uint64]string{}, said: map[uint64]string{}, removed: map[uint64]bool{}, links: map[route]*link{}}
}

func (e *endpoint) Address() string { return e.m.address }

func (e *endpoint) Start(h transport.Handler) error {
	e.handler = h
	e.net.ends[e.m.address] = e
	return nil
}

// alive says whether the process still runs in which the endpoint is.
func (e *endpoint) alive() bool { return e.m.node != nil && e.m.life == e.life && !e.m.disk.dead }

func (e *endpoint) SetPeer(id uint64, address string) {
	e.peers[id] = address
	delete(e.removed, id)
}

// Hint implements transport.Hinted.
func (e *endpoint) Hint(id uint64, address string) { e.said[id] = address }

// Doubt implements transport.Hinted. One ID is never in two places here.
func (e *endpoint) Doubt(uint64) {}

// RemovePeer ends the connection that the peer made, too: there is no way back over it.
func (e *endpoint) RemovePeer(id uint64) {
	delete(e.peers, id)
	e.removed[id] = true
}

func (e *endpoint) link(to uint64, address string) *link {
	l := e.links[route{to, address}]
	if l == nil {
		l = &link{}
		e.links[route{to, address}] = l
	}
	return l
}

// where is where a peer is looked for: where it was set, or where it said that it is if
// somebody else, or nobody, is there. (transport/tcp tries the two in turn.)
func (e *endpoint) where(id uint64) (string, bool) {
	address, ok := e.peers[id]
	said := e.said[id]
	if at := e.net.ends[address]; ok && said != "" && (at == nil || at.m.id != id) {
		return said, true
	}
	if !ok && !e.removed[id] && e.calledBy(id, said) {
		return said, true
	}
	return address, ok
}

// calledBy says whether somebody at an address has a connection to this member: what is sent
// to one that is no peer goes over it.
func (e *endpoint) calledBy(id uint64, address string) bool {
	other := e.net.ends[address]
	if other == nil || other.m.id != id {
		return false
	}
	l := other.links[route{e.m.id, e.m.address}]
	return l != nil && l.to == e
}

// linkWaitingMax bounds what waits for a connection.
const linkWaitingMax = 256

func (e *endpoint) Send(to uint64, kind transport.Kind, m transport.Message) bool {
	if !e.alive() {
		return false
	}
	gist := ""
	rm, isRaft := m.(*octopiipb.PeerMessage)
	if isRaft {
		e.net.w.check.sent(e.m, &rm.Message)
	}
	address, ok := e.where(to)
	if !ok {
		return false
	}
	if isRaft {
		if e.net.script != nil {
			e.net.script.sent(e.m, &rm.Message)
		}
		if e.net.w.trace != nil {
			gist = gistOf(rm)
		}
	}
	p := parcel{kind, m, bytesHash(encoded(m)), rm, gist}
	l := e.link(to, address)
	if l.to != nil && l.to.alive() {
		e.deliver(l, address, p)
		return true
	}
	if len(l.waiting) >= linkWaitingMax {
		return false
	}
	l.waiting = append(l.waiting, p)
	if !l.connecting {
		l.connecting = true
		// Whoever dials does not wait for a packet that was lost as a stream does: it dials anew.
		e.m.after(min(e.net.travel(e.m.address, address), dialAnew), "connect", func() { e.connect(l, to, address) })
	}
	return true
}

// dialAnew is how long an attempt to connect takes at most.
const dialAnew = time.Second

// encoded is a message on the wire.
func encoded(m transport.Message) []byte {
	payload := make([]byte, m.Size())
	if _, err := m.MarshalTo(payload); err != nil {
		panic(fmt.Sprintf("sim: a message that cannot be encoded: %v", err))
	}
	return payload
}

// gistOf is what the trace shows of a message.
func gistOf(m *octopiipb.PeerMessage) string {
	if m == nil {
		return "not one of raft"
	}
	return fmt.Sprintf("%s %x->%x term=%d logterm=%d index=%d commit=%d entries=%d reject=%v hint=%d note={%v}",
		m.Type, m.From, m.To, m.Term, m.LogTerm, m.Index, m.Commit, len(m.Entries), m.Reject, m.RejectHint, &m.Note)
}

// connect shakes hands, and sends what waited.
func (e *endpoint) connect(l *link, id uint64, address string) {
	l.connecting = false
	waiting := l.waiting
	l.waiting = nil
	to, err := e.meet(address, id, false)
	if err != nil {
		return // and what waited is lost
	}
	if l.to != nil { // its machine lost its power, and is up again: now it tells
		e.handler.PeerDown(l.to.m.id)
	}
	l.to = to
	for _, p := range waiting {
		if l.to == nil {
			return // it broke already
		}
		e.deliver(l, address, p)
	}
}

// hello is what the process says of itself to a peer, 0 if that is not known.
func (e *endpoint) hello(peer uint64) transport.Hello {
	h := e.handler.Hello(peer)
	h.Host.ID = bytesHash(fmt.Appendf(nil, "%x, life %d", e.m.id, e.life))
	return h
}

// meet is the handshake with whoever must be at an address, 0 for whoever is: each side
// judges the other. unnamed: see transport.Unnamed.
func (e *endpoint) meet(address string, id uint64, unnamed bool) (*endpoint, error) {
	to, err := e.net.reachable(e.m.address, address)
	if err != nil {
		return nil, err
	}
	mine := e.hello(to.m.id)
	if unnamed {
		mine = mine.Unnamed()
	}
	theirs := to.hello(e.m.id).For(mine)
	mine.Call, theirs.Call = id == 0, id == 0
	theirs.Dialed = address
	if id != 0 {
		if to.m.id != id {
			mine.To = id
			to.m.sought(e.m)
			err := to.handler.(transport.Seeker).Sought(mine)
			to.m.settle()
			if err == nil {
				err = fmt.Errorf("%s answered where %x was expected", to.m.name(), id)
			}
			e.handler.Refused(theirs.Refusing(mine), transport.RefusalFor(err))
			return nil, err
		}
		theirs.At = address
	}
	err = to.handler.Accept(mine)
	to.m.settle()
	if err != nil {
		why := transport.RefusalFor(err)
		e.handler.Refused(theirs.Refusing(mine), why)
		return nil, &transport.RemoteError{Address: address, Code: why.Code, Reason: why.Reason}
	}
	if err := e.handler.Accept(theirs); err != nil {
		to.handler.Refused(mine, transport.RefusalFor(err))
		to.m.settle()
		return nil, err
	}
	to.said[e.m.id] = mine.Host.Address
	e.net.w.check.met(e.m, to.m)
	e.net.w.check.met(to.m, e.m)
	return to, nil
}

// deliver has a message arrive, unless something befalls it.
func (e *endpoint) deliver(l *link, address string, p parcel) {
	n := e.net
	if n.breaking > 0 && n.w.oneIn(n.breaking) {
		e.lose(l)
		return
	}
	times := 1
	if n.double > 0 && n.w.oneIn(n.double) {
		times = 2
	}
	if n.lose > 0 && n.w.oneIn(n.lose) {
		times = 0
	}
	if percent := n.losses[direction{e.m.address, address}]; percent > 0 && n.w.rnd.IntN(100) < percent {
		times = 0
	}
	from, to := e.m.id, l.to
	for range times {
		what := "message"
		if n.w.trace != nil {
			what = "message " + p.gist
		}
		arrived := func(at *endpoint) {
			if n.cuts[direction{e.m.address, address}] || !at.alive() {
				return
			}
			payload := encoded(p.message)
			if bytesHash(payload) != p.sum {
				n.w.fail("what was sent stays as it is", "a message from %s to %s changed after it was sent and before it was encoded: %s", e.m.name(), at.m.name(), gistOf(p.raft))
			}
			n.w.mix(p.sum)
			n.w.tell(at.m, "  gets %s", what)
			if p.raft != nil {
				n.w.check.heard(at.m, &p.raft.Message)
			}
			at.handler.HandleMessages(from, []transport.Inbound{{Kind: p.kind, Payload: payload}})
		}
		arrive := func(to *endpoint) {
			travel := n.travel(e.m.address, address)
			if n.late == 0 || travel < n.slow {
				to.m.after(travel, "message", func() { arrived(to) })
				return
			}
			// It may find the process that came after the one it was meant for.
			n.w.at(travel, "late message", func() {
				if at := n.ends[address]; at != nil && !at.m.view.forgets {
					at.m.after(0, "message", func() { arrived(at) })
				}
			})
		}
		late := func() {
			// Whoever listens by then gets it, as from a network without connections.
			if to := n.ends[address]; to != nil && to.handler != nil {
				arrive(to)
			}
		}
		if n.script == nil || p.raft == nil || !n.script.holds(e.m, to.m, &p.raft.Message, late) {
			arrive(to)
		}
	}
}

// lose breaks a connection: what is under way on it arrives or not, and both
// sides are told.
func (e *endpoint) lose(l *link) {
	to := l.to
	l.to = nil
	tell := func(who, about *endpoint) {
		id := about.m.id
		who.m.after(who.net.travel(about.m.address, who.m.address), "peer down", func() { who.handler.PeerDown(id) })
	}
	tell(e, to)
	if to.alive() {
		tell(to, e)
	}
	e.redial(l, to)
}

// redial looks at once for a peer whose connection broke, as transport/tcp does: an
// address that refuses tells that the process there is dead. What it had sent has
// arrived by then, but for what is late.
func (e *endpoint) redial(l *link, lost *endpoint) {
	address, id := lost.m.address, lost.m.id
	e.m.after(e.net.slow+e.net.travel(e.m.address, address), "redial", func() {
		switch {
		case e.peers[id] == "" || l.to != nil:
		case e.net.refuses(e.m.address, address):
			e.net.w.tell(e.m, "  is refused by %s: nobody listens there", lost.m.name())
			e.net.w.check.gone(e.m, id)
			e.handler.PeerGone(id)
		case !l.connecting:
			e.connect(l, id, address)
		}
	})
}

// close ends the process's part in the network. Those that are connected to it
// notice, if the network lets them, and if its machine is still there to tell.
func (e *endpoint) close() {
	n := e.net
	if n.ends[e.m.address] == e {
		delete(n.ends, e.m.address)
	}
	if e.m.dark {
		return
	}
	for _, m := range n.w.members {
		other := m.end
		if other == nil || other == e || m.node == nil {
			continue
		}
		if l := other.links[route{e.m.id, e.m.address}]; l != nil && l.to == e {
			l.to = nil
			if !n.cuts[direction{e.m.address, m.address}] {
				id := e.m.id
				m.after(n.travel(e.m.address, m.address), "peer down", func() { other.handler.PeerDown(id) })
				other.redial(l, e)
			}
		}
	}
}

// SendSnapshot streams a snapshot, while everything else goes on. In a script it does
// so at once.
func (e *endpoint) SendSnapshot(_ context.Context, to uint64, header transport.Message, body io.WriterTo) error {
	address, ok := e.where(to)
	if !ok {
		return transport.ErrUnknownPeer
	}
	peer, err := e.meet(address, to, false)
	if err != nil {
		return err
	}
	head := make([]byte, header.Size())
	if _, err := header.MarshalTo(head); err != nil {
		return err
	}
	var data bytes.Buffer
	if _, err := body.WriteTo(&data); err != nil {
		return err
	}
	w := e.net.w
	var r io.Reader = &data
	if e.net.lose > 0 && w.oneIn(e.net.lose) {
		r = io.MultiReader(io.LimitReader(&data, int64(w.rnd.IntN(data.Len()+1))), broken{})
	}
	if s := w.stream(e, peer, head, data.Len()); s != nil {
		s.from, r = r, s
		defer s.end()
	}
	arrive := func() error {
		w.mixBytes(head)
		w.tell(peer.m, "  gets a snapshot from %s", e.m.name())
		err := peer.handler.HandleSnapshot(e.m.id, head, r)
		peer.m.settle()
		return err
	}
	if s := e.net.script; s != nil {
		all := bytes.Clone(data.Bytes())
		later := func() {
			if peer.alive() {
				r = bytes.NewReader(all)
				_ = arrive()
			}
		}
		if s.holds(e.m, peer.m, &raftpb.Message{Type: raftpb.MsgSnap, From: e.m.id, To: peer.m.id}, later) {
			return broken{}
		}
	}
	if err := arrive(); err != nil {
		return &transport.RemoteError{Address: address, Reason: err.Error()}
	}
	return nil
}

// broken is the end of a stream that did not end.
type broken struct{}

func (b broken) Read([]byte) (int, error) { return 0, b }
func (broken) Error() string              { return "the connection broke" }

// askTimeout is how long somebody waits for an answer.
const askTimeout = 5 * time.Second

// Ask implements stepped.Asker.
func (e *endpoint) Ask(address string, kind transport.Kind, m transport.Message, done func([]byte, error)) {
	answered := false
	answer := func(payload []byte, err error) {
		if !answered && e.alive() {
			answered = true
			done(payload, err)
		}
	}
	payload := make([]byte, m.Size())
	if _, err := m.MarshalTo(payload); err != nil {
		panic(fmt.Sprintf("sim: a call that cannot be encoded: %v", err))
	}
	e.m.after(askTimeout, "call times out", func() { answer(nil, context.DeadlineExceeded) })
	e.m.after(e.net.travel(e.m.address, address), "call", func() {
		_, unnamed := m.(transport.Unnamed)
		to, err := e.meet(address, 0, unnamed)
		if err != nil {
			answer(nil, err)
			return
		}
		hello := e.hello(0)
		if unnamed {
			hello = hello.Unnamed()
		}
		to.m.after(e.net.travel(e.m.address, address), "called", func() {
			to.handler.(stepped.Answerer).Answer(hello, transport.Inbound{Kind: kind, Payload: payload}, func(m transport.Message, err error) {
				if e.net.cuts[direction{address, e.m.address}] || !e.alive() {
					return
				}
				var reply []byte
				if err != nil {
					err = &transport.RemoteError{Address: address, Reason: err.Error()}
				} else if m != nil {
					reply = make([]byte, m.Size())
					_, err = m.MarshalTo(reply)
				}
				e.m.after(e.net.travel(address, e.m.address), "answer", func() { answer(reply, err) })
			})
		})
	})
}

// Call waits for its answer, which nothing in a simulation may do: see Ask.
func (e *endpoint) Call(context.Context, string, transport.Kind, transport.Message) ([]byte, error) {
	panic("sim: Call in a simulation: use Ask")
}

func (e *endpoint) Probe(_ context.Context, address string) (transport.Hello, error) {
	to, err := e.net.reachable(e.m.address, address)
	if err != nil {
		return transport.Hello{}, err
	}
	hello := to.hello(e.m.id).For(e.hello(0))
	hello.Remembers = transport.Memory{}
	return hello, nil
}

func (e *endpoint) Close() error { return nil }
