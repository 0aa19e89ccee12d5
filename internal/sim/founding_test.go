package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
)

// handDriven is a world of three members that break only where a test breaks them.
func handDriven(seed uint64, together bool) *world {
	cfg := draw(1, Options{Faults: []string{}})
	cfg.Seed, cfg.together, cfg.Members, cfg.durable = seed, together, 3, seed%2 == 1
	cfg.tick, cfg.electionTicks, cfg.joinTimeoutTicks = 100*time.Millisecond, 10, 600
	cfg.failoverByTimeout = seed%4 > 1
	w := newWorld(cfg)
	w.byHand = true
	return w
}

// settledTogether waits until all that are there vote and are equal.
func (w *world) settledTogether(t *testing.T, what string) {
	t.Helper()
	w.within(60*w.cfg.electionTimeout(), "all vote", func() bool { return w.foundedByAll() && w.equal() })
	if w.failed != nil {
		t.Errorf("%s: %v", what, w.failed)
	}
}

// The power of each member fails before each change of its disk while a cluster is
// founded. It is started again, and at every third of these moments with an empty disk.
// All are voters of one cluster in the end, and all other invariants hold.
func TestFoundingCrashPoints(t *testing.T) {
	for victim := range 3 {
		for n := 0; ; n++ {
			crashed := false
			exclusively(uint64(n), func() {
				w := handDriven(uint64(n), true)
				defer w.end()
				w.found()
				m := w.members[victim]
				for _, o := range w.members {
					o.start()
				}
				m.disk.crashIn = n
				w.runUntil(2 * time.Second)
				if crashed = !m.up(); crashed && n%3 == 2 {
					w.nemesis.wipeAndReturn(m)
				} else {
					m.disk.crashIn = -1
					m.start()
				}
				w.settledTogether(t, fmt.Sprintf("member %d, power failure at change %d", m.id, n))
			})
			if !crashed || t.Failed() {
				break
			}
			if n > 200 {
				t.Fatal("its power fails for ever")
			}
		}
	}
}

// A founder that lost its disk, or a member that expects others, comes back with its own
// command, and its power fails before each change of its disk. Then all others are
// stopped for a while: alone it founds nothing, if it had been told.
func TestComingBackCrashPoints(t *testing.T) {
	for _, together := range []bool{false, true} {
		for n := 0; ; n++ {
			crashed := false
			exclusively(uint64(n), func() {
				w := handDriven(uint64(n), together)
				defer w.end()
				w.found()
				for _, m := range w.members {
					m.start()
				}
				w.settledTogether(t, "at first")
				h := w.nemesis.wipeAndReturn(w.members[0])
				h.disk.crashIn = n
				w.runUntil(w.now + 10*time.Second)
				if crashed = !h.up(); crashed {
					for _, m := range w.members[1:3] {
						m.kill(false)
					}
					h.disk.crashIn = -1
					h.start()
					w.runUntil(w.now + 5*time.Second)
					w.served(h)
					for _, m := range w.members[1:3] {
						m.start()
					}
				}
				if !h.phantom {
					w.settledTogether(t, fmt.Sprintf("together %v, power failure at change %d", together, n))
				} else if h.knows || together {
					t.Errorf("together %v, power failure at change %d: it founds a second cluster, and was told of the first", together, n)
				}
			})
			if !crashed || t.Failed() {
				break
			}
			if n > 200 {
				t.Fatal("its power fails for ever")
			}
		}
	}
}

// served looks whether a member that is alone serves.
func (w *world) served(m *member) {
	if m.up() && m.status().Role == node.Leader {
		m.askPhantom()
		w.runUntil(w.now + time.Second)
	}
}
