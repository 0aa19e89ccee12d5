package check

import (
	"cmp"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// ruleLinearizable is that of Linearizable.
const ruleLinearizable = "every operation takes effect at one moment between its call and its return"

// Undecided is the error of a search that took too long. It says nothing about the
// history.
type Undecided struct {
	Operations int
	Limit      time.Duration
}

func (u *Undecided) Error() string {
	return fmt.Sprintf("no order of the %d operations that explains them was found in %v, and there may be one", u.Operations, u.Limit)
}

// ModelPanic is the error of a model whose Step panics.
type ModelPanic struct {
	// What Step was called with, and what it panics with.
	What  string
	Stack []byte
}

func (p *ModelPanic) Error() string { return "the model panics: " + p.What }

// Linearizable looks for an order of the operations that the model explains and that
// fits the times. It gives up after a limit, with an *Undecided: the search takes time
// that grows fast with the operations that overlap in one of the model's partitions.
// The order of the indexes is tried before.
//
// Of an operation whose outcome is not known Step gets a nil output: it must return
// true, and the state that the operation leads to. Those that are ReadOnly are left
// out. The model's operations have the ClientId of the history's.
func Linearizable(h History, m porcupine.Model, limit time.Duration) error {
	history := make([]porcupine.Operation, 0, len(h))
	for i := range h {
		o := &h[i]
		if o.Outcome == Failed || o.Outcome == Unknown && o.ReadOnly {
			continue
		}
		p := porcupine.Operation{ClientId: o.Client, Input: o.Input, Call: o.Call, Return: o.ended(), Metadata: o}
		if o.Outcome == OK {
			p.Output = o.Output
		}
		history = append(history, p)
	}
	model, panicked := calm(m)
	result := porcupine.Unknown
	if explainedByIndex(model, history) {
		return nil
	}
	if panicked.Load() == nil {
		result = porcupine.CheckOperationsTimeout(model, history, limit)
	}
	switch p := panicked.Load(); {
	case p != nil:
		return p
	case result == porcupine.Unknown:
		return &Undecided{Operations: len(history), Limit: limit}
	case result == porcupine.Illegal:
		stops := stopsAt(model, history, limit)
		return contradiction(ruleLinearizable, stops, "there is no order of the %d operations that explains them; the longest one that was found stops at the last of these", len(history))
	}
	return nil
}

// of is the operation of the history that one of porcupine's was made of; nil if the
// model's Partition made it.
func of(p porcupine.Operation) *Operation {
	o, _ := p.Metadata.(*Operation)
	return o
}

// explainedByIndex says whether the order of the indexes explains a history: it is the
// one to expect, and one that explains is enough. To look for another takes long.
func explainedByIndex(model porcupine.Model, history []porcupine.Operation) bool {
	if model.Step == nil {
		return false
	}
	parts := partition(model, history)
	for _, p := range slices.Concat(parts...) {
		if o := of(p); o == nil || o.Index == 0 && !o.ReadOnly {
			return false
		}
	}
	at := func(p porcupine.Operation) uint64 { // a read stands behind what it saw
		if o := of(p); o.ReadOnly {
			return 2*o.Index + 1
		}
		return 2 * of(p).Index
	}
	for _, part := range parts {
		part = slices.Clone(part)
		slices.SortFunc(part, func(a, b porcupine.Operation) int {
			return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a.Call, b.Call))
		})
		state, ok := model.Init(), true
		latest := int64(math.MinInt64) // the latest call so far: nothing behind it returned before
		for _, p := range part {
			if latest = max(latest, p.Call); p.Return < latest {
				return false
			}
			if ok, state = model.Step(state, p.Input, p.Output); !ok {
				return false
			}
		}
	}
	return true
}

// calm is a model whose Step does not panic, but says so. Porcupine calls it in
// goroutines of its own.
func calm(m porcupine.Model) (porcupine.Model, *atomic.Pointer[ModelPanic]) {
	var panicked atomic.Pointer[ModelPanic]
	if step := m.Step; step != nil {
		m.Step = func(state, input, output any) (ok bool, next any) {
			defer func() {
				if r := recover(); r != nil {
					p := &ModelPanic{What: fmt.Sprintf("Step(%v, %v, %v): %v", state, input, output, r), Stack: debug.Stack()}
					panicked.CompareAndSwap(nil, p)
					ok, next = false, state
				}
			}()
			return step(state, input, output)
		}
	}
	return m, &panicked
}

// partition is the parts of a history that a model looks at one by one.
func partition(model porcupine.Model, history []porcupine.Operation) [][]porcupine.Operation {
	if model.Partition == nil {
		return [][]porcupine.Operation{history}
	}
	return model.Partition(history)
}

// stopsAt returns the operation that returned first of those that the best attempt at
// an order leaves out, with the last one of that order before it.
func stopsAt(model porcupine.Model, history []porcupine.Operation, limit time.Duration) []Operation {
	// The model's own may return the parts in another order each time.
	parts := partition(model, history)
	model.Partition = func([]porcupine.Operation) [][]porcupine.Operation { return parts }
	_, info := porcupine.CheckOperationsVerbose(model, history, limit)
	orders := info.PartialLinearizationsOperations()
	var first, before *Operation
	for i, part := range parts {
		var best []porcupine.Operation
		if i < len(orders) {
			for _, order := range orders[i] {
				if len(order) > len(best) {
					best = order
				}
			}
		}
		explained := map[*Operation]bool{}
		for _, p := range best {
			explained[of(p)] = true
		}
		for _, p := range part {
			if o := of(p); o == nil || explained[o] || first != nil && o.ended() >= first.ended() {
				continue
			}
			if first, before = of(p), nil; len(best) > 0 {
				before = of(best[len(best)-1])
			}
		}
	}
	var stops []Operation
	for _, o := range []*Operation{before, first} {
		if o != nil {
			stops = append(stops, *o)
		}
	}
	return stops
}
