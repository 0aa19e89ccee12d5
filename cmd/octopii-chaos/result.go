package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/octopii/octopii/internal/sim"
)

// result is the report of one seed, on the way from a worker and in JSON.
type result struct {
	Seed       uint64  `json:"seed"`
	Hash       string  `json:"hash"`
	Events     int     `json:"events"`
	Faults     int     `json:"faults"`
	Operations int     `json:"operations"`
	Committed  int     `json:"committed"`
	Simulated  seconds `json:"simulated_seconds"`
	// CPU is the process's own time, which other processes do not add to.
	CPU      seconds  `json:"cpu_seconds"`
	Members  int      `json:"members"`
	Clients  int      `json:"clients"`
	Kinds    []string `json:"kinds"`
	Settings string   `json:"settings"`
	Failure  *failure `json:"failure,omitempty"`
	// States and Transitions are what members were, by numbers.
	States      []uint32 `json:"states,omitempty"`
	Transitions []uint32 `json:"transitions,omitempty"`
}

// failure is an invariant that did not hold.
type failure struct {
	Invariant string   `json:"invariant"`
	Detail    string   `json:"detail"`
	At        seconds  `json:"at_seconds"`
	Last      []string `json:"last"`
	// Commit is that of this program, Replay a command line.
	Commit string `json:"commit"`
	Replay string `json:"replay"`
}

// seconds is a duration as JSON has it.
type seconds float64

func secondsOf(d time.Duration) seconds { return seconds(d.Seconds()) }

func (s seconds) String() string {
	return time.Duration(math.Round(float64(s)*1e6) * 1e3).String()
}

