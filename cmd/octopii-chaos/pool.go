package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/octopii/octopii/internal/sim"
)

// Invariants that only a look from outside of the process can see.
const (
	survives  = "the process survives"
	sameStory = "the same seed is the same story"
)

// work is a worker: it reads seeds, and writes a result for each, until its input
// ends. A simulation replaces the process's source of chance, so there is one in a
// process at a time, and one core is enough for it.
func work(r io.Reader, w io.Writer, o sim.Options) error {
	runtime.GOMAXPROCS(1)
	// A cluster is small, and memory is cheaper than collecting it often.
	debug.SetGCPercent(400)
	seeds, results := json.NewDecoder(r), json.NewEncoder(w)
	for {
		var seed uint64
		err := seeds.Decode(&seed)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a seed: %w", err)
		}
		began := cpuTime()
		report := sim.Simulate(seed, o)
		if err := results.Encode(newResult(&report, cpuTime()-began)); err != nil {
			return fmt.Errorf("write a report: %w", err)
		}
	}
}

// pool simulates seeds in worker processes.
type pool struct {
	// command starts a worker.
	command []string
	jobs    int
	// limit is how much real time a seed may take.
	limit time.Duration
	// verify: each seed is simulated once more, in a process of its own.
	verify bool
}

// run simulates n seeds from the first on, and calls done with each result, from
// this goroutine, in the order in which they end. When it returns no worker runs any
// more. The error is why it ended early.
func (p *pool) run(ctx context.Context, first, n uint64, done func(*result) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	seeds, results := make(chan uint64), make(chan *result)
	var slots sync.WaitGroup
	slots.Go(func() {
		defer close(seeds)
		for i := range n {
			select {
			case seeds <- first + i:
			case <-ctx.Done():
				return
			}
		}
	})
	for range min(uint64(p.jobs), n) {
		slots.Go(func() {
			if err := p.slot(ctx, seeds, results); err != nil {
				end(err)
			}
		})
	}
	go func() { slots.Wait(); close(results) }()
	for r := range results {
		if ctx.Err() != nil {
			continue
		}
		if err := done(r); err != nil {
			end(err)
		}
	}
	return context.Cause(ctx)
}

// slot has one worker at a time, and replaces those that die.
func (p *pool) slot(ctx context.Context, seeds <-chan uint64, results chan<- *result) error {
	var w *worker
	defer func() { w.end() }()
	for seed := range seeds {
		if w == nil {
			var err error
			if w, err = p.start(ctx); err != nil {
				return err
			}
		}
		r, err := w.simulate(seed, p.limit)
		if err != nil {
			r = died(seed, errors.Join(err, w.end()))
			w = nil
		}
		if p.verify && r.Failure == nil {
			if err := p.again(ctx, r); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil // then it died of that
		}
		results <- r
	}
	return nil
}

// again simulates a seed in a new process, and compares.
func (p *pool) again(ctx context.Context, r *result) error {
	w, err := p.start(ctx)
	if err != nil {
		return err
	}
	second, err := w.simulate(r.Seed, p.limit)
	if why := w.end(); err != nil {
		second = died(r.Seed, errors.Join(err, why))
	}
	r.compare(second)
	return nil
}

// compare says whether a second simulation of the same seed was the same story.
func (r *result) compare(second *result) {
	switch {
	case r.Hash != second.Hash:
		r.Failure = &failure{Invariant: sameStory, Detail: fmt.Sprintf("one process made hash %s of it, and another %s", r.Hash, second.Hash)}
	case second.Failure != nil:
		r.Failure = second.Failure
	}
	r.CPU += second.CPU
	r.Simulated += second.Simulated
}

// died is the result of a seed that its process did not survive.
func died(seed uint64, why error) *result {
	return &result{Seed: seed, Hash: "0000000000000000", Failure: &failure{Invariant: survives, Detail: why.Error()}}
}

