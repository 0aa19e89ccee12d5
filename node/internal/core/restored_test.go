package core

import "testing"

// A member is restored when it says that it has what it was sent.
func TestHasRestored(t *testing.T) {
	p := &peer{id: 2}
	if !p.hasRestored() {
		t.Error("a member that was sent no snapshot has nothing to restore")
	}
	p.restoreGoal, p.applied = 10, 9
	if p.hasRestored() {
		t.Error("a member at index 9 has not restored a snapshot at 10")
	}
	p.applied = 10
	if !p.hasRestored() {
		t.Error("a member at index 10 has restored a snapshot at 10")
	}
	ps := peers{list: []*peer{p}}
	ps.forgetReign()
	if p.applied != 0 || p.restoreGoal != 0 {
		t.Error("what a member said to another leader, or in another term, counts for nothing")
	}
}
