package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/octopii/octopii/node"
)

// roster is who is there, and what the members themselves say of who belongs to the cluster.
type roster struct {
	story
	cfg     setting
	members []*member
	// nextID is the ID that the next member gets.
	nextID uint64
}

// running lists the members that run, in the order in which they were made.
func (r *roster) running() []*member {
	var list []*member
	for _, m := range r.members {
		if m.up() && !m.phantom {
			list = append(list, m)
		}
	}
	return list
}

// leader is the member that leads in the highest term, or nil.
func (r *roster) leader() *member {
	var best *member
	for _, m := range r.running() {
		if st := m.status(); st.Role == roleLeader && (best == nil || st.Term > best.status().Term) {
			best = m
		}
	}
	return best
}

func (r *roster) member(id uint64) *member {
	i := slices.IndexFunc(r.members, func(m *member) bool { return m.id == id })
	if i < 0 {
		return nil
	}
	return r.members[i]
}

// voters and learners are those of the newest membership that anybody has.
func (r *roster) voters() (voters, learners []*member) {
	var best node.Membership
	for _, m := range r.members {
		if m.up() && !m.phantom && !m.view.forgets && m.status().Membership.Index >= best.Index {
			best = m.status().Membership
		}
	}
	if len(best.Members) == 0 { // nobody is up: what the book says
		for _, m := range r.members {
			if m.up() || m.gone {
				continue
			}
			m.resume()
			m.start()
		}
		for _, m := range r.running() {
			if m.status().Membership.Index >= best.Index {
				best = m.status().Membership
			}
		}
	}
	for _, mem := range best.Members {
		if m := r.member(mem.ID); mem.Learner {
			learners = append(learners, m)
		} else {
			voters = append(voters, m)
		}
	}
	return voters, learners
}

// voterMembers are those of a leader's membership.
func (r *roster) voterMembers(l *member) (list []*member) {
	for _, id := range l.status().Membership.Voters() {
		list = append(list, r.member(id))
	}
	return list
}

// votes says whether a member has a vote in any membership that somebody has.
func (r *roster) votes(m *member) bool {
	return slices.ContainsFunc(r.running(), func(o *member) bool { return slices.Contains(o.status().Membership.Voters(), m.id) })
}

// leaving are voters of a membership that somebody still has in force who are none of the
// newest one: their votes may be needed until a majority knows of that.
func (r *roster) leaving(voters []*member) (leaving []*member) {
	for _, m := range r.running() {
		for _, id := range m.status().Membership.Voters() {
			was := r.member(id)
			if was != nil && !was.hopeless() && !slices.Contains(voters, was) && !slices.Contains(leaving, was) {
				leaving = append(leaving, was)
			}
		}
	}
	return leaving
}

// changing says whether a change of membership is under way, or may be: an entry that
// somebody has, and not everybody who has it has applied.
func (r *roster) changing() bool {
	return slices.ContainsFunc(r.members, func(m *member) bool {
		newest := uint64(0)
		for i := range m.view.log {
			if m.view.log[i].change {
				newest = m.view.base + uint64(i) + 1
			}
		}
		return newest > r.applied() || m.up() && m.status().Membership.Joint
	})
}

// informed is how many voters that run know the newest membership that anybody has. A commit
// index may be lost with the power: a change is safe when a majority knows of it.
func (r *roster) informed(voters []*member) (count int) {
	newest := uint64(0)
	for _, m := range r.running() {
		newest = max(newest, m.status().Membership.Index)
	}
	for _, m := range voters {
		if m != nil && m.up() && m.status().Membership.Index == newest {
			count++
		}
	}
	return count
}

// belongs says whether the newest membership that anybody has, who runs, has a member.
func (r *roster) belongs(m *member) bool {
	var best node.Membership
	for _, o := range r.running() {
		if ms := o.status().Membership; ms.Index >= best.Index {
			best = ms
		}
	}
	_, ok := best.Member(m.id)
	return ok
}

// applied is how far the member has applied that is furthest of those that run.
func (r *roster) applied() (index uint64) {
	for _, m := range r.running() {
		index = max(index, m.status().Applied)
	}
	return index
}

// summary is where everybody is.
func (r *roster) summary() string {
	var parts []string
	for _, m := range r.members {
		switch {
		case m.up():
			st := m.status()
			parts = append(parts, fmt.Sprintf("%s at %s: %s term %d leader %x log %d-%d commit %d applied %d of %s", m.name(), m.address, st.Role, st.Term, st.Leader,
				st.FirstIndex, st.LastIndex, st.Commit, st.Applied, memberList(st.Membership)))
		default:
			parts = append(parts, fmt.Sprintf("%s: down, gone=%v: %v", m.name(), m.gone, m.ended))
		}
	}
	return strings.Join(parts, "; ")
}

func memberList(ms node.Membership) string {
	var parts []string
	for _, m := range ms.Members {
		s := fmt.Sprintf("%x", m.ID)
		if m.Learner {
			s += "?"
		}
		if m.Address != fmt.Sprintf("n%d", m.ID) { // it moved
			s += "@" + m.Address
		}
		parts = append(parts, s)
	}
	return "[" + strings.Join(parts, " ") + "]"
}
