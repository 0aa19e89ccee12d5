package nodetest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/nodetest"
)

// recorder is a test that only remembers what it is told.
type recorder struct {
	testing.TB
	name         string
	failed, logs []string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Name() string              { return r.name }
func (r *recorder) Logf(f string, a ...any)   { r.logs = append(r.logs, fmt.Sprintf(f, a...)) }
func (r *recorder) Errorf(f string, a ...any) { r.failed = append(r.failed, fmt.Sprintf(f, a...)) }
func (r *recorder) errors() string            { return strings.Join(r.failed, "\n") }

// planted is a bank with a mistake: what a field says, it does in the place of the
// bank.
type planted struct {
	bank
	applies  func(*planted, []node.Entry) ([][]byte, error)
	snapshot func(*planted) (node.Snapshot, error)
	restore  func(*planted, io.Reader) error
	read     func(*planted, []byte) []byte
	// memory that its mistakes need.
	count  int
	buffer []byte
	cache  map[string][]byte
	old    map[string]int
}

func (p *planted) Apply(entries []node.Entry) ([][]byte, error) {
	if p.applies != nil {
		return p.applies(p, entries)
	}
	return p.bank.Apply(entries)
}

func (p *planted) Snapshot() (node.Snapshot, error) {
	if p.snapshot != nil {
		return p.snapshot(p)
	}
	return p.bank.Snapshot()
}

func (p *planted) Restore(index uint64, r io.Reader) error {
	if p.restore != nil {
		return p.restore(p, r)
	}
	return p.bank.Restore(index, r)
}

func (p *planted) balance(name []byte) []byte {
	if p.read != nil {
		return p.read(p, name)
	}
	return p.bank.balance(name)
}

// writes is a snapshot that is made when it is written.
type writes func(io.Writer) error

func (f writes) WriteTo(w io.Writer) (int64, error) { return 0, f(w) }
func (writes) Close() error                         { return nil }

// result changes each result of a bank.
func result(change func(p *planted, result []byte) []byte) func(*planted, []node.Entry) ([][]byte, error) {
	return func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		for i := range results {
			results[i] = change(p, results[i])
		}
		return results, err
	}
}

var processWide int

