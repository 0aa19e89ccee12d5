package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Append is the Input of an operation that appends a value to the list under a key.
// No value is appended to a list twice. Its Output does not count.
type Append struct{ Key, Value string }

func (a Append) String() string { return fmt.Sprintf("append(%s, %s)", a.Key, a.Value) }

// ReadList is the Input of an operation that reads the list under a key. Its Output
// is []string; it is ReadOnly.
type ReadList struct{ Key string }

func (r ReadList) String() string { return fmt.Sprintf("list(%s)", r.Key) }

// The rules of Lists.
const (
	ruleGrow     = "a list only grows: of what two reads saw of it one is how the other begins"
	ruleTwice    = "a list has every value once"
	ruleAppended = "a list has only what was appended to it, and nothing of which that certainly failed"
	ruleListed   = "what returned before another operation on the list was called comes before it"
)

// Lists checks lists to which clients append values, each of them once. Together its
// rules are linearizability: the values say in which order everything took effect, so
// that there is nothing to search for.
func Lists(h History) error {
	keys := map[string]*list{}
	of := func(key string) *list {
		if keys[key] == nil {
			keys[key] = &list{appended: map[string]*Operation{}}
		}
		return keys[key]
	}
	for i := range h {
		o := &h[i]
		switch in := o.Input.(type) {
		case Append:
			l := of(in.Key)
			if other := l.appended[in.Value]; other != nil {
				return fmt.Errorf("check: operations %d and %d both append %s to the list %s: with equal values nothing can be said", other.ID, o.ID, in.Value, in.Key)
			}
			l.appended[in.Value] = o
		case ReadList:
			if o.Outcome == OK {
				l := of(in.Key)
				l.reads = append(l.reads, o)
			}
		default:
			return fmt.Errorf("check: operation %d has the input %T: a list has Append and ReadList", o.ID, o.Input)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if err := keys[key].check(); err != nil {
			return err
		}
	}
	return nil
}

// list is one of them.
type list struct {
	appended map[string]*Operation
	reads    []*Operation
}

func seenBy(read *Operation) []string {
	values, _ := read.Output.([]string)
	return values
}

func (l *list) check() error {
	slices.SortStableFunc(l.reads, func(a, b *Operation) int { return cmp.Compare(len(seenBy(a)), len(seenBy(b))) })
	// Each is how the next longer one begins, and so the longest has all of them.
	for i := 1; i < len(l.reads); i++ {
		short, long := seenBy(l.reads[i-1]), seenBy(l.reads[i])
		for j := range short {
			if short[j] != long[j] {
				return contradiction(ruleGrow, []Operation{*l.reads[i-1], *l.reads[i]}, "one saw %s as value %d, and the other %s", short[j], j+1, long[j])
			}
		}
	}
	at := map[string]int{}
	if len(l.reads) > 0 {
		longest := l.reads[len(l.reads)-1]
		for i, value := range seenBy(longest) {
			a := l.appended[value]
			first, twice := at[value]
			switch {
			case a == nil:
				return contradiction(ruleAppended, []Operation{*longest}, "value %d, %s, was not appended", i+1, value)
			case a.Outcome == Failed:
				return contradiction(ruleAppended, []Operation{*a, *longest}, "value %d is of an append that certainly failed", i+1)
			case twice:
				return contradiction(ruleTwice, []Operation{*a, *longest}, "%s is there as value %d and as value %d", value, first+1, i+1)
			}
			at[value] = i
		}
	}
	return l.ordered(at)
}

// ordered compares the places of all operations with their times. An append is where
// its value is, or behind everything if nobody saw that. A read is behind the last
// value that it saw.
func (l *list) ordered(at map[string]int) error {
	var all History
	for _, value := range slices.Sorted(maps.Keys(l.appended)) {
		if a := l.appended[value]; a.Outcome != Failed {
			all = append(all, *a)
		}
	}
	for _, r := range l.reads {
		all = append(all, *r)
	}
	place := func(o *Operation) uint64 {
		a, isAppend := o.Input.(Append)
		if !isAppend {
			return 2 * uint64(len(seenBy(o)))
		}
		if i, ok := at[a.Value]; ok {
			return 2*uint64(i) + 1
		}
		return math.MaxUint64
	}
	if before, after := misplaced(all, place); before != nil {
		return contradiction(ruleListed, []Operation{*before, *after}, "operation %d had returned when operation %d was called: %s", before.ID, after.ID, l.instead(at, before, after))
	}
	return nil
}

// instead says how two operations are in the wrong order.
func (l *list) instead(at map[string]int, before, after *Operation) string {
	a, appends := before.Input.(Append)
	_, appendsToo := after.Input.(Append)
	_, seen := at[a.Value]
	switch {
	case appends && !seen:
		return "its value is not there"
	case appends && appendsToo:
		return "its value comes later in the list"
	case appends:
		return "its value is not seen"
	case appendsToo:
		return "it saw the value that was appended after it"
	}
	return "it saw more of the list"
}
