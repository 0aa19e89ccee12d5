package core

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// sentModel is what one request in the obvious forwarded looks like.
type sentModel struct {
	id, term, commit uint64
	waiter           Waiter
}

func TestForwardedIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newForwarded(rapid.Uint64().Draw(t, "seed"))
		var model []sentModel
		// out is the model's: it expects exactly these to be taken out, in order.
		out := func(err error, which func(sentModel) bool, act func(got *settled)) {
			var want, got settled
			for _, m := range model {
				if which(m) {
					want.add(m.waiter, err)
				}
			}
			model = slices.DeleteFunc(model, which)
			act(&got)
			if !slices.Equal(want, got) {
				t.Fatalf("taken out: %v, want %v", got, want)
			}
		}
		last := uint64(0)
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			term := rapid.Uint64Range(1, 4).Draw(t, "term")
			index := rapid.Uint64Range(1, 9).Draw(t, "index")
			switch rapid.SampledFrom([]string{"add", "add", "burst", "remove", "remove", "unknown", "displaced", "replaced"}).Draw(t, "op") {
			case "burst": // enough for the queue to move its live part
				for range rapid.IntRange(1, 1500).Draw(t, "count") {
					w := &call{name: fmt.Sprint("call ", i)}
					last = f.next
					f.add(&raft.BasicStatus{HardState: raftpb.HardState{Term: term, Commit: index}}, request{Request: Request{Waiter: w}})
					model = append(model, sentModel{last, term, index, w})
				}
			case "add":
				if f.next <= last {
					t.Fatalf("request %d is sent after %d: a number is used again", f.next, last)
				}
				w := &call{name: fmt.Sprint("call ", i)}
				last = f.next
				f.add(&raft.BasicStatus{HardState: raftpb.HardState{Term: term, Commit: index}}, request{Request: Request{Waiter: w}})
				model = append(model, sentModel{last, term, index, w})
			case "remove":
				if len(model) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				m := model[i]
				model = slices.Delete(model, i, i+1)
				if it, ok := f.remove(m.id); !ok || it.Waiter != m.waiter {
					t.Fatalf("request %d is of %v, %v; want %v", m.id, it.Waiter, ok, m.waiter)
				}
				if _, ok := f.remove(m.id); ok {
					t.Fatalf("request %d is decided twice", m.id)
				}
			case "unknown":
				id := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(max(last, 3)-3, max(last, 3)+3)).Draw(t, "id")
				if slices.ContainsFunc(model, func(m sentModel) bool { return m.id == id }) {
					continue
				}
				if _, ok := f.remove(id); ok {
					t.Fatalf("%d counts, which was never sent or is decided", id)
				}
			case "displaced":
				out(errLost, func(m sentModel) bool { return m.term < term },
					func(got *settled) { f.displaced(term, got.lost) })
			case "replaced":
				out(ErrUnknownOutcome, func(m sentModel) bool { return m.term <= term && m.commit < index },
					func(got *settled) { f.replaced(index, term, got.add) })
			}
			if len(model) > 0 && f.next-model[0].id != uint64(len(f.sent)-f.head) {
				t.Fatalf("%d numbers are out, want %d", len(f.sent)-f.head, f.next-model[0].id)
			}
		}
		out(errLost, func(sentModel) bool { return true }, func(got *settled) { f.displaced(9, got.lost) })
		if len(f.sent) != 0 {
			t.Fatalf("%d requests are kept after all were decided", len(f.sent))
		}
	})
}

// An entry from before a restart must not answer a request from after it.
func TestForwardedNumbersBeginAtTheSeed(t *testing.T) {
	before, after := newForwarded(1<<40), newForwarded(1<<50)
	old := before.next
	after.add(&raft.BasicStatus{}, request{Request: Request{Waiter: &call{name: "new"}}})
	if _, ok := after.remove(old); ok {
		t.Error("a number from before the restart decided a request from after it")
	}
	if first := newForwarded(1<<64 - 1).next; first == 0 || first+1<<40 < first {
		t.Errorf("with the greatest seed the numbers begin at %d", first)
	}
}
