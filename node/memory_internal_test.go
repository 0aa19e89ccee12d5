package node

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
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
		{"and not what was", transport.Memory{Term: 2, Match: 5, Commit: 5}, 3, 4, true},
	} {
		if got := contradicts(c.r, c.term, c.last); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestMemory(t *testing.T) {
	var m memory
	m.note(2, 3, 10, 9)
	m.note(2, 5, 7, 8) // another term, in which less is acknowledged yet
	if want := (transport.Memory{Term: 5, Match: 7, Commit: 9}); m.get(2) != want {
		t.Errorf("got %+v, want %+v", m.get(2), want)
	}
}

// A leader that names more than there is stops a member, and nobody else does.
func TestForgottenLogStops(t *testing.T) {
	n := &Node{log: zap.NewNop(), done: make(chan struct{}), cancel: func() {}}
	l := &loop{Node: n, membership: &octopiipb.Membership{Members: []octopiipb.Member{{ID: 1}, {ID: 2}}}}
	l.suspect(core.Suspect{ID: 2, Reason: "something else"})
	l.suspect(core.Suspect{ID: 9, Reason: "from a stranger", Forgot: true})
	if n.Err() != nil {
		t.Fatalf("it stopped: %v", n.Err())
	}
	l.suspect(core.Suspect{ID: 2, Reason: "heartbeat with commit 9", Forgot: true})
	if err := n.Err(); !errors.Is(err, ErrAmnesia) {
		t.Errorf("it ends with %v, want ErrAmnesia", err)
	}
}
