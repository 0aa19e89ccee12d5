package core

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// survives feeds messages, one Step each unless together, and lets time pass.
func survives(t *testing.T, state string, together bool, messages ...raftpb.Message) {
	t.Helper()
	s := inState(state)
	if p := panicOf(func() {
		if together {
			s.receive(messages...)
		} else {
			for _, m := range messages {
				s.receive(m)
			}
		}
		s.live()
	}); p != nil {
		t.Errorf("%s panics: %v", state, p)
	}
}

// raft.send: "term should not be set when sending MsgReadIndex": a follower
// with a leader forwards it. admit lets a MsgReadIndex with a term through.
func TestGuardReadIndexWithTerm(t *testing.T) {
	for _, state := range []string{"follower", "learner"} {
		survives(t, state, false, raftpb.Message{Type: raftpb.MsgReadIndex, From: 3, To: 1, Term: 2, Entries: []raftpb.Entry{{Data: []byte("x")}}})
	}
}

// The same message with a higher term deposes a leader.
func TestGuardReadIndexDeposesLeader(t *testing.T) {
	s := inState("leader")
	s.receive(raftpb.Message{Type: raftpb.MsgReadIndex, From: 3, To: 1, Term: 9, Entries: []raftpb.Entry{{Data: []byte("x")}}})
	if st := s.core.Status(); st.Role != raft.StateLeader || st.Term != 3 {
		t.Errorf("a MsgReadIndex with a term made the leader %s of term %d", st.Role, st.Term)
	}
}

// assertConfStatesEquivalent: raft restores the ConfState and panics if what
// came out is not what went in. restoreConf does not compare.
func TestGuardConfStateNotEquivalent(t *testing.T) {
	for _, cs := range odd {
		survives(t, "follower", false, raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 3,
			Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 20, Term: 3, ConfState: cs}}})
	}
}

var odd = []raftpb.ConfState{
	{Voters: []uint64{1, 2, 2}},
	{Voters: []uint64{1, 2, 0}},
	{Voters: []uint64{1, 2}, Learners: []uint64{2}},
	{Voters: []uint64{1, 2}, Learners: []uint64{3, 3}},
	{Voters: []uint64{1, 2}, LearnersNext: []uint64{3}},
	{Voters: []uint64{1, 2}, AutoLeave: true},
}

// The same configurations bring an uninitialized peer to life, whose core.New
// then panics, now and at every restart, for the log is founded by then.
func TestGuardSnapshotIntoPanic(t *testing.T) {
	for _, cs := range odd {
		m := raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 3,
			Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 20, Term: 3, ConfState: cs}}}
		if !IsSnapshotFor(&m, 1) {
			continue
		}
		start := Label{Index: 20, Term: 3, ConfState: cs, Membership: newCluster(1).ms}
		if p := panicOf(func() {
			_, err := New(Config{ID: 1, Start: start, Storage: newDisk(start, raftpb.HardState{Term: 3, Commit: 20}), ElectionTicks: 10, HeartbeatTicks: 1,
				MessageBytesMax: 1 << 20, InflightMessagesMax: 16, WaitingBytesMax: 1, UncommittedBytesMax: 4, UnappliedBytesMax: 16 << 20, ReadSeed: 1, Logger: quiet{}})
			if err != nil {
				panic(err)
			}
		}); p != nil {
			t.Errorf("a snapshot with %s brings the peer to life, and New panics: %v", cs.String(), p)
		}
	}
}

// A snapshot at the greatest index: unstable.offset overflows to 0.
func TestGuardSnapshotIndexOverflow(t *testing.T) {
	survives(t, "follower", false, raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 3,
		Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 1<<64 - 1, Term: 3, ConfState: three}}})
}

// One below it: the first entry behind it has the greatest index.
func TestGuardSnapshotIndexNearOverflow(t *testing.T) {
	survives(t, "follower", false,
		raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 3,
			Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 1<<64 - 2, Term: 3, ConfState: three}}},
		raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 1<<64 - 2, LogTerm: 3, Entries: []raftpb.Entry{{Index: 1<<64 - 1, Term: 3}}})
}

// The greatest term: the next campaign begins in term 0, and raft.send panics
// with "term should be set when sending".
func TestGuardTermOverflow(t *testing.T) {
	for _, typ := range []raftpb.MessageType{raftpb.MsgHeartbeat, raftpb.MsgVote, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow} {
		for _, state := range []string{"founder", "follower", "leader"} {
			t.Run(fmt.Sprint(typ, " ", state), func(t *testing.T) {
				survives(t, state, false, raftpb.Message{Type: typ, From: 2, To: 1, Term: 1<<64 - 1})
			})
		}
	}
}

