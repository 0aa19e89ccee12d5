package node

import (
	"sync"

	"github.com/octopii/octopii/node/internal/core"
)

// inbox collects what happened since the loop last looked: one core.Input that
// everybody adds to and the loop takes whole.
type inbox struct {
	mu    sync.Mutex
	input core.Input
	calls []func(*loop)
	// peerItems and peerBytes are what peers have in it.
	peerItems, peerBytes int
	// wake holds a token when there is something to take.
	wake chan struct{}
	// turn holds a token between two turns of the loop. With it in hand others may look at
	// what a Step changes.
	turn chan struct{}
}

func newInbox() *inbox {
	b := &inbox{wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	b.turn <- struct{}{}
	return b
}

// add lets f add to the input.
func (b *inbox) add(f func(in *core.Input)) {
	b.mu.Lock()
	f(&b.input)
	b.mu.Unlock()
	b.notify()
}

func (b *inbox) notify() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// request queues what a local caller wants.
func (b *inbox) request(r core.Request) {
	b.mu.Lock()
	b.input.Requests = append(b.input.Requests, r)
	b.mu.Unlock()
	b.notify()
}

// gone tells the loop that a caller has given up.
func (b *inbox) gone(w *waiter) {
	b.add(func(in *core.Input) { in.Gone = append(in.Gone, w) })
}

// peer lets f add so many items of so many bytes that a peer sent. It returns
// false when there is no room.
func (b *inbox) peer(items, bytes int, f func(in *core.Input)) bool {
	b.mu.Lock()
	room := b.peerItems < inboxItemsMax && b.peerBytes < inboxBytesMax
	if room {
		f(&b.input)
		b.peerItems += items
		b.peerBytes += bytes
	}
	b.mu.Unlock()
	b.notify()
	return room
}

// call runs f in the loop, which nobody else has.
func (b *inbox) call(f func(*loop)) {
	b.mu.Lock()
	b.calls = append(b.calls, f)
	b.mu.Unlock()
	b.notify()
}

// take returns what was collected. in and calls are the previous ones, whose
// room is used again.
func (b *inbox) take(in *core.Input, calls []func(*loop)) []func(*loop) {
	reset(in)
	clear(calls)
	b.mu.Lock()
	b.input, *in = *in, b.input
	b.calls, calls = calls[:0], b.calls
	b.peerItems, b.peerBytes = 0, 0
	b.mu.Unlock()
	return calls
}

// reset empties an input and keeps its room.
func reset(in *core.Input) {
	in.Ticks, in.NoSpace, in.Room, in.Stuck, in.Campaign, in.Refuse, in.Compacted = 0, false, core.NoLimit, false, false, nil, core.Place{}
	empty(&in.Undelivered)
	empty(&in.Messages)
	empty(&in.Appended)
	empty(&in.Applied)
	empty(&in.SnapshotsSent)
	empty(&in.PeersUp)
	empty(&in.PeersDown)
	empty(&in.PeersGone)
	empty(&in.Gone)
	empty(&in.Grows)
	empty(&in.Requests)
	empty(&in.Remote)
	empty(&in.Replies)
}

func empty[T any](s *[]T) {
	clear(*s)
	*s = (*s)[:0]
}
