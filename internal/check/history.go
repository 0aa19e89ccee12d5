// Package check looks at what clients saw of a cluster, and says which of it
// cannot be true. It knows a history and nothing else: not whether a simulator or
// a program that breaks real processes recorded it.
//
// Each checker is a function from a History to an error:
//
//	Linearizable   some order explains every answer by a sequential model, and fits the times
//	Registers      the same, for registers with compare-and-swap
//	Lists          lists to which clients append lose, double and reorder nothing
//	InOrder        the numbers that a cluster gives its operations fit the times
//	ExactlyOnce    the log has what was acknowledged once, and what failed never
//
// A checker that finds something returns a *Contradiction, which names the
// operations. Order checks what InOrder does, but operation by operation.
package check

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Outcome is what a client knows of an operation.
type Outcome uint8

const (
	// Unknown: it took effect after its call, maybe long after the client stopped
	// waiting, or it never does. An operation that has not returned is one.
	Unknown Outcome = iota
	// OK: it took effect between its call and its return.
	OK
	// Failed: it certainly took no effect, and never will.
	Failed
)

func (o Outcome) String() string {
	switch o {
	case OK:
		return "ok"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Operation is one call of one client.
type Operation struct {
	// ID is its number in the history; no two are equal. 0: none.
	ID uint64
	// Client made it.
	Client int
	// Input is what was asked for, and Output the answer if the Outcome is OK. Which
	// types they have is up to the checker or its model.
	Input, Output any
	// ReadOnly: it changes nothing.
	ReadOnly bool
	// Call and Return are when it began and ended, in one clock for all clients that
	// never goes back, in any unit. One that returned at the moment at which another
	// was called overlaps it. Return counts only if the Outcome is OK.
	Call, Return int64
	Outcome      Outcome
	// Index is its place among those that change something, as the cluster told it; of
	// one that is ReadOnly the place of the last one before it. 0: not told.
	Index uint64
}

func (o Operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "operation %d of client %d, %s", o.ID, o.Client, shown(o.Input))
	if o.Outcome == OK {
		fmt.Fprintf(&b, " -> %s", shown(o.Output))
		if o.Index != 0 {
			fmt.Fprintf(&b, " at index %d", o.Index)
		}
		fmt.Fprintf(&b, ", from %d to %d", o.Call, o.Return)
		return b.String()
	}
	fmt.Fprintf(&b, ", called at %d, %v", o.Call, o.Outcome)
	return b.String()
}

// shown shows an input or an output. What is long is cut.
func shown(v any) string {
	const most = 200
	s := fmt.Sprint(v)
	if b, ok := v.([]byte); ok {
		s = fmt.Sprintf("%x", b)
	}
	if len(s) > most {
		return fmt.Sprintf("%s... (%d more)", s[:most], len(s)-most)
	}
	return s
}

// ended is when it took effect at the latest.
func (o *Operation) ended() int64 {
	if o.Outcome == OK {
		return o.Return
	}
	return math.MaxInt64
}

// History is what clients did, in any order.
type History []Operation

// Contradiction is what a checker found: under its rule the operations cannot all
// be as they say.
type Contradiction struct {
	// Rule is a sentence that holds for every history of a correct cluster.
	Rule string
	// Operations are the ones that contradict each other, in the order of the rule. A
	// single one contradicts the rule by itself.
	Operations []Operation
	// Detail says in what they contradict it.
	Detail string
}

func (c *Contradiction) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", c.Rule, c.Detail)
	for _, o := range c.Operations {
		fmt.Fprintf(&b, "\n\t%v", o)
	}
	return b.String()
}

// contradiction returns one about some operations.
func contradiction(rule string, of []Operation, format string, args ...any) *Contradiction {
	return &Contradiction{Rule: rule, Operations: of, Detail: fmt.Sprintf(format, args...)}
}

// misplaced returns two operations in the wrong order: before returned before after
// was called, and its place is higher. It returns nil if all places fit the times.
func misplaced(h History, place func(*Operation) uint64) (before, after *Operation) {
	calls := make([]*Operation, 0, len(h))
	for i := range h {
		calls = append(calls, &h[i])
	}
	returns := slices.Clone(calls)
	slices.SortStableFunc(calls, func(a, b *Operation) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortStableFunc(returns, func(a, b *Operation) int { return cmp.Compare(a.ended(), b.ended()) })
	var highest *Operation
	for _, o := range calls {
		for len(returns) > 0 && returns[0].ended() < o.Call {
			if r := returns[0]; highest == nil || place(r) > place(highest) {
				highest = r
			}
			returns = returns[1:]
		}
		if highest != nil && place(highest) > place(o) {
			return highest, o
		}
	}
	return nil, nil
}
