package kv

import "sync"

// current is the database that is open now.
type current struct {
	// mu guards db against Restore, which replaces it. Reads hold it for as long
	// as they last; the goroutine that applies needs it only to replace db.
	mu sync.RWMutex
	// db is nil after Close, and while dropped.
	db *database
	// dropped: Restore removed the old database to make room for the new one. There is
	// nothing to read until it has succeeded.
	dropped bool
	// closing counts replaced databases that a reader of a snapshot still holds.
	closing sync.WaitGroup
}

// replace puts next in the place of the database that it returns, once all reads that
// use that one have ended.
func (c *current) replace(next *database, dropped bool) (old *database) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old = c.db
	c.db, c.dropped = next, dropped
	return old
}
