package check_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/internal/check"
)

const limit = 10 * time.Second

// ok is an operation that returned. Tests give each one a client of its own.
func ok(id uint64, from, to int64, input, output any) check.Operation {
	return check.Operation{ID: id, Client: int(id), Input: input, Output: output, ReadOnly: reads(input), Call: from, Return: to, Outcome: check.OK}
}

// ended is an operation that did not.
func ended(id uint64, from int64, input any, outcome check.Outcome) check.Operation {
	return check.Operation{ID: id, Client: int(id), Input: input, ReadOnly: reads(input), Call: from, Outcome: outcome}
}

func at(o check.Operation, index uint64) check.Operation {
	o.Index = index
	return o
}

func reads(input any) bool {
	switch input.(type) {
	case check.Get, check.ReadList:
		return true
	}
	return false
}

func put(value string) any                       { return check.Put{Key: "k", Value: value} }
func swap(old, new string) any                   { return check.Swap{Key: "k", Old: old, New: new} }
func get() any                                   { return check.Get{Key: "k"} }
func push(value string) any                      { return check.Append{Key: "l", Value: value} }
func list() any                                  { return check.ReadList{Key: "l"} }
func values(v ...string) []string                { return v }
func history(o ...check.Operation) check.History { return o }

// A history and what a checker must say of it.
type story struct {
	name string
	h    check.History
	log  []check.Entry
	// rule is a part of the rule that is broken; empty: none is. between are the operations
	// that contradict each other.
	rule    string
	between []uint64
}

func run(t *testing.T, stories []story, checker func(story) error) {
	t.Helper()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			err := checker(s)
			if s.rule == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var found *check.Contradiction
			if !errors.As(err, &found) {
				t.Fatalf("it says %v, want a contradiction of the rule %q", err, s.rule)
			}
			var of []uint64
			for _, o := range found.Operations {
				of = append(of, o.ID)
				if !strings.Contains(err.Error(), o.String()) {
					t.Errorf("%v does not show %v", err, o)
				}
			}
			if !strings.Contains(found.Rule, s.rule) || fmt.Sprint(of) != fmt.Sprint(s.between) {
				t.Errorf("it says %v of %v, want the rule %q and %v", err, of, s.rule, s.between)
			}
		})
	}
}

func TestRegisters(t *testing.T) {
	const rule = "takes effect at one moment"
	run(t, []story{
		{name: "empty"},
		{name: "never set", h: history(ok(1, 1, 2, get(), ""))},
		{name: "one after the other", h: history(
			ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, get(), "a"), ok(3, 5, 6, swap("a", "b"), true), ok(4, 7, 8, swap("a", "c"), false), ok(5, 9, 10, get(), "b"))},
		{name: "reads see one of two that overlap", h: history(ok(1, 1, 9, put("a"), nil), ok(2, 1, 9, put("b"), nil), ok(3, 10, 11, get(), "a"), ok(4, 12, 13, get(), "a"))},
		{name: "it takes effect in between", h: history(ok(1, 1, 9, put("a"), nil), ok(2, 2, 3, get(), ""), ok(3, 4, 5, get(), "a"))},
		{name: "one that returns when another is called overlaps it", h: history(ok(1, 1, 2, put("a"), nil), ok(2, 2, 3, get(), ""))},
		{name: "keys are apart", h: history(ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, check.Get{Key: "other"}, ""))},
		{name: "unknown and done", h: history(ended(1, 1, put("a"), check.Unknown), ok(2, 3, 4, get(), ""), ok(3, 50, 60, get(), "a"))},
		{name: "unknown and never done", h: history(ended(1, 1, put("a"), check.Unknown), ok(2, 3, 4, get(), ""))},
		{name: "an unknown swap", h: history(ok(1, 1, 2, put("a"), nil), ended(2, 3, swap("a", "b"), check.Unknown), ended(3, 3, swap("x", "y"), check.Unknown), ok(4, 5, 6, get(), "b"))},
		{name: "a read without an answer", h: history(ended(1, 1, get(), check.Unknown), ended(2, 1, get(), check.Failed))},
		{name: "failed", h: history(ended(1, 1, put("a"), check.Failed), ok(2, 3, 4, get(), ""))},
		{name: "indexes that explain it", h: history(
			at(ok(1, 1, 9, put("a"), nil), 5), at(ok(2, 1, 9, put("b"), nil), 4), at(ok(3, 10, 11, get(), "a"), 5))},
		{name: "indexes that do not, and another order that does", h: history(
			at(ok(1, 1, 9, put("a"), nil), 4), at(ok(2, 1, 9, put("b"), nil), 5), at(ok(3, 10, 11, get(), "a"), 5))},

		{name: "stale", rule: rule, between: []uint64{1, 2}, h: history(ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, get(), ""))},
		{name: "never written", rule: rule, between: []uint64{1, 2}, h: history(ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, get(), "b"))},
		{name: "new and then old", rule: rule, between: []uint64{2, 3}, h: history(ok(1, 1, 9, put("a"), nil), ok(2, 2, 3, get(), "a"), ok(3, 4, 5, get(), ""))},
		{name: "lost", rule: rule, between: []uint64{2, 3}, h: history(ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, put("b"), nil), ok(3, 5, 6, get(), "a"))},
		{name: "read before it is written", rule: rule, between: []uint64{1}, h: history(ok(1, 1, 2, get(), "a"), ok(2, 3, 4, put("a"), nil))},
		{name: "of several keys the one that is wrong", rule: rule, between: []uint64{1, 2}, h: history(
			ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, get(), ""), ok(3, 1, 2, check.Put{Key: "a", Value: "b"}, nil), ok(4, 1, 2, check.Put{Key: "z", Value: "c"}, nil))},
		{name: "failed and seen", rule: rule, between: []uint64{2}, h: history(ended(1, 1, put("a"), check.Failed), ok(2, 3, 4, get(), "a"))},
		{name: "two swaps of one value", rule: rule, between: []uint64{1, 2}, h: history(ok(1, 1, 2, swap("", "a"), true), ok(2, 3, 4, swap("", "b"), true))},
		{name: "a swap that should have", rule: rule, between: []uint64{1, 2}, h: history(ok(1, 1, 2, put("a"), nil), ok(2, 3, 4, swap("a", "b"), false))},
		{name: "an unknown swap that undoes itself", rule: rule, between: []uint64{3, 4}, h: history(
			ok(1, 1, 2, put("a"), nil), ended(2, 3, swap("a", "b"), check.Unknown), ok(3, 5, 6, get(), "b"), ok(4, 7, 8, get(), "a"))},
	}, func(s story) error { return check.Registers(s.h, limit) })
}

