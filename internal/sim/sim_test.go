package sim

import (
	"bufio"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the seed that TestSim replays, with its whole story")
	seedsFlag = flag.Int("seeds", 0, "how many seeds TestSim tries; 0: 8, 20 with OCTOPII_LONG_TESTS, 5 with -short, 2 under the race detector")
	fromFlag  = flag.Uint64("from", 1, "the first of them")
)

// seedCount is how many seeds TestSim tries.
func seedCount() int {
	switch {
	case *seedsFlag > 0:
		return *seedsFlag
	case raceEnabled:
		return 2
	case testing.Short():
		return 5
	}
	if thorough() {
		return 20
	}
	return 8
}

// thorough says that time does not matter: see docs/TESTING.md.
func thorough() bool { return os.Getenv("OCTOPII_LONG_TESTS") != "" }

// TestSim simulates a cluster for each of some seeds.
func TestSim(t *testing.T) {
	if *seedFlag != 0 {
		mustHold(t, *seedFlag, Options{Trace: func(l string) { t.Log(l) }})
		return
	}
	began := time.Now()
	var simulated time.Duration
	events := 0
	for i := range uint64(seedCount()) {
		r := mustHold(t, *fromFlag+i, Options{})
		simulated += r.Time
		events += r.Events
	}
	t.Logf("%d events; %.1f times real time", events, simulated.Seconds()/time.Since(began).Seconds())
}

// mustHold simulates one seed and says what happened.
func mustHold(t *testing.T, seed uint64, o Options) Report {
	t.Helper()
	r := Simulate(seed, o)
	t.Logf("seed %d hash %016x events %d faults %d ops %d committed %d time %v: %s", seed, r.Hash, r.Events, r.Faults, r.Operations, r.Committed, r.Time, r.Settings)
	if r.Failure != nil {
		for _, l := range r.Failure.Last {
			t.Log(l)
		}
		t.Errorf("%v\nReplay it with:\n    go test ./internal/sim -run TestSim -seed=%d", r.Failure, seed)
	}
	return r
}

// replayed are the seeds that TestReplay runs more than once. (Between them they
// have every fault, and both kinds of state machine.)
func replayed() []uint64 {
	if raceEnabled || testing.Short() {
		return []uint64{5}
	}
	if !thorough() {
		return []uint64{1, 11, 18}
	}
	return []uint64{1, 5, 7, 11, 13, 16, 18}
}

// replayOptions make the stories short.
func replayOptions() Options { return Options{Duration: 20 * time.Second} }

// storyOf is what two runs of a seed must have in common.
func storyOf(r Report) string {
	return fmt.Sprintf("seed %d: hash %016x, %d events, %d faults, %d operations, %d committed, %v", r.Seed, r.Hash, r.Events, r.Faults, r.Operations, r.Committed, r.Time)
}

// childVariable tells the test binary that it is a child of TestReplay.
const childVariable = "OCTOPII_TEST_REPLAY"

// The same seed is the same story: twice in a process, in another process, and with
// a trace.
func TestReplay(t *testing.T) {
	var first []string
	for _, seed := range replayed() {
		first = append(first, storyOf(Simulate(seed, replayOptions())))
	}
	if os.Getenv(childVariable) != "" {
		for _, s := range first {
			fmt.Println(s)
		}
		return
	}
	for i, seed := range replayed() {
		lines, o := 0, replayOptions()
		o.Trace = func(string) { lines++ }
		if again := storyOf(Simulate(seed, o)); again != first[i] {
			t.Errorf("two runs differ:\n%s\n%s", first[i], again)
		}
		if lines == 0 {
			t.Errorf("seed %d has no trace", seed)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestReplay$", fmt.Sprintf("-test.short=%v", testing.Short()))
	cmd.Env = append(os.Environ(), childVariable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("a child process: %v\n%s", err, out)
	}
	for _, s := range first {
		if !strings.Contains(string(out), s+"\n") {
			t.Errorf("another process does not tell the same:\n%s\nbut:\n%s", s, out)
		}
	}
}

// Two seeds are two stories.
func TestSeedsDiffer(t *testing.T) {
	o := Options{Duration: 5 * time.Second}
	if a, b := Simulate(1, o), Simulate(2, o); a.Hash == b.Hash {
		t.Errorf("seeds 1 and 2 both have hash %016x", a.Hash)
	}
}

//go:embed testdata/seeds.txt
var corpus string

// corpusSeed is a line of testdata/seeds.txt.
type corpusSeed struct {
	seed    uint64
	options Options
	// given are the options as they stand there.
	given, why string
}

// parseSeeds reads a corpus.
func parseSeeds(text string) ([]corpusSeed, error) {
	var seeds []corpusSeed
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		what, why, commented := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(what)
		if len(fields) == 0 {
			continue
		}
		s := corpusSeed{given: strings.Join(fields[1:], " "), why: strings.TrimSpace(why)}
		if !commented || s.why == "" {
			return nil, fmt.Errorf("line %d: say behind # why the seed is here", n)
		}
		var err error
		if s.seed, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
			return nil, fmt.Errorf("line %d: %q is not a seed", n, fields[0])
		}
		for _, f := range fields[1:] {
			if err := s.options.set(f); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
		}
		if err := s.options.Validate(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		seeds = append(seeds, s)
	}
	return seeds, lines.Err()
}

// set takes an option in words.
func (o *Options) set(option string) (err error) {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "members":
		o.Members, err = strconv.Atoi(value)
	case "clients":
		o.Clients, err = strconv.Atoi(value)
	case "operations":
		o.Operations, err = strconv.Atoi(value)
	case "duration":
		o.Duration, err = time.ParseDuration(value)
	case "faults":
		o.Faults = []string{}
		if value != "" {
			o.Faults = strings.Split(value, ",")
		}
	default:
		err = fmt.Errorf("there is no option %q: members, clients, operations, duration, faults", name)
	}
	return err
}

