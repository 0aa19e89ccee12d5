package core

import "testing"

// Who stays goes before who is replaced, then who is close behind, who has rested, who has
// room, the higher priority, and who has more of the log.
func TestScores(t *testing.T) {
	order := []score{
		{id: 11, stays: true, near: true, rested: true, room: takesGrowth, match: 1},
		{id: 10, stays: true, near: true, rested: true, room: refusesGrowth, match: 2},
		{id: 1, stays: true, near: true, rested: true, priority: 2, match: 5},
		{id: 2, stays: true, near: true, rested: true, priority: 1, match: 9},
		{id: 3, stays: true, near: true, rested: true, priority: 1, match: 8},
		{id: 4, stays: true, near: true, rested: true, priority: -1, match: 9},
		{id: 5, stays: true, near: true, priority: 2, match: 9},
		{id: 6, stays: true, rested: true, priority: 9, match: 1},
		{id: 7, stays: true, priority: 9, match: 1},
		{id: 8, near: true, rested: true, priority: 9, match: 9},
		{id: 9},
	}
	for i, a := range order {
		for j, b := range order {
			if got := a.compare(b); got > 0 != (i < j) || got < 0 != (i > j) {
				t.Errorf("%+v compared with %+v: %d", a, b, got)
			}
		}
	}
}

// A member that did not take over rests for an election timeout, and then for twice
// as long each time, up to a bound.
func TestDeclined(t *testing.T) {
	var p peers
	for _, want := range []int{10, 20, 40, 80, 160, 160} {
		p.get(2).declined(10)
		ticks := 0
		for ; p.get(2).rest > 0; ticks++ {
			p.tick()
		}
		if ticks != want {
			t.Errorf("it rests for %d ticks, want %d", ticks, want)
		}
	}
	p.rested()
	p.get(2).declined(10)
	if got := p.get(2).rest; got != 10 {
		t.Errorf("under another leader it rests for %d ticks, want 10", got)
	}
}