// worker is a process that simulates one seed after the other.
type worker struct {
	cmd    *exec.Cmd
	seeds  io.WriteCloser
	in     *json.Encoder
	out    *json.Decoder
	stderr *head
}

// start starts a worker, which ends with ctx.
func (p *pool) start(ctx context.Context) (*worker, error) {
	w := &worker{cmd: exec.CommandContext(ctx, p.command[0], p.command[1:]...), stderr: &head{}}
	w.cmd.Stderr = w.stderr
	// Ctrl-C is for this process, which then ends the worker.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	w.seeds, w.in, w.out = stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)
	return w, nil
}

// killAfter is how long a process has to say where it hangs.
const killAfter = 10 * time.Second

// simulate has the worker simulate a seed. After an error it is of no use.
func (w *worker) simulate(seed uint64, limit time.Duration) (*result, error) {
	// The Go runtime answers SIGQUIT with what every goroutine does, and ends.
	hung := time.AfterFunc(limit, func() { _ = w.cmd.Process.Signal(syscall.SIGQUIT) })
	dead := time.AfterFunc(limit+killAfter, func() { _ = w.cmd.Process.Kill() })
	defer dead.Stop()
	r := &result{}
	err := w.in.Encode(seed)
	if err == nil {
		err = w.out.Decode(r)
	}
	if !hung.Stop() {
		return nil, fmt.Errorf("it took more than %v (--limit)", limit)
	}
	if err == nil && r.Seed != seed {
		err = fmt.Errorf("it reports seed %d", r.Seed)
	}
	if err != nil {
		return nil, fmt.Errorf("no report of seed %d: %w", seed, err)
	}
	return r, nil
}

// end ends the process, and returns what it died of. A nil worker has ended.
func (w *worker) end() error {
	if w == nil {
		return nil
	}
	// One that is well ends with its input, and one that talks nonsense never might.
	w.seeds.Close()
	kill := time.AfterFunc(killAfter, func() { _ = w.cmd.Process.Kill() })
	defer kill.Stop()
	err := w.cmd.Wait()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w\n%s", err, w.stderr.String())
}

// head keeps the beginning of what is written to it: of a crash it says most.
type head struct{ bytes.Buffer }

const headBytesMax = 16 << 10

func (h *head) Write(b []byte) (int, error) {
	h.Buffer.Write(b[:min(len(b), headBytesMax-h.Len())])
	return len(b), nil
}

// runMany simulates seeds in worker processes, and says how it comes along.
func (s *simulation) runMany(ctx context.Context, stdout, stderr io.Writer) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to start workers: %w", err)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	p := &pool{
		command: append([]string{program, "sim", "worker"}, s.story.args()...),
		jobs:    s.jobs, limit: s.limit, verify: s.verify,
	}
	return s.manage(ctx, p, stdout, stderr)
}

// manage has a pool simulate, and shows what comes of it.
func (s *simulation) manage(ctx context.Context, p *pool, stdout, stderr io.Writer) error {
	began := time.Now()
	sum := &summary{Commit: commit(), Wanted: s.seeds, From: s.from, Jobs: int(min(uint64(s.jobs), s.seeds)), Hash: "0000000000000000", Broken: []broken{}}
	out := newPrinter(stdout, s.output, s.story)
	bar := startProgress(stderr, s.seeds)
	err := p.run(ctx, s.from, s.seeds, func(r *result) error {
		sum.add(r)
		bar.update(*sum)
		if r.Failure == nil && !out.json {
			return nil
		}
		bar.clear()
		return out.result(r, false)
	})
	bar.end()
	sum.Elapsed = secondsOf(time.Since(began))
	interrupted := ctx.Err() != nil
	if err != nil && !interrupted {
		return err
	}
	if err := out.summary(sum); err != nil {
		return err
	}
	switch {
	case sum.Failures > 0:
		return errBroken
	case interrupted:
		return errInterrupted
	}
	return nil
}
