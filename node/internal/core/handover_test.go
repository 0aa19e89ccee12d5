package core

import "testing"

// Who is close behind goes before who is not, then the higher priority, then who has
// more of the log.
func TestCandidates(t *testing.T) {
	order := []candidate{
		{id: 1, near: true, priority: 2, match: 5},
		{id: 2, near: true, priority: 1, match: 9},
		{id: 3, near: true, priority: 1, match: 8},
		{id: 4, near: true, priority: -1, match: 9},
		{id: 5, priority: 9, match: 1},
		{id: 6, priority: 3, match: 2},
		{id: 7, priority: 3, match: 1},
		{},
	}
	for i, a := range order {
		for j, b := range order[:len(order)-1] {
			if i != j && a.before(b) && i > j {
				t.Errorf("%+v goes before %+v", a, b)
			}
			if i < j && !a.before(b) {
				t.Errorf("%+v does not go before %+v", a, b)
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
