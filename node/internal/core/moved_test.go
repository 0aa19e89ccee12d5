package core

import (
	"testing"

	"go.etcd.io/raft/v3"

	octopiipb "github.com/octopii/octopii/proto"
)

// Where a member was started is news to its cluster until its record has it, and no more after
// that: who then met it elsewhere knows better.
func TestOwnAddressIsNewsOnce(t *testing.T) {
	c := &Core{}
	c.cfg.ID = 3
	c.peers.up(PeerUp{ID: 3, Address: "started"})
	for _, step := range []struct {
		record string
		lead   uint64
		want   string
	}{
		{"before", 1, "started"},
		{"started", raft.None, "started"}, // an old record that is read back
		{"started", 1, ""},
		{"elsewhere", 1, ""},
	} {
		c.handed.Membership = &octopiipb.Membership{Members: []octopiipb.Member{{ID: 3, Address: step.record}}}
		c.status.Lead = step.lead
		c.settleOwnAddress()
		if got := c.peers.get(3).address; got != step.want {
			t.Errorf("recorded at %s, led by %x: it would have its record name %q, want %q", step.record, step.lead, got, step.want)
		}
	}
}

// A leader does not reach a member that answers nothing, whatever else comes from it.
func TestUnreachable(t *testing.T) {
	c := &Core{}
	c.cfg.ID, c.cfg.ElectionTicks = 1, 10
	c.handed.Membership = &octopiipb.Membership{Members: []octopiipb.Member{{ID: 1}, {ID: 2}}}
	c.status.RaftState = raft.StateLeader
	c.peers.get(2).answers()
	for range unreachableTimeouts*c.cfg.ElectionTicks + 1 {
		if c.Unreachable(2) {
			t.Fatal("it is unreachable early")
		}
		c.peers.tick()
		c.peers.heard(2)
	}
	if !c.Unreachable(2) || c.Unreachable(1) || c.Unreachable(9) {
		t.Errorf("unreachable: itself: %v, the one that answers nothing: %v, nobody: %v", c.Unreachable(1), c.Unreachable(2), c.Unreachable(9))
	}
	if c.peers.get(2).answers(); c.Unreachable(2) {
		t.Error("it answered, and is unreachable")
	}
}