func TestLists(t *testing.T) {
	const grow, twice, appended, listed = "a list only grows", "every value once", "only what was appended", "comes before it"
	run(t, []story{
		{name: "empty"},
		{name: "one after the other", h: history(ok(1, 1, 2, push("a"), nil), ok(2, 3, 4, push("b"), nil), ok(3, 5, 6, list(), values("a", "b")))},
		{name: "appends that overlap", h: history(ok(1, 1, 9, push("a"), nil), ok(2, 1, 9, push("b"), nil), ok(3, 2, 8, list(), values("b")), ok(4, 10, 11, list(), values("b", "a")))},
		{name: "reads that overlap", h: history(ok(1, 1, 9, push("a"), nil), ok(2, 2, 8, list(), values("a")), ok(3, 3, 7, list(), values()))},
		{name: "nobody looks", h: history(ok(1, 1, 2, push("a"), nil))},
		{name: "unknown and done late", h: history(ended(1, 1, push("a"), check.Unknown), ok(2, 3, 4, list(), values()), ok(3, 5, 6, list(), values("a")))},
		{name: "unknown and never done", h: history(ended(1, 1, push("a"), check.Unknown), ok(2, 3, 4, list(), values()))},
		{name: "failed", h: history(ended(1, 1, push("a"), check.Failed), ok(2, 3, 4, list(), values()), ended(3, 1, list(), check.Failed))},
		{name: "two lists", h: history(ok(1, 1, 2, push("a"), nil), ok(2, 1, 2, check.Append{Key: "m", Value: "a"}, nil), ok(3, 3, 4, check.ReadList{Key: "m"}, values("a")))},

		{name: "values in two orders", rule: grow, between: []uint64{3, 4}, h: history(
			ok(1, 1, 9, push("a"), nil), ok(2, 1, 9, push("b"), nil), ok(3, 2, 8, list(), values("a", "b")), ok(4, 2, 8, list(), values("b", "a")))},
		{name: "another beginning", rule: grow, between: []uint64{3, 4}, h: history(
			ok(1, 1, 9, push("a"), nil), ok(2, 1, 9, push("b"), nil), ok(3, 2, 8, list(), values("b")), ok(4, 2, 8, list(), values("a", "b")))},
		{name: "twice", rule: twice, between: []uint64{1, 2}, h: history(ok(1, 1, 2, push("a"), nil), ok(2, 3, 4, list(), values("a", "a")))},
		{name: "made up", rule: appended, between: []uint64{1}, h: history(ok(1, 3, 4, list(), values("a")))},
		{name: "failed and there", rule: appended, between: []uint64{1, 2}, h: history(ended(1, 1, push("a"), check.Failed), ok(2, 3, 4, list(), values("a")))},
		{name: "lost", rule: listed, between: []uint64{1, 2}, h: history(ok(1, 1, 2, push("a"), nil), ok(2, 3, 4, list(), values()))},
		{name: "not seen yet", rule: listed, between: []uint64{1, 2}, h: history(ok(1, 1, 2, push("a"), nil), ok(2, 3, 4, list(), values()), ok(3, 5, 6, list(), values("a")))},
		{name: "lost before one that is there", rule: listed, between: []uint64{1, 2}, h: history(
			ok(1, 1, 2, push("a"), nil), ended(2, 3, push("b"), check.Unknown), ok(3, 1, 9, list(), values("b")))},
		{name: "in the other order", rule: listed, between: []uint64{1, 2}, h: history(
			ok(1, 1, 2, push("a"), nil), ok(2, 3, 4, push("b"), nil), ok(3, 5, 6, list(), values("b", "a")))},
		{name: "shorter", rule: listed, between: []uint64{2, 3}, h: history(ok(1, 1, 9, push("a"), nil), ok(2, 2, 3, list(), values("a")), ok(3, 4, 5, list(), values()))},
		{name: "before it was appended", rule: listed, between: []uint64{1, 2}, h: history(ok(1, 1, 2, list(), values("a")), ok(2, 3, 4, push("a"), nil))},
	}, func(s story) error { return check.Lists(s.h) })
}

