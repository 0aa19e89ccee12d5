package core

import (
	"bytes"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// Claim is what a message says about this member's own log, if it is true.
type Claim uint8

const (
	// NoClaim: nothing; the message is only not one that honest members send.
	NoClaim Claim = iota
	// Forgot: a leader remembers more of this log than there is.
	Forgot
	// Diverged: the log of a leader, whose term is at least this member's, does not
	// hold what is committed here. Leader Completeness (Raft paper, 5.4) excludes that
	// in one history. So this member, or the majority that elected the leader, is on
	// another branch.
	Diverged
	// Ahead: a member told this leader, in its own term, that it has committed more than
	// this leader has. Leader Completeness excludes that as well: the majority that
	// elected this leader forgot. What is committed there may still win, if this leader
	// gives way before a majority stands behind its log.
	Ahead
)

// ahead returns the index up to which a member has committed the log, if this leader has
// less. raft acknowledges an append that begins before what is committed with the commit
// index; the other two answers say it beside what raft uses them for.
func (c *guard) ahead(m *octopiipb.PeerMessage) uint64 {
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || m.Term != st.Term {
		return 0
	}
	if index := committedAt(m); index > c.last {
		return index
	}
	return 0
}

// committedAt is an index that is committed at the sender of an answer; 0: it says nothing.
func committedAt(m *octopiipb.PeerMessage) uint64 {
	switch {
	case m.Type == raftpb.MsgAppResp && !m.Reject:
		return m.Index
	case m.Type == raftpb.MsgHeartbeatResp:
		return m.Note.Applied
	case m.Type == raftpb.MsgVoteResp:
		return m.Note.Commit
	}
	return 0
}

// noteVoter keeps what a voter said that it has committed, for when its vote was not
// needed. told is of one term.
func (c *guard) noteVoter(m *octopiipb.PeerMessage) {
	if m.Type == raftpb.MsgVoteResp && (m.Term > c.told.term || m.Term == c.told.term && m.Note.Commit > c.told.index) {
		c.told = told{term: m.Term, from: m.From, index: m.Note.Commit}
	}
}

// told is what the voter said that has committed most.
type told struct{ term, from, index uint64 }

// elected looks at what voters said, now that this member leads.
func (c *guard) elected() {
	if t := c.told; t.term == c.status.Term && t.index >= c.last { // its first entry is there already
		c.effects.Suspects = append(c.effects.Suspects, Suspect{ID: t.from, Claim: Ahead, Index: t.index, Last: c.last - 1, Reason: aheadText(t.from, t.index, c.last-1)})
	}
}

func aheadText(from, index, last uint64) string {
	return fmt.Sprintf("member %x has committed up to index %d, and the log of this leader ended at %d", from, index, last)
}

// divergence is the proof that a leader's log and the committed log here differ.
type divergence struct {
	// index is where they differ.
	index uint64
	what  string
}

func (d *divergence) Error() string { return d.what }

func divergedAt(index uint64, format string, args ...any) error {
	return &divergence{index, fmt.Sprintf(format, args...)}
}

// contradiction returns why a message of a leader and the committed log of this
// member cannot belong to one history; nil if they can. A leader of an earlier term
// may have been deposed with entries that were never committed, and proves nothing.
//
// The committed log is that of the end of the last Step: what raft took in since then
// is in no append yet, so its terms cannot be looked up.
func (c *guard) contradiction(m *octopiipb.PeerMessage) error {
	if m.Term < c.rn.BasicStatus().Term {
		return nil
	}
	switch m.Type {
	case raftpb.MsgApp:
		return c.contradictingAppend(m)
	case raftpb.MsgHeartbeat:
		return c.contradictingHeartbeat(m)
	case raftpb.MsgSnap:
		meta := &m.Snapshot.Metadata
		return c.otherTerm("a snapshot", m.From, meta.Index, meta.Term)
	case raftpb.MsgReadIndexResp:
		// Every index that was committed anywhere before the round began is at most the
		// answer: the leader was confirmed by a majority after that (thesis 6.4).
		if bytes.Equal(m.Entries[0].Data, c.reads.context) && m.Index < c.reads.begun {
			return divergedAt(c.reads.begun, "leader %x answers a read with index %d, and index %d was committed here before the read began", m.From, m.Index, c.reads.begun)
		}
	}
	return nil
}

// otherTerm compares a place in the leader's log with the committed log here.
func (c *guard) otherTerm(what string, from, index, term uint64) error {
	if index > c.status.Commit {
		return nil
	}
	if mine, ok := c.termAt(index); ok && mine != term {
		return divergedAt(index, "%s of leader %x has term %d at index %d, and the entry that is committed here has term %d", what, from, term, index, mine)
	}
	return nil
}

func (c *guard) contradictingAppend(m *octopiipb.PeerMessage) error {
	if err := c.otherTerm("an append", m.From, m.Index, m.LogTerm); err != nil {
		return err
	}
	// The sums here are computed only where there are others: most appends have none.
	if mine, ok := c.termAt(m.Index); ok && mine == m.LogTerm && len(m.Note.Sums) > 0 && c.sumsAt(m.Index).differ(SumsFrom(m.Note.Sums)) {
		return divergedAt(m.Index, "leader %x has other entries up to index %d of term %d than this member", m.From, m.Index, m.LogTerm)
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index > c.status.Commit {
			break
		}
		if err := c.otherTerm("an append", m.From, e.Index, e.Term); err != nil {
			return err
		}
	}
	return c.otherData(&m.Message)
}

// otherData compares the entries of an append that are committed here byte by byte. Two
// leaders of one term exist only where disks forgot votes, and nothing but the content
// tells their entries apart.
func (c *guard) otherData(m *raftpb.Message) error {
	if len(m.Entries) == 0 || m.Entries[0].Index > c.status.Commit {
		return nil
	}
	first := m.Entries[0].Index
	if at := c.begins; at.Index >= first && at.Index-first < uint64(len(m.Entries)) && at.Index <= c.status.Commit {
		// The entries may be gone, and their sums are there.
		if m.Entries[at.Index-first].Term == at.Term && at.Sums.differ(sumsOf(m.Entries[:at.Index-first+1])) {
			return divergedAt(at.Index, "an append of leader %x has other entries up to index %d of term %d than the snapshot here", m.From, at.Index, at.Term)
		}
	}
	last := min(c.status.Commit, m.Entries[len(m.Entries)-1].Index)
	for _, mine := range c.durableEntries(first, last) {
		e := &m.Entries[mine.Index-first]
		if e.Type != mine.Type || !bytes.Equal(e.Data, mine.Data) {
			return divergedAt(e.Index, "an append of leader %x has another entry %d of term %d than the one that is committed here", m.From, e.Index, e.Term)
		}
	}
	return nil
}

// contradictingHeartbeat looks at where the leader says that its log ends. It has
// everything that was committed in earlier terms since its election. What was committed
// in its own term it may have appended after it sent the heartbeat, which may be late:
// see shorter.
func (c *guard) contradictingHeartbeat(m *octopiipb.PeerMessage) error {
	last := m.Note.Last
	if last == 0 {
		return nil
	}
	if err := c.otherTerm("the end of the log", m.From, last, m.Note.LastTerm); err != nil {
		return err
	}
	before := c.lower
	if m.Term > c.handed.Term {
		before = c.handed.Index
	}
	if last < before {
		return divergedAt(before, "the log of leader %x ends at index %d in term %d, and index %d of an earlier term is committed here", m.From, last, m.Term, before)
	}
	return nil
}

// shorter notes a heartbeat of a leader whose log ends before what is committed here.
// One may be late. If no other comes for two election timeouts, the leader never had it.
//
// What this leader was heard to have in this term tells late ones apart, as its log only
// grows: they may be many where streams stand still.
func (c *guard) shorter(m *octopiipb.PeerMessage) error {
	last := m.Note.Last
	if l := c.leaderEnd; l.from == m.From && l.term == m.Term && last != 0 && last < l.index {
		return nil
	}
	if last == 0 || last >= c.status.Commit || m.Term < c.rn.BasicStatus().Term {
		c.short = counter{}
		return nil
	}
	c.short.again()
	if c.short.times < forgotMax || c.short.lasted < 2*c.cfg.ElectionTicks {
		return nil
	}
	return divergedAt(c.status.Commit, "the log of leader %x has ended at index %d for %d ticks, and index %d is committed here", m.From, last, c.short.lasted, c.status.Commit)
}

// leaderEnd is how far the log of a leader goes, as it said in its term to this process.
type leaderEnd struct{ from, term, index uint64 }

// note takes what a message of a leader says of its log.
func (l *leaderEnd) note(m *octopiipb.PeerMessage) {
	end := max(m.Commit, m.Note.Last)
	switch m.Type {
	case raftpb.MsgApp:
		end = max(m.Commit, m.Index+uint64(len(m.Entries)))
	case raftpb.MsgHeartbeat:
	default:
		return
	}
	switch {
	case m.Term < l.term:
	case m.Term > l.term || m.From != l.from:
		*l = leaderEnd{m.From, m.Term, end}
	default:
		l.index = max(l.index, end)
	}
}

// Place is an entry of the log as one member tells it to another.
type Place struct {
	// Index and Term are where it stands; Term is 0 if that is not known any more.
	Index, Term uint64
	// Sums are of what the log holds up to there.
	Sums Sums
}

// Same says whether two members certainly have the same entry at a place.
func (p Place) Same(o Place) bool {
	return p.Index == o.Index && p.Term != 0 && p.Term == o.Term && p.Sums[0] != 0 && p.Sums[0] == o.Sums[0] && !p.Sums.differ(o.Sums)
}
