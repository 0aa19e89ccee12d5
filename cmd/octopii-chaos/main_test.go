package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/octopii/octopii/internal/sim"
	"github.com/octopii/octopii/node"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "octopii-chaos-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "octopii-chaos")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build octopii-chaos: %v\n%s", err, out)
		return 1
	}
	status := m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return status
}

// runTimeout bounds how long a command may take.
const runTimeout = 2 * time.Minute

// chaos runs the program and returns what it wrote.
func chaos(t *testing.T, status int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("octopii-chaos %s: exit status %d (%v), want %d\n%s%s", strings.Join(args, " "), got, err, status, &out, &errs)
	}
	return out.String()
}

// find returns what a pattern's group matches.
func find(t *testing.T, text, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q in\n%s", pattern, text)
	}
	return m[len(m)-1]
}

func TestManySeeds(t *testing.T) {
	args := []string{"sim", "--seeds", "4", "--from", "3", "--duration", "2s"}
	out := chaos(t, 0, append(args, "--jobs", "2")...)
	if !strings.HasPrefix(out, "4 seeds from 3 on: 0 failed\n") {
		t.Errorf("it says\n%s", out)
	}
	hash := find(t, out, `hash +([0-9a-f]{16})`)
	if one := find(t, chaos(t, 0, append(args, "--jobs", "1")...), `hash +([0-9a-f]{16})`); one != hash {
		t.Errorf("two processes find hash %s, and one finds %s", hash, one)
	}
	if twice := find(t, chaos(t, 0, append(args, "--verify")...), `hash +([0-9a-f]{16})`); twice != hash {
		t.Errorf("with --verify the hash is %s, and without %s", twice, hash)
	}
}

func TestManySeedsForMachines(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(chaos(t, 0, "sim", "--seeds", "3", "--duration", "1s", "--members", "3", "--faults", "kill,pause", "-o", "json")), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines, want one for each seed and one for all:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	var all struct{ Summary summary }
	if err := json.Unmarshal([]byte(lines[3]), &all); err != nil {
		t.Fatal(err)
	}
	sum := summary{}
	for _, line := range lines[:3] {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r.Members != 3 || !slices.Equal(r.Kinds, []string{"kill", "pause"}) || r.Failure != nil {
			t.Errorf("seed %d: %s", r.Seed, line)
		}
		sum.add(&r)
	}
	if got := all.Summary; got.Seeds != 3 || got.Hash != sum.Hash || got.Events != sum.Events || got.Failures != 0 {
		t.Errorf("the summary is %s, and the seeds amount to %+v", lines[3], sum)
	}
}

// One seed is the same story alone, with a trace, among others, and as what it drew.
func TestOneSeedReplays(t *testing.T) {
	var among result
	if err := json.Unmarshal([]byte(strings.SplitN(chaos(t, 0, "sim", "--seeds", "1", "--from", "7", "--duration", "2s", "-o", "json"), "\n", 2)[0]), &among); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trace")
	for _, args := range [][]string{
		{"--duration", "2s"},
		{"--duration", "2s", "--trace", file},
		{"--duration", "2s", "--trace", "-"},
		{"--duration", "2s", "--verify"},
		(&story{members: among.Members, clients: among.Clients, duration: 2 * time.Second, faults: among.Kinds}).args(),
	} {
		out := chaos(t, 0, append([]string{"sim", "--seed", "7"}, args...)...)
		hash := find(t, out, `hash +([0-9a-f]{16})`)
		if !slices.Contains(args, "--verify") && hash != among.Hash {
			t.Errorf("%v: hash %s, and %s among others", args, hash, among.Hash)
		}
		if slices.Contains(args, "-") && !strings.Contains(out, "leads in term") {
			t.Errorf("no story on standard output:\n%.2000s", out)
		}
	}
	if trace, err := os.ReadFile(file); err != nil || !bytes.Contains(trace, []byte("leads in term")) {
		t.Errorf("no story in the trace: %v\n%.2000s", err, trace)
	}
}

// What shrinking leaves is written as flags, and read from them.
func TestStoryIsItsFlags(t *testing.T) {
	for _, o := range []sim.Options{
		{Duration: durationDefault},
		{Duration: time.Second, Members: 5, Clients: 2, Variant: 3, Faults: []string{"kill", "rot"}},
		{Duration: time.Second, Faults: []string{}},
	} {
		s := storyOf(o)
		var read story
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		read.flags(flags)
		if err := flags.Parse(s.args()); err != nil {
			t.Fatal(err)
		}
		if err := read.check(); err != nil {
			t.Error(err)
		}
		if got := read.options(); !reflect.DeepEqual(got, o) {
			t.Errorf("%v is read as %+v, want %+v", s.args(), got, o)
		}
	}
}