func TestInOrder(t *testing.T) {
	const order, stale, twice = "higher than all", "no read is older", "the same index"
	run(t, []story{
		{name: "empty"},
		{name: "one after the other", h: history(at(ok(1, 1, 2, put("a"), nil), 4), at(ok(2, 3, 4, get(), "a"), 4), at(ok(3, 5, 6, put("b"), nil), 7))},
		{name: "those that overlap in any order", h: history(at(ok(1, 1, 9, put("a"), nil), 7), at(ok(2, 2, 10, put("b"), nil), 4), at(ok(3, 3, 8, get(), ""), 2))},
		{name: "not told", h: history(at(ok(1, 1, 2, put("a"), nil), 4), ok(2, 3, 4, put("b"), nil))},
		{name: "failed and unknown", h: history(at(ok(1, 1, 2, put("a"), nil), 4), at(ended(2, 3, put("b"), check.Failed), 1), at(ended(3, 3, put("b"), check.Unknown), 2))},

		{name: "a write before one that had returned", rule: order, between: []uint64{1, 2}, h: history(at(ok(1, 1, 2, put("a"), nil), 7), at(ok(2, 3, 4, put("b"), nil), 4))},
		{name: "a write where a read had been", rule: order, between: []uint64{1, 2}, h: history(at(ok(1, 1, 2, get(), ""), 4), at(ok(2, 3, 4, put("b"), nil), 4))},
		{name: "a stale read", rule: stale, between: []uint64{1, 2}, h: history(at(ok(1, 1, 2, put("a"), nil), 4), at(ok(2, 3, 4, get(), ""), 3))},
		{name: "a read of nothing", rule: stale, between: []uint64{1, 2}, h: history(at(ok(1, 1, 2, put("a"), nil), 4), ok(2, 3, 4, get(), ""))},
		{name: "reads that go back", rule: stale, between: []uint64{2, 3}, h: history(at(ok(1, 1, 9, put("a"), nil), 4), at(ok(2, 2, 3, get(), "a"), 4), at(ok(3, 4, 5, get(), ""), 3))},
		{name: "twice the same", rule: twice, between: []uint64{1, 2}, h: history(at(ok(1, 1, 9, put("a"), nil), 4), at(ok(2, 1, 9, put("b"), nil), 4))},
	}, func(s story) error { return check.InOrder(s.h) })
}

