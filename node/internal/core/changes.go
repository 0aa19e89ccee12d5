package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"

	octopiipb "github.com/octopii/octopii/proto"
)

// changes are those of the membership: which may be made, and which a leader makes by itself.
type changes struct {
	space
	// confIndex is where this leader appended its last change of membership or settings.
	confIndex uint64
}

// allowChanges says whether this leader may append changes now. Beside what every
// member checks when it applies them, the leader looks at who is alive and how far.
func (c *changes) allowChanges(changes []Change) error {
	if err := c.remembersNone(changes); err != nil {
		return err
	}
	if err := checkChanges(c.handed.Membership, c.handed.ConfState, changes); err != nil {
		return err
	}
	if c.confIndex > c.applied {
		return c.errConfPending()
	}
	for _, change := range changes {
		var err error
		switch change.Op {
		case Promote:
			if m := find(c.handed.Membership, change.Member.ID); m != nil && m.Kind == octopiipb.Learner {
				err = cmp.Or(c.caughtUp(m.ID), c.mayTakePlace(*m))
			}
		case AddLearner:
			if err := c.roomToJoin(change); err != nil {
				return err
			}
			if r := change.Member.Replaces; change.IfSilent && r != 0 && c.alive(r) {
				err = fmt.Errorf("%w: member %x, whose place is asked for, is alive; where it moved, its record is corrected by itself; if this is another machine, give it an address and a name of its own, and a directory that was never another member's", ErrUnsafeMembership, r)
			} else if old := find(c.handed.Membership, r); change.IfSilent && old != nil && old.Kind == octopiipb.Voter && old.Address != change.Member.Address && !c.longGone(r) {
				// A copy of its files elsewhere is no proof that it is gone.
				err = fmt.Errorf("%w: member %x at %s, whose place is asked for from %s, may only be away; it is taken for gone when it was silent for %d ticks", ErrMembershipBusy, r, old.Address, change.Member.Address, c.cfg.JoinTimeoutTicks)
			} else if change.IfSilent && r != 0 {
				err = c.hushed(nil)
			}
			if v := voterAt(c.handed.Membership, change.Member.Address, change.Member.ID); err == nil && v != nil && v.ID != change.Member.Replaces && c.alive(v.ID) {
				err = errPlaceTaken(change.Member, v)
			}
		case UpdateAddress:
			err = c.mayFollow(change)
		}
		if err != nil {
			return err
		}
	}
	return c.keepsQuorum(changes)
}

func (c *changes) errConfPending() error {
	return fmt.Errorf("%w: the one at index %d is not applied yet", ErrMembershipBusy, c.confIndex)
}

// joinersMax bounds the members that came by themselves and do not vote yet. Without
// certificates anybody may ask to be let in, and who never shows up goes only after
// JoinTimeoutTicks.
const joinersMax = 16

// tendLearners looks after those that want to vote: they are promoted when they have
// caught up for long enough, for a vote is worth something only with the log behind
// it, and given up when they do not show up.
func (c *changes) tendLearners() {
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
// reached elsewhere and that answered it from there. (A member that moved calls the others, and
// so they know where it is.) A copy of a disk proves itself, too. One that is older than what is
// remembered of the member serves nothing, answers nothing, and so no record follows it.
func (c *changes) tendAddresses() {
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
		if !notes.answered && m.ID != c.cfg.ID {
			continue
		}
		moved := *m
		moved.Address = notes.address
		changes := []Change{{Op: UpdateAddress, Member: moved, IfSilent: true}}
		if c.allowChanges(changes) != nil {
			continue
		}
		c.wait(request{Request: Request{Kind: ChangeMembership, Changes: changes}})
		return
	}
}

// mayFollow says whether a record may follow a member that was met elsewhere, if nobody but
// itself said so: a copy of its disk is met as well. While it answers where it is recorded it
// is there; and the place of another member is its own only if that one was met elsewhere, as
// when two swapped their addresses, or is long gone: a record that had to give way would keep
// one out that is only away.
func (c *changes) mayFollow(change Change) error {
	m := find(c.handed.Membership, change.Member.ID)
	if !change.IfSilent || m == nil {
		return nil
	}
	if c.alive(m.ID) && c.answersAt(m.ID, m.Address) {
		return fmt.Errorf("%w: member %x answers at %s, where it is recorded, and is said to be at %s as well: does a copy of its disk run there?",
			ErrUnsafeMembership, m.ID, m.Address, change.Member.Address)
	}
	for i := range c.handed.Membership.Members {
		o := &c.handed.Membership.Members[i]
		if o.ID == m.ID || o.Address != change.Member.Address || c.answersElsewhere(o) || c.longGone(o.ID) {
			continue
		}
		return fmt.Errorf("%w: %s is recorded for member %x, which was not met elsewhere and may only be away; the record of member %x does not follow it there",
			ErrUnsafeMembership, o.Address, o.ID, m.ID)
	}
	return nil
}

// busy: this member does not lead, or a change or a transfer is under way, or one that
// it wants by itself waits.
func (c *changes) busy() bool {
	st := c.rn.BasicStatus()
	return st.RaftState != raft.StateLeader || st.LeadTransferee != raft.None ||
		len(c.handed.Membership.UnderWay) > 0 || c.confIndex > c.applied ||
		slices.ContainsFunc(c.waiting, func(it request) bool { return it.from == 0 && it.Waiter == nil })
}

// giveUp removes a member that was to vote and is not there.
func (c *changes) giveUp(change Change) {
	id := change.Member.ID
	c.peers.get(id).absent = 0
	c.effects.GivenUp = append(c.effects.GivenUp, id)
	c.wait(request{Request: Request{Kind: ChangeMembership, Changes: []Change{change}}})
}

// promote makes voters, and removes those whose places they take, in one change.
func (c *changes) promote(changes []Change) {
	for _, p := range changes {
		c.peers.get(p.Member.ID).caughtUp = 0
	}
	changes = inPlace(c.handed.Membership, changes)
	if err := c.allowChanges(changes); err != nil && !errors.Is(err, errNoChange) {
		return // it may do so at the next try
	}
	c.wait(request{Request: Request{Kind: ChangeMembership, Changes: changes}})
}
