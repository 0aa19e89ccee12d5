package vfstest

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
)

// picker chooses one of n outcomes: 0 is the oldest, n-1 the newest.
type picker func(n int) int

// of asks only where there is a choice.
func (p picker) of(n int) int {
	if n == 1 {
		return 0
	}
	return p(n)
}

// lose is the picker with which nothing unsynced survives.
func lose(int) int { return 0 }

// random draws uniformly, or in two moods of three mostly the newest or mostly
// the oldest: with even odds a large write would never be whole but for one
// sector, which is where mistakes are.
func random(rnd *rand.Rand) picker {
	if rnd == nil {
		return lose
	}
	mood := rnd.IntN(3)
	return func(n int) int {
		if mood > 0 && rnd.IntN(16) > 0 {
			return (mood - 1) * (n - 1)
		}
		return rnd.IntN(n)
	}
}

// Crash returns what is on the disk after the power was lost now, with all of
// it durable. Everything synced is there. By the draws of rnd alone, each sector
// written since is in any state that it went through, each size in any that the
// file went through or grew through, and each name stands for any file that it
// stood for, or for none when there was none. A rename never loses its file: the
// old name is gone only when the new one is there. (It may be lost when the
// directories differ and only the old one was synced.)
// The Mem itself goes on as if nothing had happened.
func (m *Mem) Crash(rnd *rand.Rand) *Mem { return m.crash(random(rnd), 1) }

// CrashLosingAll is the Crash in which nothing unsynced survives.
func (m *Mem) CrashLosingAll() *Mem { return m.crash(lose, 1) }

// CrashKeepingAll is the kill of the process, not of the machine: everything is
// there as it was seen, only locks are gone; but what was not synced still is
// not, and may be lost in a Crash of the result. It is Clone by another name.
func (m *Mem) CrashKeepingAll() *Mem { return m.Clone() }

// CrashBy is Crash with every choice made by pick, which returns one of n
// outcomes: 0 for the oldest, up to n-1 for the newest.
func (m *Mem) CrashBy(pick func(n int) int) *Mem { return m.crash(pick, 1) }

// Crashes goes through all outcomes of Crash, with sizes in steps of a sector.
// Their number is the product of all choices: 2 for each unsynced sector and
// name at least. A few may be equal.
func (m *Mem) Crashes() iter.Seq[*Mem] {
	return func(yield func(*Mem) bool) {
		from := m.Clone()
		var picks, outcomes []int
		for {
			at := 0
			ok := yield(from.crash(func(n int) int {
				if at == len(picks) {
					picks, outcomes = append(picks, 0), append(outcomes, n)
				}
				at++
				return picks[at-1]
			}, SectorSize))
			i := len(picks) - 1
			for i >= 0 && picks[i] == outcomes[i]-1 {
				i--
			}
			if !ok || i < 0 {
				return
			}
			picks, outcomes = picks[:i+1], outcomes[:i+1]
			picks[i]++
		}
	}
}

func (m *Mem) crash(pick picker, sizeStep int64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := settleNames(m.dirs(), pick)
	c := &Mem{capacity: m.capacity}
	made := map[*node]*node{}
	var build func(n *node) *node
	build = func(n *node) *node {
		if made[n] != nil {
			made[n].links++
			return made[n]
		}
		to := &node{links: 1}
		made[n] = to
		if n.names == nil {
			to.disk = n.settle(pick, sizeStep)
			to.cache = to.disk.clone()
			c.used += to.cache.held
			return to
		}
		to.names = map[string]*node{}
		for _, name := range sortedNames(names[n]) {
			to.names[name] = build(names[n][name])
		}
		to.durable = maps.Clone(to.names)
		return to
	}
	c.root = build(m.root)
	return c
}

// dirs returns all directories that may be there after a crash, in an order
// that depends on nothing but what was done.
func (m *Mem) dirs() []*node {
	var list []*node
	seen := map[*node]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		if n == nil || n.names == nil || seen[n] {
			return
		}
		seen[n] = true
		list = append(list, n)
		for _, name := range sortedNames(n.durable) {
			visit(n.durable[name])
		}
		for _, r := range n.renames {
			visit(r.to)
		}
	}
	visit(m.root)
	return list
}

