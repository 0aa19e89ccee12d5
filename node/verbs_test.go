package node_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/node"
)

// A voter is demoted, which keeps receiving the log, and promoted again.
func TestDemotePromote(t *testing.T) {
	ms := cluster(t, 3)
	for _, by := range ms { // the third demotes itself, and the first, which leads, is demoted by it
		id := by.cfg.ID
		got, err := ms[2].Demote(timeout(t), id)
		if err != nil || slices.Contains(got.Voters(), id) || len(got.Members) != 3 {
			t.Fatalf("demote %d: %v, %v", id, got, err)
		}
		if _, err := ms[2].Demote(timeout(t), id); err != nil {
			t.Errorf("demote %d again: %v", id, err)
		}
		propose(t, by, "through a learner")
		if got, err = ms[2].Promote(timeout(t), id); err != nil || len(got.Voters()) != 3 {
			t.Fatalf("promote %d: %v, %v", id, got, err)
		}
	}
	if _, err := ms[0].Promote(timeout(t), 2); err != nil {
		t.Errorf("promote a voter: %v", err)
	}
	converged(t, ms...)
}

// What lags, or is silent, gets no vote, and the error has the numbers.
func TestPromoteRefused(t *testing.T) {
	ms := cluster(t, 1)
	if _, err := ms[0].AddLearner(timeout(t), node.Member{ID: 2, Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	_, err := ms[0].Promote(timeout(t), 2)
	if !errors.Is(err, node.ErrUnsafeMembership) || !strings.HasPrefix(err.Error(), "node: unsafe membership change: learner 2 was not heard of") {
		t.Errorf("promote a learner that never was there: %v", err)
	}
	for _, id := range []uint64{0, 9, 1<<64 - 1} {
		for name, verb := range map[string]func() error{
			"promote":      func() error { _, err := ms[0].Promote(timeout(t), id); return err },
			"demote":       func() error { _, err := ms[0].Demote(timeout(t), id); return err },
			"set-priority": func() error { _, err := ms[0].SetPriority(timeout(t), id, 1); return err },
			"update":       func() error { _, err := ms[0].UpdateAddress(timeout(t), id, "127.0.0.1:1"); return err },
			"replace": func() error {
				_, err := ms[0].Replace(timeout(t), id, node.Member{ID: 3, Address: "127.0.0.1:1"})
				return err
			},
		} {
			if err := verb(); !errors.Is(err, node.ErrUnsafeMembership) {
				t.Errorf("%s of member %x, which is not there: %v, want ErrUnsafeMembership", name, id, err)
			}
		}
	}
	if _, err := ms[0].Demote(timeout(t), 1); !errors.Is(err, node.ErrUnsafeMembership) {
		t.Errorf("demote the last voter: %v, want ErrUnsafeMembership", err)
	}
	if _, err := ms[0].SetPriority(timeout(t), 1, 1<<40); !errors.Is(err, node.ErrUnsafeMembership) {
		t.Errorf("a priority that is too high: %v, want ErrUnsafeMembership", err)
	}
	if got, err := ms[0].SetPriority(timeout(t), 1, -7); err != nil || got.Members[0].Priority != -7 {
		t.Errorf("set a priority: %v, %v", got, err)
	}
	if got, err := ms[0].SetPriority(timeout(t), 1, 0); err != nil || got.Members[0].Priority != 0 {
		t.Errorf("take it back: %v, %v", got, err)
	}
}

// The member that is asked may be the one that is replaced. It knows what came of it, or
// says that it was removed, where it was told so before it had the change.
func TestReplaceAskedOfTheReplaced(t *testing.T) {
	ms := cluster(t, 3)
	for i, old := range ms { // the first one leads
		id := uint64(4 + i)
		heir := newMember(t, id).start()
		got, err := old.Replace(timeout(t), old.cfg.ID, node.Member{ID: id, Address: heir.addr})
		done := err == nil && !got.Joint && !slices.Contains(got.Voters(), old.cfg.ID) && slices.Contains(got.Voters(), id)
		told := errors.Is(err, node.ErrRemoved) && strings.Contains(err.Error(), "cannot tell whether member")
		if !done && !told {
			t.Errorf("%d is asked to have %d take its place: %v, %v", old.cfg.ID, id, got, err)
		}
	}
}

// A new member takes the place of another one, dead or alive, and of the leader.
func TestReplace(t *testing.T) {
	ms := cluster(t, 3)
	ms[2].kill()
	heir := newMember(t, 4).start()
	got, err := ms[1].Replace(timeout(t), 3, node.Member{ID: 4, Address: heir.addr})
	if err != nil || !slices.Equal(got.Voters(), []uint64{1, 2, 4}) || len(got.Members) != 3 || got.Joint {
		t.Fatalf("replace the dead one: %v, %v", got, err)
	}
	propose(t, heir, "by the heir")

	old := ms[0].Node
	next := newMember(t, 5).start()
	if got, err = ms[1].Replace(timeout(t), 1, node.Member{ID: 5, Address: next.addr}); err != nil || !slices.Equal(got.Voters(), []uint64{2, 4, 5}) {
		t.Fatalf("replace the leader: %v, %v", got, err)
	}
	<-old.Done()
	if err := old.Err(); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("the replaced leader stopped with %v, want ErrRemoved", err)
	}
	if got, err = ms[1].Replace(timeout(t), 1, node.Member{ID: 5, Address: next.addr}); err != nil || len(got.Members) != 3 {
		t.Errorf("the same again: %v, %v", got, err)
	}
	converged(t, ms[1], heir, next)

	// Between two voters there would be one less.
	if got, err = ms[1].Replace(timeout(t), 4, node.Member{ID: 5, Address: next.addr}); !errors.Is(err, node.ErrUnsafeMembership) || !strings.Contains(err.Error(), "votes already") {
		t.Errorf("replace one voter by another: %v, %v", got, err)
	}
	if _, err = ms[1].Replace(timeout(t), 5, node.Member{ID: 5, Address: next.addr}); !errors.Is(err, node.ErrUnsafeMembership) {
		t.Errorf("replace a member by itself: %v, want ErrUnsafeMembership", err)
	}
}

// One setting for the whole cluster: it is founded with it, or set on any member, and
// every member has it, also one that comes back.
func TestSetFailoverByTimeout(t *testing.T) {
	ms := cluster(t, 3)
	for _, on := range []bool{true, false, true} {
		got, err := ms[1].SetFailoverByTimeout(timeout(t), on)
		if err != nil || got.FailoverByTimeout != on {
			t.Fatalf("set to %v: %v, %v", on, got, err)
		}
	}
	ms[2].kill()
	ms[2].start()
	for _, m := range ms {
		eventually(t, "it has the setting", func() bool { return m.Status().Membership.FailoverByTimeout })
	}
	alone := newMember(t, 1)
	alone.cfg.Bootstrap, alone.cfg.FailoverByTimeout = true, true
	if !alone.start().Status().Membership.FailoverByTimeout {
		t.Error("a cluster that was founded with it does not have it")
	}
}

// A plan says what would be, or what the verb would say, and changes nothing.
func TestPlan(t *testing.T) {
	ms := cluster(t, 3)
	before := ms[0].Status().Membership
	nobody := node.Member{ID: 4, Address: "127.0.0.1:1"}
	for _, c := range []struct {
		change         node.Change
		voters, quorum int
	}{
		{node.Change{Verb: node.VerbAddLearner, Member: nobody}, 3, 2},
		{node.Change{Verb: node.VerbAddVoter, Member: nobody}, 4, 3},
		{node.Change{Verb: node.VerbReplace, Member: nobody, Old: 2}, 3, 2},
		{node.Change{Verb: node.VerbRemove, Member: node.Member{ID: 2}}, 2, 2},
		{node.Change{Verb: node.VerbDemote, Member: node.Member{ID: 2}}, 2, 2},
		{node.Change{Verb: node.VerbPromote, Member: node.Member{ID: 2}}, 3, 2},
		{node.Change{Verb: node.VerbUpdateAddress, Member: node.Member{ID: 2, Address: "127.0.0.1:1"}}, 3, 2},
		{node.Change{Verb: node.VerbSetPriority, Member: node.Member{ID: 2, Priority: 3}}, 3, 2},
	} {
		for _, by := range ms[:2] {
			plan, err := by.Plan(timeout(t), c.change)
			if err != nil || len(plan.Before.Voters()) != 3 || len(plan.After.Voters()) != c.voters || plan.After.Quorum() != c.quorum {
				t.Errorf("%s on member %d: %v, %v; want %d voters and a quorum of %d", c.change.Verb, by.cfg.ID, plan, err, c.voters, c.quorum)
			}
		}
	}
	for want, c := range map[error]node.Change{
		node.ErrUnsafeMembership: {Verb: node.VerbPromote, Member: node.Member{ID: 9}},
		nil:                      {Verb: node.VerbRemove, Member: node.Member{ID: 9}},
	} {
		if _, err := ms[1].Plan(timeout(t), c); !errors.Is(err, want) {
			t.Errorf("%s of a member that is not there: %v, want %v", c.Verb, err, want)
		}
	}
	if _, err := ms[1].Plan(timeout(t), node.Change{Verb: "explode"}); err == nil {
		t.Error("an unknown verb was planned")
	}
	if now := ms[0].Status().Membership; now.Index != before.Index {
		t.Errorf("plans changed the membership: %v, was %v", now, before)
	}
}

// A voter that never shows up is given up, and whoever waits for it hears of it.
func TestAddVoterGivenUp(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.cfg.JoinTimeoutTicks = true, 5
	m.start()
	if _, err := m.AddVoter(timeout(t), node.Member{ID: 2, Address: "127.0.0.1:1"}); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("add a voter that is not there: %v, want ErrRemoved", err)
	}
	if _, err := m.AddVoter(timeout(t), node.Member{ID: 2, Address: "127.0.0.1:1"}); !errors.Is(err, node.ErrIDReused) {
		t.Errorf("and again: %v, want ErrIDReused", err)
	}
}

