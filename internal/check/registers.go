package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Put is the Input of an operation that sets a register. A register that was never
// set has the empty value. The Output does not count.
type Put struct{ Key, Value string }

func (p Put) String() string { return fmt.Sprintf("put(%s, %s)", p.Key, p.Value) }

// Swap is the Input of an operation that sets a register to New if it has the value
// Old, and else leaves it alone. The Output is a bool: whether it did.
type Swap struct{ Key, Old, New string }

func (s Swap) String() string { return fmt.Sprintf("swap(%s, %s, %s)", s.Key, s.Old, s.New) }

// Get is the Input of an operation that reads a register. The Output is its value, a
// string; it is ReadOnly.
type Get struct{ Key string }

func (g Get) String() string { return fmt.Sprintf("get(%s)", g.Key) }

// keyOf is the register that an input is about.
func keyOf(input any) (key string, ok bool) {
	switch in := input.(type) {
	case Put:
		return in.Key, true
	case Swap:
		return in.Key, true
	case Get:
		return in.Key, true
	}
	return "", false
}

// Registers checks registers with compare-and-swap: whether the history is
// linearizable, as Linearizable does.
func Registers(h History, limit time.Duration) error {
	for i := range h {
		if _, ok := keyOf(h[i].Input); !ok {
			return fmt.Errorf("check: operation %d has the input %T: a register has Put, Swap and Get", h[i].ID, h[i].Input)
		}
	}
	return Linearizable(h, RegisterModel, limit)
}

// RegisterModel is what one register does in the hands of one client.
var RegisterModel = porcupine.Model{
	// Keys do not touch each other.
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		sorted := slices.Clone(history)
		key := func(o porcupine.Operation) string { k, _ := keyOf(o.Input); return k }
		slices.SortStableFunc(sorted, func(a, b porcupine.Operation) int { return strings.Compare(key(a), key(b)) })
		var parts [][]porcupine.Operation
		for i := range sorted {
			if i == 0 || key(sorted[i]) != key(sorted[i-1]) {
				parts = append(parts, nil)
			}
			parts[len(parts)-1] = append(parts[len(parts)-1], sorted[i])
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		switch in := input.(type) {
		case Put:
			return true, in.Value
		case Swap:
			swapped, known := output.(bool)
			if state == in.Old {
				return swapped || !known, in.New
			}
			return !swapped, state
		}
		return state == output, state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
}
