package nodetest

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/internal/sim"
	"github.com/octopii/octopii/node"
)

// Options say what Run simulates. New and Command are required.
type Options struct {
	// New makes a state machine, for a member that starts, or to replay the log. It
	// must be one in memory: its Durable answers false.
	New func() node.StateMachine
	// Command draws a command to propose.
	Command func(*rand.Rand) []byte
	// Query draws a query and Read answers it from a state machine, which it must
	// not change. They run behind a ReadBarrier. Optional, both or neither.
	Query func(*rand.Rand) []byte
	Read  func(sm node.StateMachine, query []byte) []byte
	// Model, if set, says what a single state machine would have answered: its
	// operations have commands and queries as Input, and what Apply or Read
	// returned as Output, all of them []byte.
	Model *porcupine.Model
	// Digest, if set, says what a state amounts to: equal states, equal bytes. nil:
	// what the snapshot writes. Set it if snapshots of equal states may differ. It
	// must not change the state machine.
	Digest func(sm node.StateMachine) []byte
	// Describe, if set, shows a command or query in a trace.
	Describe func(input []byte) string

	// Members that the cluster begins with. 0: drawn, 3 mostly, or 5, 7 or 1.
	Members int
	// Clients that call it. 0: drawn.
	Clients int
	// Operations that clients begin before they slow down: a bound for the search
	// that Model asks for. 0: 1,000.
	Operations int
	// Duration of the faults, in the cluster's own time. 0: 20 s.
	Duration time.Duration
	// Faults that strike: see FaultNames. nil: drawn; empty: none.
	Faults []string
	// Trace, if set, gets the whole story of every seed line by line.
	Trace func(line string)

	// Seeds are how many seeds Run tries, From the first of them. 0: 20, or 5 with -short, from 1 on.
	Seeds int
	From  uint64
}

// FaultNames lists the kinds of faults that Options.Faults may name.
// docs/TESTING.md says what each does.
func FaultNames() []string { return sim.FaultNames() }

// simulated returns the simulator's Options for these, or what is wrong with them.
func (o *Options) simulated() (sim.Options, error) {
	s := sim.Options{
		New: o.New, Command: o.Command, Query: o.Query, Read: o.Read, Model: o.Model, Digest: o.Digest, Describe: o.Describe,
		Members: o.Members, Clients: o.Clients, Operations: o.Operations, Duration: o.Duration, Faults: o.Faults, Trace: o.Trace,
	}
	switch {
	case o.New == nil:
		return s, errors.New("Options.New is missing: it makes the state machine to check")
	case o.Seeds < 0:
		return s, errors.New("Options.Seeds must not be negative")
	}
	if s.Duration == 0 {
		s.Duration = runDuration
	}
	return s, s.Validate()
}
