package nodetest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/nodetest"
)

// bank is a state machine: accounts by name, and what is in them. Its commands are
// text: "pay NAME AMOUNT", which opens an account too, "move NAME NAME AMOUNT", and
// "close", which closes the account with the least in it.
type bank struct{ accounts map[string]int }

func newBank() *bank { return &bank{accounts: map[string]int{}} }

func (b *bank) Durable() (uint64, bool) { return 0, false }

func (b *bank) Apply(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i, e := range entries {
		results[i] = []byte(b.apply(string(e.Data), b.poorest))
	}
	return results, nil
}

func (b *bank) apply(command string, poorest func() string) string {
	var name, to string
	var amount int
	switch word, rest, _ := strings.Cut(command, " "); word {
	case "pay":
		_, _ = fmt.Sscan(rest, &name, &amount)
		b.accounts[name] += amount
		return fmt.Sprint(b.accounts[name])
	case "move":
		_, _ = fmt.Sscan(rest, &name, &to, &amount)
		if b.accounts[name] < amount || b.accounts[to] == 0 {
			return "refused"
		}
		b.accounts[name] -= amount
		b.accounts[to] += amount
		return "moved"
	default:
		name := poorest()
		delete(b.accounts, name)
		return name
	}
}

// poorest is the account with the least in it: of several, the first by name.
func (b *bank) poorest() string {
	least := ""
	for _, name := range slices.Sorted(maps.Keys(b.accounts)) {
		if least == "" || b.accounts[name] < b.accounts[least] {
			least = name
		}
	}
	return least
}

// Snapshot encodes at once: later commands must not change what is written.
func (b *bank) Snapshot() (node.Snapshot, error) {
	data, err := json.Marshal(b.accounts) // in the order of the names
	return encoded(data), err
}

// Restore replaces: what is not in the snapshot must be gone.
func (b *bank) Restore(_ uint64, r io.Reader) error {
	b.accounts = map[string]int{}
	return json.NewDecoder(r).Decode(&b.accounts)
}

// encoded is a snapshot.
type encoded []byte

func (e encoded) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(e)
	return int64(n), err
}

func (encoded) Close() error { return nil }

// balance answers a query, which is the name of an account.
func (b *bank) balance(name []byte) []byte { return fmt.Append(nil, b.accounts[string(name)]) }

var names = []string{"ann", "bob", "cat", "dan", "eve", "fay"}

// drawCommand draws a command: few accounts and small amounts, so that clients get
// in each other's way.
func drawCommand(rnd *rand.Rand) []byte {
	name, to := names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]
	switch rnd.IntN(4) {
	case 0:
		return []byte("close")
	case 1:
		return fmt.Appendf(nil, "move %s %s %d", name, to, 1+rnd.IntN(3))
	}
	return fmt.Appendf(nil, "pay %s %d", name, 1+rnd.IntN(3))
}

func drawQuery(rnd *rand.Rand) []byte { return []byte(names[rnd.IntN(len(names))]) }

// bankModel is a bank with one client: its state is what a snapshot has.
var bankModel = porcupine.Model{
	Init: func() any { return "{}" },
	Step: func(state, input, output any) (bool, any) {
		b := newBank()
		if err := b.Restore(0, strings.NewReader(state.(string))); err != nil {
			return false, state
		}
		command := input.([]byte)
		if slices.Contains(names, string(command)) {
			return string(b.balance(command)) == string(output.([]byte)), state
		}
		if b.apply(string(command), b.poorest) != string(output.([]byte)) {
			return false, state
		}
		data, err := json.Marshal(b.accounts)
		return err == nil, string(data)
	},
}

// bankOptions check a bank, or one of its relatives.
func bankOptions(sm func() node.StateMachine) nodetest.Options {
	return nodetest.Options{
		New:     sm,
		Command: drawCommand,
		Query:   drawQuery,
		Read: func(sm node.StateMachine, query []byte) []byte {
			return sm.(interface{ balance([]byte) []byte }).balance(query)
		},
		Model:    &bankModel,
		Describe: func(input []byte) string { return string(input) },
	}
}

// This is all that a test of a state machine needs.
func TestBank(t *testing.T) {
	o := bankOptions(func() node.StateMachine { return newBank() })
	o.Seeds = 6 // a state machine of one's own leaves the default
	nodetest.Run(t, o)
}

// hasty is a bank with a mistake: of several accounts with the least in them it
// closes the one that comes first in the order of a map, which is another one on
// every member.
type hasty struct{ bank }

func (h *hasty) Apply(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i, e := range entries {
		results[i] = []byte(h.apply(string(e.Data), h.first))
	}
	return results, nil
}

func (h *hasty) first() string {
	least := ""
	for name, amount := range h.accounts {
		if least == "" || amount < h.accounts[least] {
			least = name
		}
	}
	return least
}

// Run in a test with a state machine that depends on the order of a map. (The
// recorder is in the place of the test's *testing.T, to show what it is told.)
func ExampleRun() {
	t := &recorder{name: "TestHasty"}
	nodetest.Run(t, bankOptions(func() node.StateMachine {
		return &hasty{*newBank()}
	}))
	// Which of the checks finds it first depends on the map too.
	fmt.Println("found:", strings.Contains(t.errors(), "this does not hold"))
	// Output:
	// found: true
}
