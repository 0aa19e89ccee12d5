package core

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// settled is what became of the waiters: by name, in order.
type settled []string

func (s *settled) add(w Waiter, err error) {
	*s = append(*s, fmt.Sprintf("%s: %v", w.(*call).name, err))
}

// errLost stands for: it is proposed again.
var errLost = errors.New("lost")

func (s *settled) lost(it request) { s.add(it.Waiter, errLost) }

// pendingModel is the obvious pending.
type pendingModel struct{ list []place }

// applied: the entry itself is known; of its own term what stands before it was
// passed over, of lower terms nothing can be behind it.
func (m *pendingModel) applied(index, term uint64, settle func(Waiter, error)) (w Waiter) {
	var keep []place
	for _, p := range m.list {
		switch {
		case p.index == index && p.term == term:
			w = p.request.Waiter
		case p.term < term:
			settle(p.request.Waiter, errLost)
		case p.term == term && p.index < index:
			settle(p.request.Waiter, ErrUnknownOutcome)
		default:
			keep = append(keep, p)
		}
	}
	m.list = keep
	return w
}

// replaced: a snapshot tells nothing of the entries that it covers, and of
// those behind it only that lower terms cannot follow.
func (m *pendingModel) replaced(index, term uint64, settle func(Waiter, error)) {
	var keep []place
	for _, p := range m.list {
		switch {
		case p.index <= index:
			settle(p.request.Waiter, ErrUnknownOutcome)
		case p.term < term:
			settle(p.request.Waiter, errLost)
		default:
			keep = append(keep, p)
		}
	}
	m.list = keep
}

func TestPendingIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ring pending
		var model pendingModel
		var last place
		add := func(index, term uint64) {
			p := place{index: index, term: term, request: request{Request: Request{Waiter: &call{name: fmt.Sprintf("%d/%d", term, index)}}}}
			if !last.before(p) {
				return // one leader appends in order, and leads again in a later term
			}
			last = p
			ring.add(p)
			model.list = append(model.list, p)
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			term := rapid.Uint64Range(1, 4).Draw(t, "term")
			index := rapid.Uint64Range(1, 3000).Draw(t, "index")
			var got, want settled
			var w, ww Waiter
			switch rapid.SampledFrom([]string{"add", "add", "burst", "applied", "applied exactly", "replaced"}).Draw(t, "op") {
			case "add":
				add(index, term)
			case "burst": // enough for the ring to move its live part
				for i := range rapid.Uint64Range(1, 1500).Draw(t, "count") {
					add(index+i, term)
				}
			case "applied exactly":
				if len(model.list) == 0 {
					continue
				}
				p := rapid.SampledFrom(model.list).Draw(t, "place")
				index, term = p.index, p.term
				fallthrough
			case "applied":
				w, ww = ring.applied(index, term, got.lost, got.add), model.applied(index, term, want.add)
			case "replaced":
				ring.replaced(index, term, got.lost, got.add)
				model.replaced(index, term, want.add)
			}
			if w != ww {
				t.Fatalf("entry %d/%d belongs to %v, want %v", term, index, w, ww)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("settled by %d/%d (-want +got):\n%s", term, index, diff)
			}
			if ring.len() != len(model.list) {
				t.Fatalf("%d wait, want %d", ring.len(), len(model.list))
			}
		}
		// Whoever still waits is answered by a snapshot of everything.
		var got, want settled
		ring.replaced(1<<62, 9, got.lost, got.add)
		model.replaced(1<<62, 9, want.add)
		if diff := cmp.Diff(want, got); diff != "" || ring.len() != 0 {
			t.Fatalf("left over, with %d waiting (-want +got):\n%s", ring.len(), diff)
		}
	})
}

// A steady stream of proposals uses the same room again.
func TestPendingRoomIsBounded(t *testing.T) {
	var ring pending
	never := func(w Waiter, err error) { t.Errorf("%s was settled: %v", w.(*call).name, err) }
	neverLost := func(it request) { never(it.Waiter, errLost) }
	const inFlight = 100
	for i := uint64(1); i <= 100_000; i++ {
		ring.add(place{index: i, term: 1, request: request{Request: Request{Waiter: &call{}}}})
		if i > inFlight {
			if ring.applied(i-inFlight, 1, neverLost, never) == nil {
				t.Fatalf("nobody waits for index %d", i-inFlight)
			}
		}
	}
	if room := cap(ring.queue); room > 1<<13 {
		t.Errorf("%d proposals in flight take room for %d", inFlight, room)
	}
	for i, p := range ring.queue[:ring.head] {
		if p.request.Waiter != nil {
			t.Fatalf("place %d, which is behind, still holds its caller", i)
		}
	}
}

// The comments' story: a leader of a new term overwrites what the old one
// appended, and one entry of the new term settles all of it.
func TestPendingIsLostUnderANewTerm(t *testing.T) {
	var ring pending
	for i := uint64(5); i <= 8; i++ {
		ring.add(place{index: i, term: 2, request: request{Request: Request{Waiter: &call{name: fmt.Sprint(i)}}}})
	}
	var lost int
	w := ring.applied(5, 3, func(request) { lost++ }, func(w Waiter, err error) {
		t.Errorf("%s was settled: %v", w.(*call).name, err)
	})
	if w != nil || lost != 4 || ring.len() != 0 {
		t.Errorf("waiter %v, %d lost, %d left; want nobody, 4 and 0", w, lost, ring.len())
	}
}
