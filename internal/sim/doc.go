// Package sim simulates whole clusters by a seed: the production Node over disks,
// a network and clocks that break, in one goroutine and in no real time.
//
// A seed draws everything: how many members and clients there are, how they are
// configured, what they do, and what befalls them. The same seed is the same
// story, on any machine, so a failure is repeated by its number. While the story
// goes on a checker looks at every decision, message and call of the state
// machine: see invariants.go. When it is over, package check looks at what the
// clients saw.
//
// Programs use it by package nodetest, over a state machine of theirs, and by
// octopii-chaos. It steps Nodes by package stepped: it knows nothing of their core.
//
//	world, simulate     the events, the clock, and the course of a story
//	member, disk, log   a process that comes and goes, and the disk that stays
//	network, stream     the links and what befalls them
//	nemesis, operator   the faults, and the changes of membership
//	client, registers   who calls the cluster, and the state machine of the simulator
//	machine, states     what is checked of a state machine
//	invariants, history what must hold, at every event and when the story is over
//	shrink              makes a failure smaller
package sim