func TestNothingToShrink(t *testing.T) {
	if out := chaos(t, 0, "sim", "--seed", "1", "--duration", "1s", "--shrink"); !strings.Contains(out, "every invariant held") {
		t.Errorf("it says\n%s", out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"nonsense"},
		{"sim"},
		{"sim", "surplus", "--seeds", "1"},
		{"sim", "--nonsense"},
		{"sim", "--seeds", "0"},
		{"sim", "--seeds", "-1"},
		{"sim", "--seeds", "1", "--seed", "1"},
		{"sim", "--seeds", "2", "--from", "18446744073709551615"},
		{"sim", "--seeds", "1", "--trace", "t"},
		{"sim", "--seeds", "1", "--shrink"},
		{"sim", "--seed", "1", "--from", "2"},
		{"sim", "--seed", "1", "--verify", "--shrink"},
		{"sim", "--seed", "1", "--trace", "-", "-o", "json"},
		{"sim", "--seed", "1", "-o", "xml"},
		{"sim", "--seed", "1", "--members", "-1"},
		{"sim", "--seed", "1", "--members", "8"},
		{"sim", "--seed", "1", "--clients", "-1"},
		{"sim", "--seed", "1", "--duration", "0s"},
		{"sim", "--seed", "1", "--faults", "nonsense"},
		{"sim", "--seed", "1", "--faults", "none,kill"},
		{"sim", "--seed", "1", "--faults", ""},
		{"sim", "--seeds", "1", "--jobs", "0"},
		{"sim", "--seeds", "1", "--limit", "0s"},
		{"sim", "worker", "--members", "-1"},
	} {
		var out, errs strings.Builder
		if got := run(context.Background(), args, strings.NewReader(""), &out, &errs); got != exitUsage || out.Len() > 0 || errs.Len() == 0 {
			t.Errorf("octopii-chaos %q: exit status %d, want %d; it says\n%s%s", args, got, exitUsage, &out, &errs)
		}
	}
	chaos(t, exitUsage, "sim", "--seeds", "1", "--faults", "nonsense")
	chaos(t, exitFailed, "sim", "--seed", "1", "--trace", t.TempDir())
}

// Ctrl-C ends the workers, and says what was done; so does timeout(1).
func TestInterrupt(t *testing.T) {
	t.Run("Ctrl-C", func(t *testing.T) { interrupt(t, syscall.SIGINT) })
	t.Run("timeout", func(t *testing.T) { interrupt(t, syscall.SIGTERM, syscall.SIGTERM) })
}

func interrupt(t *testing.T, signals ...os.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "sim", "--seeds", "1000000", "--duration", "1s", "-o", "json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := json.NewDecoder(stdout)
	var first result
	if err := lines.Decode(&first); err != nil {
		t.Error(err)
	}
	for _, s := range signals {
		if err := cmd.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	seeds := uint64(1)
	var last struct {
		Seed    *uint64
		Failure *failure
		Summary *summary
	}
	for last.Summary == nil {
		if err := lines.Decode(&last); err != nil {
			t.Fatal(err)
		}
		if last.Seed != nil && last.Summary == nil {
			seeds++
		}
	}
	if s := last.Summary; s.Seeds != seeds || s.Wanted != 1000000 || s.Failures != 0 {
		t.Errorf("%d seeds were done, and the summary is %+v", seeds, s)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exitInterrupted {
		t.Errorf("exit status %d, want %d", got, exitInterrupted)
	}
}

// counter is a state machine with a bug: it answers with what no replay can know.
type counter struct{}

// answers is what makes the results of counters differ.
var answers byte

func (counter) Durable() (uint64, bool) { return 0, false }

func (counter) Apply(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i := range results {
		answers++
		results[i] = []byte{answers}
	}
	return results, nil
}

func (counter) Snapshot() (node.Snapshot, error) { return empty{}, nil }
func (counter) Restore(uint64, io.Reader) error  { return nil }

// empty is a snapshot of nothing.
type empty struct{}

func (empty) WriteTo(io.Writer) (int64, error) { return 0, nil }
func (empty) Close() error                     { return nil }

// What a failure shows, and that it is enough to see it again.
func TestFailureIsShown(t *testing.T) {
	o := sim.Options{
		New:     func() node.StateMachine { return counter{} },
		Command: func(*rand.Rand) []byte { return []byte{1} },
		Members: 3, Duration: 5 * time.Second, Faults: []string{},
	}
	report := sim.Simulate(5, o)
	if report.Failure == nil {
		t.Fatal("the planted bug is not found")
	}
	r := newResult(&report, time.Second)
	var out strings.Builder
	p := newPrinter(&out, "text", storyOf(o))
	p.commit = "c0ffee+dirty"
	if err := p.result(r, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"FAILED seed 5: the state machine is deterministic",
		"c0ffee+dirty",
		report.Failure.Detail,
		report.Settings,
		report.Failure.Last[0],
		report.Failure.Last[len(report.Failure.Last)-1],
		"octopii-chaos sim --seed 5 --members=3 --duration=5s --faults=none --trace seed-5.txt",
		"octopii-chaos sim --seed 5 --members=3 --duration=5s --faults=none --shrink",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &out)
		}
	}
	// Its last events are shown for a few, and not for thousands.
	out.Reset()
	for range wholeMax {
		_ = p.result(r, false)
	}
	if got := strings.Count(out.String(), report.Failure.Last[0]); got != wholeMax-1 {
		t.Errorf("%d of %d more failures are shown with their last events, want %d", got, wholeMax, wholeMax-1)
	}
	// The command that it names is understood.
	words := strings.Fields(r.Failure.Replay)
	root := newRoot()
	cmd, args, err := root.Find(words[1:])
	if err != nil || cmd.ParseFlags(args) != nil {
		t.Errorf("%q is not understood: %v", r.Failure.Replay, err)
	}
}

