package sim

// What is checked when a story is over: the whole log once more, and what clients
// saw.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/octopii/octopii/internal/check"
	"github.com/octopii/octopii/node"
)

// finish looks at the whole story when all is quiet.
func (c *calls) finish() {
	if err := check.ExactlyOnce(c.recorded(), c.commands()); err != nil {
		c.w.fail("what is acknowledged is committed", "%v", err)
	}
	for _, o := range c.ops {
		if o.outcome == done && o.query {
			for i := o.applied + 1; i <= o.index; i++ {
				if c.ledger[i].command {
					c.w.fail("a read sees what its index says", "operation %d read at index %d on %s, whose state machine was at %d and lacked the command at %d", o.id, o.index, o.member.name(), o.applied, i)
				}
			}
		}
	}
	if results, final := c.replay(); final != nil {
		c.clientsSaw(results, final)
	}
}

// recorded is what clients know of their operations.
func (c *calls) recorded() check.History {
	h := make(check.History, len(c.ops))
	for i, o := range c.ops {
		h[i] = o.recorded()
	}
	return h
}

// recorded is what its client knows of an operation.
func (o *op) recorded() check.Operation {
	r := check.Operation{ID: o.id, Input: o.input, Output: o.output, ReadOnly: o.query, Call: int64(o.called), Return: int64(o.returned), Index: o.index}
	if o.client != nil {
		r.Client = o.client.number
	}
	switch o.outcome {
	case done:
		r.Outcome = check.OK
	case notCommitted:
		r.Outcome = check.Failed
	}
	return r
}

// commands are the operations in the committed log.
func (c *calls) commands() []check.Entry {
	var log []check.Entry
	for i := range c.ledger {
		if e := &c.ledger[i]; e.command {
			log = append(log, check.Entry{ID: binary.LittleEndian.Uint64(e.data), Index: uint64(i)})
		}
	}
	return log
}

// replay gives the whole committed log to a new state machine: every result, the
// states where states are compared, and every answer to a query must be what the
// members had. It returns the results and the state in the end; nil if the replay
// stopped before it.
func (c *calls) replay() (map[uint64][]byte, node.StateMachine) {
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
				return nil, nil
			}
			if bytesHash(result) != e.result {
				c.w.fail("the state machine is deterministic", "a replay gets another result for the command at %d (%s) than %s: %s", i, c.w.cfg.describe(e.data[opHead:]), e.shown, show(result)+deterministic)
				return nil, nil
			}
			results[i] = bytes.Clone(result)
		}
		if !c.answers(sm, i, queries[i]) || checkpoint(i) && !c.replayed(sm, i) {
			return nil, nil
		}
	}
	for _, m := range c.w.running() {
		if m.machine.applied == last {
			c.state(m)
		}
	}
	if !c.replayed(sm, last) {
		return nil, nil
	}
	return results, sm
}

// replayed compares the state of a replay with what members had.
func (c *calls) replayed(sm node.StateMachine, at uint64) bool {
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
func (c *calls) answers(sm node.StateMachine, at uint64, queries []*op) bool {
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
func (c *calls) seenAt(index uint64) uint64 {
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

// clientsSaw: what clients saw is what some one of them would have seen alone. The
// search for an order takes time that grows fast with the operations that overlap on
// one key; Options.Operations keeps them below a thousand a key for the simulator's own
// state machine, and below a thousand in all for others. No answer in time counts
// as wrong.
func (c *calls) clientsSaw(results map[uint64][]byte, final node.StateMachine) {
	h := c.settled(results)
	var err error
	switch {
	case c.w.cfg.audit != nil:
		err = c.w.cfg.audit(c, h, final)
	case c.w.cfg.Model != nil:
		if c.w.tested("Options.Model", func() error {
			err = check.Linearizable(h, *c.w.cfg.Model, porcupineTimeout)
			return nil
		}) != nil {
			return
		}
	}
	switch e := err.(type) {
	case nil:
	case *check.ModelPanic:
		c.w.fail("the model does not panic", "%s\n%s", e.What, stackOf(e.Stack))
	case *check.Undecided:
		c.w.fail("linearizability", "no order of the %d operations that explains them was found in %v: give Options.Model a Partition, or fewer Operations", e.Operations, e.Limit)
	case *check.Contradiction:
		c.w.fail("linearizability", "%s: %s%s", e.Rule, e.Detail, c.involved(e.Operations, results))
	default:
		c.w.fail("linearizability", "%v", err)
	}
}

// settled is what clients know, and what the log knows of the operations of which they do
// not: they took effect before anything behind them returned, or never. The index of
// a query is how far the state machine was that it saw.
func (c *calls) settled(results map[uint64][]byte) check.History {
	h := c.recorded()
	for i, o := range c.ops {
		r := &h[i]
		switch {
		case o.outcome == done && o.query:
			r.Index = o.applied
		case o.outcome == done:
		case o.committed != 0:
			r.Outcome, r.Index, r.Output, r.Return = check.OK, o.committed, results[o.committed], int64(c.seenAt(o.committed))
			r.Client = len(c.w.clients) + int(o.id)
		default:
			r.Outcome = check.Failed
		}
	}
	return h
}

// involved lists operations.
func (c *calls) involved(of []check.Operation, results map[uint64][]byte) string {
	var b strings.Builder
	for i := range of {
		o := c.ops[of[i].ID-1]
		output := o.output
		if o.outcome != done {
			output = results[o.committed]
		}
		fmt.Fprintf(&b, "; operation %d, %s at index %d, returned %s", o.id, c.w.cfg.describe(o.input), max(o.index, o.committed), show(output))
	}
	return b.String()
}
