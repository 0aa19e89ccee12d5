package sim

// What is checked when a story is over: the whole log once more, and what clients
// saw.

import (
	"bytes"
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/node"
)

// finish looks at the whole story when all is quiet.
func (c *checker) finish() {
	for _, o := range c.ops {
		if o.outcome == done && !o.query && o.committed != o.index {
			c.w.fail("what is acknowledged is committed", "operation %d was acknowledged at %d and is committed at %d", o.id, o.index, o.committed)
		}
		if o.outcome == done && o.query {
			for i := o.applied + 1; i <= o.index; i++ {
				if c.ledger[i].command {
					c.w.fail("a read sees what its index says", "operation %d read at index %d on %s, whose state machine was at %d and lacked the command at %d", o.id, o.index, o.member.name(), o.applied, i)
				}
			}
		}
	}
	results := c.replay()
	c.history(results)
}

// replay gives the whole committed log to a new state machine: every result, the
// states where states are compared, and every answer to a query must be what the
// members had.
func (c *checker) replay() map[uint64][]byte {
	queries := map[uint64][]*op{}
	for _, o := range c.ops {
		if o.query && o.outcome == done {
			queries[o.applied] = append(queries[o.applied], o)
		}
	}
	sm, results := c.w.cfg.New(), map[uint64][]byte{}
	last := uint64(0)
	for i := range uint64(len(c.ledger)) {
		if e := &c.ledger[i]; e.command {
			last = i
			result, err := c.apply("a replay", sm, i)
			if err != nil {
				return nil
			}
			if bytesHash(result) != e.result {
				c.w.fail("the state machine is deterministic", "a replay gets another result for the command at %d (%s) than %s: %s", i, c.w.cfg.describe(e.data[opHead:]), e.shown, show(result)+deterministic)
				return nil
			}
			results[i] = bytes.Clone(result)
		}
		if !c.answers(sm, i, queries[i]) || checkpoint(i) && !c.replayed(sm, i) {
			return nil
		}
	}
	for _, m := range c.w.running() {
		if m.machine.applied == last {
			c.state(m)
		}
	}
	if c.replayed(sm, last) && c.w.cfg.audit != nil {
		c.w.cfg.audit(c, sm)
	}
	return results
}

// replayed compares the state of a replay with what members had.
func (c *checker) replayed(sm node.StateMachine, at uint64) bool {
	was, ok := c.states[at]
	if !ok {
		return true
	}
	d, err := c.w.digest("the replay", sm)
	if err == nil && d.hash != was.hash && c.stable("the replay", sm) {
		c.w.fail("snapshot and tail are the full replay", "the state of %s at %d is not that of a replay of the log%s", was.by, at, d.differs(was)+deterministic)
	}
	return c.w.failed == nil
}

// answers: a query has the same answer wherever it is asked, as long as the same
// commands are applied there.
func (c *checker) answers(sm node.StateMachine, at uint64, queries []*op) bool {
	for _, o := range queries {
		var output []byte
		if c.w.tested("a replay: Options.Read", func() error {
			output = c.w.cfg.Read(sm, o.input)
			return nil
		}) != nil {
			return false
		}
		if !bytes.Equal(output, o.output) {
			c.w.fail("equal states give equal answers", "%s answered %s at %d with %s, and a replay of the log answers with %s: does Read use something that is not in the snapshot, or change the state?",
				o.member.name(), c.w.cfg.describe(o.input), at, show(o.output), show(output))
			return false
		}
	}
	return true
}

// seenAt is the first moment at which a client saw an index, or a higher one.
func (c *checker) seenAt(index uint64) uint64 {
	at := c.moment + 1
	for _, o := range c.ops {
		if o.outcome == done && o.index >= index {
			at = min(at, o.returned)
		}
	}
	return at
}

// porcupineTimeout bounds the search for an order; without one found by then the
// history counts as wrong.
const porcupineTimeout = time.Minute

