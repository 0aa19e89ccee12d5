package core

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// IsSnapshotFor says whether a message is a snapshot for member self: one that raft takes,
// whose configuration names it. A member takes no other, whether it has a log or not.
//
// It is also all that brings an uninitialized peer to life. Everything starts from a
// snapshot here, because a founder's log begins behind index 1 (see Store.Found), so that
// no leader can offer its log from the start.
//
// raft-rs's five_mem_node, where the idea comes from, also lets a heartbeat or
// an append from the start create the peer. The peer would then hold an empty
// log and grant votes with it, which is how a wiped disk votes twice.
func IsSnapshotFor(m *raftpb.Message, self uint64) bool {
	return m.Type == raftpb.MsgSnap && admit(m, self, 0, 0) == nil && names(m.Snapshot.Metadata.ConfState, self)
}

// names says whether a configuration has a place for id.
func names(cs raftpb.ConfState, id uint64) bool {
	return slices.Contains(cs.Voters, id) || slices.Contains(cs.Learners, id) ||
		slices.Contains(cs.VotersOutgoing, id)
}

// AnswerUninitialized is all that a peer without state says to a leader, and
// none of it vouches for anything. It runs no RawNode: an empty one grants
// votes, and panics on a heartbeat with commit > 0.
//
//   - A heartbeat is answered, so that the leader knows that somebody is there:
//     it sends snapshots only to those. The answer carries no read context, so
//     it never counts for a ReadIndex, and is given only to commit 0: a leader
//     that names a higher one remembers what this disk has lost.
//   - An append is refused with the hint that nothing is here, which makes the
//     leader fall back to a snapshot.
//   - Votes are never given.
func AnswerUninitialized(m *raftpb.Message, self uint64) (raftpb.Message, bool) {
	if m.To != self || admitSender(m) != nil {
		return raftpb.Message{}, false
	}
	switch {
	case m.Type == raftpb.MsgHeartbeat && m.Commit == 0:
		return raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: self, To: m.From, Term: m.Term}, true
	case m.Type == raftpb.MsgApp:
		return raftpb.Message{Type: raftpb.MsgAppResp, From: self, To: m.From, Term: m.Term,
			Index: m.Index, Reject: true}, true
	default:
		return raftpb.Message{}, false
	}
}
