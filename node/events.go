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
	bell    bell
	wg      sync.WaitGroup
	inside  *callback
}

func newEvents(h host, e Events, inside *callback) *events {
	ev := &events{Events: e, bell: h.bell(), inside: inside}
	h.unit(&ev.wg, ev, ev.bell, 0)
	return ev
}

func (e *events) add(f func()) {
	e.mu.Lock()
	if len(e.pending) == eventsMax {
		e.pending = e.pending[1:]
	}
	e.pending = append(e.pending, f)
	e.mu.Unlock()
	e.bell.ring()
}

func (e *events) ready() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.pending) > 0 || e.closed
}

// turn calls what waits.
func (e *events) turn(int) bool {
	e.mu.Lock()
	pending, closed := e.pending, e.closed
	e.pending = nil
	e.mu.Unlock()
	e.inside.enter("one of Events")
	defer e.inside.leave()
	for _, f := range pending {
		f()
	}
	return !closed
}

// close waits until all pending events were seen.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.bell.ring()
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
