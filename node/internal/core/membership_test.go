package core

import (
	compare "cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"pgregory.net/rapid"

	octopiipb "github.com/octopii/octopii/proto"
)

// cluster is a membership and beside it what raft makes of the same changes.
type cluster struct {
	ms *octopiipb.Membership
	tr tracker.ProgressTracker
}

func newCluster(founder uint64) *cluster {
	c := &cluster{
		ms: &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: founder, Kind: octopiipb.Voter}}},
		tr: tracker.MakeProgressTracker(16, 0),
	}
	if err := c.apply(raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode, NodeID: founder}}}); err != nil {
		panic(err)
	}
	return c
}

// apply is raft's applyConfChange, which panics where this returns an error.
func (c *cluster) apply(cc raftpb.ConfChangeV2) error {
	changer := confchange.Changer{Tracker: c.tr, LastIndex: 1}
	var err error
	var cfg tracker.Config
	var progress tracker.ProgressMap
	if cc.LeaveJoint() {
		cfg, progress, err = changer.LeaveJoint()
	} else if auto, ok := cc.EnterJoint(); ok {
		cfg, progress, err = changer.EnterJoint(auto, cc.Changes...)
	} else {
		cfg, progress, err = changer.Simple(cc.Changes...)
	}
	if err == nil {
		c.tr.Config, c.tr.Progress = cfg, progress
	}
	return err
}

// change applies changes that checkChanges allows, to both, and leaves the joint
// configuration if there is one. They must agree all the way.
func (c *cluster) change(t fataler, index uint64, changes []Change) {
	before := describe(c.ms)
	next := withChanges(c.ms, index, changes)
	if got := describe(c.ms); got != before {
		t.Fatalf("%+v changed the membership that it began with: %s, was %s", changes, got, before)
	}
	if err := c.apply(confChange(changes)); err != nil {
		t.Fatalf("checkChanges allows %+v on %s, and raft panics: %v", changes, before, err)
	}
	c.ms = next
	if err := c.agree(); err != nil {
		t.Fatalf("after %+v on %s: %v", changes, before, err)
	}
	if len(next.UnderWay) == 0 {
		return
	}
	if err := checkChanges(c.ms, c.tr.ConfState(), []Change{{Op: SetPriority, Member: octopiipb.Member{ID: c.ms.Members[0].ID, Priority: 99}}}); !errors.Is(err, ErrMembershipBusy) {
		t.Fatalf("while %+v is half done another change gets %v, want ErrMembershipBusy", changes, err)
	}
	if err := c.apply(raftpb.ConfChangeV2{}); err != nil {
		t.Fatalf("after %+v on %s raft cannot leave the joint configuration: %v", changes, before, err)
	}
	c.ms = left(c.ms, index)
	if err := c.agree(); err != nil {
		t.Fatalf("after %+v on %s, and leaving the joint configuration: %v", changes, before, err)
	}
}

type fataler interface{ Fatalf(string, ...any) }

// agree says how the membership and raft's configuration differ, if they do.
func (c *cluster) agree() error {
	for _, m := range c.ms.Members {
		if c.ms.IsRemoved(m.ID) {
			return fmt.Errorf("member %x was removed", m.ID)
		}
	}
	if !slices.IsSortedFunc(c.ms.Members, func(a, b octopiipb.Member) int { return compare.Compare(a.ID, b.ID) }) {
		return fmt.Errorf("members are not in order: %v", c.ms.Members)
	}
	for i := range c.ms.Members {
		if m := &c.ms.Members[i]; m.Kind == octopiipb.Voter && voterAt(c.ms, m.Address, m.ID) != nil {
			return fmt.Errorf("two members vote at %s", m.Address)
		}
	}
	return CheckMembership(c.ms, c.tr.ConfState())
}

func drawChange(t *rapid.T) Change {
	return Change{
		Op: rapid.SampledFrom([]ChangeOp{AddLearner, Promote, Remove, Demote, UpdateAddress, SetPriority}).Draw(t, "op"),
		Member: octopiipb.Member{
			ID:          rapid.Uint64Range(1, 6).Draw(t, "id"),
			Name:        rapid.SampledFrom([]string{"", "north"}).Draw(t, "name"),
			Address:     rapid.SampledFrom([]string{"", "a:1", "b:2"}).Draw(t, "address"),
			Promote:     rapid.Bool().Draw(t, "promote"),
			Incarnation: rapid.Uint64Range(0, 2).Draw(t, "incarnation"),
			Priority:    rapid.Int32Range(0, 2).Draw(t, "priority"),
			Replaces:    rapid.Uint64Range(0, 6).Draw(t, "replaces"),
		},
		IfSilent: rapid.Bool().Draw(t, "if silent"),
	}
}