// Two messages in one Step: admit looks at the last index as of the last Step,
// but the first message has cut raft's log: commitTo panics.
func TestGuardStaleLastIndexWithinAStep(t *testing.T) {
	t.Run("append", func(t *testing.T) {
		survives(t, "follower", true,
			raftpb.Message{Type: raftpb.MsgApp, From: 3, To: 1, Term: 3, Index: 5, LogTerm: 2, Entries: entriesOf(3, 6, 6)},
			raftpb.Message{Type: raftpb.MsgHeartbeat, From: 3, To: 1, Term: 3, Commit: 8})
	})
	t.Run("snapshot", func(t *testing.T) {
		survives(t, "follower", true,
			raftpb.Message{Type: raftpb.MsgSnap, From: 3, To: 1, Term: 3, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 6, Term: 3, ConfState: three}}},
			raftpb.Message{Type: raftpb.MsgHeartbeat, From: 3, To: 1, Term: 3, Commit: 8})
	})
}

// A peer whose ID is one of raft's local targets: raft's answer to it is taken
// for an append or an apply of this member. Nothing refuses such an ID at the
// handshake (node.handler.refuse, transport/tcp) either.
func TestGuardLocalTargetAsPeer(t *testing.T) {
	for _, from := range []uint64{raft.LocalAppendThread, raft.LocalApplyThread} {
		survives(t, "follower", false, raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, To: 1, Term: 3, Commit: 5})
	}
}

// A conf change that asks for a joint configuration: decodeChanges does not look
// at Transition, so the member enters one that nobody ever leaves.
func TestGuardExplicitTransition(t *testing.T) {
	for _, tr := range []raftpb.ConfChangeTransition{raftpb.ConfChangeTransitionJointExplicit, raftpb.ConfChangeTransitionJointImplicit} {
		data, err := encodeChanges([]Change{drawn}, origin{})
		if err != nil {
			t.Fatal(err)
		}
		var cc raftpb.ConfChangeV2
		if err := cc.Unmarshal(data); err != nil {
			t.Fatal(err)
		}
		cc.Transition = tr
		if data, err = cc.Marshal(); err != nil {
			t.Fatal(err)
		}
		s := inState("follower")
		s.receive(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 8, LogTerm: 2, Commit: 9,
			Entries: []raftpb.Entry{{Index: 9, Term: 2, Type: raftpb.EntryConfChangeV2, Data: data}}})
		if cs := s.core.handed.ConfState; len(cs.VotersOutgoing) > 0 {
			t.Errorf("%s left the member in the joint configuration %s", tr, cs.String())
		}
	}
}

var drawn = func() Change {
	c := Change{Op: AddLearner}
	c.Member.ID = 6
	return c
}()

// An old append and a heartbeat behind it in one batch: nothing was cut, and an
// honest leader is no suspect.
func TestGuardOldAppendBeforeHeartbeat(t *testing.T) {
	s := inState("follower")
	st := s.core.Status()
	e := s.core.Step(&Input{Messages: bare([]raftpb.Message{
		{Type: raftpb.MsgApp, From: 2, To: 1, Term: st.Term, Index: 4, LogTerm: 2, Entries: entriesOf(2, 5, 5)},
		{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: st.Term, Commit: st.Last},
	})})
	for {
		if len(e.Suspects) > 0 {
			t.Fatalf("suspects: %v", e.Suspects)
		}
		if !s.core.More() {
			break
		}
		e = s.core.Step(&Input{})
	}
	if got := s.core.Status().Commit; got != st.Last {
		t.Errorf("commit %d, want the heartbeat's %d", got, st.Last)
	}
}

// Three heartbeats in a row that name more than there is are a leader that knows;
// fewer, or with others between or long pauses, could be anything.
func TestForgotInARow(t *testing.T) {
	heartbeat := func(commit uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: commit}
	}
	for name, c := range map[string]struct {
		messages []raftpb.Message
		pause    int
		want     bool
	}{
		"two":                {[]raftpb.Message{heartbeat(9), heartbeat(9)}, 1, false},
		"three":              {[]raftpb.Message{heartbeat(9), heartbeat(9), heartbeat(9)}, 1, true},
		"with one that fits": {[]raftpb.Message{heartbeat(9), heartbeat(9), heartbeat(1), heartbeat(9)}, 1, false},
		"with long pauses":   {[]raftpb.Message{heartbeat(9), heartbeat(9), heartbeat(9)}, 11, false},
		"of a term gone by":  {[]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 1, Commit: 9}, heartbeat(9), heartbeat(9)}, 1, false},
	} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 1})
		got := false
		for _, m := range c.messages {
			for range c.pause {
				b.step(Input{Ticks: 1})
			}
			for _, s := range b.step(Input{Messages: bare([]raftpb.Message{m})}).Suspects {
				got = got || s.Claim == Forgot
			}
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