// Seeds that failed once are replayed for good.
func TestCorpus(t *testing.T) {
	seeds, err := parseSeeds(corpus)
	if err != nil {
		t.Fatalf("testdata/seeds.txt: %v", err)
	}
	if raceEnabled || testing.Short() {
		seeds = seeds[:1]
	}
	for _, s := range seeds {
		t.Run(strings.TrimSpace(fmt.Sprint(s.seed, " ", s.given)), func(t *testing.T) {
			r := Simulate(s.seed, s.options)
			t.Logf("%s\n%s", storyOf(r), s.why)
			if r.Failure != nil {
				t.Errorf("%v\n%s\nReplay it with:\n    go test ./internal/sim -run '^TestCorpus$/^%s$'", r.Failure, strings.Join(r.Failure.Last, "\n"), regexp.QuoteMeta(strings.TrimPrefix(t.Name(), "TestCorpus/")))
			}
		})
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	o := Options{New: func() node.StateMachine { return &registers{} }}
	if r := Simulate(1, o); r.Failure == nil || !strings.Contains(r.Failure.Detail, "Options.Command is missing") {
		t.Errorf("Simulate says %v", r.Failure)
	}
}

func TestCorpusFormat(t *testing.T) {
	good, err := parseSeeds("# a remark\n\n7 members=5 duration=20s faults=kill,rot # lost its way\n8 faults= # calm\n")
	if err != nil || len(good) != 2 || good[0].options.Members != 5 || good[0].options.Duration != 20*time.Second || len(good[0].options.Faults) != 2 ||
		good[0].why != "lost its way" || good[1].options.Faults == nil || len(good[1].options.Faults) != 0 {
		t.Errorf("%+v, %v", good, err)
	}
	for _, bad := range []string{"7", "7 #", "seven # why", "7 members=many # why", "7 weather=bad # why", "7 faults=flood # why", "7 duration=-1s # why"} {
		if _, err := parseSeeds(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A list in which values changed places, or that lost one, is not taken for the
// beginning of another.
func TestListsOnlyGrow(t *testing.T) {
	final := &registers{}
	final.lists[3] = []uint64{5, 6, 5}
	for _, c := range []struct {
		seen []uint64
		ok   bool
	}{
		{nil, true}, {[]uint64{5}, true}, {[]uint64{5, 6}, true}, {[]uint64{5, 6, 5}, true},
		{[]uint64{6}, false}, {[]uint64{6, 5}, false}, {[]uint64{5, 5}, false}, {[]uint64{5, 6, 5, 8}, false},
	} {
		w := newWorld(draw(1, Options{}))
		for i, value := range final.lists[3] {
			push := command{verb: push, key: 3, a: value}.encode()
			w.check.ops = append(w.check.ops, &op{id: uint64(i) + 1, input: push, output: []byte{1}, outcome: done, called: 1, returned: 2, index: uint64(i) + 1})
		}
		r := &registers{}
		r.lists[3] = c.seen
		q := command{verb: list, key: 3}.encode()
		w.check.ops = append(w.check.ops, &op{id: 4, query: true, outcome: done, input: q, output: r.answer(q), called: 1, returned: 2, member: &member{launch: launch{address: "n1"}}})
		if w.check.clientsSaw(nil, final); (w.failed == nil) != c.ok {
			t.Errorf("a list seen as %v: %v", c.seen, w.failed)
		}
	}
}

// A value that a client was told is read by all that begin later, and a swap tells what it did.
func TestWhatClientsSaw(t *testing.T) {
	yes, no := []byte{1}, []byte{0}
	get := func(n uint64) *op {
		r := &registers{}
		r.regs[2] = n
		q := command{verb: get, key: 2}.encode()
		return &op{query: true, input: q, output: r.answer(q)}
	}
	write := func(v verb, a, b uint64, output []byte) *op {
		return &op{input: command{verb: v, key: 2, a: a, b: b}.encode(), output: output}
	}
	for _, c := range []struct {
		ops []*op
		ok  bool
	}{
		{[]*op{get(0), write(put, 3, 0, yes), get(3), write(swap, 3, 4, yes), write(swap, 3, 0, no), get(4)}, true},
		{[]*op{write(put, 3, 0, yes), get(0)}, false},
		{[]*op{write(swap, 3, 4, yes)}, false},
		{[]*op{write(swap, 0, 4, no)}, false},
		{[]*op{write(swap, 0, 4, yes), write(put, 0, 0, yes), write(swap, 0, 1, yes)}, true},
	} {
		w := newWorld(draw(1, Options{}))
		for i, o := range c.ops {
			o.id, o.outcome, o.member = uint64(i)+1, done, &member{}
			o.called, o.returned = uint64(2*i)+1, uint64(2*i)+2
		}
		w.check.ops = c.ops
		if w.check.clientsSaw(nil, &registers{}); (w.failed == nil) != c.ok || !c.ok && w.failed.Invariant != "linearizability" {
			t.Errorf("%d operations: %v", len(c.ops), w.failed)
		}
	}
}
