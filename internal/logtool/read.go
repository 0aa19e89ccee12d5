package logtool

import (
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// Frame is one write of a native log, or one record of etcd's.
type Frame struct {
	Segment  string   `json:"segment"`
	Offset   int64    `json:"offset"`
	Size     int64    `json:"size"`
	Sequence uint64   `json:"sequence"`
	Kinds    []string `json:"kinds"`
	// First and Last are the indexes of its entries, 0 without any; Bytes are those
	// of their data.
	First       uint64    `json:"first,omitempty"`
	Last        uint64    `json:"last,omitempty"`
	Terms       []TermRun `json:"terms,omitempty"`
	Entries     int       `json:"entries"`
	Bytes       int64     `json:"bytes"`
	ConfChanges int       `json:"confChanges"`
	// LogLast is the index of the last entry of the log from here on, HardState
	// the one that holds from here on.
	LogLast   uint64    `json:"logLast"`
	HardState HardState `json:"hardState"`
	Marks     []Mark    `json:"marks,omitempty"`

	entries []raftpb.Entry
}

// Entry is what is told of one entry; Bytes are those of its data.
type Entry struct {
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	Type    string `json:"type"`
	Bytes   int    `json:"bytes"`
}

// TermRun says that the entries from First on, up to the next run, have Term.
type TermRun struct {
	First uint64 `json:"first"`
	Term  uint64 `json:"term"`
}

// Mark says that everything up to Index is in a snapshot.
type Mark struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// HardState is raft's.
type HardState struct {
	Term   uint64 `json:"term"`
	Vote   uint64 `json:"vote"`
	Commit uint64 `json:"commit"`
}

// Damage is what a log has lost; see wal.CorruptError.
type Damage struct {
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Intact  uint64 `json:"intact"`
	Known   uint64 `json:"known,omitempty"`
	Reason  string `json:"reason"`
}

// Report is what a log amounts to.
type Report struct {
	Place
	Segments int   `json:"segments"`
	Spares   int   `json:"spares"`
	Bytes    int64 `json:"bytes"`
	Frames   int   `json:"frames"`
	// Entries that count, with their first and last index; Replaced are those that
	// a later one took the place of. EntryBytes and ConfChanges are of both.
	Entries     uint64    `json:"entries"`
	Replaced    uint64    `json:"replaced"`
	EntryBytes  int64     `json:"entryBytes"`
	ConfChanges uint64    `json:"confChanges"`
	First       uint64    `json:"first,omitempty"`
	Last        uint64    `json:"last"`
	Terms       []TermRun `json:"terms"`
	Marks       []Mark    `json:"marks"`
	HardState   HardState `json:"hardState"`
	// Partial: reading was ended early, and what follows was not judged.
	Partial bool `json:"partial,omitempty"`
	// Ended: the log proves by itself that nothing is missing at its end. Torn: its
	// last write did not become whole and will be cut off, which loses nothing that
	// was acknowledged.
	Ended  bool    `json:"ended"`
	Torn   bool    `json:"torn"`
	TornAt string  `json:"tornAt,omitempty"`
	Damage *Damage `json:"damage,omitempty"`
	// Owner and Snapshot are what Verify found in a member's directory.
	Owner    *Owner    `json:"owner,omitempty"`
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Problems are reasons, besides Damage, why a member cannot start with it.
	Problems []string `json:"problems,omitempty"`
}

// Whole says whether a member can start with the log and has lost nothing.
func (r *Report) Whole() bool { return r.Damage == nil && len(r.Problems) == 0 }

// Err is why the log is not whole; nil if it is.
func (r *Report) Err() error {
	if d := r.Damage; d != nil {
		return &wal.CorruptError{Segment: d.Segment, Offset: d.Offset, Intact: d.Intact, Known: d.Known, Reason: d.Reason}
	}
	if len(r.Problems) > 0 {
		return fmt.Errorf("%s cannot be used: %s", r.Dir, strings.Join(r.Problems, "; "))
	}
	return nil
}

// ErrStop, from visit, ends Read early.
var ErrStop = errors.New("stop")

// Read reads the whole log, up to the first damage, one frame at a time. visit
// may be nil, and keeps nothing of what it gets.
func Read(fsys vfs.FS, p Place, visit func(*Frame) error, progress Progress) (Report, error) {
	t := totals{Report: Report{Place: p, Terms: []TermRun{}, Marks: []Mark{}}}
	sum, err := p.Format.inspect(fsys, p.Dir, func(r *wal.Record) error {
		f := frameOf(r)
		t.add(f)
		if visit == nil {
			return nil
		}
		return visit(f)
	}, progress)
	report := t.Report
	if errors.Is(err, ErrStop) {
		report.Partial, err = true, nil
	}
	if err != nil {
		return report, err
	}
	report.Segments, report.Spares, report.Bytes = sum.Segments, sum.Spares, sum.Bytes
	report.Ended, report.Torn, report.TornAt = sum.Ended, sum.Torn, sum.TornAt
	if progress != nil && sum.Damage == nil && !report.Partial {
		progress(sum.Bytes, sum.Bytes)
	}
	if d := sum.Damage; d != nil {
		report.Damage = &Damage{Segment: d.Segment, Offset: d.Offset, Intact: d.Intact, Known: d.Known, Reason: d.Reason}
	} else if hs := report.HardState; !report.Partial && hs.Commit > report.Last {
		report.Problems = append(report.Problems, fmt.Sprintf("entries up to %d are committed and the last one is %d: rebuild this member from its peers", hs.Commit, report.Last))
	}
	return report, nil
}

func frameOf(r *wal.Record) *Frame {
	f := &Frame{
		Segment: r.Segment, Offset: r.Offset, Size: r.Size, Sequence: r.Sequence,
		Kinds: strings.Split(r.Kinds, ","), LogLast: r.Last,
		HardState: HardState{Term: r.HardState.Term, Vote: r.HardState.Vote, Commit: r.HardState.Commit},
		Entries:   len(r.Entries), entries: r.Entries,
	}
	for _, m := range r.Marks {
		f.Marks = append(f.Marks, Mark{Index: m.Index, Term: m.Term})
	}
	for i := range r.Entries {
		e := &r.Entries[i]
		f.Bytes += int64(len(e.Data))
		if isConfChange(e.Type) {
			f.ConfChanges++
		}
		f.Terms = extend(f.Terms, e.Index, e.Term)
	}
	if n := len(r.Entries); n > 0 {
		f.First, f.Last = r.Entries[0].Index, r.Entries[n-1].Index
	}
	return f
}

// Each describes the entries of the frame. It may be called until visit returns.
func (f *Frame) Each(visit func(Entry) error) error {
	for i := range f.entries {
		e := &f.entries[i]
		described := Entry{Segment: f.Segment, Offset: f.Offset, Index: e.Index, Term: e.Term, Type: typeName(e.Type), Bytes: len(e.Data)}
		if err := visit(described); err != nil {
			return err
		}
	}
	return nil
}

func isConfChange(t raftpb.EntryType) bool {
	return t == raftpb.EntryConfChange || t == raftpb.EntryConfChangeV2
}

func typeName(t raftpb.EntryType) string {
	switch {
	case isConfChange(t):
		return "conf change"
	case t == raftpb.EntryNormal:
		return "normal"
	}
	return fmt.Sprintf("unknown %d", t)
}

// totals adds frames up.
type totals struct{ Report }

func (t *totals) add(f *Frame) {
	t.Frames++
	t.HardState = f.HardState
	t.ConfChanges += uint64(f.ConfChanges)
	t.EntryBytes += f.Bytes
	if f.Entries > 0 {
		t.cut(f.First)
		if t.First == 0 {
			t.First = f.First
		}
		for _, r := range f.Terms {
			t.Terms = extend(t.Terms, r.First, r.Term)
		}
	} else if f.LogLast != t.Last {
		// A mark took the place of the whole log, or the first frame says where it
		// begins.
		t.cut(0)
	}
	t.Last = f.LogLast
	if t.First > 0 {
		t.Entries = t.Last - t.First + 1
	}
	for _, m := range f.Marks {
		t.mark(m)
	}
}

// cut takes away the entries from index on, or all when index leaves a gap
// behind them.
func (t *totals) cut(index uint64) {
	if t.First == 0 || index == t.Last+1 {
		return
	}
	if index <= t.First || index > t.Last {
		t.Replaced += t.Last - t.First + 1
		t.First, t.Entries, t.Terms = 0, 0, t.Terms[:0]
		return
	}
	t.Replaced += t.Last - index + 1
	n := len(t.Terms)
	for n > 0 && t.Terms[n-1].First >= index {
		n--
	}
	t.Terms = t.Terms[:n]
}

// mark adds a mark that is not known yet. Every native segment begins with all
// marks that count, and etcd's log begins with an empty one.
func (t *totals) mark(m Mark) {
	if m.Index == 0 {
		return
	}
	for _, known := range t.Marks {
		if known == m {
			return
		}
	}
	t.Marks = append(t.Marks, m)
}

// extend adds an entry to runs of terms.
func extend(runs []TermRun, index, term uint64) []TermRun {
	if n := len(runs); n > 0 && runs[n-1].Term == term {
		return runs
	}
	return append(runs, TermRun{First: index, Term: term})
}
