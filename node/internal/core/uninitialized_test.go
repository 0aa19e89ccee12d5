package core

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
)

// everyType is every type of message that raft knows, in order.
func everyType() []raftpb.MessageType {
	var types []raftpb.MessageType
	for _, v := range slices.Sorted(maps.Keys(raftpb.MessageType_name)) {
		types = append(types, raftpb.MessageType(v))
	}
	return types
}

// snapshotNaming is a snapshot at index 5 of term 2 for these voters.
func snapshotNaming(voters ...uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 5, Term: 2,
		ConfState: raftpb.ConfState{Voters: voters}}}
}

// full is a message of a type with every field filled that could be misused.
func full(typ raftpb.MessageType) raftpb.Message {
	return raftpb.Message{
		Type: typ, From: 2, To: 1, Term: 3, LogTerm: 2, Index: 7, Vote: 1,
		Context: []byte("a round of ReadIndex"), Snapshot: snapshotNaming(1, 2), RejectHint: 4,
		Entries:   []raftpb.Entry{{Index: 8, Term: 3, Data: FrameProposal(nil)}},
		Responses: []raftpb.Message{{Type: raftpb.MsgVoteResp, From: 1, To: 2, Term: 3}},
	}
}

// Only a snapshot brings a peer to life, and only two types are answered.
func TestUninitializedEveryType(t *testing.T) {
	answers := map[raftpb.MessageType]raftpb.Message{
		raftpb.MsgHeartbeat: {Type: raftpb.MsgHeartbeatResp, From: 1, To: 2, Term: 3},
		raftpb.MsgApp:       {Type: raftpb.MsgAppResp, From: 1, To: 2, Term: 3, Index: 7, Reject: true},
	}
	for _, typ := range everyType() {
		m := full(typ)
		if got, want := IsSnapshotFor(&m, 1), typ == raftpb.MsgSnap; got != want {
			t.Errorf("%s brings a peer to life: %v, want %v", typ, got, want)
		}
		reply, ok := AnswerUninitialized(&m, 1)
		want, answered := answers[typ]
		if ok != answered {
			t.Errorf("%s is answered: %v, want %v", typ, ok, answered)
		}
		// The whole reply is compared: no context, no vote, no index that it has.
		if diff := cmp.Diff(want, reply); diff != "" {
			t.Errorf("answer to %s (-want +got):\n%s", typ, diff)
		}
	}
}

// Whatever is in a message, no answer vouches for anything.
func TestUninitializedVouchesForNothing(t *testing.T) {
	for _, typ := range everyType() {
		for _, commit := range []uint64{0, 1, 23, 1<<64 - 1} {
			for _, term := range []uint64{0, 1, 1<<64 - 1} {
				for _, to := range []uint64{0, 1, 2, 9} {
					m := full(typ)
					m.Commit, m.Term, m.To = commit, term, to
					reply, ok := AnswerUninitialized(&m, 1)
					switch {
					case !ok:
						continue
					case to != 1 || term == 0:
						t.Errorf("%s of term %d for member %d is answered by member 1", typ, term, to)
					case typ == raftpb.MsgHeartbeat && commit > 0:
						t.Errorf("a heartbeat with commit %d is answered: its leader remembers what is lost here", commit)
					case reply.Type == raftpb.MsgVoteResp || reply.Type == raftpb.MsgPreVoteResp:
						t.Errorf("%s is answered with %s: a vote from a peer without a log", typ, reply.Type)
					case reply.Type == raftpb.MsgAppResp && !reply.Reject:
						t.Errorf("%s is answered with an acknowledgement of index %d", typ, reply.Index)
					case reply.Context != nil || reply.Commit != 0 || reply.RejectHint != 0 || reply.LogTerm != 0:
						t.Errorf("%s is answered with more than that somebody is here: %+v", typ, reply)
					}
				}
			}
		}
	}
}

func TestIsSnapshotFor(t *testing.T) {
	with := func(change func(*raftpb.Message)) raftpb.Message {
		m := raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 3, Snapshot: snapshotNaming(1, 2)}
		change(&m)
		return m
	}
	conf := func(cs raftpb.ConfState) raftpb.Message {
		return with(func(m *raftpb.Message) { m.Snapshot.Metadata.ConfState = cs })
	}
	for _, c := range []struct {
		name string
		m    raftpb.Message
		want bool
	}{
		{"names it as a voter", with(func(*raftpb.Message) {}), true},
		{"names it as a learner", conf(raftpb.ConfState{Voters: []uint64{2}, Learners: []uint64{1}}), true},
		{"names it as a voter on the way out", conf(raftpb.ConfState{Voters: []uint64{2}, VotersOutgoing: []uint64{1, 2}}), true},
		{"names it as a learner to be", conf(raftpb.ConfState{Voters: []uint64{2}, VotersOutgoing: []uint64{1, 2}, LearnersNext: []uint64{1}}), true},
		{"does not name it", conf(raftpb.ConfState{Voters: []uint64{2, 3}, Learners: []uint64{4}}), false},
		{"names nobody", conf(raftpb.ConfState{}), false},
		{"has only learners", conf(raftpb.ConfState{Learners: []uint64{1}}), false},
		{"has its one voter as a learner, too", conf(raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{1}}), false},
		{"is for another member", with(func(m *raftpb.Message) { m.To = 2 }), false},
		{"has no term", with(func(m *raftpb.Message) { m.Term = 0 }), false},
		{"has no snapshot", with(func(m *raftpb.Message) { m.Snapshot = nil }), false},
		{"is at index 0", with(func(m *raftpb.Message) { m.Snapshot.Metadata.Index = 0 }), false},
		{"is of term 0", with(func(m *raftpb.Message) { m.Snapshot.Metadata.Term = 0 }), false},
		{"is of the leader's term", with(func(m *raftpb.Message) { m.Snapshot.Metadata.Term = 3 }), true},
		{"is of a term to come", with(func(m *raftpb.Message) { m.Snapshot.Metadata.Term = 4 }), false},
	} {
		if got := IsSnapshotFor(&c.m, 1); got != c.want {
			t.Errorf("a snapshot that %s brings member 1 to life: %v, want %v", c.name, got, c.want)
		}
		if reply, ok := AnswerUninitialized(&c.m, 1); ok {
			t.Errorf("a snapshot that %s is answered with %s", c.name, reply.Type)
		}
	}
}
