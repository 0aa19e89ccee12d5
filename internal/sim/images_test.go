package sim

import (
	"fmt"
	"testing"
	"time"
)

// orders are all orders of n members, or some where there are many.
func orders(n int) (list [][]int) {
	if n == 5 {
		return [][]int{{0, 1, 2, 3, 4}, {4, 3, 0, 2, 1}}
	}
	return [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
}

// The disks of one member, of a majority, or of all are set back to images of different
// ages, and the members start in every order. Clients see one history, whatever it is.
//
// A setting has half of the orders, and the next one the other half, unless
// OCTOPII_LONG_TESTS asks for all.
func TestImagesInEveryOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("many worlds, one after the other")
	}
	world := 0
	for _, members := range []int{3, 5} {
		for _, durable := range []bool{false, true} {
			for back := members / 2; back <= members; back++ {
				world++
				for i, order := range orders(members) {
					if (i+world)%2 > 0 && !thorough() {
						continue
					}
					t.Run(fmt.Sprintf("members=%d durable=%v back=%d order=%v", members, durable, back, order), func(t *testing.T) {
						exclusively(1, func() { setBack(t, members, durable, back, order) })
					})
				}
			}
		}
	}
}

func setBack(t *testing.T, members int, durable bool, back int, order []int) {
	cfg := draw(uint64(members), Options{Members: members, Clients: 3, Faults: []string{}})
	cfg.durable = durable
	w := newWorld(cfg)
	defer w.end()
	w.found()
	voters := append([]*member(nil), w.members...)
	old := map[*member]image{}
	for range cfg.Clients {
		w.addClient()
	}
	for _, m := range voters[:back] {
		w.runUntil(w.now + time.Second)
		old[m] = image{m.disk.mem.CrashKeepingAll(), m.machine.saved}
	}
	w.runUntil(w.now + 3*time.Second)
	for _, m := range voters {
		m.kill(false)
	}
	w.nemesis.branch()
	for i, at := range order {
		m := voters[at]
		if img, ok := old[m]; ok {
			m.disk.plug(img.mem.Clone())
			m.machine.saved = img.data
			m.view.forgets = true
		}
		m.after(time.Duration(i)*3*cfg.electionTimeout(), "start", m.start)
	}
	w.runUntil(w.now + 25*cfg.electionTimeout())
	if w.failed != nil {
		t.Fatalf("%s: %s: %s", w.failed.Invariant, w.failed.Detail, w.summary())
	}
	if back <= members/2 && w.leader() == nil {
		t.Fatalf("a majority has everything, and nobody leads: %s", w.summary())
	}
}
