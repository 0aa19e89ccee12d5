package node

import (
	"cmp"
	"slices"

	"go.uber.org/zap"

	octopiipb "github.com/octopii/octopii/proto"
)

// Branch is what one member has committed and the majority does not have: a majority of
// the disks was set back, elected a leader and went on.
type Branch struct {
	// ID is the member that has it, or had it, and was replaced since: it is then no member
	// of Status.Membership any more, and only its files have these entries.
	ID uint64
	// First and Last are the log indexes of the entries, and Term is that of the last one;
	// 0 if it is not known. What the majority has at these indexes now is something else.
	First, Last, Term uint64
}

// losses are what members lost, or alone have, as far as this one was told: an operator must hear
// of it. The loop owns them.
type losses struct {
	loop *loop
	// suspects are members that said that they may have lost something, ordered by ID.
	suspects []Suspect
	// branches are what members have, or had, that the majority does not: branchesMax at
	// most, in the order in which they were found.
	branches []Branch
}

// branched notes what a member has that the majority does not, and says so for as long as
// this process lives, also when the member was replaced. What the member itself found out
// replaces what a leader saw of it.
func (s *losses) branched(b Branch, exact bool) {
	l := s.loop
	if !isMember(l.membership, b.ID) || b.First == 0 || b.First > b.Last {
		return
	}
	at := slices.IndexFunc(s.branches, func(o Branch) bool { return o.ID == b.ID })
	if at >= 0 && (!exact || s.branches[at] == b) {
		return
	}
	list := slices.Clone(s.branches) // Status has the other
	if at >= 0 {
		list[at] = b
	} else {
		list = append(list, b)
	}
	s.branches = list[max(0, len(list)-branchesMax):]
	l.log.Error("a majority forgot entries that a member has committed: disks were set back, and what was acknowledged is missing in what is served. Keep the files of that member; how to have its history instead is told in README.md under \"A majority forgot\"",
		zap.String("peer", hex(b.ID)), zap.Uint64("from index", b.First), zap.Uint64("to index", b.Last), zap.Uint64("term", b.Term))
}

// note keeps that another member may have lost something, while there is no majority.
func (s *losses) note(id uint64, q *octopiipb.CompareRequest) {
	l := s.loop
	said := Suspect{ID: id, LastIndex: q.Last, Remembered: max(q.Remembered.Match, q.Remembered.Commit)}
	list := slices.DeleteFunc(slices.Clone(s.suspects), func(o Suspect) bool { return o.ID == id })
	at, _ := slices.BinarySearchFunc(list, id, func(o Suspect, id uint64) int { return cmp.Compare(o.ID, id) })
	if said.Remembered <= said.LastIndex { // of a term that it forgot, and of no entry
		return
	}
	if !slices.Contains(s.suspects, said) {
		l.log.Error("a member may have lost entries: it is remembered for more than it has, and serves nothing until a majority answers",
			zap.String("peer", hex(id)), zap.Uint64("from index", said.LastIndex+1), zap.Uint64("to index", said.Remembered))
	}
	s.suspects = slices.Insert(list, at, said)
}

// keep forgets the suspects that are no members any more, and no branch: a member that has one is
// soon replaced, and an operator must hear of it.
func (s *losses) keep(ms *octopiipb.Membership) {
	s.suspects = slices.DeleteFunc(slices.Clone(s.suspects), func(o Suspect) bool { return !isMember(ms, o.ID) })
}

// of is what another member was found to have that is not here. ID 0: nothing.
func (s *losses) of(id uint64) Branch {
	branches := s.branches
	if i := slices.IndexFunc(branches, func(b Branch) bool { return b.ID == id }); i >= 0 {
		return branches[i]
	}
	if s.loop.guests.isBranched(id) {
		return Branch{ID: id}
	}
	return Branch{}
}
