package node

import "sync"

// mailbox hands values from many goroutines to one unit, in order. It never blocks
// a sender and has no bound: what goes through one is bounded where it comes
// from. (Bounded channels between the loop and those who answer it deadlock:
// each waits for room at the other.)
type mailbox[T any] struct {
	// bell is rung when the first item comes, and when the mailbox is closed.
	bell   bell
	mu     sync.Mutex
	items  []T
	closed bool
}

func newMailbox[T any](rings bell) *mailbox[T] { return &mailbox[T]{bell: rings} }

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
		m.bell.ring()
	}
}

// take returns all items that are there; open is false once the mailbox is closed and
// empty. spare is reused for what comes next.
func (m *mailbox[T]) take(spare []T) (items []T, open bool) {
	clear(spare)
	m.mu.Lock()
	defer m.mu.Unlock()
	items, m.items = m.items, spare[:0]
	return items, len(items) > 0 || !m.closed
}

// waiting says whether take has something to return, if only that nothing comes any more.
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

// close lets take return what is left, and then say that nothing comes any more.
func (m *mailbox[T]) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.bell.ring()
}
