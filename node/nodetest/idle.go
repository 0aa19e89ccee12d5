package nodetest

import (
	"fmt"
	"strings"

	"github.com/octopii/octopii/node/internal/core"
)

// idle takes one turn too many of a member that wants none. Nothing has happened since
// its last one, so nothing may come of it: what does lay there unserved, though nothing
// was under way for it, and would have waited for the next message or tick.
func (c *checker) idle(m *member) {
	if m.node == nil || m.node.Work().Loop {
		return
	}
	select {
	case <-m.real.Done():
		return
	case <-m.real.Initialized():
	default:
		return
	}
	c.spare = true
	defer func() { c.spare = false }()
	m.node.Loop(0)
}

// lay says what a turn too many decided.
func (c *checker) lay(m *member, eff *core.Effects) {
	var what []string
	add := func(n int, format string, args ...any) {
		if n > 0 {
			what = append(what, fmt.Sprintf(format, args...))
		}
	}
	for i := range eff.Messages {
		add(1, "%v to n%d", eff.Messages[i].Type, eff.Messages[i].To)
	}
	for i := range eff.Forwards {
		add(1, "%d requests to n%d", len(eff.Forwards[i].Requests), eff.Forwards[i].To)
	}
	for i := range eff.Replies {
		add(1, "%d replies to n%d", len(eff.Replies[i].Replies), eff.Replies[i].To)
	}
	add(len(eff.Outcomes), "%d outcomes", len(eff.Outcomes))
	add(len(eff.Snapshots), "%d snapshots", len(eff.Snapshots))
	if eff.Append != nil {
		add(1, "an append of %d entries", len(eff.Append.Entries))
	}
	if eff.Apply != nil {
		add(1, "an apply up to %d", eff.Apply.Label.Index)
	}
	if len(what) > 0 {
		st := m.status()
		c.w.fail("nothing waits for a tick", "%s, %v in term %d under %x, wants no turn, and one more brings %s",
			m.name(), st.Role, st.Term, st.Leader, strings.Join(what, ", "))
	}
}
