package core

import (
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// ownFirst is why a leader sends some entries only when they are durable on its own disk.
//
// It may send them earlier (thesis 10.2.1), and others may then have more of its log than
// itself. If it crashes, one of those is elected. But behind a change that leaves it the only
// voter they have no vote any more, and know so, as they applied it: they never campaign. It
// comes back, has lost the newest commit index, as that is not synced alone, and so the
// change is not in force for it: it asks for their votes, and they refuse, as their logs are
// longer. Nobody could ever be elected. So its own copy goes first, until its disk knows that
// the change is committed. It costs nothing: nothing is committed there without its own copy.
type ownFirst struct {
	// change is the index of the newest change in the log that leaves no other voter.
	change uint64
	// written is the newest commit index that was handed out in an append, and commit the
	// newest one that is certainly durable.
	written, commit uint64
}

// alone says whether this member is the only voter.
func (c *history) alone(cs raftpb.ConfState) bool {
	return len(cs.Voters) == 1 && cs.Voters[0] == c.cfg.ID
}

// from: there is such a change at an index.
func (o *ownFirst) from(index uint64) { o.change = max(o.change, index) }

// wrote takes the commit index of an append, and returns the newest one.
func (o *ownFirst) wrote(commit uint64) uint64 {
	o.written = max(o.written, commit)
	return o.written
}

// durable: an append is done. Of one that has only a hard state nobody knows whether it is
// synced.
func (o *ownFirst) durable(a *Append) {
	if a.Snapshot != nil {
		o.commit = max(o.commit, a.commit, a.Snapshot.Metadata.Index)
	} else if len(a.Entries) > 0 {
		o.commit = max(o.commit, a.commit)
	}
}

// holds says whether a message has entries that must be durable here before it is sent.
func (o *ownFirst) holds(m *raftpb.Message) bool {
	return o.commit < o.change && len(m.Entries) > 0 && m.Entries[len(m.Entries)-1].Index > o.change
}

// sendBehindOwn sends messages when all that was handed out to be appended is durable.
func (c *history) sendBehindOwn(messages []octopiipb.PeerMessage) {
	switch {
	case len(messages) == 0:
	case c.effects.Append != nil:
		c.effects.Append.behind = append(c.effects.Append.behind, messages...)
	case len(c.unwritten) > 0:
		last := c.unwritten[len(c.unwritten)-1]
		last.behind = append(last.behind, messages...)
	default:
		c.effects.Messages = append(c.effects.Messages, messages...)
	}
}
