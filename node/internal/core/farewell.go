package core

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader that removes itself may be the only one that knows that the removal is committed,
// and have entries behind it that nobody else has. The members that remain count its vote in
// the old configuration; it cannot give them that, as its log is longer than theirs; and it
// cannot lead itself, as it has no vote in the new one. So it tells them, when it refuses a
// vote, what it knows to be committed. Who has the same entry there, in the same term, has
// the same log up to there (Log Matching, Raft paper, 5.3), and that is committed here, too.

// noteOfVoter is what this member says with a vote, given or refused: what is committed here
// (see ahead), and where it refuses a pre-vote the term of that entry as well.
func (c *guard) noteOfVoter(responses []raftpb.Message) (note octopiipb.Note) {
	for i := range responses {
		switch m := &responses[i]; {
		case m.Type == raftpb.MsgVoteResp:
			note.Commit = c.status.Commit
		case m.Type == raftpb.MsgPreVoteResp && m.Reject:
			note.Commit = c.status.Commit
			note.CommitTerm, _ = c.termAt(note.Commit)
		}
	}
	return note
}

// takeFarewell commits what a member that refused its vote knows to be committed, if that
// is what takes its vote away. It believes a member of that no more than a leader.
func (c *guard) takeFarewell(m *octopiipb.PeerMessage) {
	st := c.rn.BasicStatus()
	if m.Type != raftpb.MsgPreVoteResp || !m.Reject || st.RaftState != raft.StatePreCandidate || m.Term > st.Term {
		return
	}
	commit := m.Note.Commit
	if term, ok := c.termAt(commit); !ok || term != m.Note.CommitTerm || commit <= st.Commit || !c.takesVote(m.From, st.Commit, commit) {
		return
	}
	// raft commits at the word of a leader only. There is none: it is forgotten at once.
	_ = c.rn.Step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: m.From, To: c.cfg.ID, Term: st.Term, Commit: commit})
	_ = c.rn.ForgetLeader()
}

// takesVote says whether an entry behind one index, and up to another, takes a member's vote.
func (c *guard) takesVote(id, behind, upTo uint64) bool {
	for behind < upTo {
		entries, err := c.storage.Entries(behind+1, upTo+1, c.cfg.MessageBytesMax)
		if err != nil || len(entries) == 0 {
			return false
		}
		if slices.ContainsFunc(entries, func(e raftpb.Entry) bool { return takesVote(&e, id) }) {
			return true
		}
		behind += uint64(len(entries))
	}
	return false
}

func takesVote(e *raftpb.Entry, id uint64) bool {
	if e.Type != raftpb.EntryConfChangeV2 {
		return false
	}
	d, err := decodeChanges(e.Data)
	return err == nil && slices.ContainsFunc(d.conf.Changes, func(one raftpb.ConfChangeSingle) bool {
		return one.NodeID == id && (one.Type == raftpb.ConfChangeRemoveNode || one.Type == raftpb.ConfChangeAddLearnerNode)
	})
}
