// Package nodetest checks a state machine: it simulates whole clusters of it, the
// production Node over disks, a network and clocks that break, in one goroutine and
// in no real time.
//
// A seed draws everything: how many members and clients there are, how they are
// configured, what they do, and what befalls them. The same seed is the same
// story, on any machine, so a failure is repeated by its number. While the story
// goes on a checker looks at every decision, message and call of the state
// machine.
//
// # Your own state machine
//
// Run does this in an ordinary test:
//
//	func TestBank(t *testing.T) {
//		nodetest.Run(t, nodetest.Options{
//			New:     func() node.StateMachine { return newBank() },
//			Command: func(rnd *rand.Rand) []byte { ... }, // draws a command
//		})
//	}
//
// That much finds what differs between members, restarts and restored snapshots.
// With Query and Read it also looks at what is read; with Model, a porcupine model
// of what one machine with one client does, at whether clients saw what they may
// see. The example is a whole test, and finds a mistake.
//
// Twenty seeds take a few seconds; OCTOPII_SEEDS=2000 in the environment runs
// more. A failure says what does not hold and where, shows the last events, and
// ends with the command that replays it:
//
//	OCTOPII_SEED=8123 go test ./... -run '^TestBank$'
//
// OCTOPII_TRACE=FILE beside it writes the whole story of that seed.
//
// # What is checked of it
//
//   - The same commands give the same results and the same state: on every member,
//     in any grouping into calls of Apply, after every restart, and in a replay of
//     the whole log by a new machine. States are compared by the bytes of their
//     snapshots, at many indexes; where those may differ between equal states, set
//     Options.Digest. This finds clocks, chance, the order of maps, and variables
//     that members share.
//   - A snapshot is of the state that was captured, even if it is written after
//     later commands were applied.
//   - Restore replaces the whole state, whatever the machine had before, and a
//     restored machine has the same state and gives the same results from there on.
//   - WriteTo and Restore return the errors of their writer and reader, and Restore
//     takes what it reads in pieces of any size.
//   - Apply leaves the data of its entries alone, and a result does not change after
//     it was returned.
//   - An error, a panic, or too few or too many results are reported with the entry.
//   - A query has the same answer wherever the same commands are applied.
//   - What clients saw of commands and queries has an order that the Model explains
//     and that fits the times at which they ran (linearizability).
//
// # What it cannot find
//
//   - Races between goroutines of the state machine: everything runs in one. WriteTo
//     runs between calls of Apply here and beside them in production, so use the
//     race detector in a test with a real Node too.
//   - Wrong answers that are the same everywhere, without a Model.
//   - Anything that Command and Query do not draw. Draw few keys and small values, so
//     that clients get in each other's way.
//   - What a state machine does on a disk of its own: it is simulated in memory, and
//     one whose Durable answers true is refused.
//   - Slowness: no time passes in Apply.
package nodetest