// A member that lost its disk comes back under a new ID and takes its own place, which
// is known by its address or its old ID. A name is not an identity: another machine that
// has it is not let in, whether the first is alive or silent.
func TestRejoin(t *testing.T) {
	t.Run("a learner", func(t *testing.T) { // which nobody wanted to vote
		ms := filled(t)
		learner := newMember(t, 4).start()
		if _, err := ms[0].AddLearner(timeout(t), node.Member{ID: 4, Address: learner.addr}); err != nil {
			t.Fatal(err)
		}
		converged(t, append(ms, learner)...)
		learner.kill()
		back := newMember(t, 0)
		back.addr, back.cfg.Join, back.cfg.Rejoin = learner.addr, []string{ms[1].addr, ms[0].addr}, true
		back.start()
		converged(t, append(ms, back)...)
		for range 20 { // it is close behind for long enough
			propose(t, ms[0], "it may only follow")
			takesTurns(t, back, 3)
		}
		got := ms[0].Status().Membership
		if _, old := got.Member(4); old || len(got.Voters()) != 3 || len(got.Members) != 4 {
			t.Fatalf("%+v; want three voters, and a new learner in the place of 4", got.Members)
		}
	})

	for _, by := range []string{"address", "ID"} {
		t.Run(by, func(t *testing.T) {
			ms := filled(t)
			join := []string{ms[1].addr, ms[0].addr}
			addr := ms[2].addr
			ms[2].kill()
			back := newMember(t, 0)
			back.cfg.Join, back.cfg.Rejoin = join, true
			switch by {
			case "address":
				back.addr = addr
			case "ID":
				back.cfg.Replaces = 3
			}
			back.start()
			eventually(t, "it votes, and its old self is gone", func() bool {
				got := ms[0].Status().Membership
				_, old := got.Member(3)
				return len(got.Voters()) == 3 && !old && slices.Contains(got.Voters(), back.Status().ID)
			})
			converged(t, ms[0], ms[1], back)
		})
	}
	t.Run("name", func(t *testing.T) {
		ms := cluster(t, 3)
		twin := newMember(t, 0)
		twin.cfg.Join, twin.cfg.Rejoin, twin.cfg.Name = []string{ms[0].addr}, true, "n3"
		core, logs := observer.New(zap.WarnLevel)
		twin.cfg.Logger = zap.New(core)
		asked := func() int { return logs.FilterMessage("could not ask to join; trying again").Len() }
		twin.start()
		for range 50 { // some of them while it asks
			propose(t, ms[2], "the first of that name is still here")
		}
		if isMember(ms[0], twin.Status().ID) {
			t.Error("a second one of the same name was let in")
		}
		ms[2].kill()
		l := leader(t, ms[:2]...)
		eventually(t, "it counts as silent", func() bool {
			propose(t, ms[1], "it is silent, and keeps its place")
			return !slices.ContainsFunc(l.Status().Progress, func(p node.Progress) bool { return p.ID == 3 && p.Active })
		})
		before := asked()
		eventually(t, "the other one has asked again", func() bool { return asked() > before+1 })
		if isMember(ms[0], twin.Status().ID) || !isMember(ms[0], 3) {
			t.Error("its name was enough to take the place of a member that is silent")
		}
	})
}

