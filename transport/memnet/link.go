package memnet

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/octopii/octopii/transport"
)

// The bounds of what waits for one peer, as in transport/tcp.
const (
	queueBytesMax    = 64 << 20
	queueMessagesMax = 1 << 16
	backMax          = 64
)

// link carries the messages of one endpoint to one member. Its goroutine run
// shakes hands when there is something to send, and calls the other Handler.
type link struct {
	e      *endpoint
	id     uint64
	ctx    context.Context // ends when the peer is removed or e is closed
	remove context.CancelFunc
	wake   chan struct{} // something was queued
	broken chan struct{} // the connection, if there is one, must end
	// back is what comes from a target that does not know this side's member: see answer.
	back chan transport.Inbound

	mu      sync.Mutex
	address string
	queue   []transport.Inbound
	bytes   int64

	// Owned by run.
	chance *rand.Rand
	target *endpoint // nil while not connected
	node   uint64    // who this side said it was
	// held are the delayed messages, the one that is due first in front.
	held []held
}

type held struct {
	due time.Time
	in  transport.Inbound
}

func newLink(e *endpoint, id uint64, address string) *link {
	ctx, remove := context.WithCancel(e.life)
	return &link{
		e: e, id: id, ctx: ctx, remove: remove, address: address,
		wake: make(chan struct{}, 1), broken: make(chan struct{}, 1), back: make(chan transport.Inbound, backMax),
		chance: e.net.source(e.address, id),
	}
}

// signal sets a wake-up that may be set already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (l *link) where() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.address
}

func (l *link) move(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.address != address {
		l.address = address
		signal(l.broken)
	}
}

// enqueue encodes at once: what the sender does to m later changes nothing.
func (l *link) enqueue(kind transport.Kind, m transport.Message) bool {
	size := m.Size()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= queueMessagesMax || l.bytes+int64(size) > queueBytesMax || l.ctx.Err() != nil {
		return false
	}
	payload, err := encodeSized(m, size)
	if err != nil {
		return false
	}
	l.queue = append(l.queue, transport.Inbound{Kind: kind, Payload: payload})
	l.bytes += int64(size)
	signal(l.wake)
	return true
}

func (l *link) take() []transport.Inbound {
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := l.queue
	l.queue, l.bytes = nil, 0
	return taken
}

// run ends when the peer is removed or the endpoint closed.
func (l *link) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var targetClosed <-chan struct{}
		if l.target != nil {
			targetClosed = l.target.life.Done()
		}
		if len(l.held) > 0 {
			timer.Reset(time.Until(l.held[0].due))
		}
		select {
		case <-l.wake:
			l.deliver(l.suffer(l.take()))
		case <-timer.C:
			l.deliver(l.ripe())
		case in := <-l.back:
			l.receive(in)
		case <-l.broken:
			l.disconnect()
		case <-targetClosed:
			l.disconnect()
		case <-l.ctx.Done():
			l.disconnect()
			return
		}
	}
}

// suffer applies the faults of the link and returns what is left to deliver
// now. It draws the same number of times for every message, so that one fault's
// probability does not shift the others.
func (l *link) suffer(queue []transport.Inbound) []transport.Inbound {
	f := l.e.net.faultsOf(l.e.address, l.where())
	delayMax := f.DelayMax
	if delayMax <= 0 {
		delayMax = 10 * time.Millisecond
	}
	var now []transport.Inbound
	for _, in := range queue {
		drop, twice := l.chance.Float64() < f.Drop, l.chance.Float64() < f.Duplicate
		late, wait := l.chance.Float64() < f.Delay, time.Duration(l.chance.Float64()*float64(delayMax))
		if drop {
			continue
		}
		if late {
			l.hold(in, wait)
		} else {
			now = append(now, in)
		}
		if twice {
			now = append(now, transport.Inbound{Kind: in.Kind, Payload: slices.Clone(in.Payload)})
		}
	}
	return now
}

