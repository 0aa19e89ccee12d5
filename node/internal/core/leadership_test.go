package core

import (
	"errors"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// A voter that is alive goes before one that is silent; then come who stays, who is close
// behind, whose cooldown is over, who has room, the higher priority, and who has more of the log.
func TestScores(t *testing.T) {
	order := []score{
		{id: 11, alive: true, stays: true, near: true, cooledDown: true, room: takesGrowth, match: 1},
		{id: 10, alive: true, stays: true, near: true, cooledDown: true, room: refusesGrowth, match: 2},
		{id: 1, alive: true, stays: true, near: true, cooledDown: true, priority: 2, match: 5},
		{id: 2, alive: true, stays: true, near: true, cooledDown: true, priority: 1, match: 9},
		{id: 3, alive: true, stays: true, near: true, cooledDown: true, priority: 1, match: 8},
		{id: 4, alive: true, stays: true, near: true, cooledDown: true, priority: -1, match: 9},
		{id: 5, alive: true, stays: true, near: true, priority: 2, match: 9},
		{id: 6, alive: true, stays: true, cooledDown: true, priority: 9, match: 1},
		{id: 7, alive: true, stays: true, priority: 9, match: 1},
		{id: 8, alive: true, near: true, cooledDown: true, priority: 9, match: 9},
		{id: 9, alive: true},
		{id: 12, stays: true, cooledDown: true, room: takesGrowth, priority: 9, match: 9},
	}
	for i, a := range order {
		for j, b := range order {
			if got := a.compare(b); got > 0 != (i < j) || got < 0 != (i > j) {
				t.Errorf("%+v compared with %+v: %d", a, b, got)
			}
		}
	}
}

// A leader that stays hands over to a higher priority only, and only if nothing speaks against
// it; one that does not stay hands over to any voter that is alive.
func TestReplacement(t *testing.T) {
	leader := score{stays: true, steady: true, room: refusesGrowth, priority: 1}
	voter := score{id: 7, alive: true, stays: true, near: true, steady: true, cooledDown: true, room: refusesGrowth, priority: 2}
	if replacement([]score{{}, voter}, leader) != voter.id {
		t.Error("a leader that stays does not hand over to a higher priority")
	}
	for name, change := range map[string]func(v, l *score){
		"silent":          func(v, _ *score) { v.alive = false },
		"replaced":        func(v, _ *score) { v.stays = false },
		"not steady":      func(v, _ *score) { v.steady = false },
		"cooling down":    func(v, _ *score) { v.cooledDown = false },
		"less room":       func(v, _ *score) { v.room = appliesNothing },
		"same priority":   func(v, _ *score) { v.priority = 1 },
		"leader unsteady": func(_, l *score) { l.steady = false },
	} {
		v, l := voter, leader
		if change(&v, &l); replacement([]score{v}, l) != 0 {
			t.Errorf("%s: the leader that stays hands over", name)
		}
		l.stays = false
		if got := replacement([]score{v}, l); got == v.id != v.alive {
			t.Errorf("%s: the leader that does not stay hands over to %d", name, got)
		}
	}
}

// After a transfer that failed, a voter cools down for an election timeout, and then for twice
// as long each time, up to a bound.
func TestBackOff(t *testing.T) {
	var p peers
	for _, want := range []int{10, 20, 40, 80, 160, 160} {
		p.get(2).backOff(10)
		ticks := 0
		for ; p.get(2).cooldown > 0; ticks++ {
			p.tick()
		}
		if ticks != want {
			t.Errorf("it cools down for %d ticks, want %d", ticks, want)
		}
	}
	p.forgetReign()
	p.get(2).backOff(10)
	if got := p.get(2).cooldown; got != 10 {
		t.Errorf("under another leader it cools down for %d ticks, want 10", got)
	}
}

// Transfers that are asked for before there is a leader wait until this member leads. Each caller
// gets an answer, and the last one that asks for a voter gets the transfer.
func TestTransfersWaitForElection(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	var calls []*call
	for _, to := range []uint64{3, 2, 9, 1} {
		calls = append(calls, &call{})
		b.run(Input{Requests: []Request{{Kind: Transfer, To: to, Waiter: calls[len(calls)-1]}}})
	}
	b.elect(2)
	for i, want := range []uint64{3, 2, 0, 1} {
		j := slices.IndexFunc(b.all, func(o Outcome) bool { return o.Waiter == calls[i] })
		if j < 0 || errors.Is(b.all[j].Err, ErrNoTarget) != (want == 0) || want != 0 && b.all[j].Index != want {
			t.Errorf("the outcomes are %+v; want %d for caller %d", b.all, want, i)
		}
	}
	if to := b.c.rn.BasicStatus().LeadTransferee; len(b.all) != len(calls) || to != 2 {
		t.Errorf("%d outcomes, and a transfer to %d; want %d, and one to 2", len(b.all), to, len(calls))
	}
}

// A leader that may not stay in a new configuration begins a transfer in the Step that applies
// it: when the Applied comes back, raft would leave.
func TestTransferBeforeJointIsLeft(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	c := b.c
	c.handed.ConfState.VotersOutgoing, c.handed.ConfState.Voters = []uint64{1, 2, 3}, []uint64{2, 3}
	b.step(Input{})
	if to := c.rn.BasicStatus().LeadTransferee; to != 2 {
		t.Errorf("leadership is handed over to %d, want 2", to)
	}
}
