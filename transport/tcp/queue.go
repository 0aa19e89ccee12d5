package tcp

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/octopii/octopii/transport"
)

// keepMessages is how much memory for messages a queue keeps.
const keepMessages = 1 << 14

// sendQueue holds the messages that wait for one peer, within the bounds of Config.
type sendQueue struct {
	config  *Config
	dropped *atomic.Uint64
	ctx     context.Context // nothing is taken when it has ended

	mu    sync.Mutex
	items []outgoing
	// messages and bytes are what was queued and is not yet written or dropped,
	// so they cover what the sender has taken from items, too.
	messages int
	bytes    int64
	// spare is memory for items.
	spare []outgoing
}

// add returns false if there is no room.
func (q *sendQueue) add(kind transport.Kind, m transport.Message) bool {
	size := m.Size()
	q.mu.Lock()
	defer q.mu.Unlock()
	if size+messageOverheadMax > q.config.FrameBytesMax ||
		q.messages >= q.config.QueueMessagesMax ||
		q.bytes+int64(size) > q.config.QueueBytesMax ||
		q.ctx.Err() != nil {
		q.dropped.Add(1)
		return false
	}
	q.items = append(q.items, outgoing{kind, m, size})
	q.messages++
	q.bytes += int64(size)
	return true
}

// waits says whether something is queued.
func (q *sendQueue) waits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) > 0
}

// take gives what is queued to the sender.
func (q *sendQueue) take() []outgoing {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := q.items
	q.items = q.spare
	q.spare = nil
	return taken
}

// release makes room for what was written or dropped.
func (q *sendQueue) release(written []outgoing) {
	var bytes int64
	for i := range written {
		bytes += int64(written[i].size)
	}
	clear(written)
	q.mu.Lock()
	q.messages -= len(written)
	q.bytes -= bytes
	q.mu.Unlock()
}

func (q *sendQueue) drop(items []outgoing) {
	q.dropped.Add(uint64(len(items)))
	q.release(items)
}

func (q *sendQueue) dropAll() { q.drop(q.take()) }

// keep holds on to memory for the next time, unless it is much.
func (q *sendQueue) keep(items []outgoing) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.spare == nil && cap(items) <= keepMessages {
		q.spare = items[:0]
	}
}
