package tcp

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
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
	// What a sender keeps of its memory when it falls idle.
	keepFrameBytes = 1 << 20
	keepMessages   = 1 << 14
)

// peer is a member that messages are sent to: a queue, and the goroutine run
// that dials when there is something to send and writes everything queued in
// one frame.
type peer struct {
	t      *Transport
	id     uint64
	ctx    context.Context // ends when the peer is removed or the Transport closed
	remove context.CancelFunc
	wake   chan struct{} // something was queued
	hurry  chan struct{} // the peer was moved, or has just dialed us: do not wait with dialing

	mu sync.Mutex
	// address is where SetPeer says that the peer is, said where the peer itself, or a hint,
	// said so last, which is tried in turn with it where it is another one; at is where
	// the last attempt to connect went, and astray counts those that failed.
	address, said, at string
	astray            int
	// mistaken: who is connected is somebody else, as the peer said. doubted: who is at address
	// may have forgotten something, and who comes from elsewhere is preferred.
	mistaken, doubted bool
	// abort ends the attempt to connect, or the connection, that is under way.
	abort context.CancelFunc
	queue []outgoing
	// up: there is a connection. wanted: one is to be made, though nothing waits for it.
	up, wanted bool
	// messages and bytes are what was queued and is not yet written or dropped,
	// so they cover what the sender has taken from queue, too.
	messages int
	bytes    int64

	// answers is the process that answered when this side called last, and before the one from
	// which another took over last: 0 until there is one.
	answers, before uint64

	// lanes are the connections of the session, nil between two.
	lanes *laneSet
	// ips are where the peer has spoken from, the newest first.
	ips []netip.Addr
	// spare is memory for queue.
	spare []outgoing

	// Owned by run.
	failures int // attempts to connect since the last one that succeeded
	// redials is how many attempts are left to learn why the connection broke; brief
	// counts the connections in a row that lasted less than briefTime, and broke though
	// the process at the other end lived.
	redials, brief int
}

func newPeer(t *Transport, id uint64, address string) *peer {
	ctx, cancel := context.WithCancel(t.life)
	return &peer{
		t: t, id: id, ctx: ctx, remove: cancel, address: address, abort: func() {},
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
	}
}

func (p *peer) enqueue(kind transport.Kind, m transport.Message) bool {
	size := m.Size()
	p.mu.Lock()
	full := size+messageOverheadMax > p.t.config.FrameBytesMax ||
		p.messages >= p.t.config.QueueMessagesMax ||
		p.bytes+int64(size) > p.t.config.QueueBytesMax ||
		p.ctx.Err() != nil
	if !full {
		p.queue = append(p.queue, outgoing{kind, m, size})
		p.messages++
		p.bytes += int64(size)
	}
	lanes := p.lanes
	p.mu.Unlock()
	if full {
		p.t.counters.dropped.Add(1)
		return false
	}
	if lanes != nil {
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

func (p *peer) where() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// next is where to look for the peer. Call it with mu held.
func (p *peer) next() string {
	if p.said != "" && p.astray%2 == 1 {
		return p.said
	}
	return p.address
}

// found is where the peer is, or else where to look for it.
func (p *peer) found() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.up {
		return p.at
	}
	return p.next()
}

// recorded is where SetPeer says that the peer is, and whether who is there is doubted.
func (p *peer) recorded() (address string, doubted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address, p.doubted
}

// says takes notice of where a peer says that it is. Who is preferred, while this side is
// connected to another one, is connected instead.
func (p *peer) says(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if preferred := (address == p.address) != p.doubted; !preferred {
		if !p.doubted {
			p.lookAt(address)
		}
		return
	}
	p.lookAt(address)
	if p.up && p.at != address {
		p.mistaken, p.astray = true, 0
		if p.doubted {
			p.astray = 1
		}
		p.abort()
	}
}

// doubt prefers who comes from elsewhere than address from now on.
func (p *peer) doubt() {
	p.mu.Lock()
	p.doubted = true
	p.mu.Unlock()
}

// mayBeAt takes notice of where somebody else met the peer.
func (p *peer) mayBeAt(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lookAt(address)
}

// lookAt has the peer looked for at an address, in turn with its record's. Call it with mu held.
func (p *peer) lookAt(address string) {
	if address != p.said {
		p.said = address
		signal(p.hurry)
	}
}

// takeOver notes that another process than that one speaks for the peer.
func (p *peer) takeOver(from uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before = from
}

// tookOver says whether another process took over from this one, which is not the one that
// answers where the peer is called.
func (p *peer) tookOver(from uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.before == from && p.answers != from
}

// move changes the address: what goes on at the old one ends.
func (p *peer) move(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.address == address {
		return
	}
	p.address, p.astray, p.doubted = address, 0, false
	if p.up && p.at == address {
		return // it was found there before
	}
	p.abort()
	signal(p.hurry)
}

// take gives the queue to run.
func (p *peer) take() []outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.queue
	p.queue = p.spare
	p.spare = nil
	return taken
}

