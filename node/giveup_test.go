package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/octopii/octopii/node"
)

// Calls end at any moment: before the loop sees their requests, in the Step that appends them,
// or later. What is said to be not committed is never applied.
func TestGivenUpIsNotCommitted(t *testing.T) {
	const callers, wanted = 4, 30 // of each of the two errors
	m := founder(t)
	var mu sync.Mutex
	var refused []string
	errs := map[error]int{}
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return errs[node.ErrNotCommitted] >= wanted && errs[node.ErrUnknownOutcome] >= wanted
	}
	ctx := timeout(t)
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := 0; !enough() && ctx.Err() == nil; i++ {
				command := fmt.Sprintf("%d of caller %d", i, c)
				call, cancel := context.WithCancel(ctx)
				go func() {
					for n := rand.IntN(5000); n > 0; n-- {
						_ = call.Err()
					}
					cancel()
				}()
				_, err := m.Propose(call, []byte(command))
				cancel()
				mu.Lock()
				for _, known := range []error{node.ErrNotCommitted, node.ErrUnknownOutcome} {
					if errors.Is(err, known) {
						errs[known]++
					}
				}
				if errors.Is(err, node.ErrNotCommitted) {
					refused = append(refused, command)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	propose(t, m, "the last one")
	for _, command := range m.sm.all() {
		if slices.Contains(refused, command) {
			t.Errorf("%q was not committed, as its caller was told, and is applied", command)
		}
	}
	if !enough() {
		t.Errorf("calls ended with %v; want %d of each", errs, wanted)
	}
}
