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
	// rung: the bell was, since the last take.
	rung bool
	bell bell
	// turn holds a token between two turns of the loop. With it in hand others may look at
	// what a Step changes.
	turn chan struct{}
}

// newInbox returns an inbox that rings a bell when there is something to take.
func newInbox(rings bell) *inbox {
	b := &inbox{bell: rings, turn: make(chan struct{}, 1)}
	b.turn <- struct{}{}
	return b
}

// add lets f add to the input.
func (b *inbox) add(f func(in *core.Input)) {
	b.mu.Lock()
	f(&b.input)
	b.rung = true
	b.mu.Unlock()
	b.bell.ring()
}

// ready says whether there may be something to take.
func (b *inbox) ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}

// request queues what a local caller wants.
func (b *inbox) request(r core.Request) {
	b.mu.Lock()
	b.input.Requests = append(b.input.Requests, r)
	b.rung = true
	b.mu.Unlock()
	b.bell.ring()
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
	b.rung = true
	b.mu.Unlock()
	b.bell.ring()
	return room
}

// call runs f in the loop, which nobody else has.
func (b *inbox) call(f func(*loop)) {
	b.mu.Lock()
	b.calls = append(b.calls, f)
	b.rung = true
	b.mu.Unlock()
	b.bell.ring()
}

// take returns what was collected. in and calls are the previous ones, whose
// room is used again.
func (b *inbox) take(in *core.Input, calls []func(*loop)) []func(*loop) {
	reset(in)
	clear(calls)
	b.mu.Lock()
	b.input, *in = *in, b.input
	b.calls, calls = calls[:0], b.calls
	b.peerItems, b.peerBytes, b.rung = 0, 0, false
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