// release makes room for what was written or dropped.
func (p *peer) release(written []outgoing) {
	var bytes int64
	for i := range written {
		bytes += int64(written[i].size)
	}
	clear(written)
	p.mu.Lock()
	p.messages -= len(written)
	p.bytes -= bytes
	p.mu.Unlock()
}

func (p *peer) drop(items []outgoing) {
	p.t.counters.dropped.Add(uint64(len(items)))
	p.release(items)
}

// run is the sender. It ends when the peer is removed.
func (p *peer) run() {
	for p.redials > 0 || p.waitQueued() {
		if !p.session() {
			p.pause()
		}
	}
	p.drop(p.take())
}

// want has a connection made, if there is none.
func (p *peer) want() {
	p.mu.Lock()
	p.wanted = !p.up
	p.mu.Unlock()
	signal(p.wake)
}

func (p *peer) answeredBy(host uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = host
}

func (p *peer) setUp(up bool) {
	p.mu.Lock()
	p.up, p.wanted = up, false
	p.mu.Unlock()
}

// waitQueued waits for a reason to connect. It returns false when the peer is removed.
func (p *peer) waitQueued() bool {
	for {
		p.mu.Lock()
		reason := len(p.queue) > 0 || p.wanted
		p.mu.Unlock()
		if p.ctx.Err() != nil {
			return false
		}
		if reason {
			return true
		}
		select {
		case <-p.wake:
		case <-p.ctx.Done():
		}
	}
}

// session makes one connection and uses it until it breaks. It returns true
// when the next one need not wait, because the peer was moved or is to be looked
// for at once.
func (p *peer) session() (atOnce bool) {
	p.mu.Lock()
	record, address := p.address, p.at
	if p.redials == 0 { // else it is to be known what became of who was there
		address = p.next()
	}
	p.at = address
	ctx, cancel := context.WithCancel(p.ctx)
	p.abort, p.wanted = cancel, false
	p.mu.Unlock()
	defer cancel()

	select { // what was told before this attempt is no reason to hurry after it
	case <-p.hurry:
	default:
	}
	c, there, err := p.t.open(ctx, address, purposeMessages, p.id)
	if err == nil {
		p.metAt(c.raw.RemoteAddr())
		p.answeredBy(there.Host.ID)
	}
	if err != nil {
		if p.where() != record {
			p.redials = 0
			return true
		}
		p.cannotConnect(address, err)
		return false
	}
	p.failures, p.redials = 0, 0
	p.t.log.Info("connected", zap.String("peer", hexID(p.id)), zap.String("address", address))
	began := time.Now()
	p.setUp(true)
	p.serve(ctx, c)
	p.setUp(false)
	p.drop(p.take())
	if p.wasMistaken() { // it is not to be known what becomes of who was there
		return true
	}
	return p.where() != record && p.where() != address || p.redialSoon(time.Since(began))
}

// wasMistaken says, once, that the last connection was to somebody else.
func (p *peer) wasMistaken() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.mistaken
	p.mistaken = false
	return was
}

// redialSoon begins the attempts to learn why a connection broke that had lasted so
// long.
func (p *peer) redialSoon(lasted time.Duration) bool {
	if p.brief++; lasted >= briefTime {
		p.brief = 0
	}
	if p.ctx.Err() != nil || p.brief > briefMax {
		return false
	}
	p.redials = redialsMax
	return true
}

