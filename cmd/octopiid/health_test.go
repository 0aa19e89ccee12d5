package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/octopii/octopii/node"
)

// Who is not ready yet says why: an orchestrator goes on when it is, and so a member that is
// to vote is not before it does.
func TestNotReady(t *testing.T) {
	for want, st := range map[string]node.Status{
		"not part of a cluster": {},
		"another cluster":       {Role: node.Follower, Suspended: errors.New("another cluster claims it")},
		"missing: ":             {Role: node.Follower, Missing: []node.Missing{{}}},
		"hears of no leader":    {Role: node.Follower},
		"does not vote yet":     {Role: node.Follower, Leader: 1},
		"enlarge the volume":    {Role: node.Follower, NoRoomForSnapshot: true},
		"needs a snapshot":      {NoRoomForSnapshot: true},
	} {
		if got := notReady(st); !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want it to say %q", st, got, want)
		}
	}
}
