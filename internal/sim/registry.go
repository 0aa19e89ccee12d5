package sim

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/stepped"
	octopiipb "github.com/octopii/octopii/proto"
)

// registry is which memberships were in force, and since when: the same on every member.
type registry struct {
	calls
	// confs are the memberships that were in force, by the index from which on.
	confs     map[uint64]string
	confsFrom []uint64
	// memberships are all of them, by their index; buried are those that have a
	// tombstone.
	memberships map[uint64]*octopiipb.Membership
	buried      map[uint64]bool
}

// membership: the same change leads to the same membership everywhere.
func (c *registry) membership(m *member, ms *octopiipb.Membership) {
	cs, err := stepped.ConfState(ms)
	if err != nil {
		c.w.fail("one membership at an index", "%s has from %d on what cannot be: %v", m.name(), ms.Index, err)
		return
	}
	s := confString(cs)
	old, ok := c.confs[ms.Index]
	if ok && old != s {
		c.w.fail("one membership at an index", "%s has %s from %d on, and another member %s", m.name(), s, ms.Index, old)
	}
	if ok && c.memberships[ms.Index].Settings != ms.Settings {
		c.w.fail("one membership at an index", "%s has settings %v from %d on, and another member %v", m.name(), ms.Settings, ms.Index, c.memberships[ms.Index].Settings)
	}
	if level := ms.Settings.Level(); m.reads != 0 && level > m.reads {
		c.w.fail("nobody goes on at a format level that it does not read", "%s is at level %d and reads %d", m.name(), level, m.reads)
	}
	if v := &m.view; m.node != nil && ms.Index > v.base && ms.Index <= v.last() && !v.log[ms.Index-v.base-1].change {
		c.w.fail("membership changes where its entry is", "%s has %s from %d on, and the entry there is no change", m.name(), s, ms.Index)
	}
	if !ok {
		c.onePlaceEach(m, ms)
		for _, mem := range ms.Members { // it took the place of a learner
			if mem.Kind == octopiipb.Learner && !mem.Promote && c.w.nemesis.demoted[mem.Replaces] {
				c.w.nemesis.demoted[mem.ID] = true
			}
		}
		c.confs[ms.Index], c.memberships[ms.Index] = s, ms
		at, _ := slices.BinarySearch(c.confsFrom, ms.Index)
		if at > 0 {
			c.bury(m, c.memberships[c.confsFrom[at-1]], ms)
		}
		c.confsFrom = slices.Insert(c.confsFrom, at, ms.Index)
		c.w.tell(m, "  membership from %d on: %s", ms.Index, s)
	}
}

// onePlaceEach: one process listens at an address. A second voter there is one that is no
// more, and its vote is missing for good.
func (c *registry) onePlaceEach(m *member, ms *octopiipb.Membership) {
	for i, a := range ms.Members {
		for _, b := range ms.Members[i+1:] {
			if a.Address == b.Address && a.Address != "" && a.Kind == octopiipb.Voter && b.Kind == octopiipb.Voter {
				c.w.fail("no two voters have one address", "%s has a membership from %d on in which %x and %x vote at %s", m.name(), ms.Index, a.ID, b.ID, a.Address)
			}
		}
	}
}

// bury: an ID is never used again. Whoever is not in the next membership has a
// tombstone there, for ever.
func (c *registry) bury(m *member, before, after *octopiipb.Membership) {
	gone := before.RemovedIDs()
	for _, mem := range before.Members {
		if !slices.ContainsFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == mem.ID }) {
			gone = append(gone, mem.ID)
		}
	}
	for _, id := range gone {
		if !after.IsRemoved(id) {
			c.w.fail("whoever was removed has a tombstone", "%s has a membership from %d on without %x, and without a tombstone for it", m.name(), after.Index, id)
		}
		c.buried[id] = true
	}
	for _, was := range before.Members {
		now := slices.IndexFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == was.ID && o.Kind == octopiipb.Voter })
		if was.Kind == octopiipb.Learner && was.Replaces != 0 && now >= 0 && slices.ContainsFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == was.Replaces }) {
			c.w.fail("whoever takes a place takes it in one change", "%s has a membership from %d on in which %x votes and %x, which it replaces, is still there", m.name(), after.Index, was.ID, was.Replaces)
		}
	}
}

// met: two members have shaken hands. One whose disk forgot what it promised must
// be told so by everybody who knows that disk. (One that was wiped before anybody
// knew its disk promised nothing: the others come to know the one that it has now.)
func (c *registry) met(m, who *member) {
	if m.phantom || !who.wiped || m.view.forgets || !m.up() {
		return
	}
	ms, ok := c.memberships[m.status().Membership.Index]
	if !ok {
		return
	}
	now := who.end.handler.Hello(m.id).Incarnation
	for _, o := range ms.Members {
		switch {
		case o.ID != who.id || o.Incarnation == 0:
		case o.Incarnation != now:
			c.w.fail("whoever forgot is kept out", "%s shakes hands with %s, which it knows from before its disk was wiped", m.name(), who.name())
		case who.voted:
			c.w.fail("whoever forgot is kept out", "%s knows %s by the disk that it has since it was wiped, and it voted before", m.name(), who.name())
		}
	}
}

// label: a snapshot at an index has the membership in force there.
func (c *registry) label(m *member, index uint64, conf string) {
	at, _ := slices.BinarySearch(c.confsFrom, index+1)
	if at == 0 {
		return
	}
	if want := c.confs[c.confsFrom[at-1]]; conf != want {
		c.w.fail("snapshots are labelled right", "%s has a snapshot at %d with %s, and %s is in force there since %d", m.name(), index, conf, want, c.confsFrom[at-1])
	}
}

func confString(cs raftpb.ConfState) string {
	list := func(ids []uint64) []uint64 {
		ids = slices.Clone(ids)
		slices.Sort(ids)
		return ids
	}
	s := fmt.Sprintf("voters %x learners %x", list(cs.Voters), list(cs.Learners))
	if len(cs.VotersOutgoing) > 0 {
		s += fmt.Sprintf(" outgoing %x staged %x", list(cs.VotersOutgoing), list(cs.LearnersNext))
	}
	return s
}
