package sim

import (
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
)

// forgetful is a state machine with a bug: what it restores lacks a list.
type forgetful struct{ registers }

func (f *forgetful) Restore(index uint64, r io.Reader) error {
	err := f.registers.Restore(index, r)
	f.lists[0] = nil
	return err
}

// planted is a cluster of them, with more in it than the bug needs.
func planted() Options {
	return Options{
		New: func() node.StateMachine { return &forgetful{} },
		Command: func(rnd *rand.Rand) []byte {
			return command{verb: push, key: byte(rnd.IntN(2)), a: rnd.Uint64()}.encode()
		},
		Members: 5, Clients: 4, Duration: 20 * time.Second,
		Faults: []string{"kill", "pause", "partition", "slow-disk", "transfer", "snapshot"},
	}
}

func TestShrink(t *testing.T) {
	const seed = 1
	o := planted()
	whole := Simulate(seed, o)
	if whole.Failure == nil {
		t.Fatal("the planted bug is not found")
	}
	attempts := 0
	small, r := Shrink(seed, o, func(o Options, r Report) bool { attempts++; return true })
	t.Logf("after %d attempts %s for %v: %v", attempts, r.Settings, small.Duration, r.Failure)
	if r.Failure == nil || r.Failure.Invariant != whole.Failure.Invariant {
		t.Fatalf("shrunk to %v, which fails with %v and not with %v", r.Settings, r.Failure, whole.Failure)
	}
	if small.Members != 3 || small.Clients != 1 || len(small.Faults) > 1 || small.Duration >= o.Duration/2 {
		t.Errorf("shrunk to members=%d clients=%d faults=%v for %v, want 3, 1, one kind at most, and less than half of the time", small.Members, small.Clients, small.Faults, small.Duration)
	}
	if len(r.Failure.Last) == 0 {
		t.Error("nothing says what led to the failure")
	}
	if again := Simulate(seed, small); again.Hash != r.Hash || again.Failure == nil || again.Failure.Invariant != r.Failure.Invariant {
		t.Errorf("the smaller one has hash %016x and %v, and then %016x and %v", r.Hash, r.Failure, again.Hash, again.Failure)
	}
}

func TestShrinkEndsWhenTold(t *testing.T) {
	attempts := 0
	_, r := Shrink(1, planted(), func(Options, Report) bool { attempts++; return false })
	if attempts != 1 || r.Failure == nil {
		t.Errorf("%d attempts, and %v; want one, and a failure", attempts, r.Failure)
	}
}

func TestShrinkLeavesWhatHolds(t *testing.T) {
	o := Options{Members: 3, Clients: 1, Duration: time.Second, Faults: []string{}}
	if _, r := Shrink(1, o, func(Options, Report) bool { t.Error("an attempt"); return false }); r.Failure != nil {
		t.Error(r.Failure)
	}
}

// What a seed drew, given as Options, is the same story.
func TestDrawnIsGiven(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		drawn := Simulate(seed, Options{Duration: 5 * time.Second})
		given := Simulate(seed, Options{Members: drawn.Members, Clients: drawn.Clients, Duration: drawn.Duration, Faults: drawn.Kinds})
		if given.Hash != drawn.Hash || given.Settings != drawn.Settings {
			t.Errorf("seed %d: drawn %016x %s\ngiven %016x %s", seed, drawn.Hash, drawn.Settings, given.Hash, given.Settings)
		}
	}
}

// A panic outside of any event is a failure too, and a traced story has its end.
func TestPanicIsAFailure(t *testing.T) {
	lines := 0
	o := planted()
	made, make := 0, o.New
	o.New = func() node.StateMachine {
		if made++; made > 2 { // the options are looked at first
			panic("planted")
		}
		return make()
	}
	o.Trace = func(string) { lines++ }
	r := Simulate(1, o)
	if r.Failure == nil || r.Failure.Invariant != "no panic" || lines == 0 || len(r.Failure.Last) == 0 {
		t.Errorf("%d lines; %v", lines, r.Failure)
	}
}

// Variants are other stories of the same configuration.
func TestVariants(t *testing.T) {
	o := Options{Duration: 2 * time.Second, Faults: []string{"kill"}}
	own := Simulate(3, o)
	o.Variant = 1
	other, again := Simulate(3, o), Simulate(3, o)
	if other.Settings != own.Settings || other.Hash == own.Hash || again.Hash != other.Hash {
		t.Errorf("its own %016x %s\nanother %016x %s\nagain %016x", own.Hash, own.Settings, other.Hash, other.Settings, again.Hash)
	}
}
