package tcp

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// RedialMax is the longest wait between two attempts to reach a peer.
const RedialMax = backoffMax

const (
	backoffMin = 20 * time.Millisecond
	backoffMax = time.Second
	// A peer whose connection broke is dialed again at once, whether or not anything
	// waits for it: so a dead process is known by its address that refuses. It takes
	// a few attempts, with pauses that double from redialPauseMin (30 ms at most in all), as
	// a process that dies may close what it listens on behind its connections. After
	// briefMax connections in a row that lasted less than briefTime the next one waits
	// until there is something to send, as any other.
	redialsMax     = 5
	redialPauseMin = 2 * time.Millisecond
	briefTime      = time.Second
	briefMax       = 3
)

// peer is a member that messages are sent to: a queue, and the goroutine run
// that dials when there is something to send and writes everything queued in
// one frame.
type peer struct {
	t      *Transport
	id     uint64
	ctx    context.Context // ends when the peer is removed or the Transport closed
	remove context.CancelFunc

	queue sendQueue
	route route
	// answers is the process that answered when this side called last, and before the one from
	// which another took over last: 0 until there is one.
	answers, before atomic.Uint64
	// wake says that something was queued while there is no connection, or that one is wanted.
	wake chan struct{}
	// lanes are the connections of the session, nil between two.
	lanes atomic.Pointer[laneSet]
	// backoff is owned by run.
	backoff backoff
}

func newPeer(t *Transport, id uint64, address string) *peer {
	ctx, cancel := context.WithCancel(t.life.ctx)
	return &peer{
		t: t, id: id, ctx: ctx, remove: cancel, wake: make(chan struct{}, 1), route: newRoute(address),
		queue: sendQueue{config: &t.config, dropped: &t.counters.dropped, ctx: ctx},
	}
}

func (p *peer) enqueue(kind transport.Kind, m transport.Message) bool {
	if !p.queue.add(kind, m) {
		return false
	}
	// In this order: lanes that are set after it look into the queue first.
	if lanes := p.lanes.Load(); lanes != nil {
		lanes.queued()
	} else {
		signal(p.wake)
	}
	return true
}

// signal sets a wake-up that may be set already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// run is the sender. It begins with Start, and ends when the peer is removed.
func (p *peer) run() {
	select {
	case <-p.t.life.started:
	case <-p.ctx.Done():
	}
	for p.backoff.redials > 0 || p.waitQueued() {
		if !p.session() {
			p.pause()
		}
	}
	p.queue.dropAll()
}

// want has a connection made, if there is none.
func (p *peer) want() {
	p.route.want()
	signal(p.wake)
}

// tookOver says whether another process took over from this one, which is not the one that
// answers where the peer is called.
func (p *peer) tookOver(from uint64) bool {
	return p.before.Load() == from && p.answers.Load() != from
}

// waitQueued waits for a reason to connect. It returns false when the peer is removed.
func (p *peer) waitQueued() bool {
	for p.ctx.Err() == nil {
		if p.queue.waits() || p.route.isWanted() {
			return true
		}
		select {
		case <-p.wake:
		case <-p.ctx.Done():
		}
	}
	return false
}

// session makes one connection and uses it until it breaks. It returns true
// when the next one need not wait, because the peer was moved or is to be looked
// for at once.
func (p *peer) session() (atOnce bool) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	// While it redials, it is to be known what became of who was there.
	address, record := p.route.attempt(cancel, p.backoff.redials > 0)
	c, there, err := p.t.open(ctx, address, greeting{purpose: purposeMessages, to: p.id})
	if err != nil {
		if p.recordedAt() != record {
			p.backoff.redials = 0
			return true
		}
		p.cannotConnect(address, err)
		return false
	}
	p.route.metAt(c.raw.RemoteAddr())
	p.answers.Store(there.Host.ID)
	p.backoff.connected()
	p.t.log.Info("connected", zap.String("peer", hexID(p.id)), zap.String("address", address))
	began := time.Now()
	p.route.setUp(true)
	p.serve(ctx, c)
	p.route.setUp(false)
	p.queue.dropAll()
	if p.route.wasMistaken() { // it is not to be known what becomes of who was there
		return true
	}
	now := p.recordedAt()
	return now != record && now != address || p.ctx.Err() == nil && p.backoff.broke(time.Since(began))
}

