package core

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// FuzzChange applies a list of conf changes, each behind a byte with its length,
// to a cluster: one that can be read means the same after it was written again;
// one that is allowed, raft applies; and membership and raft's configuration
// stay the same.
func FuzzChange(f *testing.F) {
	encode := func(cc raftpb.ConfChangeV2) []byte {
		data, err := cc.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{byte(len(data))}, data...)
	}
	several := func(changes ...Change) []byte {
		data, err := encodeChanges(changes, origin{})
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{byte(len(data))}, data...)
	}
	change := func(op ChangeOp, m octopiipb.Member) []byte { return several(Change{Op: op, Member: m}) }
	list := func(changes ...[]byte) (b []byte) {
		for _, c := range changes {
			b = append(b, c...)
		}
		return b
	}
	two := octopiipb.Member{ID: 2, Name: "two", Address: "b:2", Promote: true, Priority: 3, Kind: octopiipb.Voter}
	f.Add(list(change(AddLearner, two), change(Promote, two), change(Remove, two), change(AddLearner, two)))
	f.Add(list(change(AddLearner, two), change(AddLearner, octopiipb.Member{ID: 2, Incarnation: 9}), change(Remove, two), change(Remove, two)))
	f.Add(list(change(AddLearner, two), change(Promote, two), change(AddLearner, two), change(Promote, octopiipb.Member{ID: 9}), change(Promote, two)))
	f.Add(list(change(Remove, octopiipb.Member{ID: 1}), change(AddLearner, octopiipb.Member{ID: 1}), change(AddLearner, octopiipb.Member{ID: 1, Promote: true})))
	f.Add(list(change(AddLearner, two), change(Promote, two), change(Remove, octopiipb.Member{ID: 1})))
	f.Add(list(change(AddLearner, two), several(Change{Op: Promote, Member: two}, Change{Op: Remove, Member: octopiipb.Member{ID: 1}}), change(Remove, two)))
	f.Add(list(several(Change{Op: AddLearner, Member: two}, Change{Op: AddLearner, Member: octopiipb.Member{ID: 3}}), change(Demote, octopiipb.Member{ID: 1}), several(Change{Op: Demote, Member: octopiipb.Member{ID: 1}}, Change{Op: Promote, Member: two})))
	f.Add(list(change(UpdateAddress, octopiipb.Member{ID: 1, Address: "c:3"}), change(SetPriority, octopiipb.Member{ID: 1, Priority: -2}), change(UpdateAddress, octopiipb.Member{ID: 1})))
	f.Add(change(AddLearner, octopiipb.Member{ID: 1<<64 - 1}))
	f.Add(encode(raftpb.ConfChangeV2{}))
	f.Add(encode(raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointExplicit,
		Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode, NodeID: 2}}}))
	f.Add(encode(raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointExplicit, Context: []byte("\x0a\x02\x08\x02"),
		Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}}}))
	f.Add(encode(raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{NodeID: 2}, {NodeID: 3}}}))
	f.Add(encode(raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{NodeID: 2}}, Context: []byte{0xff}}))
	f.Add(encode(raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeUpdateNode, NodeID: 2}}, Context: []byte("\x0a\x02\x08\x02")}))
	f.Add([]byte{1, 0xff})
	f.Fuzz(func(t *testing.T, list []byte) {
		c := newCluster(1)
		for index := uint64(2); len(list) > 0 && index < 50; index++ {
			n := min(int(list[0]), len(list)-1)
			data := list[1:][:n]
			list = list[1+n:]
			read, err := decodeChanges(data)
			if err != nil {
				continue
			}
			changes := read.changes
			rewritten, err := encodeChanges(changes, origin{})
			if err != nil {
				t.Fatal(err)
			}
			if again, err := decodeChanges(rewritten); err != nil || !slices.Equal(again.changes, changes) {
				t.Fatalf("%+v is written and read as %+v, %v", changes, again.changes, err)
			}
			if checkChanges(c.ms, c.tr.ConfState(), changes) == nil {
				c.change(t, index, changes)
			}
		}
	})
}

// FuzzUninitialized is a message and the membership beside it at an uninitialized
// peer: an answer vouches for nothing, and what brings the peer to life is a
// snapshot that names it, behind which a core runs.
func FuzzUninitialized(f *testing.F) {
	ms := octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}, {ID: 2, Kind: octopiipb.Learner}}, Removed: []octopiipb.RemovedMember{{ID: 5}}}
	membership, err := ms.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	add := func(m raftpb.Message) {
		data, err := m.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, membership)
	}
	for _, typ := range everyType() {
		add(full(typ))
	}
	heartbeat := full(raftpb.MsgHeartbeat)
	heartbeat.Commit = 4
	add(heartbeat)
	for _, cs := range []raftpb.ConfState{
		{Voters: []uint64{2}, Learners: []uint64{1}},
		{Voters: []uint64{2, 3}},
		{Learners: []uint64{1}},
		{Voters: []uint64{1, 1}},
		{Voters: []uint64{1}, Learners: []uint64{1}},
		{Voters: []uint64{2}, VotersOutgoing: []uint64{1, 2}},
		{Voters: []uint64{1, 2}, VotersOutgoing: []uint64{1, 3}, LearnersNext: []uint64{3}, AutoLeave: true},
		{Voters: []uint64{1, 1<<64 - 1}},
	} {
		snap := full(raftpb.MsgSnap)
		snap.Snapshot.Metadata.ConfState = cs
		add(snap)
		snap.Snapshot.Metadata.Index = numberMax
		add(snap)
	}
	f.Fuzz(func(t *testing.T, message, membership []byte) {
		var m raftpb.Message
		var ms octopiipb.Membership
		if m.Unmarshal(message) != nil || ms.Unmarshal(membership) != nil {
			return
		}
		if a, ok := AnswerUninitialized(&m, 1); ok {
			vouches := a.Type != raftpb.MsgHeartbeatResp && (a.Type != raftpb.MsgAppResp || !a.Reject)
			if vouches || a.From != 1 || a.To != m.From || a.Term != m.Term || a.Commit != 0 || len(a.Context) > 0 || len(a.Entries) > 0 {
				t.Errorf("%s was answered with %s", describeRaft(m), describeRaft(a))
			}
		}
		if !IsSnapshotFor(&m, 1) {
			return
		}
		meta := m.Snapshot.Metadata
		if m.Type != raftpb.MsgSnap || meta.Index == 0 || meta.Term == 0 || !names(meta.ConfState, 1) {
			t.Fatalf("%s brings the peer to life", describeRaft(m))
		}
		start := Label{Index: meta.Index, Term: meta.Term, ConfState: meta.ConfState, Membership: &ms}
		s := subjectOn(start, newDisk(start, raftpb.HardState{Term: m.Term, Commit: meta.Index}))
		s.receive(m)
		s.live()
		if st := s.core.Status(); st.Applied > st.Commit || st.Commit > st.Last || st.Last < meta.Index {
			t.Fatalf("applied %d, commit %d, last %d behind a snapshot at %d", st.Applied, st.Commit, st.Last, meta.Index)
		}
	})
}
