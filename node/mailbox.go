package node

import "sync"

// mailbox hands values from many goroutines to one, in order. It never blocks
// a sender and has no bound: what goes through one is bounded where it comes
// from. (Bounded channels between the loop and those who answer it deadlock:
// each waits for room at the other.)
type mailbox[T any] struct {
	mu     sync.Mutex
	items  []T
	closed bool
	// wake holds at most one token; it is there when items is not empty, and
	// once the mailbox is closed.
	wake chan struct{}
}

func newMailbox[T any]() *mailbox[T] {
	return &mailbox[T]{wake: make(chan struct{}, 1)}
}

// put adds an item. After close it is dropped.
func (m *mailbox[T]) put(item T) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.items = append(m.items, item)
	first := len(m.items) == 1
	m.mu.Unlock()
	if first {
		m.notify()
	}
}

// take waits for items and returns all of them; ok is false once the mailbox
// is closed and empty. spare is reused for what comes next.
func (m *mailbox[T]) take(spare []T) (items []T, ok bool) {
	clear(spare)
	for {
		m.mu.Lock()
		items, m.items = m.items, spare[:0]
		closed := m.closed
		m.mu.Unlock()
		if len(items) > 0 {
			return items, true
		}
		if closed {
			return nil, false
		}
		spare = items
		<-m.wake
	}
}

// waiting says whether take would return at once.
func (m *mailbox[T]) waiting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items) > 0 || m.closed
}

// queued says whether there are items.
func (m *mailbox[T]) queued() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items) > 0
}

// close lets take return what is left, and then false. The channel stays open:
// somebody may be about to send on it.
func (m *mailbox[T]) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.notify()
}

func (m *mailbox[T]) notify() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
