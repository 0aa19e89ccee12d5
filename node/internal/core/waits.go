package core

import (
	"slices"

	"go.etcd.io/raft/v3"
)

// A Step serves what waits before it draws the Ready that may change who is served:
// that ends a round of reads, applies the first entry of a leader's term, ends a
// transfer of leadership, frees numbers of forwarded requests. What could be served
// after the Ready, and was not before it, needs one more Step. Without it, it would
// lie here until the next message or tick, though nothing is under way for it.

// unserved says that something waits which a Step with an empty Input serves.
//
// Invariant: that Step serves it, or drops it. Otherwise the loop would spin.
func (c *space) unserved() bool {
	if len(c.waiting)+len(c.reads.waiting)+len(c.reads.early) == 0 {
		return false
	}
	st := c.rn.BasicStatus()
	return c.readsUnserved(&st) || c.requestsUnserved(&st)
}

func (c *reading) readsUnserved(st *raft.BasicStatus) bool {
	return c.canRead(st) && (c.reads.wanted() || len(c.reads.early) > 0)
}

// requestsUnserved follows the cases of stepRequests.
func (c *space) requestsUnserved(st *raft.BasicStatus) bool {
	switch {
	case len(c.waiting) == 0:
		return false
	case st.RaftState == raft.StateLeader:
		return st.LeadTransferee == raft.None && c.appending == 0 && (len(c.waiting) > c.held || !c.holds())
	case st.Lead != raft.None:
		return !c.forwarded.full()
	default:
		return slices.ContainsFunc(c.waiting, func(it request) bool { return it.from != 0 || it.Waiter == nil })
	}
}

// reconnected is called when a member can be reached again. What was lost with the old
// connection to the leader need not wait for a timeout: a round of reads, what was
// forwarded, and what could not be sent at all.
func (c *requests) reconnected(id uint64) {
	if id == c.cfg.ID || id != c.status.Lead {
		return
	}
	c.reads.retry()
	c.tryReturned()
	c.sendDue(0)
}