// rough is without what nobody reads.
func (s seconds) rough() string {
	d := time.Duration(float64(s) * float64(time.Second))
	if d < time.Minute {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func newResult(r *sim.Report, cpu time.Duration) *result {
	out := &result{
		Seed: r.Seed, Hash: fmt.Sprintf("%016x", r.Hash),
		Events: r.Events, Faults: r.Faults, Operations: r.Operations, Committed: r.Committed,
		Simulated: secondsOf(r.Time), CPU: secondsOf(cpu),
		Members: r.Members, Clients: r.Clients, Kinds: r.Kinds, Settings: r.Settings,
		States: r.Coverage.States, Transitions: r.Coverage.Transitions,
	}
	if f := r.Failure; f != nil {
		out.Failure = &failure{Invariant: f.Invariant, Detail: f.Detail, At: secondsOf(f.At), Last: f.Last}
	}
	return out
}

// cpuTime is how long this process has kept a core busy.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// commit is the one that this program was built from.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return commitOf(info)
}

func commitOf(info *debug.BuildInfo) string {
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	switch {
	case revision != "":
		return revision + dirty
	case info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	}
	return "unknown (built without -buildvcs)"
}

// broken is one invariant, and the seeds in which it did not hold.
type broken struct {
	Invariant string   `json:"invariant"`
	Seeds     []uint64 `json:"seeds"`
}

// summary is what all seeds amount to.
type summary struct {
	Commit string `json:"commit"`
	// Seeds that were done, of Wanted ones, the first of which is From.
	Seeds  uint64 `json:"seeds"`
	Wanted uint64 `json:"wanted"`
	From   uint64 `json:"from"`
	// Hash is over the hashes of all seeds, whatever the order they were done in.
	Hash       string `json:"hash"`
	Events     int    `json:"events"`
	Faults     int    `json:"faults"`
	Operations int    `json:"operations"`
	Committed  int    `json:"committed"`
	// Simulated is the clusters' own time, Elapsed the real one, and PerCore how many
	// times as fast a core is that does nothing else.
	Simulated seconds  `json:"simulated_seconds"`
	Elapsed   seconds  `json:"elapsed_seconds"`
	Jobs      int      `json:"jobs"`
	CPU       seconds  `json:"cpu_seconds"`
	PerCore   float64  `json:"times_real_time_per_core"`
	Failures  uint64   `json:"failures"`
	Broken    []broken `json:"broken"`
	// States and Transitions are how many different ones members were in, over all
	// seeds.
	States      int `json:"states"`
	Transitions int `json:"transitions"`

	reached [2]map[uint32]bool
	hash    uint64
}

// add counts a result in.
func (s *summary) add(r *result) {
	s.Seeds++
	s.Events += r.Events
	s.Faults += r.Faults
	s.Operations += r.Operations
	s.Committed += r.Committed
	s.Simulated += r.Simulated
	s.CPU += r.CPU
	if s.CPU > 0 {
		s.PerCore = float64(s.Simulated / s.CPU)
	}
	s.States, s.Transitions = s.reach(0, r.States), s.reach(1, r.Transitions)
	hash, _ := strconv.ParseUint(r.Hash, 16, 64)
	s.hash += (hash ^ r.Seed) * 0x9e3779b97f4a7c15
	s.Hash = fmt.Sprintf("%016x", s.hash)
	if r.Failure == nil {
		return
	}
	s.Failures++
	for i := range s.Broken {
		if s.Broken[i].Invariant == r.Failure.Invariant {
			s.Broken[i].Seeds = append(s.Broken[i].Seeds, r.Seed)
			return
		}
	}
	s.Broken = append(s.Broken, broken{r.Failure.Invariant, []uint64{r.Seed}})
}

// reach counts states, or transitions, in, and returns how many different ones there are.
func (s *summary) reach(kind int, numbers []uint32) int {
	if s.reached[kind] == nil {
		s.reached[kind] = map[uint32]bool{}
	}
	for _, n := range numbers {
		s.reached[kind][n] = true
	}
	return len(s.reached[kind])
}

// printer writes results for people or for machines.
type printer struct {
	w      io.Writer
	json   bool
	story  story
	commit string
	// whole counts the failures that were shown with all of their last events.
	whole int
}

// wholeMax is how many failures are shown with their last events: a program that is
// broken altogether would bury the rest.
const wholeMax = 10

func newPrinter(w io.Writer, format string, s story) *printer {
	return &printer{w: w, json: format == "json", story: s, commit: commit()}
}

// result shows a seed. For people only failures are worth it, unless it is the one
// that they asked for.
func (p *printer) result(r *result, asked bool) error {
	if f := r.Failure; f != nil {
		f.Commit = p.commit
		f.Replay = p.story.command(r.Seed, "--trace", fmt.Sprintf("seed-%d.txt", r.Seed))
		if f.Invariant == sameStory {
			f.Replay = p.story.command(r.Seed, "--verify")
		}
	}
	if p.json {
		return json.NewEncoder(p.w).Encode(r)
	}
	var b strings.Builder
	switch {
	case r.Failure != nil:
		p.failed(&b, r)
	case asked:
		fmt.Fprintf(&b, "seed %d: every invariant held\n", r.Seed)
		p.about(&b, r)
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

func (p *printer) failed(b *strings.Builder, r *result) {
	f := r.Failure
	fmt.Fprintf(b, "FAILED seed %d: %s\n", r.Seed, f.Invariant)
	field(b, "detail", f.Detail)
	field(b, "at", f.At.String())
	p.about(b, r)
	if p.whole++; p.whole <= wholeMax {
		field(b, "last", strings.Join(f.Last, "\n"))
	}
	field(b, "replay", f.Replay)
	if f.Invariant != sameStory {
		field(b, "shrink", p.story.command(r.Seed, "--shrink"))
	}
	b.WriteString("\n")
}

func (p *printer) about(b *strings.Builder, r *result) {
	field(b, "commit", p.commit)
	field(b, "settings", r.Settings)
	field(b, "hash", r.Hash)
	field(b, "story", fmt.Sprintf("%d events, %d faults, %d operations, %d entries committed, %s of the cluster's time in %s of a core's",
		r.Events, r.Faults, r.Operations, r.Committed, r.Simulated.rough(), r.CPU.rough()))
}

// field is a name and what it is; more lines of it stand below each other.
func field(b *strings.Builder, name, text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(b, "  %-9s %s\n", name, strings.TrimRight(line, "\n"))
		name = ""
	}
}

// listMax is how many seeds of an invariant are named to people.
const listMax = 20

// summary shows what all seeds amount to.
func (p *printer) summary(s *summary) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(map[string]*summary{"summary": s})
	}
	var b strings.Builder
	of := ""
	if s.Seeds < s.Wanted {
		of = fmt.Sprintf(" of %d", s.Wanted)
	}
	fmt.Fprintf(&b, "%d%s seeds from %d on: %d failed\n", s.Seeds, of, s.From, s.Failures)
	field(&b, "commit", s.Commit)
	field(&b, "hash", s.Hash)
	field(&b, "story", fmt.Sprintf("%d events, %d faults, %d operations, %d entries committed", s.Events, s.Faults, s.Operations, s.Committed))
	field(&b, "time", fmt.Sprintf("%s of clusters' time in %s on %d processes: %.0f times real time per core", s.Simulated.rough(), s.Elapsed.rough(), s.Jobs, s.PerCore))
	if hours := float64(s.Simulated) / 3600; s.States > 0 {
		field(&b, "reached", fmt.Sprintf("%d states of members, and %d transitions between them; %.0f and %.0f in an hour of clusters' time", s.States, s.Transitions, float64(s.States)/hours, float64(s.Transitions)/hours))
	}
	for _, x := range s.Broken {
		var words []string
		for _, seed := range x.Seeds[:min(len(x.Seeds), listMax)] {
			words = append(words, fmt.Sprint(seed))
		}
		if more := len(x.Seeds) - listMax; more > 0 {
			words = append(words, fmt.Sprintf("and %d more", more))
		}
		field(&b, "broken", fmt.Sprintf("%s: %d seeds: %s", x.Invariant, len(x.Seeds), strings.Join(words, " ")))
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}