func (p *peer) recordedAt() string {
	address, _ := p.route.recorded()
	return address
}

// redialFailed learns from an attempt to find out why the connection broke.
func (p *peer) redialFailed(err error) {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case p.ctx.Err() != nil || !refused && !cutOff(err):
		p.backoff.redials = 0 // silence, or an answer: either way it is not known to be dead
	case refused && !p.t.registry.flowing(p.id):
		p.backoff.redials, p.backoff.brief = 0, 0
		p.t.log.Info("nobody listens there any more", zap.String("peer", hexID(p.id)), zap.String("address", p.recordedAt()))
		p.t.handler.PeerGone(p.id)
		p.t.registry.connectOthers(p.id)
	default:
		p.backoff.redials-- // it may be in the middle of dying
	}
}

// cutOff says whether a handshake ended as it does when the process at the other
// end dies.
func cutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// cannotConnect drops what is queued: raft sends anew what matters, and nothing
// grows old here.
func (p *peer) cannotConnect(address string, err error) {
	level := zap.DebugLevel
	if p.backoff.failures == 0 && p.ctx.Err() == nil {
		level = zap.WarnLevel
	}
	p.t.log.Log(level, "cannot connect", zap.String("peer", hexID(p.id)), zap.String("address", address), zap.Error(err))
	if p.backoff.redials > 0 {
		p.redialFailed(err)
	}
	if p.backoff.redials == 0 {
		p.backoff.failures++
		p.route.failed()
	}
	p.queue.dropAll()
}

// pause waits before the next attempt.
func (p *peer) pause() {
	d := p.backoff.pause()
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.route.hurry:
	case <-p.ctx.Done():
	}
}

// serve writes what is queued until the connection breaks or ctx ends. What is queued
// then is dropped, as it may be old when there is another connection.
func (p *peer) serve(ctx context.Context, c *conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended error // why the reader ended; read after broken is closed
	broken := make(chan struct{})
	p.t.life.wg.Go(func() {
		defer close(broken)
		ended = c.readAnswers(p.id)
	})
	lanes := newLaneSet(p)
	lanes.set(0, c)
	p.lanes.Store(lanes)
	kept := make(chan struct{})
	p.t.life.wg.Go(func() {
		defer close(kept)
		lanes.keep(ctx)
	})
	w := &laneWriter{p: p, lanes: lanes, conn: c}
	err := w.run(ctx, broken)
	p.lanes.Store(nil)
	cancel()
	c.close()
	<-broken
	<-kept
	p.t.log.Info("connection lost", zap.String("peer", hexID(p.id)), zap.String("address", c.address), zap.Error(cmp.Or(err, ended)))
	if p.ctx.Err() == nil {
		p.t.handler.PeerDown(p.id)
	}
}

// backoff decides when a peer is dialed again.
type backoff struct {
	failures int // attempts to connect since the last one that succeeded
	// redials is how many attempts are left to learn why the connection broke; brief
	// counts the connections in a row that lasted less than briefTime, and broke though
	// the process at the other end lived.
	redials, brief int
}

func (b *backoff) connected() { b.failures, b.redials = 0, 0 }

// broke begins the attempts to learn why a connection broke that had lasted so long. It returns
// false if there are none.
func (b *backoff) broke(lasted time.Duration) bool {
	if b.brief++; lasted >= briefTime {
		b.brief = 0
	}
	if b.brief > briefMax {
		return false
	}
	b.redials = redialsMax
	return true
}

// pause is how long to wait before the next attempt, longer after each that failed.
func (b *backoff) pause() time.Duration {
	if b.redials > 0 {
		return redialPauseMin << (redialsMax - b.redials - 1)
	}
	return min(backoffMin<<min(b.failures, 10), backoffMax)
}

// hexID writes an ID as all logs and tools do.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }
