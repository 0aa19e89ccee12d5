package core

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
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
)

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
func (c *Core) contradiction(m *raftpb.Message) error {
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
func (c *Core) otherTerm(what string, from, index, term uint64) error {
	if index > c.status.Commit {
		return nil
	}
	if mine, ok := c.termAt(index); ok && mine != term {
		return divergedAt(index, "%s of leader %x has term %d at index %d, and the entry that is committed here has term %d", what, from, term, index, mine)
	}
	return nil
}

func (c *Core) contradictingAppend(m *raftpb.Message) error {
	if err := c.otherTerm("an append", m.From, m.Index, m.LogTerm); err != nil {
		return err
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
	return c.otherData(m)
}

// otherData compares the entries of an append that are committed here byte by byte. Two
// leaders of one term exist only where disks forgot votes, and nothing but the content
// tells their entries apart.
func (c *Core) otherData(m *raftpb.Message) error {
	if len(m.Entries) == 0 || m.Entries[0].Index > c.status.Commit {
		return nil
	}
	first := m.Entries[0].Index
	last := min(c.status.Commit, m.Entries[len(m.Entries)-1].Index)
	for _, mine := range c.durableEntries(first, last) {
		e := &m.Entries[mine.Index-first]
		if e.Type != mine.Type || !bytes.Equal(e.Data, mine.Data) {
			return divergedAt(e.Index, "an append of leader %x has another entry %d of term %d than the one that is committed here", m.From, e.Index, e.Term)
		}
	}
	return nil
}

// durableEntries returns entries of the committed log from first to last, as far as
// the log has them and one read returns them.
func (c *Core) durableEntries(first, last uint64) []raftpb.Entry {
	lo, err := c.storage.FirstIndex()
	if err != nil {
		return nil
	}
	hi, err := c.storage.LastIndex()
	first, last = max(first, lo), min(last, hi)
	if err != nil || first > last || len(c.unwritten) > 0 {
		return nil // what is not durable yet may replace what is
	}
	entries, err := c.storage.Entries(first, last+1, c.cfg.MessageBytesMax)
	if err != nil {
		return nil
	}
	return entries
}

// contradictingHeartbeat looks at where the leader says that its log ends. It has
// everything that was committed in earlier terms since its election. What was committed
// in its own term it may have appended after it sent the heartbeat, which may be late:
// see shorter.
func (c *Core) contradictingHeartbeat(m *raftpb.Message) error {
	last := m.RejectHint
	if last == 0 {
		return nil
	}
	if err := c.otherTerm("the end of the log", m.From, last, m.LogTerm); err != nil {
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
func (c *Core) shorter(m *raftpb.Message) error {
	if m.RejectHint == 0 || m.RejectHint >= c.status.Commit || m.Term < c.rn.BasicStatus().Term {
		c.short = counter{}
		return nil
	}
	c.short.again()
	if c.short.times < forgotMax || c.short.lasted < 2*c.cfg.ElectionTicks {
		return nil
	}
	return divergedAt(c.status.Commit, "the log of leader %x has ended at index %d for %d ticks, and index %d is committed here", m.From, m.RejectHint, c.short.lasted, c.status.Commit)
}

// termAt returns the term of an entry of the log as raft saw it at the end of the last
// Step, durable or not; false if it is not known.
func (c *Core) termAt(index uint64) (uint64, bool) {
	for _, a := range slices.Backward(c.unwritten) {
		if n := len(a.Entries); n > 0 && index >= a.Entries[0].Index {
			if index > a.Entries[n-1].Index {
				return 0, false
			}
			return a.Entries[index-a.Entries[0].Index].Term, true
		}
		if a.Snapshot != nil { // the log before it goes
			meta := &a.Snapshot.Metadata
			return meta.Term, index == meta.Index
		}
	}
	term, err := c.storage.Term(index)
	return term, err == nil
}

// Place is an entry of the committed log as one member tells it to another.
type Place struct {
	// Index and Term are where it stands; Term is 0 if that is not known any more.
	Index, Term uint64
	// Sum is a checksum of what it holds; 0 if that is not known.
	Sum uint64
}

// PlaceAt describes an entry that is committed here.
func (c *Core) PlaceAt(index uint64) Place {
	p := Place{Index: index}
	if index == 0 || index > c.status.Commit {
		return p
	}
	if term, ok := c.termAt(index); ok {
		p.Term = term
	}
	for _, e := range c.durableEntries(index, index) {
		p.Sum = 1<<32 | uint64(crc32.ChecksumIEEE(e.Data)) ^ uint64(e.Type)
	}
	return p
}

// Contradicts compares what a majority says with what is committed here: there is
// nothing after index last, and there is at. commit is what was committed here before
// the majority was asked. It returns nil if both can be of one history.
func (c *Core) Contradicts(commit, last uint64, at Place) error {
	mine := c.PlaceAt(at.Index)
	switch {
	case last < commit:
		return divergedAt(commit, "the log that a majority has committed ends at index %d, and index %d is committed here", last, commit)
	case mine.Term == 0 || at.Term == 0 || at.Index > last:
		return nil
	case mine.Term != at.Term:
		return divergedAt(at.Index, "the entry that a majority has committed at index %d has term %d, and the one here has term %d", at.Index, at.Term, mine.Term)
	case mine.Sum != 0 && at.Sum != 0 && mine.Sum != at.Sum:
		return divergedAt(at.Index, "a majority has committed another entry %d of term %d than the one here", at.Index, at.Term)
	}
	return nil
}

// Established says whether a leader that was elected after this member started has
// committed an entry of its term, which this member has: a majority stands behind the
// log up to there.
func (c *Core) Established() bool { return c.handed.Term > c.since }

// Leads says whether this member leads and has committed an entry of its term.
func (c *Core) Leads() bool {
	return c.status.RaftState == raft.StateLeader && c.handed.Term == c.status.Term
}

// Refuse answers every local caller that waits for a read or to be proposed with err.
// Nothing that it answers was appended.
func (c *Core) Refuse(err error) []Outcome {
	var outcomes []Outcome
	for _, w := range c.reads.all() {
		outcomes = append(outcomes, Outcome{Waiter: w, Err: err})
	}
	c.keepWaiting(func(it *request) bool {
		if it.from == 0 && it.Waiter != nil {
			outcomes = append(outcomes, Outcome{Waiter: it.Waiter, Err: err})
		}
		return false
	})
	return outcomes
}
