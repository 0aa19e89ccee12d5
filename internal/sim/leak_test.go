package sim

import (
	"runtime"
	"testing"
	"time"
)

// A story may end while a disk works for somebody: nothing of it stays behind.
func TestNothingStaysBehind(t *testing.T) {
	o := Options{Members: 3, Duration: 500 * time.Millisecond, Faults: []string{"stall"}}
	before := runtime.NumGoroutine()
	writing := 0
	for seed := range uint64(30) {
		exclusively(seed, func() {
			w := newWorld(draw(seed, o))
			w.found()
			w.runUntil(w.now + 1) // somewhere
			for _, m := range w.members {
				m.disk.stalled = w.now + time.Hour
			}
			w.addClient()
			w.runUntil(w.now + time.Second)
			for _, m := range w.members {
				if m.writing != nil {
					writing++
				}
			}
			w.end()
		})
	}
	if writing == 0 {
		t.Error("no disk worked for anybody when a story ended")
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, and %d before", n, before)
	}
}
