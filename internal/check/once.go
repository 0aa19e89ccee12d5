package check

// The rules of ExactlyOnce.
const (
	ruleAsked  = "the log has nothing that no client asked for"
	ruleOnce   = "the log has every operation once"
	ruleFailed = "what certainly failed is not in the log"
	ruleKept   = "what was acknowledged is in the log, where the client was told"
	ruleFits   = "the log is in an order that fits the times"
)

// Entry is an operation in the log of a cluster, or in the order in which a state
// machine applied them.
type Entry struct {
	// ID is the operation's, which the client sent along.
	ID uint64
	// Index is its place in the log; 0: not known.
	Index uint64
}

// ExactlyOnce compares a history with the log that the cluster has when all of it is
// over. Of the operations whose outcome is not known the log may have each once. The
// ones that are ReadOnly are in no log.
func ExactlyOnce(h History, log []Entry) error {
	asked, at := make(map[uint64]*Operation, len(h)), make(map[uint64]int, len(log))
	for i := range h {
		asked[h[i].ID] = &h[i]
	}
	inLog := make(History, 0, len(log))
	for i, e := range log {
		o := asked[e.ID]
		if o == nil || o.ReadOnly {
			return contradiction(ruleAsked, nil, "entry %d of the log, at index %d, is of operation %d, which no client proposed", i+1, e.Index, e.ID)
		}
		if first, ok := at[e.ID]; ok {
			return contradiction(ruleOnce, []Operation{*o}, "operation %d is in the log twice, at index %d and at index %d", e.ID, log[first].Index, e.Index)
		}
		if o.Outcome == Failed {
			return contradiction(ruleFailed, []Operation{*o}, "operation %d is in the log at index %d", e.ID, e.Index)
		}
		at[e.ID] = i
		inLog = append(inLog, *o)
	}
	for i := range h {
		o := &h[i]
		if o.Outcome != OK || o.ReadOnly {
			continue
		}
		found, ok := at[o.ID]
		switch {
		case !ok:
			return contradiction(ruleKept, []Operation{*o}, "operation %d was acknowledged and is not in the log", o.ID)
		case o.Index != 0 && log[found].Index != 0 && o.Index != log[found].Index:
			return contradiction(ruleKept, []Operation{*o}, "operation %d was acknowledged at index %d and is in the log at index %d", o.ID, o.Index, log[found].Index)
		}
	}
	if before, after := misplaced(inLog, func(o *Operation) uint64 { return uint64(at[o.ID]) }); before != nil {
		return contradiction(ruleFits, []Operation{*before, *after}, "operation %d had returned when operation %d was called, and is behind it in the log", before.ID, after.ID)
	}
	return nil
}