// Mistakes that state machines have, and what Run calls them. Each is found within
// the seeds that Run has by default.
var mistakes = []struct {
	name string
	sm   planted
	// found are the invariants of which one is broken first.
	found []string
}{
	{"a clock in a result", planted{applies: result(func(_ *planted, r []byte) []byte {
		return fmt.Appendf(r, " at %d", time.Now().UnixNano())
	})}, []string{"the state machine is deterministic"}},

	{"the process's source of chance", planted{applies: result(func(_ *planted, r []byte) []byte {
		return fmt.Appendf(r, " %d", rand.IntN(1000))
	})}, []string{"the state machine is deterministic"}},

	{"a variable of the package", planted{applies: result(func(_ *planted, r []byte) []byte {
		processWide++
		return fmt.Appendf(r, " %d", processWide)
	})}, []string{"the state machine is deterministic"}},

	{"chance in the state, and in no result", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		p.accounts["luck"] = rand.IntN(1000)
		clear(results)
		return results, err
	}}, []string{"equal logs are equal states", "a restored state machine goes on like the others"}},

	{"a result that depends on what came in the same call", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		for i := range results {
			results[i] = fmt.Append(nil, len(p.accounts)) // as after the last of them
		}
		return results, err
	}}, []string{"a restored state machine goes on like the others", "the state machine is deterministic"}},

	{"a snapshot that shares memory with the state", planted{snapshot: func(p *planted) (node.Snapshot, error) {
		live := p.accounts
		return writes(func(w io.Writer) error { return json.NewEncoder(w).Encode(live) }), nil
	}}, []string{"a capture is of its moment"}},

	{"a Restore that merges", planted{restore: func(p *planted, r io.Reader) error {
		return json.NewDecoder(r).Decode(&p.accounts) // into the map that is there
	}}, []string{"Restore replaces the whole state"}},

	{"a Restore that loses something", planted{restore: func(p *planted, r io.Reader) error {
		err := p.bank.Restore(0, r)
		delete(p.accounts, "eve")
		return err
	}}, []string{"Restore replaces the whole state"}},

	{"a Restore that reads once", planted{restore: func(p *planted, r io.Reader) error {
		b := make([]byte, 1<<10)
		n, err := r.Read(b)
		return errors.Join(err, p.bank.Restore(0, bytes.NewReader(b[:n])))
	}}, []string{"the state machine does what it is asked"}},

	{"a counter that is not in the snapshot", planted{applies: result(func(p *planted, r []byte) []byte {
		p.count++
		return fmt.Appendf(r, " %d", p.count)
	})}, []string{"a restored state machine goes on like the others", "the state machine is deterministic"}},

	{"a read from a cache that is not in the snapshot", planted{
		// The cache is right as long as nobody restores.
		applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
			p.cache = nil
			return p.bank.Apply(entries)
		},
		read: func(p *planted, name []byte) []byte {
			if p.cache == nil {
				p.cache = map[string][]byte{}
			}
			if _, ok := p.cache["count"]; !ok {
				p.count++ // reads since the start
				p.cache["count"] = fmt.Append(nil, p.count)
			}
			return p.cache["count"]
		},
	}, []string{"equal states give equal answers"}},

	{"a read that answers what was true one change before", planted{
		// It is so on every member, and it is in the snapshot: only the model knows.
		applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
			var results [][]byte
			for i := range entries {
				p.old = maps.Clone(p.accounts)
				r, err := p.bank.Apply(entries[i : i+1])
				if err != nil {
					return nil, err
				}
				results = append(results, r...)
			}
			return results, nil
		},
		snapshot: func(p *planted) (node.Snapshot, error) {
			data, err := json.Marshal([]map[string]int{p.accounts, p.old})
			return encoded(data), err
		},
		restore: func(p *planted, r io.Reader) error {
			var both [2]map[string]int
			err := json.NewDecoder(r).Decode(&both)
			p.accounts, p.old = both[0], both[1]
			return err
		},
		read: func(p *planted, name []byte) []byte { return fmt.Append(nil, p.old[string(name)]) },
	}, []string{"linearizability"}},

	{"a read that changes the state", planted{read: func(p *planted, name []byte) []byte {
		p.accounts[string(name)] += 0 // opens an account
		return p.bank.balance(name)
	}}, []string{"the state machine is deterministic", "equal logs are equal states", "a capture is of its moment", "a restored state machine goes on like the others"}},

	{"an entry that is changed", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		clear(entries[0].Data)
		return results, err
	}}, []string{"Apply leaves its entries alone"}},

	{"an append to an entry", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		p.buffer = append(entries[0].Data, '\n')
		return results, err
	}}, []string{"Apply leaves its entries alone"}},

	{"a result whose memory is used again", planted{applies: result(func(p *planted, r []byte) []byte {
		p.buffer = append(p.buffer[:0], r...)
		return p.buffer
	})}, []string{"a restored state machine goes on like the others", "a result stays as it is", "the state machine is deterministic"}},

	{"a panic", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		if n := len(p.accounts); n == len(names)-1 {
			p.buffer = []byte(names[n+1])
		}
		return p.bank.Apply(entries)
	}}, []string{"the state machine does not panic"}},

	{"an error", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		if string(entries[0].Data) == "close" {
			return nil, errors.New("closed on Sundays")
		}
		return p.bank.Apply(entries)
	}}, []string{"the state machine does what it is asked"}},

	{"a result too few", planted{applies: func(p *planted, entries []node.Entry) ([][]byte, error) {
		results, err := p.bank.Apply(entries)
		return results[1:], err
	}}, []string{"the state machine does what it is asked"}},

	{"a writer's error that is swallowed", planted{snapshot: func(p *planted) (node.Snapshot, error) {
		data, err := json.Marshal(p.accounts)
		return writes(func(w io.Writer) error {
			_, _ = w.Write(data)
			return nil
		}), err
	}}, []string{"the state machine does what it is asked"}},

	{"a snapshot in the order of a map", planted{snapshot: mapOrder, restore: restoreLines},
		[]string{"two snapshots of one state are equal"}},
}

// mapOrder writes accounts as they come.
func mapOrder(p *planted) (node.Snapshot, error) {
	var b bytes.Buffer
	for name, amount := range p.accounts {
		fmt.Fprintln(&b, name, amount)
	}
	return encoded(b.Bytes()), nil
}

func restoreLines(p *planted, r io.Reader) error {
	p.accounts = map[string]int{}
	for {
		var name string
		var amount int
		_, err := fmt.Fscanln(r, &name, &amount)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p.accounts[name] = amount
	}
}

func (p planted) options() nodetest.Options {
	return bankOptions(func() node.StateMachine {
		sm := p
		sm.bank = *newBank()
		return &sm
	})
}

func TestMistakesAreFound(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			r := &recorder{name: t.Name()}
			nodetest.Run(r, m.sm.options())
			story := r.errors()
			if len(r.failed) != 1 {
				t.Fatalf("Run found it %d times: %s", len(r.failed), story)
			}
			// Where a mistake depends on the order of a map, so does which check of the
			// state machine meets it first; none of the Node may.
			found := false
			for _, o := range mistakes {
				for _, invariant := range o.found {
					found = found || strings.Contains(story, "this does not hold: "+invariant+"\n")
				}
			}
			if !found {
				t.Errorf("it was found as something else than %q, or a mistake of that kind:\n%s", m.found, story)
			}
			if !regexp.MustCompile(`OCTOPII_SEED=\d+ go test \./\.\.\. -run '\^TestMistakesAreFound\$/`).MatchString(story) {
				t.Errorf("no command to replay it:\n%s", story)
			}
			t.Log(strings.SplitN(story, "\nThe last events:", 2)[0])
		})
	}
}

