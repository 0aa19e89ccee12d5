package node

import (
	"testing"

	"github.com/octopii/octopii/transport"
)

func TestContradicts(t *testing.T) {
	for _, c := range []struct {
		name       string
		r          transport.Memory
		term, last uint64
		want       bool
	}{
		{"nothing remembered", transport.Memory{}, 0, 0, false},
		{"an empty disk", transport.Memory{Term: 2, Match: 5}, 0, 0, true},
		{"a leader that forgot its term", transport.Memory{Term: 2}, 1, 5, true},
		{"a leader", transport.Memory{Term: 2}, 2, 5, false},
		{"all of it is there", transport.Memory{Term: 2, Match: 5, Commit: 5}, 2, 5, false},
		{"more is there", transport.Memory{Term: 2, Match: 5, Commit: 5}, 2, 9, false},
		{"a term is forgotten", transport.Memory{Term: 3, Match: 5}, 2, 9, true},
		{"the same term, and less of the log", transport.Memory{Term: 2, Match: 5}, 2, 4, true},
		{"a new leader may cut what was not committed", transport.Memory{Term: 2, Match: 5, Commit: 3}, 3, 4, false},
		{"it has the same there", transport.Memory{Term: 2, Match: 5, Commit: 3, MatchTerm: 2, CommitTerm: 1}, 2, 9, false},
		{"it has something else in its own term", transport.Memory{Term: 2, Match: 5, MatchTerm: 1}, 2, 9, true},
		{"which a later leader may have cut", transport.Memory{Term: 2, Match: 5, MatchTerm: 1}, 3, 9, false},
		{"it has something else where it was committed", transport.Memory{Term: 2, Match: 3, Commit: 3, CommitTerm: 2}, 7, 9, true},
		{"and not what was", transport.Memory{Term: 2, Match: 5, Commit: 5}, 3, 4, true},
	} {
		if got := contradicts(c.r, c.term, c.last, func(index uint64) uint64 { return map[uint64]uint64{3: 1, 5: 2}[index] }); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// unknown is the term of entries that are not there.
func unknown(uint64) uint64 { return 0 }

func TestMemory(t *testing.T) {
	var m memory
	m.note(2, 3, 10, 9, unknown)
	m.note(2, 5, 7, 8, unknown) // another term, in which less is acknowledged yet
	if want := (transport.Memory{Term: 5, Match: 7, Commit: 9}); m.get(2) != want {
		t.Errorf("got %+v, want %+v", m.get(2), want)
	}
}

// An operator gave up what a leader that has committed in its term does not have.
func TestMemoryIsGivenUp(t *testing.T) {
	var m memory
	m.note(2, 3, 10, 10, unknown)
	m.giveUp(7)
	if want := (transport.Memory{Term: 3, Match: 10, Commit: 7}); m.get(2) != want {
		t.Errorf("got %+v, want %+v", m.get(2), want)
	}
}

// What is saved is loaded, and what did not change is not saved again.
func TestMemoryIsSaved(t *testing.T) {
	var m, other memory
	m.note(2, 3, 10, 9, unknown)
	list, ok := m.save()
	if !ok {
		t.Fatal("nothing to save")
	}
	if _, ok := m.save(); ok {
		t.Error("saved twice at once")
	}
	m.saved(nil)
	m.note(2, 3, 10, 9, unknown)
	if _, ok := m.save(); ok {
		t.Error("saved without a change")
	}
	other.load(list)
	if other.get(2) != m.get(2) {
		t.Errorf("got %+v, want %+v", other.get(2), m.get(2))
	}
}
