package core

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader of an older version may have appended a change twice, and left a joint configuration
// twice (etcd 11046). The second copy changes nothing, and who asked for it has what it wants.
func TestCommittedChangesThatChangeNothing(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.follow(2, 2)
	w := &call{name: "change"}
	add := Change{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "addr4"}}
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{add}, Waiter: w}}})
	sent := b.sent()
	if len(sent) != 1 || len(sent[0].Requests) != 1 {
		t.Fatalf("forwarded: %+v", sent)
	}
	first, err := encodeChanges([]Change{add}, origin{})
	if err != nil {
		t.Fatal(err)
	}
	leave, err := (&raftpb.ConfChangeV2{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	change := func(data []byte) raftpb.Entry {
		return raftpb.Entry{Term: 2, Type: raftpb.EntryConfChangeV2, Data: data}
	}
	b.append(2, 2, 1, 1, raftpb.Entry{Term: 2}, change(first))
	b.quiet()
	before := b.c.handed.Membership
	noPanic(t, func() { b.append(2, 2, 3, 2, change(sent[0].Requests[0].ConfChange), change(leave)) })
	if len(b.all) != 1 || b.all[0].Waiter != Waiter(w) || b.all[0].Err != nil || b.all[0].Index != 4 {
		t.Errorf("outcomes %+v, want that it is done, at index 4", b.all)
	}
	if got := b.c.handed; got.Membership != before || got.Index != 5 || len(got.ConfState.Learners) != 1 {
		t.Errorf("at %d the membership is %v with %v, want that of index 3", got.Index, got.Membership, got.ConfState)
	}
}

// What is half done in a membership that came with a snapshot must be a change that the members
// before it could make: raft alone would take it.
func TestHalfDoneMustBePossible(t *testing.T) {
	members := []octopiipb.Member{{ID: 1, Address: "a", Kind: octopiipb.Voter}, {ID: 2, Address: "b", Kind: octopiipb.Voter}, {ID: 3, Address: "c", Kind: octopiipb.Voter}}
	change := func(op ChangeOp, id uint64, address string) octopiipb.MemberChange {
		return octopiipb.MemberChange{Op: op, Member: octopiipb.Member{ID: id, Address: address}}
	}
	for name, c := range map[string]struct {
		underWay []octopiipb.MemberChange
		ok       bool
	}{
		"a member comes, and another goes":       {[]octopiipb.MemberChange{change(AddLearner, 4, "d"), change(Remove, 3, "")}, true},
		"a removed member comes back":            {[]octopiipb.MemberChange{change(AddLearner, 9, "d"), change(Remove, 3, "")}, false},
		"two come to vote at one address":        {[]octopiipb.MemberChange{change(Promote, 5, "b"), change(Remove, 3, "")}, false},
		"one that nobody knows is to have moved": {[]octopiipb.MemberChange{change(UpdateAddress, 8, "d"), change(Remove, 3, "")}, false},
	} {
		ms := &octopiipb.Membership{Cluster: 7, Index: 5, Members: append(members[:3:3], octopiipb.Member{ID: 5, Address: "b", Kind: octopiipb.Learner}), Removed: []octopiipb.RemovedMember{{ID: 9}}, UnderWay: c.underWay}
		if _, err := ConfState(ms); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		_, err := Preview(ms, []Change{{Op: SetPriority, Member: octopiipb.Member{ID: 1, Priority: 3}}})
		if c.ok != errors.Is(err, ErrMembershipBusy) || err == nil {
			t.Errorf("%s, and then another change: %v", name, err)
		}
	}
}
