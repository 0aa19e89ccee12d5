package core

import (
	"fmt"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// admit says whether a message from a peer may be given to raft. raft trusts
// its messages and panics on what an honest cluster cannot send; but a disk
// that was wiped or rolled back, or a peer of another making, can. What is
// refused here is dropped, as a network might, and reported.
//
// lastIndex and commit are this member's own.
func admit(m *raftpb.Message, self, lastIndex, commit uint64) error {
	if m.To != self {
		return fmt.Errorf("%s for member %x arrived at %x", m.Type, m.To, self)
	}
	if m.Term == 0 && m.Type != raftpb.MsgReadIndex {
		return fmt.Errorf("%s without a term", m.Type)
	}
	switch m.Type {
	case raftpb.MsgApp:
		return admitAppend(m)
	case raftpb.MsgHeartbeat:
		// A leader tells a follower only of what that follower acknowledged.
		if m.Commit > lastIndex {
			return fmt.Errorf("heartbeat with commit %d, but the last index here is %d: this log lost what it acknowledged", m.Commit, lastIndex)
		}
	case raftpb.MsgAppResp:
		if !m.Reject && m.Index > lastIndex {
			return fmt.Errorf("member %x acknowledged index %d, but the last index here is %d", m.From, m.Index, lastIndex)
		}
	case raftpb.MsgSnap:
		return admitSnapshot(m, commit)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.Entries) != 1 {
			return fmt.Errorf("%s with %d entries instead of 1", m.Type, len(m.Entries))
		}
	case raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
	default:
		return fmt.Errorf("%s is not a message that members send each other", m.Type)
	}
	return nil
}

// admitAppend checks that the entries continue (Index, LogTerm) in one log.
func admitAppend(m *raftpb.Message) error {
	term := m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index != m.Index+1+uint64(i) {
			return fmt.Errorf("append behind %d has index %d in place %d", m.Index, e.Index, i)
		}
		if e.Term < term || e.Term > m.Term {
			return fmt.Errorf("append of term %d has entry %d of term %d behind term %d", m.Term, e.Index, e.Term, term)
		}
		term = e.Term
		if err := admitEntry(e); err != nil {
			return err
		}
	}
	return nil
}

// admitEntry refuses an entry that this version could not apply. raft's own
// leaders never append one; once in the log it would stop every member.
func admitEntry(e *raftpb.Entry) error {
	switch e.Type {
	case raftpb.EntryNormal:
		if len(e.Data) > 0 && e.Data[0] != frameCommand {
			return fmt.Errorf("entry %d has the unknown kind %d: was it written by a newer version?", e.Index, e.Data[0])
		}
		return nil
	case raftpb.EntryConfChangeV2:
		_, err := decodeChange(e.Data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		return nil
	default:
		return fmt.Errorf("entry %d has the unexpected type %s", e.Index, e.Type)
	}
}

func admitSnapshot(m *raftpb.Message, commit uint64) error {
	if m.Snapshot == nil || m.Snapshot.Metadata.Index == 0 {
		return fmt.Errorf("empty snapshot")
	}
	meta := &m.Snapshot.Metadata
	if meta.Index <= commit {
		return nil // raft answers it with its commit index
	}
	if len(meta.ConfState.Voters) == 0 {
		return fmt.Errorf("snapshot at %d without voters", meta.Index)
	}
	_, _, err := restoreConf(meta.ConfState, meta.Index)
	if err != nil {
		return fmt.Errorf("snapshot at %d: %w", meta.Index, err)
	}
	return nil
}

// restoreConf is raft's own check of a ConfState, as a function.
func restoreConf(cs raftpb.ConfState, lastIndex uint64) (tracker.Config, tracker.ProgressMap, error) {
	return confchange.Restore(confchange.Changer{
		Tracker:   tracker.MakeProgressTracker(1, 0),
		LastIndex: lastIndex,
	}, cs)
}
