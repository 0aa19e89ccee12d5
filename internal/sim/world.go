package sim

import (
	"container/heap"
	cryptorand "crypto/rand"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// world is a cluster, its network, its disks and its clients, in one goroutine
// and under a clock of its own. Everything that happens is an event; everything
// that is drawn comes from the seed. So the same seed is the same story.
type world struct {
	cfg  setting
	rnd  *rand.Rand
	now  time.Duration
	next uint64
	todo queue

	// hash is over everything that happened; events counts it.
	hash   uint64
	events uint64
	// faults counts what the nemesis did.
	faults int
	// calm: nothing is broken any more, and nothing breaks. handing: but leadership
	// is handed around.
	calm, handing bool
	// troubled is when something last kept messages from arriving.
	troubled time.Duration
	// failed is the first invariant that broke; nothing happens after it.
	failed *Failure
	// trace, if set, is told everything.
	trace func(line string)

	members []*member
	net     *network
	clients []*client
	check   *checker
	nemesis *nemesis
	// byHand: nobody starts a process again but the script that drives the world.
	byHand bool
	// nextID is the ID that the next member gets.
	nextID uint64
}

// event is something that happens at a moment: to a member in one of its lives,
// or to the world.
type event struct {
	at     time.Duration
	order  uint64
	what   string
	member *member
	life   int
	do     func()
}

// queue is a heap of events, in the order of their moments.
type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(*event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}

// chance is held while a world runs: raft draws its election timeouts from the
// process's source of chance, which a world replaces.
var chance sync.Mutex

// seededReader is that source.
type seededReader struct{ *rand.ChaCha8 }

func newWorld(cfg setting) *world {
	// Odd streams are for what draw draws.
	w := &world{cfg: cfg, rnd: rand.New(rand.NewPCG(cfg.Seed, 2*cfg.Variant)), nextID: 1}
	w.net = newNetwork(w)
	w.check = newChecker(w)
	w.nemesis = newNemesis(w)
	return w
}

// exclusively runs f with the process's source of chance seeded.
func exclusively(seed uint64, f func()) {
	chance.Lock()
	defer chance.Unlock()
	before := cryptorand.Reader
	defer func() { cryptorand.Reader = before }()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	cryptorand.Reader = seededReader{rand.NewChaCha8(key)}
	f()
}

// at has something happen to the world, after a while.
func (w *world) at(after time.Duration, what string, f func()) { w.push(after, what, nil, f) }

func (w *world) push(after time.Duration, what string, m *member, f func()) {
	e := &event{at: w.now + after, order: w.next, what: what, member: m, do: f}
	if m != nil {
		e.life = m.life
	}
	w.next++
	heap.Push(&w.todo, e)
}

// runUntil lets everything happen up to a moment, or up to the first failure.
func (w *world) runUntil(end time.Duration) {
	for w.failed == nil && len(w.todo) > 0 && w.todo[0].at <= end {
		e := heap.Pop(&w.todo).(*event)
		w.now = e.at
		w.step(e)
	}
	if w.failed == nil {
		w.now = max(w.now, end)
	}
}

// runWhile is runUntil, and ends early when more returns false.
func (w *world) runWhile(end time.Duration, more func() bool) {
	for w.failed == nil && more() && w.now < end {
		w.runUntil(min(end, w.now+10*time.Millisecond))
	}
}

// step lets one event happen. A panic in what is tested is a failure like any
// other.
func (w *world) step(e *event) {
	m := e.member
	if m != nil {
		if e.life != m.life {
			return
		}
		if m.paused {
			m.held = append(m.held, e)
			return
		}
	}
	w.events++
	w.note(e)
	defer w.caught()
	e.do()
	if m != nil {
		m.settle()
	}
}

// caught is deferred around what may panic.
func (w *world) caught() {
	if r := recover(); r != nil {
		w.fail("no panic", "%v\n%s", r, debug.Stack())
	}
}

// note puts an event into the hash, and into the trace.
func (w *world) note(e *event) {
	who := uint64(0)
	if e.member != nil {
		who = e.member.id
	}
	w.mix(uint64(e.at), who, textHash(e.what))
	if w.trace != nil {
		w.tell(e.member, "%s", e.what)
	}
}

// textHash tells the names of events apart.
func textHash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix adds numbers to the hash of the story.
func (w *world) mix(numbers ...uint64) {
	h := w.hash
	for _, n := range numbers {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	w.hash = h
}

// mixBytes adds data to the hash.
func (w *world) mixBytes(b []byte) { w.mix(bytesHash(b)) }

func bytesHash(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64()
}

// tell adds a line to the trace, if there is one.
func (w *world) tell(m *member, format string, args ...any) {
	if w.trace == nil {
		return
	}
	who := "     "
	if m != nil {
		who = fmt.Sprintf("%-5s", m.name())
	}
	w.trace(fmt.Sprintf("%11.6f %s %s", w.now.Seconds(), who, strings.TrimRight(fmt.Sprintf(format, args...), "\n")))
}

// fail says that an invariant does not hold. The first failure counts.
func (w *world) fail(invariant, format string, args ...any) {
	if w.failed != nil || w.nemesis != nil && w.nemesis.branching && invariant != oneHistory {
		return // the book is about another history
	}
	w.failed = &Failure{Seed: w.cfg.Seed, Invariant: invariant, Detail: fmt.Sprintf(format, args...), At: w.now}
	w.tell(nil, "FAILED: %s: %s", invariant, w.failed.Detail)
}

// between draws a duration.
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rnd.Int64N(int64(hi-lo)))
}

// oneIn is true once in n times.
func (w *world) oneIn(n int) bool { return w.rnd.IntN(n) == 0 }

// pick draws one of several.
func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

// running lists the members that run, in the order in which they were made.
func (w *world) running() []*member {
	var list []*member
	for _, m := range w.members {
		if m.up() && !m.phantom {
			list = append(list, m)
		}
	}
	return list
}

// leader is the member that leads in the highest term, or nil.
func (w *world) leader() *member {
	var best *member
	for _, m := range w.running() {
		if st := m.status(); st.Role == roleLeader && (best == nil || st.Term > best.status().Term) {
			best = m
		}
	}
	return best
}
