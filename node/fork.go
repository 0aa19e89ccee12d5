package node

import (
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// fork is the place at which this member's log and that of the majority part. It is
// searched for by halves before this member stops, so that everybody can be told which
// entries are only here.
type fork struct {
	loop *loop
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

// begin begins the search: a majority has another log than this member at an index. It
// serves nothing from here on.
func (f *fork) begin(index uint64, why string) {
	l := f.loop
	first, err := l.view.FirstIndex()
	if err != nil {
		first = index
	}
	*f = fork{loop: l, why: why, low: max(1, min(first, index)) - 1, high: index, left: forkTimeouts * l.cfg.ElectionTicks}
	l.doubt.stopServing(fmt.Errorf("%w: %s", ErrDiverged, why))
	f.search()
}

// narrow takes what a majority has at a place that was asked for.
func (f *fork) narrow(at core.Place, index uint64, differs bool) {
	if differs {
		f.high = min(f.high, index)
	} else {
		f.low = max(f.low, min(at.Index, f.high-1)) // equal, or nobody can look it up any more
	}
	f.search()
}

// tick ends a search that takes too long.
func (f *fork) tick(ticks int) {
	if f.why == "" {
		return
	}
	if f.left -= ticks; f.left <= 0 {
		f.part()
	}
}

// search asks for the place in the middle, or ends the search.
func (f *fork) search() {
	if f.high-f.low > 1 && f.left > 0 {
		f.loop.doubt.inquiry.ask()
		return
	}
	f.part()
}

// part tells all members what is only here, and stops this one.
func (f *fork) part() {
	l := f.loop
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
	others := l.doubt.inquiry.others()
	left.Store(int64(len(others)))
	for _, m := range others {
		l.call(m.Address, kindCompare, &octopiipb.CompareRequest{Branch: branch}, func([]byte, error) {
			if left.Add(-1) == 0 {
				l.soon(end)
			}
		})
	}
	l.host.timer(func() { l.soon(end) }).Reset(time.Duration(forkTimeouts*l.cfg.ElectionTicks) * l.cfg.TickInterval)
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
	h.inbox.call(func(l *loop) {
		l.suspect(core.Suspect{ID: from, Claim: core.Diverged, Index: at.Index, Reason: text})
	})
	return fmt.Errorf("%w: %s", ErrDiverged, text)
}