// redialFailed learns from one of those attempts.
func (p *peer) redialFailed(err error) {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	switch {
	case p.ctx.Err() != nil || !refused && !cutOff(err):
		p.redials = 0 // silence, or an answer: either way it is not known to be dead
	case refused && !p.t.flowing(p.id):
		p.redials, p.brief = 0, 0
		p.t.log.Info("nobody listens there any more", zap.String("peer", hexID(p.id)), zap.String("address", p.where()))
		p.t.handler.PeerGone(p.id)
		p.t.connectOthers(p.id)
	default:
		p.redials-- // it may be in the middle of dying
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
	if p.failures == 0 && p.ctx.Err() == nil {
		level = zap.WarnLevel
	}
	p.t.log.Log(level, "cannot connect", zap.String("peer", hexID(p.id)), zap.String("address", address), zap.Error(err))
	if p.redials > 0 {
		p.redialFailed(err)
	}
	if p.redials == 0 {
		p.failures++
		p.mu.Lock()
		p.astray++
		p.mu.Unlock()
	}
	p.drop(p.take())
}

// pause waits before the next attempt, longer after each that failed.
func (p *peer) pause() {
	d := min(backoffMin<<min(p.failures, 10), backoffMax)
	if p.redials > 0 {
		d = redialPauseMin << (redialsMax - p.redials - 1)
	}
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.hurry:
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
	p.t.wg.Go(func() {
		defer close(broken)
		ended = c.readAnswers(p.id)
	})
	lanes := newLaneSet(p)
	lanes.set(0, c)
	p.setLanes(lanes)
	kept := make(chan struct{})
	p.t.wg.Go(func() {
		defer close(kept)
		lanes.keep(ctx)
	})
	w := &laneWriter{p: p, lanes: lanes, conn: c}
	err := w.run(ctx, broken)
	p.setLanes(nil)
	cancel()
	c.close()
	<-broken
	<-kept
	p.t.log.Info("connection lost", zap.String("peer", hexID(p.id)), zap.String("address", c.address), zap.Error(cmp.Or(err, ended)))
	if p.ctx.Err() == nil {
		p.t.handler.PeerDown(p.id)
	}
}

func (p *peer) setLanes(lanes *laneSet) {
	p.mu.Lock()
	p.lanes = lanes
	p.mu.Unlock()
}

// laneWriter writes a peer's queue to the connection of one lane.
type laneWriter struct {
	p      *peer
	lanes  *laneSet
	number int
	conn   *conn
	frame  []byte
	// idle is after how long without anything to write run returns errLaneIdle; 0: never.
	idle time.Duration
}

var errLaneIdle = errors.New("nothing was sent for a while")

// run returns when the connection breaks, ctx ends or the lane is idle.
func (w *laneWriter) run(ctx context.Context, broken <-chan struct{}) error {
	used := time.Now()
	for {
		if w.p.waits() && w.lanes.mayWrite(w.number) {
			if items := w.p.take(); len(items) > 0 {
				err := w.flush(items)
				w.p.keep(items)
				if err != nil {
					return err
				}
				used = time.Now()
				continue
			}
		}
		if err := w.wait(ctx, broken, used); err != nil || isClosed(broken) {
			return err
		}
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

// wait returns when there may be something to write, or an error when there will not be.
func (w *laneWriter) wait(ctx context.Context, broken <-chan struct{}, used time.Time) error {
	var timer <-chan time.Time
	if w.p.waits() {
		timer = time.After(lanePoll)
	} else if w.idle > 0 {
		timer = time.After(w.idle)
	}
	select {
	case <-w.lanes.wake[w.number]:
	case <-broken:
	case <-timer:
		if w.idle > 0 && time.Since(used) >= w.idle {
			return errLaneIdle
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// flush writes items in as few frames as possible.
func (w *laneWriter) flush(items []outgoing) error {
	p := w.p
	for len(items) > 0 {
		frame, taken, failed := appendMessages(w.frame, items, min(p.t.config.FrameBytesMax, frameBytesGood))
		w.frame = frame
		if failed > 0 {
			p.t.counters.dropped.Add(uint64(failed))
			p.t.log.Error("messages changed after Send and were dropped", zap.Int("messages", failed))
		}
		if taken > failed {
			if err := w.write(frame); err != nil {
				p.drop(items)
				return err
			}
		}
		p.release(items[:taken])
		items = items[taken:]
	}
	if cap(w.frame) > keepFrameBytes {
		w.frame = nil
	}
	return nil
}

func (w *laneWriter) write(frame []byte) error {
	if w.number > 0 {
		return w.conn.writeFrame(frame)
	}
	w.lanes.beginWrite(time.Now())
	defer w.lanes.beginWrite(time.Time{})
	return w.conn.writeFrame(frame)
}

// beginWrite says since when lane 0 writes; zero: it does not.
func (s *laneSet) beginWrite(since time.Time) {
	s.mu.Lock()
	s.writing = since
	s.mu.Unlock()
}

// waits says whether something is queued.
func (p *peer) waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) > 0
}

// keep holds on to memory for the next time, unless it is much.
func (p *peer) keep(items []outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spare == nil && cap(items) <= keepMessages {
		p.spare = items[:0]
	}
}

// hexID writes an ID as all logs and tools do.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }
