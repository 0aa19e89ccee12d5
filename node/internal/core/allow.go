package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
)

// allowChanges says whether this leader may append changes now. Beside what every
// member checks when it applies them, the leader looks at who is alive and how far.
func (c *Core) allowChanges(changes []Change) error {
	if err := c.remembersNone(changes); err != nil {
		return err
	}
	if err := checkChanges(c.handed.Membership, c.handed.ConfState, changes); err != nil {
		return err
	}
	if c.confIndex > c.applied {
		return fmt.Errorf("%w: the one at index %d is not applied yet", ErrMembershipBusy, c.confIndex)
	}
	for _, change := range changes {
		var err error
		switch change.Op {
		case Promote:
			if m := find(c.handed.Membership, change.Member.ID); m != nil && m.Learner {
				err = cmp.Or(c.caughtUp(m.ID), c.mayTakePlace(*m))
			}
		case AddLearner:
			if err := c.roomToJoin(change); err != nil {
				return err
			}
			if r := change.Member.Replaces; change.IfSilent && r != 0 && c.alive(r) {
				err = fmt.Errorf("%w: member %x, which has the same name or address, is alive; choose another name, or remove it first", ErrUnsafeMembership, r)
			} else if change.IfSilent && r != 0 {
				err = c.hushed(nil)
			}
			if v := voterAt(c.handed.Membership, change.Member.Address, change.Member.ID); err == nil && v != nil && v.ID != change.Member.Replaces && c.alive(v.ID) {
				err = errPlaceTaken(change.Member, v)
			}
		}
		if err != nil {
			return err
		}
	}
	return c.keepsQuorum(changes)
}

// joinersMax bounds the members that came by themselves and do not vote yet. Without
// certificates anybody may ask to be let in, and who never shows up goes only after
// JoinTimeoutTicks.
const joinersMax = 16

// roomToJoin refuses one more that asks to join, and takes nobody's place.
func (c *Core) roomToJoin(change Change) error {
	joiners := 0
	for i := range c.handed.Membership.Members {
		if m := &c.handed.Membership.Members[i]; m.Learner && m.Promote {
			joiners++
		}
	}
	m := &change.Member
	if !change.IfSilent || joiners < joinersMax || m.Replaces != 0 || find(c.handed.Membership, m.ID) != nil {
		return nil
	}
	return fmt.Errorf("%w: %d members are to vote and do not yet; who does not show up is removed after %d ticks", ErrMembershipBusy, joiners, c.cfg.JoinTimeoutTicks)
}

// remembersNone refuses to let a member in under an ID that acknowledged entries to this
// leader: whoever asks to join has no log, and so it forgot them. A joiner that crashed
// before its first snapshot was on its disk acknowledged nothing, and may ask again.
func (c *Core) remembersNone(changes []Change) error {
	for _, change := range changes {
		if change.Op != AddLearner || !change.IfSilent {
			continue
		}
		if pr, ok := c.progressOf(change.Member.ID); ok && pr.Match > 0 {
			return fmt.Errorf("%w: member %x acknowledged the log up to %d, and asks to join without one", ErrForgot, change.Member.ID, pr.Match)
		}
	}
	return nil
}

// caughtUp refuses to give a vote to a learner that has not the log behind it, or whose
// state machine has not restored what it was sent.
func (c *Core) caughtUp(id uint64) error {
	if m := find(c.handed.Membership, id); m == nil || !m.Learner {
		return nil // a voter already: there is nothing to change
	}
	pr, _ := c.progressOf(id)
	commit := c.rn.BasicStatus().Commit
	notes := c.peers.get(id)
	if notes.restoreGoal == 0 {
		notes.restoreGoal = max(commit, c.cfg.PromoteLagMax) - c.cfg.PromoteLagMax
	}
	switch {
	case !c.alive(id):
		return c.hushed(fmt.Errorf("%w: learner %x was not heard of for %d ticks; start it and try again", ErrUnsafeMembership, id, min(notes.silent, silentMax)))
	case pr.Match == 0 || pr.Match+c.cfg.PromoteLagMax < commit:
		return fmt.Errorf("%w: learner %x has the log up to %d of %d, and may lag by %d entries; try again when it has caught up",
			ErrUnsafeMembership, id, pr.Match, commit, c.cfg.PromoteLagMax)
	case !notes.hasRestored():
		return fmt.Errorf("%w: the state machine of learner %x is at index %d, and restores what it was sent up to %d; try again when it has",
			ErrUnsafeMembership, id, notes.applied, notes.restoreGoal)
	}
	return nil
}

func (c *Core) progressOf(id uint64) (pr progress, ok bool) {
	c.rn.WithProgress(func(other uint64, _ raft.ProgressType, p progress) {
		if other == id {
			pr, ok = p, true
		}
	})
	return pr, ok
}

// keepsQuorum refuses changes that would leave a majority of silent voters.
func (c *Core) keepsQuorum(changes []Change) error {
	cs, err := tryChanges(c.handed.ConfState, changes)
	if err != nil {
		return err
	}
	if slices.Equal(cs.Voters, c.handed.ConfState.Voters) {
		return nil
	}
	alive := 0
	for _, id := range cs.Voters {
		if c.alive(id) {
			alive++
		}
	}
	if quorum := len(cs.Voters)/2 + 1; alive < quorum {
		return c.hushed(fmt.Errorf("%w: it would leave %d voters, of which %d must be alive and %d are",
			ErrUnsafeMembership, len(cs.Voters), quorum, alive))
	}
	return nil
}

// tendLearners looks after those that want to vote: they are promoted when they have
// caught up for long enough, for a vote is worth something only with the log behind
// it, and given up when they do not show up.
func (c *Core) tendLearners() {
	if c.busy() {
		return
	}
	var ready, absent []Change
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if typ != raft.ProgressTypeLearner || m == nil || !m.Promote {
			return
		}
		notes := c.peers.get(id)
		if c.alive(id) {
			notes.absent = 0
		} else if notes.absent++; notes.absent >= c.cfg.JoinTimeoutTicks {
			absent = append(absent, Change{Op: Remove, Member: *m})
		}
		if c.caughtUp(id) != nil || c.mayTakePlace(*m) != nil {
			notes.caughtUp = 0
			return
		}
		if notes.caughtUp++; notes.caughtUp < c.cfg.PromoteStableTicks {
			return
		}
		voter := *m
		if notes.incarnation != 0 {
			voter.Incarnation = notes.incarnation
		}
		ready = append(ready, Change{Op: Promote, Member: voter})
	})
	switch {
	case len(absent) > 0:
		c.giveUp(absent[0])
	case len(ready) > 0:
		c.promote(ready[:min(len(ready), changesMax/4)])
	}
}

// tendAddresses corrects the records of members that moved: of those that this leader
// reached elsewhere. (Whoever moved calls the others, and so they know where it is.)
func (c *Core) tendAddresses() {
	if c.busy() {
		return
	}
	for i := range c.handed.Membership.Members {
		m := &c.handed.Membership.Members[i]
		notes := c.peers.find(m.ID)
		if notes == nil || notes.address == "" {
			continue
		}
		if notes.address == m.Address {
			notes.address = "" // it would be old news if the record changed again
			continue
		}
		moved := *m
		moved.Address = notes.address
		changes := []Change{{Op: UpdateAddress, Member: moved}}
		if c.allowChanges(changes) != nil {
			continue
		}
		c.wait(request{Request: Request{Kind: ChangeMembership, Changes: changes}})
		return
	}
}

// busy: this member does not lead, or a change or a transfer is under way, or one that
// it wants by itself waits.
func (c *Core) busy() bool {
	st := c.rn.BasicStatus()
	return st.RaftState != raft.StateLeader || st.LeadTransferee != raft.None ||
		len(c.handed.Membership.UnderWay) > 0 || c.confIndex > c.applied ||
		slices.ContainsFunc(c.waiting, func(it request) bool { return it.from == 0 && it.Waiter == nil })
}

// giveUp removes a member that was to vote and is not there.
func (c *Core) giveUp(change Change) {
	id := change.Member.ID
	c.peers.get(id).absent = 0
	c.effects.GivenUp = append(c.effects.GivenUp, id)
	c.wait(request{Request: Request{Kind: ChangeMembership, Changes: []Change{change}}})
}

// promote makes voters, and removes those whose places they take, in one change.
func (c *Core) promote(changes []Change) {
	for _, p := range changes {
		c.peers.get(p.Member.ID).caughtUp = 0
	}
	changes = inPlace(c.handed.Membership, changes)
	if err := c.allowChanges(changes); err != nil && !errors.Is(err, errNoChange) {
		return // it may do so at the next try
	}
	c.wait(request{Request: Request{Kind: ChangeMembership, Changes: changes}})
}