// Changes that checkChanges allows, raft applies without an error, which it would
// turn into a panic; and both have the same members afterwards, and meanwhile.
func TestMembershipIsRafts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(1)
		var removed []uint64
		for index := uint64(2); index < 40; index++ {
			changes := rapid.SliceOfN(rapid.Custom(drawChange), 1, 3).Draw(t, "changes")
			data, err := encodeChanges(changes, origin{})
			if err != nil {
				t.Fatal(err)
			}
			read, err := decodeChanges(data)
			decoded := read.changes
			if err != nil || !slices.Equal(decoded, changes) {
				t.Fatalf("%+v went through the log as %+v, %v", changes, decoded, err)
			}
			if err := checkChanges(c.ms, c.tr.ConfState(), decoded); err != nil {
				wantRefused(t, c, removed, decoded, err)
				continue
			}
			for _, change := range changes {
				if slices.Contains(removed, change.Member.ID) && change.Op != Remove {
					t.Fatalf("%+v uses the ID of a removed member again", change)
				}
				if change.Op == Remove && find(c.ms, change.Member.ID) != nil {
					removed = append(removed, change.Member.ID)
				}
			}
			c.change(t, index, decoded)
			if c.ms.Index != index || c.ms.Cluster != 7 || !slices.Equal(c.ms.RemovedIDs(), removed) {
				t.Fatalf("after %+v: index %d, cluster %d, removed %v; want %d, 7, %v", changes, c.ms.Index, c.ms.Cluster, c.ms.Removed, index, removed)
			}
		}
	})
}

// wantRefused checks that a refusal is right: nothing to change means that, and
// a tombstone is named as one.
func wantRefused(t *rapid.T, c *cluster, removed []uint64, changes []Change, err error) {
	switch {
	case errors.Is(err, errNoChange):
		for _, change := range changes {
			old := find(c.ms, change.Member.ID)
			if after := changedBy(change, old); old != after && *old != *after {
				t.Fatalf("%+v on %s: there is something to change", changes, describe(c.ms))
			}
		}
	case errors.Is(err, ErrIDReused):
		if !slices.ContainsFunc(changes, func(o Change) bool { return slices.Contains(removed, o.Member.ID) }) {
			t.Fatalf("%+v on %s: %v, but none of them was ever removed", changes, describe(c.ms), err)
		}
	case errors.Is(err, ErrUnsafeMembership):
		// Alone, each of them says why, or together they leave no voter, or name one twice.
		ids := map[uint64]bool{}
		voters := slices.Clone(c.tr.ConfState().Voters)
		fits := false
		for _, change := range changes {
			id, old := change.Member.ID, find(c.ms, change.Member.ID)
			r := change.Member.Replaces
			fits = fits || ids[id] || old == nil && change.Op != AddLearner && change.Op != Remove ||
				change.Op == UpdateAddress && change.Member.Address == "" ||
				change.Op == AddLearner && (old != nil && old.Kind == octopiipb.Voter && (!change.Member.Promote || len(changes) > 1) || r != 0 && (r == id || find(c.ms, r) == nil))
			ids[id] = true
			if change.Op == Remove || change.Op == Demote {
				voters = slices.DeleteFunc(voters, func(v uint64) bool { return v == id })
			}
		}
		// Or two would vote at one address afterwards.
		after := outcome(c.ms, changes)
		for i := range after.Members {
			m := &after.Members[i]
			fits = fits || m.Kind == octopiipb.Voter && voterAt(after, m.Address, m.ID) != nil
		}
		if !fits && len(voters) > 0 {
			t.Fatalf("%+v on %s is refused: %v", changes, describe(c.ms), err)
		}
	default:
		t.Fatalf("%+v: the error %v is none that a caller can tell", changes, err)
	}
}

func TestLastVoterStays(t *testing.T) {
	c := newCluster(1)
	c.ms = withChanges(c.ms, 2, []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 2}}})
	cs := raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}
	if err := checkChanges(c.ms, cs, []Change{{Op: Remove, Member: octopiipb.Member{ID: 1}}}); !errors.Is(err, ErrUnsafeMembership) {
		t.Errorf("removing the last voter: %v, want ErrUnsafeMembership", err)
	}
	if err := checkChanges(c.ms, cs, []Change{{Op: Remove, Member: octopiipb.Member{ID: 2}}}); err != nil {
		t.Errorf("removing the learner: %v, want nil", err)
	}
}

