package core

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader whose disk is full applies nothing, not even the first entry of its term: the
// other members read all the same, as a majority has committed that entry.
func TestLeaderThatAppliesNothingAnswersReads(t *testing.T) {
	var log []raftpb.Entry
	for i := range uint64(40) { // more than is handed to the state machine at once
		log = append(log, raftpb.Entry{Index: 2 + i, Term: 1, Data: append([]byte{frameCommand}, make([]byte, 600<<10)...)})
	}
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, log...)
	b.stuck = true
	b.elect(2)
	st := b.c.Status()
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: st.Term, Index: st.Last}})})
	if st = b.c.Status(); st.Commit != st.Last || b.c.handed.Index == st.Last {
		t.Fatalf("%d of %d is committed and %d handed on: this shows nothing", st.Commit, st.Last, b.c.handed.Index)
	}
	read := []byte("a read of member 2")
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgReadIndex, From: 2, To: 1, Entries: []raftpb.Entry{{Data: read}}}})})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: st.Term, Context: read}})})
	if !slices.ContainsFunc(b.msgs, func(m octopiipb.PeerMessage) bool {
		return m.Type == raftpb.MsgReadIndexResp && m.To == 2 && m.Index == st.Commit
	}) {
		t.Error("the read of a follower is not answered")
	}
}
