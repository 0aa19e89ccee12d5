package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node"
)

// promises are what is in the logs of members, and what each vouched for: none of it may be
// gone later.
type promises struct {
	registry
	// entries is every entry that was ever in a log, by its place.
	entries map[place]stamp
	// reached is the newest entry that a member ever acknowledged.
	reached map[uint64]uint64
	// learnt is the newest entry that a leader was told that a member has, in its own term.
	learnt map[uint64]uint64
}

// place is where an entry stands.
type place struct{ index, term uint64 }

// stamp is what is remembered of an entry in some log: what it is, and the term
// of the one before it.
type stamp struct{ hash, before uint64 }

// append: Log Matching. If two entries have the same index and term they are the
// same, and so is all that comes before them (paper, 5.3).
func (c *promises) append(m *member, e *raftpb.Entry) {
	v := &m.view
	before, ok := v.termAt(e.Index - 1)
	if !ok {
		c.w.fail("log without gaps", "%s appends entry %d to a log from %d to %d", m.name(), e.Index, v.base, v.last())
		return
	}
	if e.Index <= v.commit {
		c.w.fail("committed entries stay", "%s replaces entry %d, and %d is committed", m.name(), e.Index, v.commit)
	}
	s := stamp{hash: bytesHash(e.Data) + uint64(e.Type), before: before}
	p := place{e.Index, e.Term}
	if old, ok := c.entries[p]; ok && old != s {
		c.w.fail("log matching", "%s has another entry %d of term %d, or another past of it", m.name(), e.Index, e.Term)
	}
	c.entries[p] = s
	change := e.Type == raftpb.EntryConfChangeV2
	if change && m.node != nil && m.status().Role == node.Leader && e.Term == m.status().Term {
		c.proposed(m, e)
	}
	v.log = append(v.log[:e.Index-v.base-1], stampedTerm{e.Term, s.hash, change || isSetting(e)})
	// What a leader replaces is not promised any more.
	if e.Index <= v.ackIndex {
		if was, _ := v.termAt(v.ackIndex); was != v.ackTerm || v.last() < v.ackIndex {
			v.ackIndex, v.ackTerm = e.Index-1, before
		}
	}
	c.grow(e.Index)
}

// isSetting: the entry changes a setting of the cluster, which is part of its membership.
func isSetting(e *raftpb.Entry) bool {
	return e.Type == raftpb.EntryNormal && len(e.Data) > 0 && e.Data[0] == 4
}

// proposed: a leader makes a voter only of a learner that has caught up, for a vote
// is worth something only with the log behind it (thesis 4.2.1).
func (c *promises) proposed(m *member, e *raftpb.Entry) {
	var cc raftpb.ConfChangeV2
	if err := cc.Unmarshal(e.Data); err != nil {
		c.w.fail("membership changes where its entry is", "%s appends the change %d, which cannot be read: %v", m.name(), e.Index, err)
		return
	}
	for _, one := range cc.Changes {
		has, commit := c.reached[one.NodeID], m.status().Commit
		if one.Type == raftpb.ConfChangeAddNode && (has == 0 || has+c.w.cfg.promoteLag < commit) {
			c.w.fail("a vote comes with the log behind it", "%s promotes %x, which has acknowledged entry %d, and %d is committed", m.name(), one.NodeID, has, commit)
		}
	}
}

// install: a snapshot takes the place of the log. Its label must be that of the
// committed log there.
func (c *promises) install(m *member, s *raftpb.Snapshot) {
	v, meta := &m.view, s.Metadata
	m.installs++
	c.grow(meta.Index)
	if e := c.ledger[meta.Index]; e.known && e.term != meta.Term {
		c.w.fail("state machine safety", "%s installs a snapshot at %d of term %d, and the entry there has term %d", m.name(), meta.Index, meta.Term, e.term)
	}
	c.label(m, meta.Index, confString(meta.ConfState))
	v.base, v.baseTerm, v.log = meta.Index, meta.Term, nil
	v.commit = max(v.commit, meta.Index)
}

// sent looks at a message as it leaves a member. What it vouches for must be
// durable (thesis 3.8, 10.2.1).
func (c *promises) sent(m *member, msg *raftpb.Message) {
	v := &m.view
	if m.phantom {
		return
	}
	if m.log == nil {
		c.vouched(m, msg)
		return
	}
	hs := m.log.hard
	if msg.Type == raftpb.MsgVoteResp || msg.Type == raftpb.MsgAppResp {
		// Persistent state is updated before answering (paper, figure 2).
		if hs.Term < msg.Term {
			c.w.fail("terms are durable", "%s answers in term %d, and on its disk is term %d", m.name(), msg.Term, hs.Term)
		}
		if msg.Term > v.term {
			v.term, v.vote = msg.Term, 0
		}
	}
	switch {
	case msg.Type == raftpb.MsgVoteResp && !msg.Reject:
		if hs.Term < msg.Term || hs.Term == msg.Term && hs.Vote != msg.To {
			c.w.fail("votes are durable", "%s votes for %x in term %d, and on its disk is a vote for %x in term %d", m.name(), msg.To, msg.Term, hs.Vote, hs.Term)
		}
		if v.term == msg.Term && v.vote != 0 && v.vote != msg.To {
			c.w.fail("one vote in a term", "%s votes for %x in term %d, and voted for %x", m.name(), msg.To, msg.Term, v.vote)
		}
		if msg.Term >= v.term {
			v.term, v.vote = msg.Term, msg.To
		}
	case msg.Type == raftpb.MsgVote:
		// Else a candidate could win by the votes of others alone, lose its term in a
		// crash, and lead in it again with another log.
		if hs.Term < msg.Term || hs.Term == msg.Term && hs.Vote != m.id {
			c.w.fail("votes are durable", "%s asks for votes in term %d, and on its disk is a vote for %x in term %d", m.name(), msg.Term, hs.Vote, hs.Term)
		}
		// A late pre-vote for the term before counts as well: raft takes it for a new one.
		if msg.Term > v.granted+1 {
			c.w.fail("whoever campaigns has pre-votes", "%s asks for votes in term %d without a pre-vote of another one, and was not told to", m.name(), msg.Term)
		}
		if msg.Term > v.term {
			v.term, v.vote = msg.Term, m.id
		}
	case msg.Type == raftpb.MsgAppResp && !msg.Reject:
		last := m.log.last
		if hs.Term > msg.Term && last < msg.Index {
			// The log was cut for the leader of a later term in the same write. The
			// answer says what it was in the term that it names, which still holds: the
			// later leader was elected without the entry, so whoever voted for it had
			// not acknowledged it before, and it cannot be committed.
			return
		}
		if hs.Term < msg.Term || last < msg.Index {
			c.w.fail("acknowledgements are durable", "%s acknowledges entry %d in term %d, and its disk has %d in term %d", m.name(), msg.Index, msg.Term, last, hs.Term)
		}
		c.reached[m.id] = max(c.reached[m.id], msg.Index)
		if t, ok := v.termAt(msg.Index); ok && msg.Index >= v.ackIndex {
			v.ackIndex, v.ackTerm = msg.Index, t
		}
	}
}

// vouched: a member without a log has nothing to vouch for (thesis 3.8). It may
// say that it is there, to a leader that knows nothing else, and that it has
// nothing.
func (c *promises) vouched(m *member, msg *raftpb.Message) {
	switch {
	case msg.Type == raftpb.MsgHeartbeatResp && len(msg.Context) == 0 && m.remembered != msg.Term:
	case msg.Type == raftpb.MsgAppResp && msg.Reject:
	default:
		c.w.fail("whoever has no log vouches for nothing", "%s has no log, and answers %x with %s in term %d", m.name(), msg.To, msg.Type, msg.Term)
	}
}

// wrote looks at a member after a turn of its appender: an operation on the log
// that failed is the last (thesis 3.8; a second fsync proves nothing).
func (c *promises) wrote(m *member) {
	if !m.disk.refusedLog || m.disk.dead {
		return
	}
	select {
	case <-m.real.Done():
	default:
		c.w.fail("the first failed write is the last", "%s goes on after its log could not be written or synced", m.name())
	}
}

// readable: what a member's raft may ask for is there, in memory or on disk.
func (c *promises) readable(m *member) {
	d, store := m.disk, m.node.View()
	if m.log == nil || m.view.damaged || d.failing != nil || d.struck || d.dead || c.w.byHand || !c.w.oneIn(readEvery) {
		return
	}
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	if first > last {
		return
	}
	entries, err := store.Entries(first, first+1, math.MaxUint64)
	if errors.Is(err, raft.ErrCompacted) && (len(m.helpers.tasks) > 0 || m.writing != nil || m.node.Work().Loop) {
		return // its release is under way, and the loop hears of that in a later turn
	}
	if err != nil || len(entries) == 0 {
		c.w.fail("the log can be read", "%s: entry %d, the first of a log up to %d: %v, %v", m.name(), first, last, err, store.ReadErr())
	}
}

// complete: Leader Completeness. A new leader has everything that was committed in
// an earlier term (paper, 5.4.3). What a leader of an earlier term appended may be committed
// in a later one, of which a leader between them, that hears only now of its votes, has
// nothing.
func (c *promises) complete(m *member) {
	v, st := &m.view, m.status()
	for i := len(c.ledger) - 1; i >= 0; i-- {
		e := &c.ledger[i]
		if !e.known || e.by >= st.Term {
			continue
		}
		if t, ok := v.termAt(uint64(i)); uint64(i) >= v.base && (!ok || t != e.term) {
			c.w.fail("leader completeness", "%s leads in term %d without entry %d of term %d, which is committed", m.name(), st.Term, i, e.term)
		}
		return
	}
}

