package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sentModel is what one request in the obvious forwarded looks like.
type sentModel struct {
	id, to uint64
	age    int
	waiter Waiter
}

func TestForwardedIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newForwarded(rapid.Uint64().Draw(t, "seed"))
		var model []sentModel
		last := uint64(0)
		// giveUp is the model's: it expects exactly these to be refused, in order.
		giveUp := func(act func(refuse func(Waiter, error)), which func(sentModel) bool) {
			var want, got settled
			for _, m := range model {
				if which(m) {
					want.add(m.waiter, ErrUnknownOutcome)
				}
			}
			model = slices.DeleteFunc(model, which)
			act(got.add)
			if !slices.Equal(want, got) {
				t.Fatalf("given up: %v, want %v", got, want)
			}
		}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			to := rapid.Uint64Range(1, 3).Draw(t, "to")
			switch rapid.SampledFrom([]string{"add", "add", "reply", "reply", "wrong sender", "unknown", "dropped", "tick"}).Draw(t, "op") {
			case "add":
				w := &call{name: fmt.Sprint("call ", i)}
				id := f.add(to, request{Request: Request{Waiter: w}})
				if id <= last {
					t.Fatalf("request %d is sent after %d: an ID is used again", id, last)
				}
				last = id
				model = append(model, sentModel{id: id, to: to, waiter: w})
			case "reply":
				if len(model) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				m := model[i]
				model = slices.Delete(model, i, i+1)
				it, ok := f.remove(m.to, m.id)
				if !ok || it.Waiter != m.waiter {
					t.Fatalf("the reply to request %d is for %v, %v; want %v", m.id, it.Waiter, ok, m.waiter)
				}
				if _, ok := f.remove(m.to, m.id); ok {
					t.Fatalf("a second reply to request %d counts", m.id)
				}
			case "wrong sender":
				if len(model) == 0 {
					continue
				}
				m := rapid.SampledFrom(model).Draw(t, "which")
				if _, ok := f.remove(m.to+1, m.id); ok {
					t.Fatalf("member %d answered what was sent to %d", m.to+1, m.to)
				}
			case "unknown":
				id := rapid.Uint64().Draw(t, "id")
				if slices.ContainsFunc(model, func(m sentModel) bool { return m.id == id }) {
					continue
				}
				if _, ok := f.remove(to, id); ok {
					t.Fatalf("a reply to %d, which was never sent or is settled, counts", id)
				}
			case "dropped":
				giveUp(func(refuse func(Waiter, error)) { f.dropped(to, refuse) },
					func(m sentModel) bool { return m.to == to })
			case "tick":
				for i := range model {
					model[i].age++
				}
				giveUp(func(refuse func(Waiter, error)) { f.tick(3, refuse) },
					func(m sentModel) bool { return m.age >= 3 })
			}
		}
		for range 3 {
			for i := range model {
				model[i].age++
			}
			giveUp(func(refuse func(Waiter, error)) { f.tick(3, refuse) },
				func(m sentModel) bool { return m.age >= 3 })
		}
		if len(f.sent) != 0 {
			t.Fatalf("%d requests are kept after all were settled", len(f.sent))
		}
	})
}

// A reply to a request from before a restart must not settle one from after it.
func TestForwardedIDsBeginAtTheSeed(t *testing.T) {
	before, after := newForwarded(1<<40), newForwarded(1<<50)
	old := before.add(2, request{})
	after.add(2, request{Request: Request{Waiter: &call{name: "new"}}})
	if _, ok := after.remove(2, old); ok {
		t.Error("a reply from before the restart settled a request from after it")
	}
	biggest := newForwarded(1<<64 - 1)
	if a, b := biggest.add(2, request{}), biggest.add(2, request{}); a == 0 || b <= a {
		t.Errorf("with the greatest seed the IDs are %d and %d", a, b)
	}
}

// What a leader that went away may have appended is never said to be lost.
func TestDroppedConnectionLeavesOutcomesOpen(t *testing.T) {
	f := newForwarded(1)
	f.add(2, request{Request: Request{Waiter: &call{name: "mine"}}})
	f.add(3, request{Request: Request{Waiter: &call{name: "other"}}})
	refused := 0
	f.dropped(2, func(w Waiter, err error) {
		refused++
		if w.(*call).name != "mine" || !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%s was refused with %v, want mine with ErrUnknownOutcome", w.(*call).name, err)
		}
	})
	if refused != 1 || len(f.sent) != 1 {
		t.Errorf("%d refused and %d kept, want 1 and 1", refused, len(f.sent))
	}
}
