package sim

import (
	"fmt"
	"slices"
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

// The disks of all members, or of a majority, are set back to images from before others joined.
// Once one of those was heard, nobody serves by its old records.
//
// A setting has one kind of state machine, unless OCTOPII_LONG_TESTS asks for both.
func TestImagesFromBeforeAJoin(t *testing.T) {
	if testing.Short() {
		t.Skip("many worlds, one after the other")
	}
	for i, c := range []struct{ members, back, joined int }{{2, 2, 1}, {2, 2, 2}, {2, 2, 3}, {3, 3, 1}, {3, 3, 2}, {4, 3, 1}} {
		for _, durable := range []bool{false, true} {
			for j, first := range []string{"images", "joined"} {
				if !thorough() && durable != ((i+j)%2 > 0) || first == "images" && c.joined > c.members {
					continue // or: those that joined are a majority, too, and both serve until they have heard
				}
				t.Run(fmt.Sprintf("members=%d back=%d joined=%d durable=%v first=%s", c.members, c.back, c.joined, durable, first), func(t *testing.T) {
					exclusively(1, func() { setBackBeforeJoin(t, c.members, c.back, c.joined, durable, first == "joined") })
				})
			}
		}
	}
}

func setBackBeforeJoin(t *testing.T, members, back, joined int, durable, joinedFirst bool) {
	cfg := draw(uint64(members), Options{Members: members, Clients: 3, Faults: []string{}})
	cfg.durable, cfg.together = durable, false
	w := newWorld(cfg)
	defer w.end()
	w.found()
	old := map[*member]image{}
	for _, m := range w.members[:back] {
		old[m] = image{m.disk.mem.CrashKeepingAll(), m.machine.saved}
	}
	for range cfg.Clients {
		w.addClient()
	}
	for range joined {
		m := w.nemesis.newcomer()
		w.runWhile(w.now+30*time.Second, func() bool {
			l := w.leader()
			return l == nil || !slices.Contains(l.status().Membership.Voters(), m.id)
		})
	}
	w.runUntil(w.now + 3*time.Second)
	for _, m := range w.members {
		m.kill(false)
	}
	w.nemesis.branch()
	var later []*member
	for _, m := range w.members {
		img, ok := old[m]
		if !ok {
			later = append(later, m)
			continue
		}
		m.disk.plug(img.mem.Clone())
		m.machine.saved = img.data
		m.view.forgets = true
	}
	at := 5 * cfg.electionTimeout()
	for _, m := range w.members {
		if slices.Contains(later, m) == joinedFirst {
			m.start()
		} else {
			m.after(at, "start", m.start)
		}
	}
	w.runUntil(w.now + 60*cfg.electionTimeout())
	if w.failed != nil {
		t.Fatalf("%s: %s: %s", w.failed.Invariant, w.failed.Detail, w.summary())
	}
	for m := range old {
		if !joinedFirst && m.up() && len(m.status().Membership.Members) == members && m.status().Suspended == nil {
			t.Errorf("%s serves by records from before others joined: %s", m.name(), w.summary())
		}
	}
}

// The disks of a majority are set back to images from before every member was rebuilt, so that
// the records of those and of the newest have no member in common. Once the newest was heard,
// nobody serves by the old records.
func TestImagesFromBeforeARebuild(t *testing.T) {
	if testing.Short() {
		t.Skip("many worlds, one after the other")
	}
	for i, c := range []struct{ members, back int }{{3, 2}, {5, 3}, {5, 4}} {
		for _, durable := range []bool{false, true} {
			for j, first := range []string{"images", "rebuilt"} {
				if thorough() || durable == ((i+j)%2 > 0) {
					t.Run(fmt.Sprintf("members=%d back=%d durable=%v first=%s", c.members, c.back, durable, first), func(t *testing.T) {
						exclusively(1, func() { setBackBeforeRebuild(t, c.members, c.back, durable, first == "rebuilt") })
					})
				}
			}
		}
	}
}

func setBackBeforeRebuild(t *testing.T, members, back int, durable, rebuiltFirst bool) {
	cfg := draw(uint64(members), Options{Members: members, Clients: 3, Faults: []string{}})
	cfg.durable, cfg.together = durable, false
	w := newWorld(cfg)
	defer w.end()
	w.found()
	w.byHand = true
	voters, old := slices.Clone(w.members), map[*member]image{}
	for _, m := range voters[:back] {
		old[m] = image{m.disk.mem.CrashKeepingAll(), m.machine.saved}
	}
	for range cfg.Clients {
		w.addClient()
	}
	var newest []*member
	for _, m := range voters {
		h := w.nemesis.wipeAndReturn(m)
		w.runWhile(w.now+60*time.Second, func() bool { return !w.votes(h) })
		if _, ok := old[m]; !ok {
			newest = append(newest, h)
		}
	}
	w.runUntil(w.now + 3*time.Second)
	for _, m := range w.members {
		m.kill(false)
	}
	w.nemesis.branch()
	for m, img := range old {
		m.disk.plug(img.mem.Clone())
		m.machine.saved, m.view.forgets, m.gone = img.data, true, false
	}
	start := func(list []*member, at time.Duration) {
		for _, m := range list {
			m.after(at, "start", m.start)
		}
	}
	late := 5 * cfg.electionTimeout()
	if rebuiltFirst {
		start(newest, 0)
		start(voters[:back], late)
	} else {
		start(voters[:back], 0)
		start(newest, late)
	}
	w.runUntil(w.now + 60*cfg.electionTimeout())
	if w.failed != nil {
		t.Fatalf("%s: %s: %s", w.failed.Invariant, w.failed.Detail, w.summary())
	}
	for m := range old {
		if m.up() && m.status().Leader != 0 && m.status().Suspended == nil {
			t.Errorf("%s serves by records from before everybody was rebuilt: %s", m.name(), w.summary())
		}
	}
}
