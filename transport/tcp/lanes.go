package tcp

import (
	"context"
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
// A lane takes messages from the peer's queue only while its connection does not
// retransmit, and the lanes with lower numbers do. While all of them retransmit, messages
// wait in the queue, which is bounded. So a heartbeat waits for the first of
// three streams to recover. Messages that take different lanes may overtake each other:
// the receiver hands them over one at a time, in the order in which they arrived.
const (
	// lanePoll is how often a lane looks whether its connection has recovered, while
	// messages wait.
	lanePoll = 5 * time.Millisecond
	// blockedMax is how long a write on lane 0 may block before the other lanes look.
	blockedMax = 50 * time.Millisecond
	// laneIdle is how long a lane above 0 stays open without anything to send.
	laneIdle = time.Minute
	// laneRedial is the pause before a lane above 0 is dialed again.
	laneRedial = 200 * time.Millisecond
)

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

// mayWrite says whether a lane is the first that does not retransmit.
func (s *laneSet) mayWrite(number int) bool {
	s.mu.Lock()
	conns := s.conns
	s.mu.Unlock()
	for i := range number {
		if conns[i] != nil && !retransmitting(conns[i].raw) {
			return false
		}
	}
	if !retransmitting(conns[number].raw) {
		return true
	}
	if number == 0 {
		signal(s.trouble)
	}
	return false
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
		if first == nil || !retransmitting(first.raw) {
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
		c, _, err := s.p.t.openLane(ctx, address, s.p.id, number)
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
	log := s.p.t.log.With(zap.Uint64("member", s.p.id), zap.String("address", c.address), zap.Int("lane", number))
	log.Debug("another connection is made, as packets are lost on the first")
	broken := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(broken)
		c.readAnswers(s.p.id)
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