// shell is a pool whose workers are a script.
func shell(script string) *pool {
	return &pool{command: []string{"sh", "-c", script}, jobs: 2, limit: time.Minute}
}

// ask has a pool simulate some seeds, and returns the summary, the failures, and
// what it ended with.
func ask(ctx context.Context, t *testing.T, p *pool, seeds uint64) (summary, []result, error) {
	t.Helper()
	s := &simulation{seeds: seeds, from: 1, jobs: p.jobs, output: "json", story: story{duration: durationDefault}}
	var out, errs bytes.Buffer
	err := s.manage(ctx, p, &out, &errs)
	var sum summary
	var failed []result
	for dec := json.NewDecoder(&out); dec.More(); {
		var line struct {
			result
			Summary *summary
		}
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		switch {
		case line.Summary != nil:
			sum = *line.Summary
		case line.Failure != nil:
			failed = append(failed, line.result)
		}
	}
	slices.SortFunc(failed, func(a, b result) int { return int(a.Seed) - int(b.Seed) })
	return sum, failed, err
}

// A worker that dies is a failure of its seed, and the others go on.
func TestWorkerDies(t *testing.T) {
	sum, failed, err := ask(t.Context(), t, shell(`while read seed; do
		if [ $seed = 2 ]; then echo "fatal error: planted" >&2; exit 7; fi
		if [ $seed = 4 ]; then echo nonsense; read more; exit 0; fi
		echo "{\"seed\": $seed, \"hash\": \"000000000000000a\"}"
	done`), 6)
	if !errors.Is(err, errBroken) || sum.Seeds != 6 || sum.Failures != 2 || len(failed) != 2 {
		t.Fatalf("%v; %+v; %+v", err, sum, failed)
	}
	if f := failed[0]; f.Seed != 2 || f.Failure.Invariant != survives || !strings.Contains(f.Failure.Detail, "fatal error: planted") || !strings.Contains(f.Failure.Detail, "exit status 7") ||
		f.Failure.Replay != "octopii-chaos sim --seed 2 --trace seed-2.txt" {
		t.Errorf("seed 2: %+v", f.Failure)
	}
	if f := failed[1]; f.Seed != 4 || f.Failure.Invariant != survives {
		t.Errorf("seed 4: %+v", f.Failure)
	}
	if want := []broken{{survives, []uint64{2, 4}}}; len(sum.Broken) != 1 || sum.Broken[0].Invariant != survives || len(sum.Broken[0].Seeds) != 2 {
		t.Errorf("broken is %+v, want %+v", sum.Broken, want)
	}
}

// A worker that hangs is ended.
func TestWorkerHangs(t *testing.T) {
	p := shell(`read seed; exec tail -f /dev/null`)
	p.limit = 50 * time.Millisecond
	sum, failed, err := ask(t.Context(), t, p, 1)
	if !errors.Is(err, errBroken) || sum.Failures != 1 || !strings.Contains(failed[0].Failure.Detail, "more than 50ms") {
		t.Errorf("%v; %+v; %+v", err, sum, failed)
	}
}

