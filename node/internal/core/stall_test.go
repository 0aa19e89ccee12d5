package core

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// The oldest append counts, whatever comes back before it or is handed out behind.
func TestOutstanding(t *testing.T) {
	var o outstanding
	expect := func(ticks int) {
		t.Helper()
		if got := o.ticks(); got != ticks {
			t.Fatalf("the oldest append has been out for %d ticks, want %d", got, ticks)
		}
	}
	expect(0)
	o.tick()
	o.add()
	o.add()
	o.tick()
	o.add()
	o.tick()
	expect(2)
	o.back()
	expect(2)
	o.back()
	expect(1)
	o.restart()
	expect(0)
	o.tick()
	o.add()
	expect(1)
	o.back()
	o.back()
	expect(0)
	if len(o.runs) != 0 {
		t.Errorf("nothing is out, and %v is left", o.runs)
	}
}

// A leader whose disk hangs leaves only where the others can elect somebody: a
// majority of the voters, in a joint configuration of both.
func TestOthersElect(t *testing.T) {
	for _, c := range []struct {
		name             string
		voters, outgoing []uint64
		alive            []uint64
		want             bool
	}{
		{"alone", []uint64{1}, nil, nil, false},
		{"alone with a learner", []uint64{1}, nil, []uint64{2}, false},
		{"two", []uint64{1, 2}, nil, []uint64{2}, false},
		{"three", []uint64{1, 2, 3}, nil, []uint64{2, 3}, true},
		{"three, one silent", []uint64{1, 2, 3}, nil, []uint64{3, 4}, false},
		{"it does not vote itself", []uint64{2, 3}, nil, []uint64{2, 3}, true},
		{"joint", []uint64{1, 2, 3}, []uint64{1, 4, 5}, []uint64{2, 3, 4}, false},
		{"joint, both", []uint64{1, 2, 3}, []uint64{1, 4, 5}, []uint64{2, 3, 4, 5}, true},
	} {
		core := new(Core)
		core.cfg = Config{ID: 1, ElectionTicks: 10}
		core.handed.ConfState = raftpb.ConfState{Voters: c.voters, VotersOutgoing: c.outgoing}
		for _, id := range c.alive {
			core.peers.heard(id)
		}
		if got := core.othersElect(); got != c.want {
			t.Errorf("%s: the others can elect somebody: %v, want %v", c.name, got, c.want)
		}
	}
}
