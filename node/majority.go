package node

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A member that hears of no leader, and of too few voters to elect one, says who is
// missing: in its Status, and in its log once and then every majorityLogTicks.

// majorityLogTicks is the pause between two lines about the same lack of a majority.
const majorityLogTicks = 600

// Missing is a voter that is not heard of while there is no majority.
type Missing struct {
	Member Member
	// Silent is for how long nothing was heard of it, in whole ticks. Heard is false if
	// nothing ever was since this member started, Silent ago.
	Silent time.Duration
	Heard  bool
	// Branch is what it was found to have that this member does not: another history. It may run
	// and be connected, but neither takes anything of the other. ID is 0 if nothing is known of
	// one, First if it is not known which entries.
	Branch Branch
}

func (m Missing) String() string {
	name := hex(m.Member.ID)
	if m.Member.Name != "" {
		name = fmt.Sprintf("%s (%s)", m.Member.Name, name)
	}
	text := fmt.Sprintf("%s at %s, silent for %v", name, m.Member.Address, m.Silent.Round(time.Second))
	if !m.Heard {
		text = fmt.Sprintf("%s at %s, of which nothing came since this member started %v ago", name, m.Member.Address, m.Silent.Round(time.Second))
	}
	switch {
	case m.Branch.ID == 0:
		return text
	case m.Branch.First == 0:
		return text + ", which has another history than this member, so that neither counts the other"
	}
	return fmt.Sprintf("%s, which has entries %d to %d of another history than this member, so that neither counts the other", text, m.Branch.First, m.Branch.Last)
}

// NoMajority says which voters are missing for a majority, and what to do; "" while there
// is no such lack. It is text for people.
func (s Status) NoMajority() string {
	if len(s.Missing) == 0 {
		return ""
	}
	voters := len(s.Membership.Voters())
	var missing []string
	advice := "start them, or restore the network to them; one that runs says why it takes no part"
	for _, m := range s.Missing {
		missing = append(missing, m.String())
		if m.Branch.ID != 0 {
			advice = `start those that are not running, and see "A majority forgot" in README.md for those of another history`
		}
	}
	return fmt.Sprintf("no majority: %d of %d voters are heard of, and %d are needed; missing: %s; %s; no command makes a cluster of the rest",
		voters-len(missing), voters, s.Membership.Quorum(), strings.Join(missing, "; "), advice)
}

// majority notices that there is none. It belongs to the loop.
type majority struct {
	missing []Missing
	// age is for how many ticks this member has been part of its cluster, and quiet for
	// how many more nothing is logged.
	age, quiet int
}

// tick looks who is missing, and logs it.
func (m *majority) tick(l *loop, ticks int) {
	m.age += ticks
	m.quiet -= ticks
	m.missing = m.lookFor(l)
	if len(m.missing) == 0 {
		m.quiet = 0
		return
	}
	if m.quiet <= 0 {
		m.quiet = majorityLogTicks
		l.log.Error(Status{Membership: l.public, Missing: m.missing}.NoMajority())
	}
}

// lookFor returns the voters that are not heard of, ordered by ID, if they are so many that
// the others are no majority. Those that live campaign at the latest after two election
// timeouts, so none is called missing before three. Members that know no majority in which
// they may serve are silent, too: Suspended and Suspects say so.
func (m *majority) lookFor(l *loop) []Missing {
	limit := 3 * l.cfg.ElectionTicks
	if m.age < limit || l.suspension() != nil || !l.core.Lonely() {
		return nil
	}
	var missing []Missing
	for _, o := range l.public.Members {
		silent, heard := l.core.Silent(o.ID)
		if !heard {
			silent = m.age
		}
		suspect := slices.ContainsFunc(l.doubt.losses.suspects, func(s Suspect) bool { return s.ID == o.ID })
		if o.ID != l.id && !o.Learner && silent >= limit && !suspect {
			missing = append(missing, Missing{Member: o, Silent: time.Duration(silent) * l.cfg.TickInterval, Heard: heard, Branch: l.doubt.losses.of(o.ID)})
		}
	}
	if len(l.public.Voters())-len(missing) >= l.public.Quorum() {
		return nil
	}
	return missing
}