func isMember(m *member, id uint64) bool {
	_, ok := m.Status().Membership.Member(id)
	return ok
}

// What a caller leaves open of a member that is there already stays as it is.
func TestAddAgainKeepsName(t *testing.T) {
	ms := cluster(t, 1)
	m := newMember(t, 2).start()
	add := node.Change{Verb: node.VerbAddLearner, Member: node.Member{ID: 2, Name: "reader", Address: m.addr, Priority: 3}}
	if _, err := ms[0].Change(timeout(t), add); err != nil {
		t.Fatal(err)
	}
	again := node.Change{Verb: node.VerbAddVoter, Member: node.Member{Address: m.addr}}
	plan, err := ms[0].Plan(timeout(t), again)
	if got, _ := plan.After.Member(2); err != nil || got.Name != "reader" {
		t.Errorf("plan to add it as a voter, by its address: %v, %v; want the name to stay", plan, err)
	}
	got, err := ms[0].Change(timeout(t), again)
	if now, _ := got.Member(2); err != nil || now.Name != "reader" || now.Priority != 3 || now.Learner {
		t.Errorf("added as a voter, by its address: %v, %v; want a voter and nothing else changed", got, err)
	}
}

// A member whose ID is left open must answer.
func TestAddNobody(t *testing.T) {
	ms := cluster(t, 1)
	if _, err := ms[0].AddLearner(timeout(t), node.Member{Address: "127.0.0.1:1"}); !errors.Is(err, node.ErrNobodyThere) {
		t.Errorf("add whoever listens where nobody does: %v, want ErrNobodyThere", err)
	}
	if _, err := ms[0].AddLearner(timeout(t), node.Member{Address: ms[0].addr}); err == nil || isMember(ms[0], 0) {
		t.Errorf("add the member that was asked: %v, want an error", err)
	}
}
