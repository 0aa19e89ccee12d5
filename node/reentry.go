package node

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// A verb that waits for the very call of user code that it was called from would wait
// for ever: Propose inside StateMachine.Apply waits for an Apply that cannot begin, and
// Close for the one that it is in. callbacks know which goroutines run user code now,
// so that such a call gets ErrReentrant instead.
//
// What user code does on other goroutines, and waits for, they do not see.
type callbacks struct {
	// applier is inside of the state machine, and events inside of Config.Events.
	applier, events callback
	// mu guards writers: the goroutines that write or send a captured Snapshot. There
	// are few.
	mu      sync.Mutex
	writers map[uintptr]struct{}
}

// callback is a goroutine of which there is one. goroutine is 0 while it runs code of
// its own.
type callback struct {
	goroutine atomic.Uintptr
	// method is what it calls. It belongs to that goroutine, which is the only one that
	// reads it, too.
	method string
}

// enter is called before user code, and leave behind it, by the same goroutine.
func (c *callback) enter(method string) {
	c.method = method
	c.goroutine.Store(goroutineID())
}

func (c *callback) leave() { c.goroutine.Store(0) }

// here says whether the caller is inside.
func (c *callback) here() bool {
	g := c.goroutine.Load()
	return g != 0 && g == goroutineID()
}

// write runs f, which writes or closes a captured Snapshot.
func (c *callbacks) write(f func() error) error {
	g := goroutineID()
	c.mu.Lock()
	if c.writers == nil {
		c.writers = map[uintptr]struct{}{}
	}
	c.writers[g] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.writers, g)
		c.mu.Unlock()
	}()
	return f()
}

func (c *callbacks) writing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.writers[goroutineID()]
	return ok
}

// waits is nil unless a verb is called where it would wait for itself, as all of them do
// inside of the state machine.
func (c *callbacks) waits(verb string) error {
	if c.applier.here() {
		return reentrant(verb, c.applier.method)
	}
	return nil
}

// waitsForSnapshot is waits for TakeSnapshot.
func (c *callbacks) waitsForSnapshot() error {
	if c.writing() {
		return reentrant("TakeSnapshot", "Snapshot.WriteTo or Close")
	}
	return c.waits("TakeSnapshot")
}

// waitsForAll is waits for Close.
func (c *callbacks) waitsForAll() error {
	if c.events.here() {
		return reentrant("Close", c.events.method)
	}
	if c.writing() {
		return reentrant("Close", "Snapshot.WriteTo or Close")
	}
	return c.waits("Close")
}

func reentrant(verb, method string) error {
	return fmt.Errorf("%w: %s was called inside %s, for which it would wait; return from there first, or call it on another goroutine and do not wait for that",
		ErrReentrant, verb, method)
}
