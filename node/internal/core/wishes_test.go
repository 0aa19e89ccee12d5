package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A learner that is added again, by itself or by somebody else, loses nothing that its
// record has: what the second request leaves open stays as it was.
func TestAddedAgainLosesNothing(t *testing.T) {
	old := octopiipb.Member{ID: 2, Name: "n", Address: "a:1", Kind: octopiipb.Learner, Priority: 3, Incarnation: 4, Promote: true, Replaces: 5}
	ms := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}, old}}
	for name, again := range map[string]octopiipb.Member{
		"nothing":    {ID: 2},
		"a name":     {ID: 2, Name: "other"},
		"an address": {ID: 2, Address: "b:1"},
		"a wish":     {ID: 2, Promote: true},
	} {
		after := withChanges(ms, 2, []Change{{Op: AddLearner, Member: again}})
		want := old
		if again.Name != "" {
			want.Name = again.Name
		}
		if again.Address != "" {
			want.Address = again.Address
		}
		if diff := cmp.Diff(want, *find(after, 2)); diff != "" {
			t.Errorf("it is added again with %s (-want +got):\n%s", name, diff)
		}
	}
}

// Any change that touches the voters, also one that replaces some by as many others,
// leaves a majority that is alive, or is refused.
func TestAnyChangeKeepsALiveQuorum(t *testing.T) {
	replacements := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := new(Core)
		c.cfg, c.reign.ticks = Config{ID: 1, ElectionTicks: 10}, 11
		for id := uint64(1); id <= 7; id++ {
			list := &c.handed.ConfState.Learners
			if id == 1 || id <= 5 && r.IntN(3) > 0 {
				list = &c.handed.ConfState.Voters
			}
			*list = append(*list, id)
			if r.IntN(2) == 0 {
				c.peers.heard(id)
			}
		}
		var changes []Change
		for _, id := range r.Perm(6)[:1+r.IntN(3)] {
			op := []ChangeOp{Promote, Demote, Remove}[r.IntN(3)]
			changes = append(changes, Change{Op: op, Member: octopiipb.Member{ID: uint64(id) + 2}})
		}
		after, err := tryChanges(c.handed.ConfState, changes)
		if err != nil {
			continue
		}
		before := fmt.Sprint(c.handed.ConfState.Voters)
		touched := before != fmt.Sprint(after.Voters)
		if touched && len(after.Voters) == len(c.handed.ConfState.Voters) {
			replacements++
		}
		alive := 0
		for _, id := range after.Voters {
			if c.alive(id) {
				alive++
			}
		}
		want := !touched || 2*alive > len(after.Voters)
		if err := c.keepsQuorum(changes); (err == nil) != want || err != nil && !errors.Is(err, ErrUnsafeMembership) {
			t.Fatalf("seed %d: from the voters %s to %v, of which %d are alive: %v; want it allowed: %v", seed, before, after.Voters, alive, err, want)
		}
	}
	if replacements < 100 {
		t.Errorf("%d changes left as many voters as there were; want 100 at least", replacements)
	}
}

// A member that is to vote and is silent now and then while it catches up stays. One that
// is silent for the whole of JoinTimeoutTicks is given up.
func TestAbsencesDoNotAddUp(t *testing.T) {
	b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
	b.c.cfg.JoinTimeoutTicks = 100
	for range 40 {
		b.run(Input{Ticks: 1})
	}
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Waiter: &call{name: "join"},
		Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "a:1", Promote: true}}}}}})
	silent := func(ticks int) (givenUp bool) {
		for range ticks {
			b.run(Input{Ticks: 1})
		}
		return find(b.c.handed.Membership, 2) == nil
	}
	for range 5 {
		b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: b.c.Status().Term}})})
		if silent(90) {
			t.Fatal("a member that was heard less than 100 ticks ago is given up")
		}
	}
	if !silent(30) {
		t.Error("a member that was silent for 120 ticks is not given up")
	}
}
