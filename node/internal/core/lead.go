package core

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// serve gives all waiting requests to raft: what is for the log becomes one
// MsgProp. What wants another leader waits for tendLeadership, at the end of the Step.
//
// What was sent to the leader of another term is not appended in this one: who sent
// it may have seen an entry of this term, and have taken it for lost.
func (c *Core) serve(term uint64) {
	entries := make([]raftpb.Entry, 0, len(c.waiting))
	var handOvers []request
	for i := range c.waiting {
		it := &c.waiting[i]
		if it.from != 0 && it.term != term {
			c.settle(*it, Outcome{Err: errNotLeader})
			continue
		}
		if !it.take() {
			continue
		}
		it.Changes = inPlace(c.handed.Membership, it.Changes)
		switch {
		case it.Kind == Transfer:
			c.leadership.transferAsked = true
			handOvers = append(handOvers, *it)
			continue
		case c.takesOwnVote(it):
			c.leadership.voteTaken = true
			handOvers = append(handOvers, *it)
			continue
		}
		e, ok := c.entryFor(it, len(entries))
		if !ok {
			continue
		}
		entries = append(entries, e)
		c.placing = append(c.placing, *it)
	}
	if len(entries) > 0 {
		c.append(entries)
	}
	c.tookWaiting()
	for _, it := range handOvers {
		c.wait(it)
	}
}

// append proposes what is in placing.
func (c *changes) append(entries []raftpb.Entry) {
	err := c.rn.Step(raftpb.Message{Type: raftpb.MsgProp, From: c.cfg.ID, Entries: entries})
	if err == nil {
		return
	}
	// raft drops a batch as a whole when too much is not applied yet.
	for _, it := range c.placing {
		c.settle(it, Outcome{Err: fmt.Errorf("%w: %w", ErrOverloaded, err)})
	}
	c.confIndex = 0
	c.dropPlacing()
}

func (c *requests) dropPlacing() {
	clear(c.placing)
	c.placing = c.placing[:0]
}

// entryFor returns the entry that a request wants in the log, if it wants one
// and may have it; otherwise the request is settled. before is how many
// entries stand before it in the same batch.
func (c *changes) entryFor(it *request, before int) (raftpb.Entry, bool) {
	if err := c.mayWrite(it); err != nil {
		c.settleChange(it, err)
		return raftpb.Entry{}, false
	}
	switch it.Kind {
	case Propose:
		return raftpb.Entry{Data: it.frame()}, true
	case ChangeSetting:
		return c.settingEntry(it, before)
	}
	err := c.allowChanges(it.Changes)
	var data []byte
	if err == nil {
		var by origin // else it is this leader's own, also if it was forwarded before
		if it.from != 0 {
			by = origin{member: it.from, id: it.id}
		}
		data, err = encodeChanges(it.Changes, by)
	}
	if err == nil && !it.DryRun {
		c.confIndex = c.last + uint64(before) + 1 // at least; placeProposals knows
		return raftpb.Entry{Type: raftpb.EntryConfChangeV2, Data: data}, true
	}
	c.settleChange(it, err)
	return raftpb.Entry{}, false
}

// settleChange settles a change for which nothing is appended. If there was nothing to do,
// a follower that forwarded it learns the index up to which it must have applied.
func (c *changes) settleChange(it *request, err error) {
	o := Outcome{Err: err, Index: c.handed.Membership.Index, Membership: c.handed.Membership}
	if errors.Is(err, errNoChange) {
		o.Err = nil
	}
	c.settle(*it, o)
}

// placeProposals learns where the proposals of this Step stand: at the end of
// what raft wants appended. Those that were forwarded say themselves whose they are.
func (c *changes) placeProposals(entries []raftpb.Entry) {
	n := len(c.placing)
	if n == 0 {
		return
	}
	if len(entries) < n {
		panic(fmt.Sprintf("core: raft took %d proposals and appends %d entries", n, len(entries)))
	}
	entries = entries[len(entries)-n:]
	c.noteBacklog(entries)
	for i, e := range entries {
		it := &c.placing[i]
		switch it.Kind {
		case ChangeSetting:
			c.confIndex = e.Index
		case ChangeMembership:
			c.confIndex = e.Index
			if cs, err := tryChanges(c.handed.ConfState, it.Changes); err == nil && c.alone(cs) && !c.alone(c.handed.ConfState) {
				c.ownFirst.from(e.Index)
			}
		}
		switch {
		case it.Kind == ChangeMembership && e.Type == raftpb.EntryNormal:
			// raft put an empty entry in its place (cockroach 105797).
			c.settle(*it, Outcome{Err: ErrMembershipBusy})
		case it.from == 0 && it.Waiter != nil:
			c.pending.add(place{index: e.Index, term: e.Term, request: *it})
		}
	}
	c.dropPlacing()
}