// A configuration that raft is in the middle of changing refuses every change
// instead of panicking.
func TestJointConfigurationRefusesChanges(t *testing.T) {
	cs := raftpb.ConfState{Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}}
	ms := &octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}, {ID: 2, Kind: octopiipb.Voter}, {ID: 3, Kind: octopiipb.Voter}, {ID: 4, Kind: octopiipb.Learner}}}
	for _, op := range []ChangeOp{AddLearner, Promote, Remove, Demote, UpdateAddress, SetPriority} {
		for _, id := range []uint64{1, 2, 3, 4, 5} {
			if err := checkChanges(ms, cs, []Change{{Op: op, Member: octopiipb.Member{ID: id}}}); err == nil {
				t.Errorf("operation %d on member %d is allowed", op, id)
			}
		}
	}
}

func TestDecodeChangesRefuses(t *testing.T) {
	one := raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 4}
	context := func(op ChangeOp, ids ...uint64) []byte {
		var mc octopiipb.MembershipChange
		for _, id := range ids {
			mc.Changes = append(mc.Changes, octopiipb.MemberChange{Op: op, Member: octopiipb.Member{ID: id}})
		}
		b, _ := mc.Marshal()
		return b
	}
	var many raftpb.ConfChangeV2
	var ids []uint64
	for id := uint64(1); id <= changesMax+1; id++ {
		many.Changes = append(many.Changes, raftpb.ConfChangeSingle{Type: one.Type, NodeID: id})
		ids = append(ids, id)
	}
	many.Context = context(AddLearner, ids...)
	for _, c := range []struct {
		name, want string
		cc         raftpb.ConfChangeV2
	}{
		{"no member", "of 0 members describes 1", raftpb.ConfChangeV2{Context: context(AddLearner, 4)}},
		{"one of two members", "of 2 members describes 1", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one, one}, Context: context(AddLearner, 4)}},
		{"too many members", "of 65 members", many},
		{"another member's record", "describes change 1 of 5", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: context(AddLearner, 5)}},
		{"another operation", "describes change 2 of 4", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: context(Promote, 4)}},
		{"no record", "describes 0", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}}},
		{"member 0", "of 0", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: one.Type}}, Context: context(AddLearner, 0)}},
		{"a broken record", "context cannot be read", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: []byte{0xff}}},
		{"an unknown operation", "unknown kind 99", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: context(99, 4)}},
		{"an unknown type", "describes change 1 of 4", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: 77, NodeID: 4}}, Context: context(AddLearner, 4)}},
	} {
		data, err := c.cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeChanges(data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a change with %s: %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := decodeChanges([]byte("not a message")); err == nil {
		t.Error("bytes that are no message were read as a change")
	}
}

// A promoted member is a voter that is no longer to be promoted; records of the
// others stay as they are.
func TestWithChange(t *testing.T) {
	ms := newCluster(3).ms
	ms = withChanges(ms, 2, []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 1, Address: "a:1", Promote: true}}})
	ms = withChanges(ms, 3, []Change{{Op: Promote, Member: octopiipb.Member{ID: 1, Address: "a:1", Promote: true, Incarnation: 9}}})
	ms = withChanges(ms, 4, []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "b:1"}}})
	ms = withChanges(ms, 5, []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "b:2"}}})
	ms = withChanges(ms, 6, []Change{{Op: Remove, Member: octopiipb.Member{ID: 3}}})
	want := &octopiipb.Membership{Cluster: 7, Index: 6, Removed: []octopiipb.RemovedMember{{ID: 3}}, Members: []octopiipb.Member{
		{ID: 1, Address: "a:1", Incarnation: 9, Kind: octopiipb.Voter},
		{ID: 2, Address: "b:2", Kind: octopiipb.Learner},
	}}
	if diff := cmp.Diff(want, ms); diff != "" {
		t.Errorf("membership (-want +got):\n%s", diff)
	}
	ms = withChanges(ms, 7, []Change{{Op: Remove, Member: octopiipb.Member{ID: 1}}})
	want = &octopiipb.Membership{Cluster: 7, Index: 7, Removed: []octopiipb.RemovedMember{{ID: 3}, {ID: 1, Incarnation: 9}}, Members: want.Members[1:]}
	if diff := cmp.Diff(want, ms); diff != "" {
		t.Errorf("membership without member 1 (-want +got):\n%s", diff)
	}
}