// A state machine whose snapshots may differ is right if its digests do not.
func TestDigest(t *testing.T) {
	o := planted{snapshot: mapOrder, restore: restoreLines}.options()
	o.Seeds = 5
	o.Digest = func(sm node.StateMachine) []byte {
		data, err := json.Marshal(sm.(*planted).accounts)
		if err != nil {
			panic(err)
		}
		return data
	}
	nodetest.Run(t, o)

	// And what shares memory is found with digests too.
	o.New = planted{snapshot: func(p *planted) (node.Snapshot, error) {
		return writes(func(w io.Writer) error { return json.NewEncoder(w).Encode(p.accounts) }), nil
	}}.options().New
	r := &recorder{}
	nodetest.Run(r, o)
	if !strings.Contains(r.errors(), "Restore replaces the whole state") {
		t.Errorf("Run found: %s", r.errors())
	}
}

func TestModelThatPanics(t *testing.T) {
	o := planted{}.options()
	o.Model = &porcupine.Model{
		Init: func() any { return 0 },
		Step: func(_, _, _ any) (bool, any) { panic("no model of mine") },
	}
	r := &recorder{}
	nodetest.Run(r, o)
	if s := r.errors(); !strings.Contains(s, "the model does not panic") || !strings.Contains(s, "no model of mine") {
		t.Errorf("Run found: %s", s)
	}
}

func TestReplayOfARun(t *testing.T) {
	o := planted{restore: func(p *planted, r io.Reader) error { return json.NewDecoder(r).Decode(&p.accounts) }}.options()
	first := &recorder{name: "TestX"}
	nodetest.Run(first, o)
	seed := regexp.MustCompile(`OCTOPII_SEED=(\d+) go test \./\.\.\. -run '\^TestX\$'\n`).FindStringSubmatch(first.errors())
	if seed == nil {
		t.Fatalf("no command to replay it:\n%s", first.errors())
	}
	t.Setenv("OCTOPII_SEED", seed[1])
	again := &recorder{name: "TestX"}
	nodetest.Run(again, o)
	if first.errors() != again.errors() {
		t.Errorf("the replay differs:\n%s\n%s", first.errors(), again.errors())
	}
	file := filepath.Join(t.TempDir(), "story")
	t.Setenv("OCTOPII_TRACE", file)
	nodetest.Run(&recorder{}, o)
	if story, err := os.ReadFile(file); err != nil || !strings.Contains(string(story), "FAILED: Restore replaces the whole state") {
		t.Errorf("the trace has %d bytes and no failure, %v", len(story), err)
	}
}

func TestEnvironment(t *testing.T) {
	o := bankOptions(func() node.StateMachine { return newBank() })
	o.Duration = time.Second
	for _, c := range []struct{ variable, value, says string }{
		{"OCTOPII_SEEDS", "3", "3 seeds from 1 on"},
		{"OCTOPII_SEEDS", "none", "give a number of seeds"},
		{"OCTOPII_SEED", "77", "1 seeds from 77 on"},
		{"OCTOPII_SEED", "-1", "give the number of a seed"},
	} {
		t.Run(c.variable+"="+c.value, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			r := &recorder{}
			nodetest.Run(r, o)
			if said := strings.Join(append(r.failed, r.logs...), "\n"); !strings.Contains(said, c.says) {
				t.Errorf("Run said %q", said)
			}
		})
	}
}

// durableBank says that it keeps its own data.
type durableBank struct{ bank }

func (*durableBank) Durable() (uint64, bool) { return 7, true }

func TestOptionsThatMakeNoSense(t *testing.T) {
	one := newBank()
	for says, change := range map[string]func(*nodetest.Options){
		"Options.New is missing":                         func(o *nodetest.Options) { o.New = nil },
		"Options.Command is missing":                     func(o *nodetest.Options) { o.Command = nil },
		"Options.Read is missing":                        func(o *nodetest.Options) { o.Read = nil },
		"Options.Query is missing":                       func(o *nodetest.Options) { o.Query = nil },
		"returned nil":                                   func(o *nodetest.Options) { o.New = func() node.StateMachine { return nil } },
		"the same state machine twice":                   func(o *nodetest.Options) { o.New = func() node.StateMachine { return one } },
		"Give it one whose Durable answers 0, false":     func(o *nodetest.Options) { o.New = func() node.StateMachine { return &durableBank{} } },
		`there is no fault "flood"; there are kill, pow`: func(o *nodetest.Options) { o.Faults = []string{"flood"} },
		"must not be negative":                           func(o *nodetest.Options) { o.Seeds = -1 },
	} {
		o := bankOptions(func() node.StateMachine { return newBank() })
		change(&o)
		r := &recorder{}
		nodetest.Run(r, o)
		if !strings.Contains(r.errors(), says) {
			t.Errorf("Run does not say %q: %s", says, r.errors())
		}
	}
}
