package core

import (
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader that removed itself refuses the vote that the rest needs, as it has more entries,
// and tells what it knows to be committed. Only what takes its vote away is taken from it,
// and only where the logs are the same.
func TestFarewell(t *testing.T) {
	removal := func(id uint64) []byte {
		data, err := encodeChanges([]Change{{Op: Remove, Member: octopiipb.Member{ID: id}}}, origin{})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, c := range map[string]struct {
		removed      uint64
		commit, term uint64
		granted      bool
		want         uint64
	}{
		"its removal":                 {removed: 1, commit: 4, term: 2, want: 4},
		"more than its removal":       {removed: 1, commit: 5, term: 2, want: 5},
		"less than its removal":       {removed: 1, commit: 3, term: 2, want: 2},
		"another's removal":           {removed: 3, commit: 5, term: 2, want: 2},
		"another log":                 {removed: 1, commit: 4, term: 1, want: 2},
		"a term that nobody knows":    {removed: 1, commit: 4, want: 2},
		"more than there is":          {removed: 1, commit: 9, term: 2, want: 2},
		"what is committed here also": {removed: 1, commit: 2, term: 2, want: 2},
	} {
		entries := entriesOf(2, 2, 5)
		entries[2].Type, entries[2].Data = raftpb.EntryConfChangeV2, removal(c.removed)
		b := newBench(t, 2, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 2}, entries...)
		for b.c.Status().Role != raft.StatePreCandidate {
			b.run(Input{Ticks: 1})
		}
		b.run(Input{Messages: noted(raftpb.Message{Type: raftpb.MsgPreVoteResp, Reject: true, From: 1, To: 2, Term: 2}, octopiipb.Note{Commit: c.commit, CommitTerm: c.term})})
		if st := b.c.Status(); st.Commit != c.want || st.Leader != raft.None || st.Term != 2 {
			t.Errorf("%s: commit %d of leader %x in term %d, want commit %d, no leader and term 2", name, st.Commit, st.Leader, st.Term, c.want)
		}
	}

	// Who refuses tells it.
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 2, Commit: 4}, entriesOf(2, 2, 8)...)
	b.msgs = nil
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgPreVote, From: 2, To: 1, Term: 3, Index: 5, LogTerm: 2}})})
	if len(b.msgs) != 1 || !b.msgs[0].Reject || b.msgs[0].Note.Commit != 4 || b.msgs[0].Note.CommitTerm != 2 {
		t.Errorf("a longer log answers %v; want a refusal with commit 4 of term 2", b.msgs)
	}
}
