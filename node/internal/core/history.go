package core

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// history is what this member knows of its own log: where it begins and ends, and how far
// it was handed to the state machine.
type history struct {
	base

	// last is the last index of raft's log; its end may not be durable yet.
	// bound is at most that: what the messages of this Step have certainly left
	// of it. deferred are those that depend on what they have left.
	last, bound uint64
	deferred    []octopiipb.PeerMessage
	// begins is the place of the snapshot behind which the log begins, at least.
	begins Place
	// since is the term that was on disk at the start: this process leads only in
	// later ones.
	since uint64

	// handed is the label behind the last Apply handed out; applied the index
	// that came back. Invariant: applied <= handed.Index.
	handed  Label
	applied uint64
	// lower is an index that is committed in a term before that of handed: the last one
	// of those that were handed out here; 0 if there was none.
	lower uint64
	// labels are those of all memberships since the log began, oldest first.
	labels []Label

	// unwritten are the appends with entries or a snapshot that are not durable yet,
	// oldest first, and appending counts those with entries; outstanding are those and
	// all others.
	unwritten   []*Append
	appending   int
	outstanding outstanding
	ownFirst    ownFirst
	entrySums   entrySums
}

func (c *history) stepApplied(a *Apply) {
	if a.response.Type == raftpb.MsgStorageApplyResp { // not so for a restored snapshot
		_ = c.rn.Step(a.response)
	}
	c.applied = a.Label.Index
}

// reach notes that the committed log goes on at an index in a term.
func (c *history) reach(index, term uint64) {
	if term > c.handed.Term {
		c.lower = c.handed.Index
	}
	c.handed.Terms = withTerm(c.handed.Terms, index, term)
}

// LabelAt returns the label of the state at an index that was handed out and
// is still in the log.
func (c *history) LabelAt(index uint64) (Label, error) {
	if index > c.handed.Index {
		return Label{}, fmt.Errorf("core: the membership at index %d is not known at %d", index, c.handed.Index)
	}
	term, err := c.storage.Term(index)
	if err != nil {
		return Label{}, fmt.Errorf("core: label of index %d: %w", index, err)
	}
	for i := len(c.labels) - 1; i >= 0; i-- {
		if l := c.labels[i]; l.Index <= index {
			return Label{Index: index, Term: term, ConfState: l.ConfState, Membership: l.Membership, Terms: termsUpTo(c.handed.Terms, index)}, nil
		}
	}
	return Label{}, fmt.Errorf("core: index %d is before the oldest label, %d", index, c.labels[0].Index)
}

// begin takes the place at which a log begins from its label. What follows has other sums.
func (c *history) begin(l *Label) {
	c.begins = Place{Index: l.Index, Term: l.Term, Sums: l.Sums}
	l.Sums = Sums{}
}

// compacted drops the labels that only states before a place need.
func (c *history) compacted(at Place) {
	c.begins = at
	for len(c.labels) > 1 && c.labels[1].Index <= at.Index {
		c.labels = c.labels[1:]
	}
}

// termAt returns the term of an entry of the log as raft saw it at the end of the last
// Step, durable or not; false if it is not known.
func (c *history) termAt(index uint64) (uint64, bool) {
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
	if term, err := c.storage.Term(index); err == nil {
		return term, true
	}
	term := TermIn(c.handed.Terms, c.handed.Index, index)
	return term, term != 0
}

// TermOf is the term of the entry at an index, durable or not; 0: it is not known. What is
// on the disk there may be an old one, which an append on its way replaces.
func (c *history) TermOf(index uint64) uint64 {
	if index == 0 || index > c.last {
		return 0
	}
	if term, ok := c.termAt(index); ok {
		return term
	}
	return 0
}

// CommittedPlace is the end of the committed log, without its sums.
func (c *history) CommittedPlace() Place {
	term, _ := c.termAt(c.status.Commit)
	return Place{Index: c.status.Commit, Term: term}
}

// HandedPlace is the end of what was handed out in Effects.Apply.
func (c *history) HandedPlace() Place { return c.PlaceAt(c.handed.Index) }

// HandedAll says whether all of the log was handed out in Effects.Apply.
func (c *history) HandedAll() bool { return c.handed.Index == c.last }

// PlaceAt describes an entry of the log.
func (c *history) PlaceAt(index uint64) Place {
	p := Place{Index: index}
	if index == 0 || index > c.last {
		return p
	}
	if term, ok := c.termAt(index); ok {
		p.Term = term
	}
	p.Sums = c.sumsAt(index)
	return p
}

// Contradicts compares what a majority says with what is committed here: there is
// nothing after index last, and there is at. commit is what was committed here before
// the majority was asked. It returns nil if both can be of one history, or an index at
// which they are certainly different.
func (c *history) Contradicts(commit, last uint64, at Place) (index uint64, err error) {
	mine := c.PlaceAt(at.Index)
	switch {
	case mine.Term == 0 || at.Term == 0 || at.Index > last:
	case mine.Term != at.Term:
		return at.Index, fmt.Errorf("the entry that a majority has committed at index %d has term %d, and the one here has term %d", at.Index, at.Term, mine.Term)
	case mine.Sums.differ(at.Sums):
		return at.Index, fmt.Errorf("a majority has committed other entries up to index %d of term %d than are here", at.Index, at.Term)
	}
	if last < commit {
		return last + 1, fmt.Errorf("the log that a majority has committed ends at index %d, and index %d is committed here", last, commit)
	}
	return 0, nil
}

// Established says whether a leader that was elected after this member started has
// committed an entry of its term, which this member has: a majority stands behind the
// log up to there.
func (c *history) Established() bool { return c.handed.Term > c.since }

// Leads says whether this member leads and has committed an entry of its term.
func (c *history) Leads() bool {
	return c.status.RaftState == raft.StateLeader && c.handed.Term == c.status.Term
}

// durableEntries returns entries from first to last, as far as the log has them.
func (c *history) durableEntries(first, last uint64) []raftpb.Entry {
	lo, err := c.storage.FirstIndex()
	if err != nil {
		return nil
	}
	hi, err := c.storage.LastIndex()
	first, last = max(first, lo), min(last, hi)
	if err != nil || first > last || c.replaces(last) {
		return nil
	}
	var entries []raftpb.Entry
	for first <= last {
		some, err := c.storage.Entries(first, last+1, c.cfg.MessageBytesMax)
		if err != nil || len(some) == 0 {
			return nil
		}
		entries = append(entries, some...)
		first += uint64(len(some))
	}
	return entries
}

// replaces says whether what is not durable yet takes the place of an entry up to an index.
func (c *history) replaces(last uint64) bool {
	return slices.ContainsFunc(c.unwritten, func(a *Append) bool {
		return a.Snapshot != nil || len(a.Entries) > 0 && a.Entries[0].Index <= last
	})
}