// Order says the same of operations as they come.
func TestOrder(t *testing.T) {
	var r check.Order
	if r.Newest() != nil || r.Index() != 0 {
		t.Errorf("it has seen %v", r.Newest())
	}
	early := r.Newest()
	first := at(ok(1, 1, 4, put("a"), nil), 7)
	if err := r.Returned(&first, early); err != nil || r.Index() != 7 {
		t.Error(r.Index(), err)
	}
	overlaps, unknown := at(ok(2, 2, 5, put("b"), nil), 6), at(ended(3, 2, put("c"), check.Unknown), 9)
	for _, o := range []*check.Operation{&overlaps, &unknown} {
		if err := r.Returned(o, early); err != nil || r.Newest().ID != 1 {
			t.Error(r.Newest(), err)
		}
	}
	stale := at(ok(4, 5, 6, get(), ""), 6)
	var found *check.Contradiction
	if err := r.Returned(&stale, r.Newest()); !errors.As(err, &found) || len(found.Operations) != 2 || found.Operations[0].ID != 1 {
		t.Error(err)
	}
}

func TestExactlyOnce(t *testing.T) {
	const asked, once, failed, kept, fits = "nothing that no client asked for", "every operation once", "what certainly failed", "what was acknowledged", "fits the times"
	h := history(at(ok(1, 1, 2, put("a"), nil), 5), ok(2, 3, 9, put("b"), nil), ended(3, 4, put("c"), check.Unknown), ended(4, 4, put("d"), check.Failed), ok(5, 5, 6, get(), "a"), ok(6, 7, 8, put("e"), nil))
	run(t, []story{
		{name: "empty"},
		{name: "without the unknown", h: h, log: []check.Entry{{ID: 1, Index: 5}, {ID: 2, Index: 6}, {ID: 6}}},
		{name: "with it", h: h, log: []check.Entry{{ID: 1, Index: 5}, {ID: 6, Index: 6}, {ID: 2, Index: 7}, {ID: 3, Index: 9}}},

		{name: "made up", rule: asked, h: h, log: []check.Entry{{ID: 1}, {ID: 2}, {ID: 6}, {ID: 7}}},
		{name: "a read", rule: asked, h: h, log: []check.Entry{{ID: 1}, {ID: 2}, {ID: 6}, {ID: 5}}},
		{name: "twice", rule: once, between: []uint64{3}, h: h, log: []check.Entry{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 6}, {ID: 3}}},
		{name: "failed", rule: failed, between: []uint64{4}, h: h, log: []check.Entry{{ID: 1}, {ID: 2}, {ID: 4}, {ID: 6}}},
		{name: "lost", rule: kept, between: []uint64{6}, h: h, log: []check.Entry{{ID: 1}, {ID: 2}}},
		{name: "elsewhere", rule: kept, between: []uint64{1}, h: h, log: []check.Entry{{ID: 1, Index: 4}, {ID: 2}, {ID: 6}}},
		{name: "in the wrong order", rule: fits, between: []uint64{1, 2}, h: h, log: []check.Entry{{ID: 2}, {ID: 1}, {ID: 6}}},
		{name: "unknown before its call", rule: fits, between: []uint64{1, 3}, h: h, log: []check.Entry{{ID: 3}, {ID: 1}, {ID: 2}, {ID: 6}}},
	}, func(s story) error { return check.ExactlyOnce(s.h, s.log) })
}

func TestInputsOfAnotherChecker(t *testing.T) {
	if err := check.Registers(history(ok(1, 1, 2, push("a"), nil)), limit); err == nil || !strings.Contains(err.Error(), "Put, Swap and Get") {
		t.Error(err)
	}
	if err := check.Lists(history(ok(1, 1, 2, put("a"), nil))); err == nil || !strings.Contains(err.Error(), "Append and ReadList") {
		t.Error(err)
	}
	if err := check.Lists(history(ok(1, 1, 2, push("a"), nil), ok(2, 1, 2, push("a"), nil))); err == nil || !strings.Contains(err.Error(), "operations 1 and 2 both append a") {
		t.Error(err)
	}
}

// A model of the caller's that panics, or whose search does not end, says nothing about
// the history.
func TestNoVerdict(t *testing.T) {
	var panicked *check.ModelPanic
	err := check.Linearizable(history(ok(1, 1, 2, "x", "y")), porcupine.Model{
		Init: func() any { return 0 },
		Step: func(_, _, _ any) (bool, any) { panic("no model of mine") },
	}, limit)
	if !errors.As(err, &panicked) || !strings.Contains(err.Error(), "no model of mine") || len(panicked.Stack) == 0 {
		t.Error(err)
	}
	var h check.History
	for i := range uint64(40) {
		h = append(h, ok(i+1, 1, 100, put(fmt.Sprint(i)), nil))
	}
	h = append(h, ok(99, 101, 102, get(), "never"))
	var undecided *check.Undecided
	if err := check.Linearizable(h, check.RegisterModel, time.Millisecond); !errors.As(err, &undecided) || undecided.Operations != 41 {
		t.Error(err)
	}
}
