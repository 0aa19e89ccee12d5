package tcp

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A lost packet holds up everything behind it on its TCP stream until the kernel has sent
// it again, which takes several attempts on a network that loses many. So a peer has
// more than one message connection where that happens, each of which is a lane. Lane 0 is
// the first. It makes and ends the session, and carries everything on a sound network. The
// others are dialed when lane 0 is first seen to retransmit.
//
// A lane takes messages from the peer's queue only while its stream moves, and those of the
// lanes with lower numbers do not. While all of them stand still, messages
// wait in the queue, which is bounded. So a heartbeat waits for the first of
// three streams to recover. Messages that take different lanes may overtake each other:
// the receiver hands them over one at a time, in the order in which they arrived.
const (
	// ackPatience is how long an acknowledgement may take, beside two round trips. The other side
	// holds one back for 10 ms, or 40 ms where that cannot be set.
	ackPatience = 50 * time.Millisecond
	// lanePoll is how often a lane looks whether its connection has recovered, while
	// messages wait.
	lanePoll = 5 * time.Millisecond
	// blockedMax is how long a write on lane 0 may block before the other lanes look.
	blockedMax = 50 * time.Millisecond
	// laneIdle is how long a lane above 0 stays open without anything to send.
	laneIdle = time.Minute
	// laneRedial is the pause before a lane above 0 is dialed again.
	laneRedial = 200 * time.Millisecond
	// keepFrameBytes is how much memory for frames a lane keeps.
	keepFrameBytes = 1 << 20
)

// streamState is what the kernel says of what was written to a stream.
type streamState struct {
	// retransmitting: bytes were sent more than once, and are not acknowledged.
	retransmitting bool
	// unacknowledged: bytes were sent, and are not acknowledged.
	unacknowledged bool
	// lastAck is how long ago the last acknowledgement came, roundTrip the shortest time
	// that one took, 0 if it is not known.
	lastAck, roundTrip time.Duration
}

// stalled says whether a stream makes no progress that was last empty at some moment: what is
// written to it now would wait.
func (s streamState) stalled(sinceEmpty time.Duration) bool {
	return s.retransmitting || s.unacknowledged && min(sinceEmpty, s.lastAck) > ackPatience+2*s.roundTrip
}

// laneSet is the lanes of one peer during one session.
type laneSet struct {
	p *peer
	// wake has a place for each lane: something was queued.
	wake [lanesMax]chan struct{}
	// trouble says that lane 0 retransmits, or that a write on it blocks.
	trouble chan struct{}

	mu sync.Mutex
	// conns has the connection of each lane, nil where there is none.
	conns [lanesMax]*conn
	// dialing is true from when a lane is dialed to when its goroutine ends.
	dialing [lanesMax]bool
	// began is when each lane last wrote to an empty stream.
	began [lanesMax]time.Time
	// writing is when lane 0 began a write that has not ended; zero: none.
	writing time.Time
}

func newLaneSet(p *peer) *laneSet {
	s := &laneSet{p: p, trouble: make(chan struct{}, 1)}
	for i := range s.wake {
		s.wake[i] = make(chan struct{}, 1)
	}
	return s
}

// queued tells the lanes that something waits.
func (s *laneSet) queued() {
	s.mu.Lock()
	blocked := !s.writing.IsZero() && time.Since(s.writing) > blockedMax
	conns := s.conns
	s.mu.Unlock()
	if blocked {
		signal(s.trouble)
	}
	signal(s.wake[0])
	for i := 1; i < len(conns); i++ {
		if conns[i] != nil {
			signal(s.wake[i])
		}
	}
}

func (s *laneSet) set(number int, c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[number] = c
}

// beginWrite says since when lane 0 writes; zero: it does not.
func (s *laneSet) beginWrite(since time.Time) {
	s.mu.Lock()
	s.writing = since
	s.mu.Unlock()
}

// mayWrite says whether a lane is the first whose stream moves.
func (s *laneSet) mayWrite(number int) bool {
	s.mu.Lock()
	conns, began := s.conns, s.began
	s.mu.Unlock()
	now := time.Now()
	for i := range number {
		if conns[i] != nil && !stateOf(conns[i].raw).stalled(now.Sub(began[i])) {
			return false
		}
	}
	state := stateOf(conns[number].raw)
	if state.stalled(now.Sub(began[number])) {
		if number == 0 && state.retransmitting {
			signal(s.trouble)
		}
		return number == 0 && !state.retransmitting && s.alone()
	}
	if !state.unacknowledged {
		s.mu.Lock()
		s.began[number] = now
		s.mu.Unlock()
	}
	return true
}

// alone says whether there is only lane 0.
func (s *laneSet) alone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns[1:] {
		if c != nil {
			return false
		}
	}
	return true
}

// keep dials the other lanes when lane 0 is in trouble. It returns when ctx has ended and
// those lanes are closed.
func (s *laneSet) keep(ctx context.Context) {
	var lanes sync.WaitGroup
	defer lanes.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.trouble:
		}
		s.mu.Lock()
		first := s.conns[0]
		s.mu.Unlock()
		if first == nil || !stateOf(first.raw).retransmitting {
			continue
		}
		for number := 1; number < lanesMax; number++ {
			s.mu.Lock()
			begin := !s.dialing[number]
			s.dialing[number] = true
			s.mu.Unlock()
			if begin {
				lanes.Go(func() { s.run(ctx, number, first.address) })
			}
		}
	}
}

// run dials one lane, and again when it breaks, until it is idle or ctx ends.
func (s *laneSet) run(ctx context.Context, number int, address string) {
	defer func() {
		s.mu.Lock()
		s.dialing[number] = false
		s.mu.Unlock()
	}()
	for ctx.Err() == nil {
		c, _, err := s.p.t.open(ctx, address, greeting{purpose: purposeMessages, lane: uint32(number), to: s.p.id})
		if err == nil && !s.use(ctx, number, c) {
			return
		}
		timer := time.NewTimer(laneRedial)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// use writes on a lane until it breaks. It returns false if it was closed because it was idle.
func (s *laneSet) use(ctx context.Context, number int, c *conn) (again bool) {
	log := s.p.t.log.With(zap.String("peer", hexID(s.p.id)), zap.String("address", c.address), zap.Int("lane", number))
	log.Debug("another connection is made, as packets are lost on the first")
	broken := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(broken)
		_ = c.readAnswers(s.p.id)
	})
	s.set(number, c)
	w := &laneWriter{p: s.p, lanes: s, number: number, conn: c, idle: laneIdle}
	err := w.run(ctx, broken)
	s.set(number, nil)
	c.close()
	reader.Wait()
	signal(s.wake[0]) // what this lane did not take
	log.Debug("another connection ended", zap.Error(err))
	return err != errLaneIdle
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
		if w.p.queue.waits() && w.lanes.mayWrite(w.number) {
			if items := w.p.queue.take(); len(items) > 0 {
				err := w.flush(items)
				w.p.queue.keep(items)
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

// wait returns when there may be something to write, or an error when there will not be.
func (w *laneWriter) wait(ctx context.Context, broken <-chan struct{}, used time.Time) error {
	var timer <-chan time.Time
	if w.p.queue.waits() {
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
				p.queue.drop(items)
				return err
			}
		}
		p.queue.release(items[:taken])
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
