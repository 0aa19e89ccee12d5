package node_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/octopii/octopii/node"
)

// reading has a member's program pretend to read format levels.
func (m *member) reading(oldest, newest uint32) *member {
	node.Reads(&m.cfg, oldest, newest)
	return m
}

// atLevel waits until all are at a format level.
func atLevel(t *testing.T, level uint32, ms ...*member) {
	t.Helper()
	eventually(t, fmt.Sprint("all are at format level ", level), func() bool {
		return !slices.ContainsFunc(ms, func(m *member) bool { return m.Status().Membership.FormatLevel != level })
	})
}

// One member after the other runs a newer program. The level rises when the last one does, and
// then an older program does not start any more, and harms nothing.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	ms := []*member{newMember(t, 1), newMember(t, 2), newMember(t, 3)}
	said := observed(ms[1])
	ms[0].cfg.Bootstrap = true
	for i, m := range ms {
		if m.reading(1, 1).start(); i > 0 {
			add(t, ms[0], m)
		}
	}
	propose(t, ms[0], "before")
	for _, m := range ms[1:] {
		m.kill()
		m.reading(1, 2).start()
		leader(t, ms...)
		converged(t, ms...)
	}
	eventually(t, "a leader waits for the old program", func() bool {
		if ms[0].Status().Role == node.Leader { // it does not read the next level itself
			_ = ms[0].TransferLeadership(timeout(t), 0)
		}
		return slices.ContainsFunc(ms, func(m *member) bool { return slices.Equal(m.Status().LevelHeldBy, []uint64{1}) })
	})
	atLevel(t, 1, ms...)
	ms[0].kill()
	ms[0].reading(1, 2).start()
	atLevel(t, 2, ms...)
	for _, m := range ms {
		if held := m.Status().LevelHeldBy; held != nil {
			t.Errorf("%v hold a level that nobody can raise", held)
		}
	}
	if !said("all members read the next format level") {
		t.Error("the leader does not log the level")
	}
	propose(t, ms[0], "after")
	converged(t, ms...)

	ms[2].kill()
	err := ms[2].reading(1, 1).tryStart()
	want := "format level is 2, and the program of member 3 reads 1 to 1; run a newer octopii"
	if !errors.Is(err, node.ErrFormatLevel) || !strings.Contains(err.Error(), want) {
		t.Fatalf("the old program: %v, want ErrFormatLevel with %q", err, want)
	}
	propose(t, ms[0], "without it")
	ms[2].reading(1, 2).start()
	converged(t, ms...)
}

// A cluster begins at the highest level that all its founders read, and not at all where there
// is none.
func TestFoundersOfTwoVersions(t *testing.T) {
	t.Parallel()
	ms := expecting(t)
	for i, newest := range []uint32{3, 2, 4} {
		ms[i].reading(1, newest).start()
	}
	voters(t, ms...)
	atLevel(t, 2, ms...)

	ms = expecting(t)
	var said []func(string) bool
	for i, m := range ms {
		said = append(said, observedReason(m))
		if m.reading(1, 2); i == 1 {
			m.reading(3, 4)
		}
		m.start()
	}
	eventually(t, "the one that would found says why it cannot", func() bool {
		return slices.ContainsFunc(said, func(said func(string) bool) bool { return said("octopii there") })
	})
	for _, m := range ms {
		if cluster := m.Status().Cluster; cluster != 0 {
			t.Errorf("cluster %x is founded by programs that do not read the same", cluster)
		}
	}
}

// An old program that is added, or asks to join, ends and says why. The cluster goes on.
func TestOldProgramThatIsAdded(t *testing.T) {
	t.Parallel()
	leads := newMember(t, 1).reading(1, 2)
	leads.cfg.Bootstrap = true
	leads.start()
	atLevel(t, 2, leads)
	added := newMember(t, 2).reading(1, 1).start()
	if _, err := leads.AddVoter(timeout(t), node.Member{Address: added.addr}); !errors.Is(err, node.ErrFormatLevel) {
		t.Fatalf("add it while it can be asked: %v, want ErrFormatLevel", err)
	}
	added.kill()
	if _, err := leads.AddLearner(timeout(t), node.Member{ID: 2, Address: added.addr}); err != nil {
		t.Fatal(err)
	}
	added.start()
	joins := newMember(t, 3).reading(3, 4)
	joins.cfg.Join = []string{leads.addr}
	joins.start()
	for m, want := range map[*member]string{added: "run a newer octopii", joins: "run an older octopii"} {
		<-m.Done()
		if err := m.Err(); !errors.Is(err, node.ErrFormatLevel) || !strings.Contains(err.Error(), want) {
			t.Errorf("member %d: %v, want ErrFormatLevel with %q", m.cfg.ID, err, want)
		}
	}
	propose(t, leads, "goes on")
	if _, is := leads.Status().Membership.Member(3); is {
		t.Error("the one that asked to join is a member")
	}
	joins.close()
	joins.reading(2, 4).start()
	eventually(t, "it votes with a program that reads the level", func() bool { return len(leads.Status().Membership.Voters()) == 2 })
}
