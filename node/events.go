package node

import (
	"sync"
	"time"
)

// events calls Config.Events in order, from a goroutine of its own.
type events struct {
	Events
	mu      sync.Mutex
	pending []func()
	closed  bool
	wake    chan struct{}
	wg      sync.WaitGroup
	inside  *callback
}

func newEvents(h host, e Events, inside *callback) *events {
	ev := &events{Events: e, wake: make(chan struct{}, 1), inside: inside}
	h.unit(&ev.wg, ev.run)
	return ev
}

func (e *events) add(f func()) {
	e.mu.Lock()
	if len(e.pending) == eventsMax {
		e.pending = e.pending[1:]
	}
	e.pending = append(e.pending, f)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *events) run() {
	for range e.wake {
		if e.flush() {
			return
		}
	}
}

// flush calls what waits. It returns true when nothing more will come.
func (e *events) flush() (closed bool) {
	e.mu.Lock()
	pending, closed := e.pending, e.closed
	e.pending = nil
	e.mu.Unlock()
	e.inside.enter("one of Events")
	defer e.inside.leave()
	for _, f := range pending {
		f()
	}
	return closed
}

// close waits until all pending events were seen.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
	e.wg.Wait()
}

func (e *events) leaderChanged(term, leader uint64) {
	if f := e.LeaderChanged; f != nil {
		e.add(func() { f(term, leader) })
	}
}

func (e *events) membershipChanged(m Membership) {
	if f := e.MembershipChanged; f != nil {
		e.add(func() { f(m) })
	}
}

func (e *events) snapshotTaken(s SnapshotInfo) {
	if f := e.SnapshotTaken; f != nil {
		e.add(func() { f(s) })
	}
}

func (e *events) snapshotInstalled(s SnapshotInfo) {
	if f := e.SnapshotInstalled; f != nil {
		e.add(func() { f(s) })
	}
}

func (e *events) diskStalled(d time.Duration) {
	if f := e.DiskStalled; f != nil {
		e.add(func() { f(d) })
	}
}

func (e *events) peerRefused(id uint64, reason error) {
	if f := e.PeerRefused; f != nil {
		e.add(func() { f(id, reason) })
	}
}
