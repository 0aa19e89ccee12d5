package core

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// newApply turns committed entries into a batch for the state machine. Changes
// of membership take effect here and now, so that the batch's label is right.
func (c *Core) newApply(m *raftpb.Message) *Apply {
	a := &Apply{response: m.Responses[0]}
	a.Entries = make([]Committed, 0, len(m.Entries))
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type == raftpb.EntryNormal {
			c.applyNormal(a, e)
		} else {
			c.applyChange(e)
		}
		c.reach(e.Index, e.Term)
		c.handed.Index, c.handed.Term = e.Index, e.Term
	}
	a.Label = c.handed
	c.settleUnchanged()
	c.storage.Handed(a.Label.Index, a.Label.Term, a.Label.ConfState)
	return a
}

// applyNormal hands a command on, and applies what else stands in a normal entry.
func (c *Core) applyNormal(a *Apply, e *raftpb.Entry) {
	by, frame := unwrap(e.Data)
	w := c.callerOf(e, by)
	switch {
	case len(frame) == 0:
		// A new leader's first entry, or what raft put in the place of a
		// conf change that it refused (cockroach 105797).
	case frame[0] == frameBarrier:
		if w != nil {
			c.effects.Outcomes = append(c.effects.Outcomes, Outcome{Waiter: w, Index: e.Index})
		}
	case frame[0] == frameSetting:
		c.applySetting(e, frame, w)
	default:
		a.Entries = append(a.Entries, Committed{Index: e.Index, Term: e.Term, Data: frame[1:], Waiter: w})
	}
}

// callerOf returns who waits here for a committed entry, if somebody does, and tries
// again what the entry proves lost.
func (c *requests) callerOf(e *raftpb.Entry, by origin) Waiter {
	w := c.pending.applied(e.Index, e.Term, c.tryAgain, c.refuse)
	if by.member == c.cfg.ID {
		if it, ok := c.forwarded.remove(by.id); ok {
			w = it.Waiter
		}
	}
	if e.Term > c.handed.Term {
		c.forwarded.displaced(e.Term, c.tryAgain)
	}
	return w
}

// applyChange applies a committed change of membership, or refuses it in the
// same way on every member.
func (c *Core) applyChange(e *raftpb.Entry) {
	d, err := decodeChanges(e.Data)
	if err != nil {
		panic(fmt.Sprintf("core: committed entry %d was admitted: %v", e.Index, err))
	}
	w := c.callerOf(e, d.by)
	if d.conf.LeaveJoint() {
		c.leaveJoint(e, d.conf)
		return
	}
	err = checkChanges(c.handed.Membership, c.handed.ConfState, d.changes)
	switch {
	case err == nil:
		c.setConf(e, *c.rn.ApplyConfChange(d.conf), withChanges(c.handed.Membership, e.Index, d.changes))
	case errors.Is(err, errNoChange):
		err = nil
	}
	if w == nil {
		return
	}
	o := Outcome{Waiter: w, Err: err, Index: e.Index, Membership: c.handed.Membership}
	if err == nil && len(c.handed.Membership.UnderWay) > 0 {
		c.halfDone = append(c.halfDone, o) // nobody may go before it is done
		return
	}
	c.effects.Outcomes = append(c.effects.Outcomes, o)
}

// leaveJoint ends a change of several members, which a leader proposes by itself
// when it has applied its first half, whoever leads then. A second such entry
// changes nothing (etcd 11046).
func (c *changes) leaveJoint(e *raftpb.Entry, cc raftpb.ConfChangeV2) {
	if len(c.handed.ConfState.VotersOutgoing) == 0 {
		return
	}
	c.setConf(e, *c.rn.ApplyConfChange(cc), left(c.handed.Membership, e.Index))
	c.settleHalfDone()
}

// settleHalfDone answers those whose change is done now.
func (c *requests) settleHalfDone() {
	if len(c.handed.Membership.UnderWay) > 0 {
		return
	}
	for _, o := range c.halfDone {
		o.Membership = c.handed.Membership
		c.effects.Outcomes = append(c.effects.Outcomes, o)
	}
	c.halfDone = nil
}

// setConf puts a configuration in force from an entry on.
func (c *changes) setConf(e *raftpb.Entry, cs raftpb.ConfState, ms *octopiipb.Membership) {
	c.reach(e.Index, e.Term)
	if c.alone(cs) && !c.alone(c.handed.ConfState) {
		c.ownFirst.from(e.Index)
	}
	c.handed = Label{Index: e.Index, Term: e.Term, ConfState: cs, Membership: ms, Terms: c.handed.Terms}
	c.labels = append(c.labels, c.handed)
	c.effects.Membership = ms
	for _, r := range ms.Removed {
		c.peers.forget(r.ID)
	}
}

// installed says that a snapshot from the leader is durable and took the place
// of the log. What it holds counts as applied when the state machine has it.
func (c *Core) installed(label Label) {
	c.pending.replaced(label.Index, label.Term, c.tryAgain, c.refuse)
	c.forwarded.replaced(label.Index, label.Term, c.refuse)
	c.reach(label.Index, label.Term)
	label.Terms = withTerm(label.Terms, label.Index, label.Term)
	c.begin(&label)
	c.handed = label
	c.labels = []Label{label}
	c.storage.Handed(label.Index, label.Term, label.ConfState)
	c.settleUnchanged()
	c.settleHalfDone()
	c.effects.Membership = label.Membership
}