// What a leader looks at beside the rules: whether those who stay can go on.
func TestChangesKeepALiveQuorum(t *testing.T) {
	for _, c := range []struct {
		voters, alive []uint64
		op            ChangeOp
		of            uint64
		ok            bool
	}{
		{[]uint64{1, 2, 3}, []uint64{2}, Remove, 3, true},
		{[]uint64{1, 2, 3}, []uint64{2}, Remove, 2, false}, // leaves 1 and the silent 3
		{[]uint64{1, 2, 3}, []uint64{2}, Demote, 2, false},
		{[]uint64{1, 2, 3}, nil, Remove, 3, false},
		{[]uint64{1, 2}, nil, Remove, 2, true}, // the leader alone is a quorum of one
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3}, Remove, 3, false},
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3}, Remove, 4, true},
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3, 4}, Remove, 5, true},
		{[]uint64{1, 2, 3}, nil, Remove, 9, true}, // a learner takes no vote away
		{[]uint64{1, 2, 3}, []uint64{2}, Promote, 9, false},
		{[]uint64{1, 2, 3}, []uint64{2, 9}, Promote, 9, true},
		{[]uint64{1, 2, 3}, nil, UpdateAddress, 2, true},
	} {
		member := new(Core)
		member.cfg, member.reign.ticks = Config{ID: 1, ElectionTicks: 10}, 11
		member.handed.ConfState.Voters = c.voters
		member.handed.ConfState.Learners = []uint64{9}
		for _, id := range c.alive {
			member.peers.heard(id)
		}
		err := member.keepsQuorum([]Change{{Op: c.op, Member: octopiipb.Member{ID: c.of}}})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrUnsafeMembership) {
			t.Errorf("voters %v, of the others alive %v: change %d of %d gives %v, want it allowed: %v", c.voters, c.alive, c.op, c.of, err, c.ok)
		}
	}
}

// A snapshot's header may say anything: a membership that is not the one of its
// configuration is refused.
func TestCheckMembership(t *testing.T) {
	voters := func(ids ...uint64) []octopiipb.Member {
		var ms []octopiipb.Member
		for _, id := range ids {
			ms = append(ms, octopiipb.Member{ID: id, Kind: octopiipb.Voter})
		}
		return ms
	}
	remove3 := octopiipb.MemberChange{Op: Remove, Member: octopiipb.Member{ID: 3}}
	promote4 := octopiipb.MemberChange{Op: Promote, Member: octopiipb.Member{ID: 4}}
	with4 := append(voters(1, 2, 3), octopiipb.Member{ID: 4, Kind: octopiipb.Learner})
	joint := raftpb.ConfState{Voters: []uint64{1, 2, 4}, VotersOutgoing: []uint64{1, 2, 3}, AutoLeave: true}
	for _, c := range []struct {
		name string
		ms   octopiipb.Membership
		cs   raftpb.ConfState
		ok   bool
	}{
		{"the same", octopiipb.Membership{Members: voters(1, 2)}, raftpb.ConfState{Voters: []uint64{2, 1}}, true},
		{"one too many", octopiipb.Membership{Members: voters(1, 2, 3)}, raftpb.ConfState{Voters: []uint64{1, 2}}, false},
		{"a learner that votes", octopiipb.Membership{Members: with4}, raftpb.ConfState{Voters: []uint64{1, 2, 3, 4}}, false},
		{"half done", octopiipb.Membership{Members: with4, UnderWay: []octopiipb.MemberChange{promote4, remove3}}, joint, true},
		{"half done, and nothing is under way", octopiipb.Membership{Members: with4}, joint, false},
		{"under way, and not half done", octopiipb.Membership{Members: with4, UnderWay: []octopiipb.MemberChange{promote4, remove3}},
			raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}, false},
		{"something else under way", octopiipb.Membership{Members: with4, UnderWay: []octopiipb.MemberChange{promote4, {Op: Remove, Member: octopiipb.Member{ID: 2}}}}, joint, false},
		{"something unknown under way", octopiipb.Membership{Members: with4, UnderWay: []octopiipb.MemberChange{promote4, {Op: 77, Member: octopiipb.Member{ID: 3}}}}, joint, false},
		{"one change under way", octopiipb.Membership{Members: with4, UnderWay: []octopiipb.MemberChange{promote4}}, joint, false},
	} {
		if err := CheckMembership(&c.ms, c.cs); (err == nil) != c.ok {
			t.Errorf("%s: %v, want it to be allowed: %v", c.name, err, c.ok)
		}
	}
}