func (l *link) hold(in transport.Inbound, wait time.Duration) {
	if len(l.held) >= queueMessagesMax {
		return // full: lost
	}
	h := held{due: time.Now().Add(wait), in: in}
	at, _ := slices.BinarySearchFunc(l.held, h, func(a, b held) int { return a.due.Compare(b.due) })
	l.held = slices.Insert(l.held, at, h)
}

// ripe takes the held messages whose time has come.
func (l *link) ripe() []transport.Inbound {
	var batch []transport.Inbound
	for now := time.Now(); len(l.held) > 0 && !l.held[0].due.After(now); l.held = l.held[1:] {
		batch = append(batch, l.held[0].in)
	}
	return batch
}

// deliver hands a batch to the other side, or loses it.
func (l *link) deliver(batch []transport.Inbound) {
	if len(batch) == 0 || !l.connect() || l.e.net.isCut(l.e.address, l.target.address) {
		return
	}
	target := l.target
	handler, err := target.enter()
	if err != nil {
		return // closed: run will hear of it
	}
	defer target.wg.Done()
	inbox := target.inbox(l.node)
	inbox.Lock()
	defer inbox.Unlock()
	if l.e.life.Err() == nil { // nothing comes behind PeerGone
		handler.HandleMessages(l.node, batch)
	}
}

// receive hands over what came back on the connection.
func (l *link) receive(in transport.Inbound) {
	if l.target == nil || l.e.net.isCut(l.target.address, l.e.address) {
		return
	}
	handler, err := l.e.enter()
	if err != nil {
		return
	}
	defer l.e.wg.Done()
	inbox := l.e.inbox(l.id)
	inbox.Lock()
	defer inbox.Unlock()
	handler.HandleMessages(l.id, []transport.Inbound{in})
}

// answer sends to a member that SetPeer did not name over the connection that it made.
func (e *endpoint) answer(to uint64, kind transport.Kind, m transport.Message) bool {
	payload, err := encode(m)
	if err != nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for l, from := range e.incoming {
		if from != to {
			continue
		}
		select {
		case l.back <- transport.Inbound{Kind: kind, Payload: payload}:
			return true
		default:
			return false
		}
	}
	return false
}

func (e *endpoint) inbox(from uint64) *sync.Mutex {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inboxes[from] == nil {
		e.inboxes[from] = new(sync.Mutex)
	}
	return e.inboxes[from]
}

// connect makes sure that there is a connection, to where the peer is now.
func (l *link) connect() bool {
	select {
	case <-l.broken:
		l.disconnect()
	default:
	}
	if l.target != nil && l.target.life.Err() != nil {
		l.disconnect()
	}
	if l.target != nil {
		return true
	}
	m, err := l.e.meet(l.where(), l.id, false, true)
	if err != nil {
		return false
	}
	defer m.release()
	l.target, l.node = m.target, m.mine.Node
	l.target.mu.Lock()
	l.target.incoming[l] = l.node
	l.target.mu.Unlock()
	return true
}

// disconnect tells both sides, except one that is closed or that forgot the
// other.
func (l *link) disconnect() {
	target := l.target
	if target == nil {
		return
	}
	l.target = nil
	target.mu.Lock()
	_, known := target.incoming[l]
	delete(target.incoming, l)
	target.mu.Unlock()
	if handler, err := target.enter(); err == nil {
		if known {
			handler.PeerDown(l.node)
		}
		target.wg.Done()
	}
	if l.ctx.Err() == nil {
		if handler, err := l.e.enter(); err == nil {
			handler.PeerDown(l.id)
			l.tellGone(handler, target.address)
			l.e.wg.Done()
		}
	}
}

// tellGone tells this side when nobody listens any more where it was connected to,
// unless the member was moved from there. Across a cut there is only silence.
func (l *link) tellGone(handler transport.Handler, address string) {
	if l.where() != address || !l.e.net.refuses(l.e.address, address) {
		return
	}
	// A batch of the peer's that is being handed over comes first.
	inbox := l.e.inbox(l.id)
	inbox.Lock()
	defer inbox.Unlock()
	handler.PeerGone(l.id)
}
