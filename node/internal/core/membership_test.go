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
		ms: &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: founder}}},
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

// agree says how the membership and raft's configuration differ, if they do.
func (c *cluster) agree() error {
	var voters, learners []uint64
	for _, m := range c.ms.Members {
		if m.Learner {
			learners = append(learners, m.ID)
		} else {
			voters = append(voters, m.ID)
		}
		if slices.Contains(c.ms.Removed, m.ID) {
			return fmt.Errorf("member %x was removed", m.ID)
		}
	}
	cs := c.tr.ConfState()
	if !slices.Equal(voters, cs.Voters) || !slices.Equal(learners, cs.Learners) || len(cs.VotersOutgoing) > 0 {
		return fmt.Errorf("voters %v and learners %v, but raft has %v", voters, learners, cs.String())
	}
	if !slices.IsSortedFunc(c.ms.Members, func(a, b octopiipb.Member) int { return compare.Compare(a.ID, b.ID) }) {
		return fmt.Errorf("members are not in order: %v", c.ms.Members)
	}
	return nil
}

func drawChange(t *rapid.T) Change {
	return Change{
		Op: rapid.SampledFrom([]ChangeOp{AddLearner, Promote, Remove}).Draw(t, "op"),
		Member: octopiipb.Member{
			ID:          rapid.Uint64Range(1, 6).Draw(t, "id"),
			Name:        rapid.SampledFrom([]string{"", "north"}).Draw(t, "name"),
			Address:     rapid.SampledFrom([]string{"a:1", "b:2"}).Draw(t, "address"),
			Learner:     rapid.Bool().Draw(t, "learner"),
			Promote:     rapid.Bool().Draw(t, "promote"),
			Incarnation: rapid.Uint64Range(0, 2).Draw(t, "incarnation"),
		},
	}
}

// Every change that checkChange allows, raft applies without an error, which it
// would turn into a panic; and both have the same members afterwards.
func TestMembershipIsRafts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(1)
		var removed []uint64
		for index := uint64(2); index < 40; index++ {
			change := drawChange(t)
			data, err := encodeChange(change)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := decodeChange(data)
			if err != nil || decoded != change {
				t.Fatalf("%+v went through the log as %+v, %v", change, decoded, err)
			}
			cs := c.tr.ConfState()
			before := describe(c.ms)
			if err := checkChange(c.ms, cs, decoded); err != nil {
				wantRefused(t, c, removed, decoded, err)
				continue
			}
			next := withChange(c.ms, index, decoded)
			if got := describe(c.ms); got != before {
				t.Fatalf("%+v changed the membership that it began with: %s, was %s", change, got, before)
			}
			var cc raftpb.ConfChangeV2
			if err := cc.Unmarshal(data); err != nil {
				t.Fatal(err)
			}
			if err := c.apply(cc); err != nil {
				t.Fatalf("checkChange allows %+v on %s, and raft panics: %v", change, before, err)
			}
			if slices.Contains(removed, change.Member.ID) && change.Op != Remove {
				t.Fatalf("%+v uses the ID of a removed member again", change)
			}
			if change.Op == Remove {
				removed = append(removed, change.Member.ID)
			}
			c.ms = next
			if err := c.agree(); err != nil {
				t.Fatalf("after %+v on %s: %v", change, before, err)
			}
			if next.Index != index || next.Cluster != 7 || !slices.Equal(next.Removed, removed) {
				t.Fatalf("after %+v: index %d, cluster %d, removed %v; want %d, 7, %v", change, next.Index, next.Cluster, next.Removed, index, removed)
			}
		}
	})
}

// wantRefused checks that a refusal is right: nothing to change means that, and
// a tombstone is named as one.
func wantRefused(t *rapid.T, c *cluster, removed []uint64, change Change, err error) {
	id := change.Member.ID
	gone, old := slices.Contains(removed, id), find(c.ms, id)
	switch {
	case errors.Is(err, errNoChange):
		fits := change.Op == Remove && old == nil ||
			change.Op == Promote && old != nil && !old.Learner ||
			change.Op == AddLearner && old != nil && (*old == merged(*old, change.record()) || !old.Learner && change.Member.Promote)
		if !fits {
			t.Fatalf("%+v on %s: there is something to change", change, describe(c.ms))
		}
	case errors.Is(err, ErrIDReused):
		if !gone {
			t.Fatalf("%+v on %s: %v, but %d was never removed", change, describe(c.ms), err, id)
		}
	case errors.Is(err, ErrUnsafeMembership):
		fits := change.Op == Remove && old != nil && !old.Learner ||
			change.Op == Promote && old == nil || change.Op == AddLearner && old != nil && !old.Learner
		if !fits {
			t.Fatalf("%+v on %s is refused: %v", change, describe(c.ms), err)
		}
	default:
		t.Fatalf("%+v: the error %v is none that a caller can tell", change, err)
	}
}