// history: what clients saw is what some one of them would have seen alone. The
// search takes time that grows fast with the operations that overlap on one key;
// Options.Operations keeps them below a thousand a key for the simulator's own
// state machine, and below a thousand in all for others. No answer in time counts
// as wrong.
func (c *checker) history(results map[uint64][]byte) {
	if c.w.cfg.Model == nil || c.w.failed != nil {
		return
	}
	var history []porcupine.Operation
	for _, o := range c.ops {
		p := porcupine.Operation{ClientId: o.client.number, Input: o.input, Call: int64(o.called), Output: o.output, Return: int64(o.returned)}
		switch {
		case o.outcome == done:
		case o.committed != 0:
			// Its client does not know, but the log does: it took effect before anything
			// behind it returned.
			p.Output, p.Return = results[o.committed], int64(c.seenAt(o.committed))
			p.ClientId = len(c.w.clients) + int(o.id)
		default:
			continue
		}
		history = append(history, p)
	}
	model, panicked := calm(*c.w.cfg.Model)
	res := porcupine.Unknown
	if c.w.tested("Options.Model", func() error {
		if c.logExplains(model, history) {
			res = porcupine.Ok
		} else if panicked.Load() == nil {
			res = porcupine.CheckOperationsTimeout(model, history, porcupineTimeout)
		}
		return nil
	}) != nil {
		return
	}
	switch p := panicked.Load(); {
	case p != nil:
		c.w.fail("the model does not panic", "%s", *p)
	case res == porcupine.Unknown:
		c.w.fail("linearizability", "no order of the %d operations that explains them was found in %v: give Options.Model a Partition, or fewer Operations", len(history), porcupineTimeout)
	case res == porcupine.Illegal:
		c.w.fail("linearizability", "there is no order of the %d operations that explains them%s", len(history), c.unexplained(model, history))
	}
}

// logExplains says whether the order of the log explains a history: it is the one to
// expect, and one that explains is enough. To look for another takes long.
func (c *checker) logExplains(model porcupine.Model, history []porcupine.Operation) bool {
	if model.Step == nil {
		return false
	}
	ops := map[int64]*op{} // by their call, which is a moment of its own
	for _, o := range c.ops {
		ops[int64(o.called)] = o
	}
	at := func(p porcupine.Operation) uint64 { // a query stands behind what it saw
		o := ops[p.Call]
		if o.query {
			return 2*o.applied + 1
		}
		return 2 * o.committed
	}
	parts := [][]porcupine.Operation{history}
	if model.Partition != nil {
		parts = model.Partition(history)
	}
	for _, part := range parts {
		part = slices.Clone(part)
		slices.SortFunc(part, func(a, b porcupine.Operation) int {
			return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a.Call, b.Call))
		})
		state, ok := model.Init(), true
		latest := int64(0) // the latest call so far: nothing behind it returned before
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
func calm(m porcupine.Model) (porcupine.Model, *atomic.Pointer[string]) {
	var panicked atomic.Pointer[string]
	if step := m.Step; step != nil {
		m.Step = func(state, input, output any) (ok bool, next any) {
			defer func() {
				if r := recover(); r != nil {
					p := fmt.Sprintf("Step(%v, %v, %v): %v\n%s", state, input, output, r, stackOf(debug.Stack()))
					panicked.CompareAndSwap(nil, &p)
					ok, next = false, state
				}
			}()
			return step(state, input, output)
		}
	}
	return m, &panicked
}

// unexplained names the operation that returned first of those that the best
// attempt at an order leaves out.
func (c *checker) unexplained(model porcupine.Model, history []porcupine.Operation) string {
	_, info := porcupine.CheckOperationsVerbose(model, history, porcupineTimeout)
	explained := map[int64]bool{} // by their call, which is a moment of its own
	for _, part := range info.PartialLinearizationsOperations() {
		var best []porcupine.Operation
		for _, order := range part {
			if len(order) > len(best) {
				best = order
			}
		}
		for _, o := range best {
			explained[o.Call] = true
		}
	}
	history = slices.DeleteFunc(slices.Clone(history), func(o porcupine.Operation) bool { return explained[o.Call] })
	if len(history) == 0 {
		return ""
	}
	first := slices.MinFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, o := range c.ops {
		if int64(o.called) == first.Call {
			return fmt.Sprintf("; an order of the others stops at operation %d, %s at index %d, which returned %s", o.id, c.w.cfg.describe(o.input), max(o.index, o.committed), show(first.Output.([]byte)))
		}
	}
	return ""
}