// No worker outlives an interruption, and those that it ended are no failures.
func TestNoWorkerIsLeft(t *testing.T) {
	pids := make(chan int, 2)
	names := []string{"a", "b"}
	dir := t.TempDir()
	for _, name := range names {
		pipe := filepath.Join(dir, name)
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			b, err := os.ReadFile(pipe)
			if err != nil {
				t.Error(err)
			}
			pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			pids <- pid
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := make(chan []int, 1)
	go func() { seen <- []int{<-pids, <-pids}; cancel() }()
	sum, failed, err := ask(ctx, t, shell(fmt.Sprintf(`read seed; [ $seed = 1 ] && name=a || name=b; echo $$ > %s/$name; exec tail -f /dev/null`, dir)), 5)
	if !errors.Is(err, errInterrupted) || sum.Seeds != 0 || len(failed) != 0 {
		t.Errorf("%v; %+v; %+v", err, sum, failed)
	}
	for _, pid := range <-seen {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("worker %d is left: %v", pid, err)
		}
	}
}

// Failures come through with all that the worker said, and are counted.
func TestFailuresAreCounted(t *testing.T) {
	sum, failed, err := ask(t.Context(), t, shell(`while read seed; do
		echo "{\"seed\": $seed, \"hash\": \"000000000000000a\", \"events\": 10, \"faults\": 2, \"failure\": {\"invariant\": \"no $(($seed % 2))\", \"detail\": \"d\", \"last\": [\"l\"]}}"
	done`), 5)
	if !errors.Is(err, errBroken) || sum.Failures != 5 || sum.Events != 50 || sum.Faults != 10 || len(sum.Broken) != 2 || len(failed) != 5 {
		t.Fatalf("%v; %+v; %+v", err, sum, failed)
	}
	if f := failed[4].Failure; f.Invariant != "no 1" || f.Detail != "d" || len(f.Last) != 1 || f.Commit == "" {
		t.Errorf("%+v", f)
	}
}

// A process that makes another story of a seed is found out.
func TestVerify(t *testing.T) {
	p := shell(`while read seed; do echo "{\"seed\": $seed, \"hash\": \"$(printf %016x $(($seed == 2 ? $$ : 1)))\"}"; done`)
	p.verify = true
	sum, failed, err := ask(t.Context(), t, p, 3)
	if !errors.Is(err, errBroken) || sum.Failures != 1 || failed[0].Seed != 2 || failed[0].Failure.Invariant != sameStory ||
		failed[0].Failure.Replay != "octopii-chaos sim --seed 2 --verify" {
		t.Errorf("%v; %+v; %+v", err, sum, failed)
	}
}

// That there are no workers is no failure of a seed.
func TestNoWorkers(t *testing.T) {
	p := shell("")
	p.command = []string{filepath.Join(t.TempDir(), "nothing")}
	if sum, _, err := ask(t.Context(), t, p, 3); err == nil || errors.Is(err, errBroken) || sum.Failures != 0 {
		t.Errorf("%v; %+v", err, sum)
	}
}

func TestProgressLine(t *testing.T) {
	sum := &summary{Seeds: 50, Events: 1234, Faults: 56, Failures: 1}
	if got, want := progressLine(sum, 200, time.Minute), "50 of 200 seeds, 1234 events, 56 faults, 1 failures, 3m0s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := progressLine(&summary{}, 200, time.Minute); !strings.Contains(got, "? left") {
		t.Errorf("%q before the first seed", got)
	}
}

func TestCommit(t *testing.T) {
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "true"}}}
	if got := commitOf(info); got != "c0ffee+dirty" {
		t.Errorf("%q", got)
	}
	info.Settings[1].Value = "false"
	if got := commitOf(info); got != "c0ffee" {
		t.Errorf("%q", got)
	}
	if got := commitOf(&debug.BuildInfo{}); !strings.HasPrefix(got, "unknown") {
		t.Errorf("%q", got)
	}
}

func TestSummaryIsShown(t *testing.T) {
	sum := &summary{Wanted: 100, From: 1, Jobs: 2}
	for seed := range uint64(30) {
		sum.add(&result{Seed: seed + 1, Hash: "000000000000000a", Simulated: 60, CPU: 1, Failure: &failure{Invariant: "linearizability"}})
	}
	var out strings.Builder
	if err := newPrinter(&out, "text", story{}).summary(sum); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"30 of 100 seeds from 1 on: 30 failed", "60 times real time per core", "linearizability: 30 seeds: 1 2 3", "and 10 more"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &out)
		}
	}
}
