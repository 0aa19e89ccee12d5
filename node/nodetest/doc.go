// Package nodetest simulates whole clusters by a seed: the production Node over
// disks, a network and clocks that break, in one goroutine and in no real time.
//
// A seed draws everything: how many members and clients there are, how they are
// configured, what they do, and what befalls them. The same seed is the same
// story, on any machine, so a failure is repeated by its number. While the story
// goes on a checker looks at every decision, message and call of the state
// machine: see invariants.go.
package nodetest
