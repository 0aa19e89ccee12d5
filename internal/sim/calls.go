package sim

import (
	"errors"

	"github.com/octopii/octopii/internal/check"
	"github.com/octopii/octopii/node"
)

// calls are what clients asked and were answered, against the committed log and its states.
type calls struct {
	digests
	// moment counts what clients see; ops are their operations, by number.
	moment uint64
	ops    []*op
	// order is that of the indexes that clients have seen.
	order check.Order
	// served are answers since images of disks were put back: see images.go.
	served []served
}

// called notes that an operation begins.
func (c *calls) called(o *op) {
	c.moment++
	o.called, o.known = c.moment, c.order.Newest()
	o.id = uint64(len(c.ops)) + 1
	c.ops = append(c.ops, o)
	if c.w.trace != nil {
		c.w.tell(o.member, "  client %d: op %d: %s", o.client.number, o.id, c.w.cfg.describe(o.input))
	}
}

// failed: a member that goes on fails no proposal because of a change of leader or a
// message that got lost. What is certainly not committed it proposes again, and of
// the rest it finds the outcome in its log, unless a snapshot took the place of that.
func (c *calls) failed(o *op) {
	switch {
	case o.query, errors.Is(o.err, node.ErrClosed), errors.Is(o.err, node.ErrRemoved):
	case errors.Is(o.err, node.ErrSuspect), errors.Is(o.err, node.ErrDiverged):
		if !o.member.view.forgets && !c.w.branching {
			c.w.fail("nobody doubts without a reason", "%s fails operation %d: %v", o.member.name(), o.id, o.err)
		}
	case errors.Is(o.err, node.ErrNotCommitted):
		c.w.fail("what is certainly not committed is proposed again", "%s fails operation %d: %v", o.member.name(), o.id, o.err)
	case errors.Is(o.err, node.ErrUnknownOutcome) && o.member.installs == o.installs:
		c.w.fail("only a snapshot hides an outcome", "%s fails operation %d, and has installed no snapshot since it was called: %v", o.member.name(), o.id, o.err)
	}
}

// returned: an operation takes effect between its call and its return. The log
// says in which order they took effect, so that what was done when this one began
// must come before it, and what it read may not be older.
func (c *calls) returned(o *op) {
	c.moment++
	o.returned = c.moment
	c.w.mix(o.id, uint64(o.outcome), o.index)
	c.w.tell(o.member, "  client %d: op %d: %s at %d: %s", o.client.number, o.id, o.outcome, o.index, show(o.output))
	switch {
	case c.w.branching:
		if o.outcome == done {
			c.oneHistory(o.member)
		}
	case o.outcome == notCommitted && o.committed != 0:
		c.w.fail("what is certainly not committed is not", "operation %d is committed at %d", o.id, o.committed)
	case o.outcome == done:
		c.acknowledged(o)
	}
}

// acknowledged: what a client was told is so, and newer than what anybody had seen when
// it called.
func (c *calls) acknowledged(o *op) {
	r := o.recorded()
	err := c.order.Returned(&r, o.known)
	switch {
	case err != nil && o.query:
		c.w.fail("no stale reads", "on %s: %v", o.member.name(), err)
	case err != nil:
		c.w.fail("real-time order", "on %s: %v", o.member.name(), err)
	case o.query:
	case o.committed != o.index:
		c.w.fail("what is acknowledged is committed", "operation %d was acknowledged at %d and is committed at %d", o.id, o.index, o.committed)
	case o.applied < o.index:
		c.w.fail("what is acknowledged is applied here", "operation %d was acknowledged at %d on %s, whose state machine is at %d", o.id, o.index, o.member.name(), o.applied)
	}
}

// landed notes that an operation is committed.
func (c *calls) landed(index, id uint64) {
	if id == 0 || id > uint64(len(c.ops)) {
		c.w.fail("nothing is made up", "the command at %d is of operation %d, and there are %d", index, id, len(c.ops))
		return
	}
	o := c.ops[id-1]
	switch {
	case o.committed != 0:
		c.w.fail("every command is applied once, in order", "operation %d is committed at %d and at %d", id, o.committed, index)
	case o.outcome == notCommitted:
		c.w.fail("what is certainly not committed is not", "operation %d is committed at %d", id, index)
	}
	o.committed = index
}