// settleNames returns what the names in each directory stand for when the
// unsynced changes to them survive only as pick says.
func settleNames(dirs []*node, pick picker) map[*node]map[string]*node {
	type key struct {
		dir  *node
		name string
	}
	changes := map[key][]*nameChange{}
	survive := map[key]int{} // how many of these survive
	var order []key
	// place is where a change stands: from 1, in the changes of its name.
	place := map[*nameChange]int{}
	for _, d := range dirs {
		for _, r := range d.renames {
			k := key{d, r.name}
			if changes[k] == nil {
				order = append(order, k)
			}
			changes[k] = append(changes[k], r)
			place[r] = len(changes[k])
		}
	}
	for _, k := range order {
		survive[k] = pick.of(len(changes[k]) + 1)
	}
	// A change that survived brings along the one that it must not outlive.
	for again := true; again; {
		again = false
		for _, k := range order {
			for _, r := range changes[k][:survive[k]] {
				need, ok := place[r.needs]
				if !ok {
					continue
				}
				if other := (key{r.needs.dir, r.needs.name}); survive[other] < need {
					survive[other], again = need, true
				}
			}
		}
	}
	names := map[*node]map[string]*node{}
	for _, d := range dirs {
		names[d] = maps.Clone(d.durable)
	}
	for _, k := range order {
		if n := survive[k]; n > 0 {
			changes[k][n-1].applyTo(names[k.dir])
		}
	}
	return names
}

// Clone returns a copy that shares nothing that can change: with the same files,
// names and unsynced changes, without locks and open files. It costs one pointer
// for each 4 KiB in files and little more.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Mem{capacity: m.capacity}
	nodes, changes := map[*node]*node{nil: nil}, map[*nameChange]*nameChange{nil: nil}
	var clone func(n *node) *node
	var cloneChange func(r *nameChange) *nameChange
	cloneNames := func(from map[string]*node) map[string]*node {
		to := make(map[string]*node, len(from))
		for name, n := range from {
			to[name] = clone(n)
		}
		return to
	}
	cloneChange = func(r *nameChange) *nameChange {
		if to, ok := changes[r]; ok {
			return to
		}
		to := &nameChange{name: r.name}
		changes[r] = to
		to.dir, to.to, to.needs = clone(r.dir), clone(r.to), cloneChange(r.needs)
		return to
	}
	clone = func(n *node) *node {
		if to, ok := nodes[n]; ok {
			return to
		}
		to := &node{links: n.links}
		nodes[n] = to
		if n.names == nil {
			to.file = file{cache: n.cache.clone(), disk: n.disk.clone(), pending: slices.Clip(n.pending)}
			if n.links > 0 {
				c.used += to.cache.held
			}
			return to
		}
		to.names, to.durable = cloneNames(n.names), cloneNames(n.durable)
		for _, r := range n.renames {
			to.renames = append(to.renames, cloneChange(r))
		}
		return to
	}
	c.root = clone(m.root)
	return c
}

// DropUnsynced does what a failed fsync does on Linux: the changes to the file
// or directory since its last sync are tried once more, and those that fail by
// the draws of rnd (nil: all) are forgotten by the disk, while programs still see
// them. No later sync writes them, unless they are made again. A Sync that is to
// fail so returns its error after calling this (see Faulty).
func (m *Mem) DropUnsynced(path string, rnd *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(path)
	switch {
	case err != nil:
		panic("vfstest: drop unsynced " + path + ": " + err.Error())
	case n.names != nil:
		n.durable = settleNames([]*node{n}, random(rnd))[n]
		n.renames = nil
	default:
		n.disk = n.settle(random(rnd), 1)
		n.pending = nil
	}
}

// Evict makes programs see again what the disk has in place of what
// DropUnsynced dropped from the file, as when the machine needs its memory.
func (m *Mem) Evict(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(path)
	if err != nil || n.names != nil {
		panic("vfstest: evict " + path + ": no such file")
	}
	m.used -= n.cache.held
	n.evict()
	m.used += n.cache.held
}