// commit: State Machine Safety. Nobody ever commits another entry at an index.
func (c *promises) commit(m *member, lo, hi uint64) {
	v, term := &m.view, m.status().Term
	c.grow(hi)
	for i := max(lo, v.base+1); i <= hi; i++ {
		s, e := v.log[i-v.base-1], &c.ledger[i]
		if e.known {
			if e.term != s.term {
				c.w.fail("state machine safety", "%s commits entry %d of term %d, and another member one of term %d", m.name(), i, s.term, e.term)
			}
			continue
		}
		e.known, e.term, e.by = true, s.term, term
	}
}

// applied looks at a command as the state machine gets it.
func (c *promises) applied(m *member, e *node.Entry, result []byte, chain uint64) {
	if m.phantom {
		return
	}
	m.reaches(e.Index, chain)
	c.grow(e.Index)
	l := &c.ledger[e.Index]
	if !l.known || l.term != e.Term {
		c.w.fail("only what is committed is applied", "%s applies entry %d of term %d; committed there: %v, of term %d", m.name(), e.Index, e.Term, l.known, l.term)
	}
	if !l.applied {
		l.applied, l.command, l.data, l.chain, l.result = true, true, bytes.Clone(e.Data), chain, bytesHash(result)
		l.shown = fmt.Sprintf("%s: %s", m.name(), show(result))
		c.landed(e.Index, binary.LittleEndian.Uint64(e.Data))
		return
	}
	switch {
	case !bytes.Equal(l.data, e.Data):
		c.w.fail("state machine safety", "%s applies another command at %d", m.name(), e.Index)
	case l.chain != chain:
		c.w.fail("every command is applied once, in order", "%s has another past at %d", m.name(), e.Index)
	case l.result != bytesHash(result):
		c.w.fail("the state machine is deterministic", "the command at %d (%s) has different results, on %s and on %s: %s",
			e.Index, c.w.cfg.describe(e.Data[opHead:]), l.shown, m.name(), show(result)+deterministic)
	}
}

// restored: a snapshot is what the log up to it amounts to.
func (c *promises) restored(m *member, index, applied, chain uint64) {
	if m.phantom {
		return
	}
	if m.chains != nil {
		m.chains = map[uint64]uint64{} // what it had before is gone, and what it answered from that stays in served
	}
	m.reaches(applied, chain)
	if applied > index {
		c.w.fail("snapshots are labelled right", "%s restores a snapshot at %d that has entry %d in it", m.name(), index, applied)
	}
	if applied > 0 && applied < uint64(len(c.ledger)) && c.ledger[applied].applied && c.ledger[applied].chain != chain {
		c.w.fail("a snapshot is what the log amounts to", "%s restores a snapshot at %d with another past up to %d", m.name(), index, applied)
	}
	for i := applied + 1; i <= index && i < uint64(len(c.ledger)); i++ {
		if c.ledger[i].command {
			c.w.fail("a snapshot is what the log amounts to", "%s restores a snapshot at %d that lacks the command at %d", m.name(), index, i)
		}
	}
	d, err := c.w.digest(m.name(), m.machine.inner)
	if err == nil && !c.agrees(applied, d) && c.stable(m.name(), m.machine.inner) {
		c.w.fail("Restore replaces the whole state", "%s restores a snapshot at %d, and does not have the state that %s had there%s. Is something left of the old state, not in the snapshot, or shared between the snapshot and the state machine?", m.name(), index, c.states[applied].by, d.differs(c.states[applied]))
	}
}

// readLog takes a member's log from its disk into the view.
func (c *promises) readLog(m *member) {
	store := m.node.View()
	start := store.Start().Metadata
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	m.view = view{born: true, base: start.Index, baseTerm: start.Term, damaged: m.view.damaged, forgets: m.view.forgets}
	v := &m.view
	c.grow(start.Index)
	ms := store.Start().Membership
	c.membership(m, &ms) // a founder's is in no entry
	c.label(m, start.Index, confString(start.ConfState))
	failing := m.disk.failing
	m.disk.failing = nil
	defer func() { m.disk.failing = failing }()
	for next := first; next <= last; {
		entries, err := store.Entries(next, last+1, math.MaxUint64)
		if err != nil || len(entries) == 0 {
			c.w.fail("the log can be read", "%s: entry %d of a log up to %d: %v", m.name(), next, last, err)
			return
		}
		for i := range entries {
			e := &entries[i]
			s := stamp{hash: bytesHash(e.Data) + uint64(e.Type)}
			s.before, _ = v.termAt(e.Index - 1)
			if old, ok := c.entries[place{e.Index, e.Term}]; ok && old != s {
				c.w.fail("log matching", "%s comes back with another entry %d of term %d", m.name(), e.Index, e.Term)
			} else if !ok {
				c.w.fail("nothing is made up", "%s comes back with entry %d of term %d, which nobody ever had", m.name(), e.Index, e.Term)
			}
			v.log = append(v.log, stampedTerm{e.Term, s.hash, e.Type == raftpb.EntryConfChangeV2 || isSetting(e)})
		}
		next += uint64(len(entries))
	}
}
