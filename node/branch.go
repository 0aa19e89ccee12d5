package node

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// Branch is what one member has committed and the majority does not have: a majority of
// the disks was set back, elected a leader and went on.
type Branch struct {
	// ID is the member that has it, or had it, and was replaced since: it is then no member
	// of Status.Membership any more, and only its files have these entries.
	ID uint64
	// First and Last are the log indexes of the entries, and Term is that of the last one;
	// 0 if it is not known. What the majority has at these indexes now is something else.
	First, Last, Term uint64
}

// fork is the place at which this member's log and that of the majority part. It is
// searched for by halves before this member stops, so that everybody can be told which
// entries are only here.
type fork struct {
	// why is how it was found; empty: there is none. low is an index at which the logs are
	// the same, as far as anybody can know, and high one at which they are not.
	why       string
	low, high uint64
	// left is for how many ticks it may be searched for, and then told. parted: it is told.
	left   int
	parted bool
}

// forkTimeouts is how many election timeouts the search takes at most, and the telling.
const forkTimeouts = 4

// diverged begins the search: a majority has another log than this member at an index. It
// serves nothing from here on.
func (d *doubt) diverged(index uint64, why string) {
	l := d.loop
	first, err := l.view.FirstIndex()
	if err != nil {
		first = index
	}
	d.fork = fork{why: why, low: max(1, min(first, index)) - 1, high: index, left: forkTimeouts * l.cfg.ElectionTicks}
	d.stopServing(fmt.Errorf("%w: %s", ErrDiverged, why))
	d.search()
}

// narrow takes what a majority has at a place that was asked for.
func (d *doubt) narrow(at core.Place, index uint64, differs bool) {
	f := &d.fork
	if differs {
		f.high = min(f.high, index)
	} else {
		f.low = max(f.low, min(at.Index, f.high-1)) // equal, or nobody can look it up any more
	}
	d.search()
}

// search asks for the place in the middle, or ends the search.
func (d *doubt) search() {
	if f := &d.fork; f.high-f.low > 1 && f.left > 0 {
		d.ask()
		return
	}
	d.part()
}

// part tells all members what is only here, and stops this one.
func (d *doubt) part() {
	l, f := d.loop, &d.fork
	if f.parted {
		return
	}
	f.parted = true
	last := l.core.Status().Commit
	branch := octopiipb.Branch{First: f.high, Last: max(f.high, last), Term: l.core.PlaceAt(last).Term}
	end := func() {
		l.fatal(fmt.Errorf("%w: %s. Entries %d to %d, the last of term %d, are committed here and not there, and these files may be the only copy of them: keep them. Remove this member, and join again with an empty directory; how to have its history instead is told in README.md under \"A majority forgot\"",
			ErrDiverged, f.why, branch.First, branch.Last, branch.Term))
	}
	var left atomic.Int64
	others := d.others()
	left.Store(int64(len(others)))
	for _, m := range others {
		l.call(m.Address, kindCompare, &octopiipb.CompareRequest{Branch: branch}, func([]byte, error) {
			if left.Add(-1) == 0 {
				l.inbox.call(end)
			}
		})
	}
	l.host.timer(func() { l.inbox.call(end) }).Reset(time.Duration(forkTimeouts*l.cfg.ElectionTicks) * l.cfg.TickInterval)
}

// contradicts refuses a snapshot that would take the place of committed entries which are
// not in it: its log has another term at the index that is committed here. This member
// stops serving and asks the majority.
func (h handler) contradicts(from, leaderTerm uint64, meta raftpb.SnapshotMetadata, terms []octopiipb.TermStart) error {
	at := h.place.Load()
	if at == nil || at.Term == 0 {
		return nil
	}
	term := core.TermIn(terms, meta.Index, at.Index)
	if term == 0 || term == at.Term || leaderTerm < h.status().Term {
		return nil
	}
	text := fmt.Sprintf("the snapshot of leader %x at %d is of a log with term %d at index %d, and the entry that is committed here has term %d",
		from, meta.Index, term, at.Index, at.Term)
	h.inbox.call(func() {
		l := h.loop
		l.suspect(core.Suspect{ID: from, Claim: core.Diverged, Index: at.Index, Reason: text})
	})
	return fmt.Errorf("%w: %s", ErrDiverged, text)
}

// branched notes what a member has that the majority does not, and says so for as long as
// this process lives, also when the member was replaced. What the member itself found out
// replaces what a leader saw of it.
func (d *doubt) branched(b Branch, exact bool) {
	l := d.loop
	if !isMember(l.membership, b.ID) || b.First == 0 || b.First > b.Last {
		return
	}
	at := slices.IndexFunc(d.branches, func(o Branch) bool { return o.ID == b.ID })
	if at >= 0 && (!exact || d.branches[at] == b) {
		return
	}
	list := slices.Clone(d.branches) // Status has the other
	if at >= 0 {
		list[at] = b
	} else {
		list = append(list, b)
	}
	d.branches = list[max(0, len(list)-branchesMax):]
	l.log.Error("a majority forgot entries that a member has committed: disks were set back, and what was acknowledged is missing in what is served. Keep the files of that member; how to have its history instead is told in README.md under \"A majority forgot\"",
		zap.String("peer", hex(b.ID)), zap.Uint64("from index", b.First), zap.Uint64("to index", b.Last), zap.Uint64("term", b.Term))
}
