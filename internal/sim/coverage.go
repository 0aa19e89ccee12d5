package sim

import (
	"maps"
	"slices"

	"github.com/octopii/octopii/node"
)

// Coverage says how much of what a member may be in a story reached. A state is a
// small abstraction of one member: its role, whether it knows a leader, whether a
// joint configuration is in force, whether it is a learner, whether a snapshot is on
// its way to it, whether its disk works, and whether its log is ahead of what is
// committed, and that of what is applied. Of two simulators the one that reaches
// more of them in an hour sees more.
type Coverage struct {
	// States are numbers of states, and Transitions of pairs of them, ascending.
	States, Transitions []uint32
}

// coverage gathers it.
type coverage struct {
	states, transitions map[uint32]bool
}

// visit notes the state of a member that has just taken a turn.
func (c *coverage) visit(m *member, st *node.Status) {
	now := stateOf(m, st)
	if now == m.state {
		return
	}
	if c.states == nil {
		c.states, c.transitions = map[uint32]bool{}, map[uint32]bool{}
	}
	c.states[now] = true
	c.transitions[m.state<<16|now] = true
	m.state = now
}

func (c *coverage) report() Coverage {
	return Coverage{slices.Sorted(maps.Keys(c.states)), slices.Sorted(maps.Keys(c.transitions))}
}

// stateOf is the number of a member's state; 0 is one that does not run.
func stateOf(m *member, st *node.Status) uint32 {
	self, known := st.Membership.Member(m.id)
	d := m.disk
	s := uint32(st.Role) & 3
	for _, bit := range []bool{
		true, m.log != nil, st.Leader != 0, st.Membership.Joint, known, self.Learner, m.receives != nil,
		d.stalled > m.w.now, d.roomless, m.writing != nil, st.LastIndex > st.Commit, st.Commit > st.Applied,
	} {
		s <<= 1
		if bit {
			s |= 1
		}
	}
	return s
}
