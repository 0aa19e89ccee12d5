package sim

import (
	"fmt"
	"strings"

	"github.com/octopii/octopii/internal/stepped"
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
func (c *checker) lay(m *member, d *stepped.Decision) {
	var what []string
	add := func(n int, format string, args ...any) {
		if n > 0 {
			what = append(what, fmt.Sprintf(format, args...))
		}
	}
	for i := range d.Messages {
		add(1, "%v to n%d", d.Messages[i].Type, d.Messages[i].To)
	}
	for i := range d.Forwards {
		add(1, "%d requests to n%d", d.Forwards[i].Count, d.Forwards[i].To)
	}
	for i := range d.Replies {
		add(1, "%d replies to n%d", d.Replies[i].Count, d.Replies[i].To)
	}
	add(d.Outcomes, "%d outcomes", d.Outcomes)
	add(d.Snapshots, "%d snapshots", d.Snapshots)
	if d.Append != nil {
		add(1, "an append of %d entries", len(d.Append.Entries))
	}
	if d.Applies {
		add(1, "an apply up to %d", d.ApplyTo)
	}
	if len(what) > 0 {
		st := m.status()
		c.w.fail("nothing waits for a tick", "%s, %v in term %d under %x, wants no turn, and one more brings %s",
			m.name(), st.Role, st.Term, st.Leader, strings.Join(what, ", "))
	}
}
