package check

import "slices"

// The rules of Order.
const (
	ruleOrder = "the index of an operation is higher than all that anybody saw before it was called"
	ruleReads = "no read is older than what anybody saw before it was called"
	ruleIndex = "no two operations have the same index"
)

// Order checks operations while they come and go: whatever an operation saw is
// not newer than what one sees or does that is called after it returned. The zero
// value has seen nothing.
type Order struct{ newest *Operation }

// Newest is the operation with the highest index that has returned so far, or nil.
// A caller notes it when an operation is called.
func (r *Order) Newest() *Operation { return r.newest }

// Index is that of Newest, or 0.
func (r *Order) Index() uint64 {
	if r.newest == nil {
		return 0
	}
	return r.newest.Index
}

// Returned takes in an operation that ended. known is what Newest returned when it
// was called. The error is a *Contradiction.
func (r *Order) Returned(o, known *Operation) error {
	if o.Outcome != OK || o.Index == 0 && !o.ReadOnly {
		return nil
	}
	if known != nil {
		switch {
		case o.ReadOnly && o.Index < known.Index:
			return contradiction(ruleReads, []Operation{*known, *o}, "operation %d read at index %d, and when it was called operation %d had seen index %d", o.ID, o.Index, known.ID, known.Index)
		case !o.ReadOnly && o.Index <= known.Index:
			return contradiction(ruleOrder, []Operation{*known, *o}, "operation %d is at index %d, and when it was called operation %d had seen index %d", o.ID, o.Index, known.ID, known.Index)
		}
	}
	if r.newest == nil || o.Index > r.newest.Index {
		r.newest = o
	}
	return nil
}

// InOrder checks the indexes that a cluster told its clients. Operations without an
// index tell nothing, but for those that are ReadOnly: they saw nothing then.
func InOrder(h History) error {
	// A read is behind the operation whose index it has.
	place := func(o *Operation) uint64 {
		if o.ReadOnly {
			return 2*o.Index + 1
		}
		return 2 * o.Index
	}
	told := slices.DeleteFunc(slices.Clone(h), func(o Operation) bool { return o.Outcome != OK || o.Index == 0 && !o.ReadOnly })
	if before, after := misplaced(told, place); before != nil {
		var r Order
		return r.Returned(after, before)
	}
	at := map[uint64]*Operation{}
	for i := range told {
		o := &told[i]
		if o.ReadOnly {
			continue
		}
		if other := at[o.Index]; other != nil {
			return contradiction(ruleIndex, []Operation{*other, *o}, "operations %d and %d are both at index %d", other.ID, o.ID, o.Index)
		}
		at[o.Index] = o
	}
	return nil
}
