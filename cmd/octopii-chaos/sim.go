package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/octopii/octopii/internal/sim"
)

// simulation is the command line of sim.
type simulation struct {
	seeds      uint64
	from, seed uint64
	// one: there is a single seed, which may be traced and shrunk.
	one bool

	story  story
	jobs   int
	limit  time.Duration
	verify bool
	shrink bool
	trace  string
	output string
}

// story is what is simulated, apart from the seed.
type story struct {
	members, clients int
	duration         time.Duration
	// faults are names, or only "none" or "all"; empty: drawn.
	faults  []string
	variant uint64
}

// durationDefault is how long faults strike if nothing else is said.
const durationDefault = time.Minute

func newSim() *cobra.Command {
	s := &simulation{}
	cmd := &cobra.Command{
		Use:   "sim (--seeds N [--from S] | --seed S [--trace FILE] [--shrink])",
		Short: "Simulate clusters by seeds",
		Long: `Simulate whole clusters: the production code over disks, a network and clocks that
break, in no real time. A seed draws everything, and the same seed is the same story,
on any machine.

With --seeds many are simulated, in as many processes as there are cores. With
--seed it is one, which --trace writes down line by line and --shrink makes smaller
as long as it fails in the same way.

Kinds of faults: ` + strings.Join(sim.FaultNames(), ", ") + `.

Exit status: 0 if every invariant held, 1 if one did not, 2 if the command line was
not understood, 3 if it could not be carried out, 130 if it was interrupted.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(cmd.Flags()); err != nil {
				return usageError{err}
			}
			return s.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&s.seeds, "seeds", 0, "how many seeds to simulate")
	flags.Uint64Var(&s.from, "from", 1, "the first of them")
	flags.Uint64Var(&s.seed, "seed", 0, "the one seed to simulate")
	flags.StringVar(&s.trace, "trace", "", "write the whole story of one seed into this file; - for standard output")
	flags.BoolVar(&s.shrink, "shrink", false, "make the failure of one seed smaller")
	flags.BoolVar(&s.verify, "verify", false, "simulate each seed twice, in two processes, and compare the hashes")
	flags.IntVar(&s.jobs, "jobs", runtime.GOMAXPROCS(0), "how many processes simulate side by side")
	flags.DurationVar(&s.limit, "limit", 10*time.Minute, "how much real time a seed may take; then its process is ended, and that is a failure")
	flags.StringVarP(&s.output, "output", "o", "text", "text, or json: one line for each seed, and one for all")
	s.story.flags(flags)

	worker := &story{}
	hidden := &cobra.Command{
		Use:    "worker",
		Short:  "Read seeds, write a report for each: what sim runs to use all cores",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := worker.check(); err != nil {
				return usageError{err}
			}
			return work(cmd.InOrStdin(), cmd.OutOrStdout(), worker.options())
		},
	}
	worker.flags(hidden.Flags())
	cmd.AddCommand(hidden)
	return cmd
}

func (s *story) flags(flags *pflag.FlagSet) {
	flags.IntVar(&s.members, "members", 0, "members that a cluster begins with, 1 to 7; 0: drawn")
	flags.IntVar(&s.clients, "clients", 0, "clients that call it; 0: drawn")
	flags.DurationVar(&s.duration, "duration", durationDefault, "how long faults strike, in the cluster's own time")
	flags.StringSliceVar(&s.faults, "faults", nil, "kinds of faults, separated by commas, or none, or all; without it they are drawn")
	flags.Uint64Var(&s.variant, "variant", 0, "another story of the same seed, as --shrink finds them")
}

func (s *story) check() error {
	known := sim.FaultNames()
	for _, f := range s.faults {
		switch {
		case f == "none" || f == "all":
			if len(s.faults) > 1 {
				return fmt.Errorf("--faults has %q and others; use it alone", f)
			}
		case !slices.Contains(known, f):
			return fmt.Errorf("--faults has %q; use none, all, or some of %s", f, strings.Join(known, ","))
		}
	}
	switch {
	case s.members != 0 && (s.members < 1 || s.members > 7):
		return fmt.Errorf("--members is %d; use 1 to 7, or 0", s.members)
	case s.clients < 0:
		return fmt.Errorf("--clients is %d; use a positive number, or 0", s.clients)
	case s.duration <= 0:
		return fmt.Errorf("--duration is %v; use a positive duration", s.duration)
	}
	return nil
}

func (s *story) options() sim.Options {
	o := sim.Options{Members: s.members, Clients: s.clients, Duration: s.duration, Variant: s.variant}
	switch {
	case len(s.faults) == 0:
	case s.faults[0] == "none":
		o.Faults = []string{}
	case s.faults[0] == "all":
		o.Faults = sim.FaultNames()
	default:
		o.Faults = s.faults
	}
	return o
}

// storyOf is the story with those options.
func storyOf(o sim.Options) story {
	s := story{members: o.Members, clients: o.Clients, duration: o.Duration, faults: o.Faults, variant: o.Variant}
	if o.Faults != nil && len(o.Faults) == 0 {
		s.faults = []string{"none"}
	}
	return s
}

// args are the flags that a command line needs for this story.
func (s *story) args() []string {
	var args []string
	if s.members != 0 {
		args = append(args, fmt.Sprintf("--members=%d", s.members))
	}
	if s.clients != 0 {
		args = append(args, fmt.Sprintf("--clients=%d", s.clients))
	}
	if s.duration != durationDefault {
		args = append(args, "--duration="+s.duration.String())
	}
	if len(s.faults) > 0 {
		args = append(args, "--faults="+strings.Join(s.faults, ","))
	}
	if s.variant != 0 {
		args = append(args, fmt.Sprintf("--variant=%d", s.variant))
	}
	return args
}

// command is a command line for one seed of this story.
func (s *story) command(seed uint64, more ...string) string {
	words := append([]string{"octopii-chaos", "sim", "--seed", fmt.Sprint(seed)}, s.args()...)
	return strings.Join(append(words, more...), " ")
}

func (s *simulation) check(flags *pflag.FlagSet) error {
	many := flags.Changed("seeds")
	s.one = flags.Changed("seed")
	switch {
	case many == s.one:
		return errors.New("sim needs one of --seeds N and --seed S")
	case many && s.seeds == 0:
		return errors.New("--seeds is 0; use a positive number")
	case many && s.seeds-1 > math.MaxUint64-s.from:
		return fmt.Errorf("there are no %d seeds from %d on", s.seeds, s.from)
	case many && (s.shrink || s.trace != ""):
		return errors.New("--shrink and --trace are for one seed; name it with --seed")
	case s.one && flags.Changed("from"):
		return errors.New("--from goes with --seeds")
	case s.verify && (s.shrink || s.trace != ""):
		return errors.New("--verify goes with neither --shrink nor --trace")
	case flags.Changed("faults") && len(s.story.faults) == 0:
		return errors.New("--faults is empty; use none for none, and leave it away to have them drawn")
	case s.jobs < 1:
		return fmt.Errorf("--jobs is %d; use a positive number", s.jobs)
	case s.limit <= 0:
		return fmt.Errorf("--limit is %v; use a positive duration", s.limit)
	case s.output != "text" && s.output != "json":
		return fmt.Errorf("--output is %q; use text or json", s.output)
	case s.output == "json" && s.trace == "-":
		return errors.New("--trace - and --output json both write to standard output; give the trace a file")
	}
	return s.story.check()
}

func (s *simulation) run(ctx context.Context, stdout, stderr io.Writer) error {
	if s.one && !s.verify {
		return s.runOne(ctx, stdout, stderr)
	}
	if s.one {
		s.from, s.seeds = s.seed, 1
	}
	return s.runMany(ctx, stdout, stderr)
}

// runOne simulates a seed in this process.
func (s *simulation) runOne(ctx context.Context, stdout, stderr io.Writer) error {
	o := s.story.options()
	began := cpuTime()
	var r sim.Report
	if s.shrink {
		o, r = s.runShrink(ctx, o, stderr)
	}
	if !s.shrink || s.trace != "" {
		trace, err := openTrace(s.trace, stdout)
		if err != nil {
			return err
		}
		if s.trace != "" {
			o.Trace = trace.line
		}
		r = sim.Simulate(s.seed, o)
		if err := trace.close(); err != nil {
			return err
		}
	}
	out := newResult(&r, cpuTime()-began)
	s.story = storyOf(o)
	if err := newPrinter(stdout, s.output, s.story).result(out, true); err != nil {
		return err
	}
	if r.Failure != nil {
		return errBroken
	}
	return nil
}

// runShrink makes a failure smaller, and says how it comes along.
func (s *simulation) runShrink(ctx context.Context, o sim.Options, stderr io.Writer) (sim.Options, sim.Report) {
	ctx, stop := interruptible(ctx)
	defer stop()
	attempts := 0
	return sim.Shrink(s.seed, o, func(o sim.Options, r sim.Report) bool {
		attempts++
		how := "holds"
		if r.Failure != nil {
			how = r.Failure.Invariant
		}
		fmt.Fprintf(stderr, "attempt %d: members=%d clients=%d duration=%v faults=%s variant=%d: %s\n",
			attempts, o.Members, o.Clients, o.Duration, strings.Join(o.Faults, ","), o.Variant, how)
		return ctx.Err() == nil
	})
}

// traceFile is where a story is written. It has no buffer: what is written is there
// even if the process dies of what it simulates.
type traceFile struct {
	w    io.Writer
	file *os.File
	// err is the first write that failed.
	err error
}

// openTrace opens a file, or stdout for "-". Without a name nothing is traced.
func openTrace(name string, stdout io.Writer) (*traceFile, error) {
	switch name {
	case "":
		return &traceFile{}, nil
	case "-":
		return &traceFile{w: stdout}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("create the trace: %w", err)
	}
	return &traceFile{w: f, file: f}, nil
}

func (t *traceFile) line(line string) {
	if t.err == nil {
		_, t.err = fmt.Fprintln(t.w, line)
	}
}

func (t *traceFile) close() error {
	err := t.err
	if t.file != nil {
		err = errors.Join(err, t.file.Close())
	}
	if err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	return nil
}