func TestLastVoterStays(t *testing.T) {
	c := newCluster(1)
	c.ms = withChange(c.ms, 2, Change{Op: AddLearner, Member: octopiipb.Member{ID: 2}})
	cs := raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}
	if err := checkChange(c.ms, cs, Change{Op: Remove, Member: octopiipb.Member{ID: 1}}); !errors.Is(err, ErrUnsafeMembership) {
		t.Errorf("removing the last voter: %v, want ErrUnsafeMembership", err)
	}
	if err := checkChange(c.ms, cs, Change{Op: Remove, Member: octopiipb.Member{ID: 2}}); err != nil {
		t.Errorf("removing the learner: %v, want nil", err)
	}
}

// A configuration that raft is in the middle of changing refuses every change
// instead of panicking.
func TestJointConfigurationRefusesChanges(t *testing.T) {
	cs := raftpb.ConfState{Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}}
	ms := &octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4, Learner: true}}}
	for _, op := range []ChangeOp{AddLearner, Promote, Remove} {
		for _, id := range []uint64{1, 2, 3, 4, 5} {
			if err := checkChange(ms, cs, Change{Op: op, Member: octopiipb.Member{ID: id}}); err == nil {
				t.Errorf("operation %d on member %d is allowed", op, id)
			}
		}
	}
}

func TestDecodeChangeRefuses(t *testing.T) {
	one := raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 4}
	context := func(id uint64) []byte {
		mc := octopiipb.MemberChange{Member: octopiipb.Member{ID: id}}
		b, _ := mc.Marshal()
		return b
	}
	for _, c := range []struct {
		name, want string
		cc         raftpb.ConfChangeV2
	}{
		{"no member", "0 members", raftpb.ConfChangeV2{Context: context(4)}},
		{"two members", "2 members", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one, one}, Context: context(4)}},
		{"another member's record", "describes 5", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: context(5)}},
		{"no record", "describes 0", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}}},
		{"member 0", "describes 0", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: one.Type}}, Context: context(0)}},
		{"a broken record", "context cannot be read", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{one}, Context: []byte{0xff}}},
		{"an update", "unknown type", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeUpdateNode, NodeID: 4}}, Context: context(4)}},
		{"an unknown type", "unknown type", raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: 77, NodeID: 4}}, Context: context(4)}},
	} {
		data, err := c.cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeChange(data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a change with %s: %v, want an error with %q", c.name, err, c.want)
		}
	}
	if _, err := decodeChange([]byte("not a message")); err == nil {
		t.Error("bytes that are no message were read as a change")
	}
	if _, err := decodeChange(nil); err == nil {
		t.Error("an empty entry was read as a change of a member")
	}
}

// A promoted member is a voter that is no longer to be promoted; records of the
// others stay as they are.
func TestWithChange(t *testing.T) {
	ms := newCluster(3).ms
	ms = withChange(ms, 2, Change{Op: AddLearner, Member: octopiipb.Member{ID: 1, Address: "a:1", Promote: true}})
	ms = withChange(ms, 3, Change{Op: Promote, Member: octopiipb.Member{ID: 1, Address: "a:1", Promote: true, Learner: true, Incarnation: 9}})
	ms = withChange(ms, 4, Change{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "b:1"}})
	ms = withChange(ms, 5, Change{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "b:2"}})
	ms = withChange(ms, 6, Change{Op: Remove, Member: octopiipb.Member{ID: 3}})
	want := &octopiipb.Membership{Cluster: 7, Index: 6, Removed: []uint64{3}, Members: []octopiipb.Member{
		{ID: 1, Address: "a:1", Incarnation: 9},
		{ID: 2, Address: "b:2", Learner: true},
	}}
	if diff := cmp.Diff(want, ms); diff != "" {
		t.Errorf("membership (-want +got):\n%s", diff)
	}
}

// What a leader looks at beside the rules: whether those who stay can go on.
func TestRemovalKeepsALiveQuorum(t *testing.T) {
	for _, c := range []struct {
		voters, alive []uint64
		remove        uint64
		ok            bool
	}{
		{[]uint64{1, 2, 3}, []uint64{2}, 3, true},
		{[]uint64{1, 2, 3}, []uint64{2}, 2, false}, // leaves 1 and the silent 3
		{[]uint64{1, 2, 3}, nil, 3, false},
		{[]uint64{1, 2}, nil, 2, true}, // the leader alone is a quorum of one
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3}, 3, false},
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3}, 4, true},
		{[]uint64{1, 2, 3, 4, 5}, []uint64{2, 3, 4}, 5, true},
		{[]uint64{1, 2, 3}, nil, 9, true}, // a learner takes no vote away
	} {
		member := &Core{cfg: Config{ID: 1, ElectionTicks: 10}}
		member.handed.ConfState.Voters = c.voters
		for _, id := range c.alive {
			member.peers.heard(id)
		}
		err := member.keepsQuorum(c.remove)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrUnsafeMembership) {
			t.Errorf("voters %v, of the others alive %v: removing %d gives %v, want it allowed: %v", c.voters, c.alive, c.remove, err, c.ok)
		}
	}
}
