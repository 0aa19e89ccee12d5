package node

import (
	"sync"
	"testing"
)

// Goroutines that live at once have different IDs, which stay the same while their
// stacks grow and move.
func TestGoroutineID(t *testing.T) {
	for name, id := range map[string]func() uintptr{"goroutineID": goroutineID, "goroutineNumber": goroutineNumber} {
		const n = 100
		var mu sync.Mutex
		seen := map[uintptr]bool{}
		var all, wg sync.WaitGroup
		all.Add(n)
		for range n {
			wg.Go(func() {
				before := id()
				deep(1000)
				all.Done()
				all.Wait()
				if after := id(); after != before || before == 0 {
					t.Errorf("%s: %x, and then %x", name, before, after)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[before] = true
			})
		}
		wg.Wait()
		if len(seen) != n {
			t.Errorf("%s: %d goroutines had %d IDs", name, n, len(seen))
		}
	}
}

//go:noinline
func deep(n int) int {
	var room [256]byte
	if n == 0 {
		return 0
	}
	room[n%256] = byte(n)
	return deep(n-1) + int(room[n%256])
}

func BenchmarkReentryCheck(b *testing.B) {
	var c callbacks
	c.applier.goroutine.Store(1) // somebody else's
	b.Run("waits", func(b *testing.B) {
		for b.Loop() {
			if c.waits("Propose") != nil {
				b.Fatal("it is not inside")
			}
		}
	})
	b.Run("trace", func(b *testing.B) {
		for b.Loop() {
			_ = goroutineNumber()
		}
	})
}
