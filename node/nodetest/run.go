package nodetest

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/sim"
)

// The environment says which seeds Run runs: flags would have to be registered in
// the test binary, where the caller may have its own of the same name.
const (
	// seedVariable is the one seed to replay.
	seedVariable = "OCTOPII_SEED"
	// seedsVariable is how many seeds to run.
	seedsVariable = "OCTOPII_SEEDS"
	// traceVariable is a file that gets the whole story of the seed that is replayed.
	traceVariable = "OCTOPII_TRACE"
)

// What Run takes for a zero in the Options.
const (
	runSeeds      = 20
	runSeedsShort = 5 // with -short
	runDuration   = 20 * time.Second
)

// Run checks a state machine in an ordinary test: it simulates clusters of it
// under faults, one for each seed, and fails the test at the first seed at which
// something does not hold. The failure names what does not hold, the last events,
// and the command that replays the seed. The package comment lists what is
// checked.
//
// OCTOPII_SEED=N in the environment replays one seed, and OCTOPII_TRACE=FILE then
// writes its whole story; OCTOPII_SEEDS=N runs N seeds, from o.From on.
//
// While a seed runs the process's crypto/rand is drawn from the seed, so nothing
// that needs secrets may run beside it in the same process.
func Run(t testing.TB, o Options) {
	t.Helper()
	simulated, err := o.simulated()
	if err != nil {
		t.Errorf("nodetest: %v", err)
		return
	}
	from, seeds, replay, err := o.seeds(os.Getenv)
	if err != nil {
		t.Errorf("nodetest: %v", err)
		return
	}
	if path := os.Getenv(traceVariable); path != "" && replay {
		trace, err := openTrace(path)
		if err != nil {
			t.Errorf("nodetest: %s: %v", traceVariable, err)
			return
		}
		simulated.Trace = trace.line
		defer func() {
			if err := trace.close(); err != nil {
				t.Errorf("nodetest: %s: %v", traceVariable, err)
			}
		}()
	}
	began := time.Now()
	var all sim.Report
	for i := range uint64(seeds) {
		r := sim.Simulate(from+i, simulated)
		if r.Failure != nil {
			t.Errorf("%s", story(r.Failure, t.Name(), r.Settings))
			return
		}
		all.Operations += r.Operations
		all.Faults += r.Faults
		all.Time += r.Time
	}
	t.Logf("nodetest: %d seeds from %d on, %d operations, %d faults, %v in the clusters' time, in %v",
		seeds, from, all.Operations, all.Faults, all.Time.Round(time.Second), time.Since(began).Round(time.Millisecond))
}

// seeds says which seeds to run.
func (o *Options) seeds(getenv func(string) string) (from uint64, seeds int, replay bool, err error) {
	if v := getenv(seedVariable); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, 0, false, fmt.Errorf("%s=%s: give the number of a seed", seedVariable, v)
		}
		return seed, 1, true, nil
	}
	from, seeds = o.From, o.Seeds
	if from == 0 {
		from = 1
	}
	if v := getenv(seedsVariable); v != "" {
		if seeds, err = strconv.Atoi(v); err != nil || seeds < 1 {
			return 0, 0, false, fmt.Errorf("%s=%s: give a number of seeds from 1 on", seedsVariable, v)
		}
	}
	if seeds == 0 {
		seeds = runSeeds
		if testing.Testing() && testing.Short() {
			seeds = runSeedsShort
		}
	}
	return from, seeds, false, nil
}

// story is a failure as a test shows it.
func story(f *sim.Failure, test, settings string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nodetest: seed %d: at %v this does not hold: %s\n\n    %s\n", f.Seed, f.At, f.Invariant, strings.ReplaceAll(f.Detail, "\n", "\n    "))
	if len(f.Last) > 0 {
		fmt.Fprintf(&b, "\nThe last events:\n    %s\n", strings.Join(f.Last, "\n    "))
	}
	fmt.Fprintf(&b, "\nThe cluster: %s\n", settings)
	fmt.Fprintf(&b, "\nReplay it with:\n    %s=%d go test ./... -run '%s'\n", seedVariable, f.Seed, pattern(test))
	return b.String()
}

// pattern is what go test -run takes to run one test.
func pattern(test string) string {
	parts := strings.Split(test, "/")
	for i := range parts {
		parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
	}
	return strings.Join(parts, "/")
}

// trace is a file with a story, line by line.
type trace struct {
	file *os.File
	out  *bufio.Writer
}

func openTrace(path string) (*trace, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &trace{f, bufio.NewWriter(f)}, nil
}

func (t *trace) line(s string) { _, _ = fmt.Fprintln(t.out, s) }

func (t *trace) close() error {
	err := t.out.Flush()
	if err2 := t.file.Close(); err == nil {
		err = err2
	}
	return err
}
