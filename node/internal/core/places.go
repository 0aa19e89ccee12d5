package core

import (
	"fmt"
	"slices"

	octopiipb "github.com/octopii/octopii/proto"
)

// A place is an address. One process listens there, so no two voters have one: the older
// of two such records is of a member that is no more, its vote is missing for good, and
// one more failure stops the cluster. Four rules keep it so:
//
//   - Every member refuses a committed change that gives a voter the address of another
//     one (checkPlaces).
//   - Who joins with the wish to take its own place back gets it from the leader, by the
//     leader's membership: that of the member that was asked may be old (inPlace).
//   - What takes the place of a learner that was not on its way to a vote is one as well,
//     and removes it at once (keepLearner).
//   - A promotion removes all whose places the new voter takes, in one change: the one that
//     it names, who that one was to replace, and all others at its address (inPlace).

// checkPlaces refuses changes that give a voter the address of another voter. What was so
// before them keeps no change from being made.
func checkPlaces(before, after *octopiipb.Membership) error {
	for i := range after.Members {
		m := &after.Members[i]
		o := voterAt(after, m.Address, m.ID)
		if m.Kind == octopiipb.Learner || o == nil {
			continue
		}
		was, other := find(before, m.ID), find(before, o.ID)
		if was != nil && other != nil && was.Kind == octopiipb.Voter && other.Kind == octopiipb.Voter && was.Address == other.Address {
			continue
		}
		return fmt.Errorf("%w: members %x and %x would both vote at %s; remove the one that is not there any more in the same change",
			ErrUnsafeMembership, m.ID, o.ID, m.Address)
	}
	return nil
}

// voterAt returns a voter at an address that is not member but, or nil.
func voterAt(ms *octopiipb.Membership, address string, but uint64) *octopiipb.Member {
	i := slices.IndexFunc(ms.Members, func(o octopiipb.Member) bool {
		return address != "" && o.Address == address && o.ID != but && o.Kind == octopiipb.Voter
	})
	if i < 0 {
		return nil
	}
	return &ms.Members[i]
}

// replacedBy are the members whose places a learner takes when it gets its vote: the one
// that it names, those that were themselves to replace somebody and did not live to, and
// all at its address, which are its own former lives.
func replacedBy(ms *octopiipb.Membership, m octopiipb.Member) (list []octopiipb.Member) {
	add := func(o *octopiipb.Member) bool {
		if o == nil || o.ID == m.ID || slices.ContainsFunc(list, func(l octopiipb.Member) bool { return l.ID == o.ID }) {
			return false
		}
		list = append(list, *o)
		return true
	}
	for old := find(ms, m.Replaces); add(old) && old.Kind == octopiipb.Learner; {
		old = find(ms, old.Replaces)
	}
	for i := range ms.Members {
		if o := &ms.Members[i]; m.Address != "" && o.Address == m.Address {
			add(o)
		}
	}
	return list
}

// inPlace completes changes by the places that a membership knows.
func inPlace(ms *octopiipb.Membership, changes []Change) []Change {
	all := slices.Clone(changes)
	for i := range changes {
		m := &all[i].Member
		switch changes[i].Op {
		case AddLearner:
			if !changes[i].IfSilent {
				continue
			}
			if m.Replaces != 0 && find(ms, m.Replaces) == nil {
				m.Replaces = 0 // the member that was asked did not know that it is gone
				if v := formerAt(ms, m.Address, m.ID); v != nil {
					m.Replaces = v.ID
				}
			}
			all = keepLearner(ms, all, i)
		case Promote:
			record := find(ms, m.ID)
			if record == nil || record.Kind == octopiipb.Voter {
				continue
			}
			for _, old := range replacedBy(ms, merged(*record, *m)) {
				if !slices.ContainsFunc(all, func(o Change) bool { return o.Member.ID == old.ID }) {
					all = append(all, Change{Op: Remove, Member: old})
				}
			}
		}
	}
	return all
}

// formerAt is a voter at an address, or else a learner that was not on its way to a vote.
func formerAt(ms *octopiipb.Membership, address string, but uint64) *octopiipb.Member {
	if v := voterAt(ms, address, but); v != nil {
		return v
	}
	i := slices.IndexFunc(ms.Members, func(o octopiipb.Member) bool {
		return address != "" && o.Address == address && o.ID != but && staysLearner(&o)
	})
	if i < 0 {
		return nil
	}
	return &ms.Members[i]
}

// staysLearner: a member was added without a vote, or lost it, and nobody wants it to have
// one.
func staysLearner(m *octopiipb.Member) bool {
	return m != nil && m.Kind == octopiipb.Learner && !m.Promote
}

// keepLearner completes a change by which a member asks to come in. A member that asks
// wants a vote. One that takes the place of a learner that stays one gets none, also when
// it asks again. The one whose place it takes goes in the same change: no promotion will
// remove it.
func keepLearner(ms *octopiipb.Membership, all []Change, i int) []Change {
	m := &all[i].Member
	own, old := find(ms, m.ID), find(ms, m.Replaces)
	switch {
	case own != nil:
		m.Promote = m.Promote && !(staysLearner(own) && own.Replaces != 0)
	case staysLearner(old):
		m.Promote = false
		if !slices.ContainsFunc(all, func(o Change) bool { return o.Member.ID == old.ID }) {
			all = append(all, Change{Op: Remove, Member: *old})
		}
	}
	return all
}

func errPlaceTaken(m octopiipb.Member, by *octopiipb.Member) error {
	return fmt.Errorf("%w: %s is the address of member %x, which is alive; give member %x another one, or remove that one first",
		ErrUnsafeMembership, m.Address, by.ID, m.ID)
}

// tendPlaces removes a silent voter at whose address another voter answers. No change leads
// there any more, but a membership of before may have it.
func (c *changes) tendPlaces() {
	if c.busy() {
		return
	}
	for _, m := range c.handed.Membership.Members {
		old := voterAt(c.handed.Membership, m.Address, m.ID)
		if m.Kind == octopiipb.Learner || old == nil || !c.longGone(old.ID) || !c.answersAt(m.ID, m.Address) {
			continue
		}
		change := Change{Op: Remove, Member: *old}
		if c.allowChanges([]Change{change}) == nil {
			c.wait(request{Request: Request{Kind: ChangeMembership, Changes: []Change{change}}})
			return
		}
	}
}
