package sim

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
)

// story is what happens, in which order: a clock, events, and what is drawn. It ends with the
// first invariant that does not hold.
type story struct {
	seed uint64
	rnd  *rand.Rand
	now  time.Duration
	next uint64
	todo queue

	// hash is over everything that happened; events counts it.
	hash   uint64
	events uint64
	// failed is the first invariant that broke; nothing happens after it.
	failed *Failure
	// branching: more disks were set back to old images than a quorum can spare. Then
	// two histories are possible, and what is checked is that nobody serves both: see
	// images.go.
	branching bool
	// trace, if set, is told everything.
	trace func(line string)
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

// at has something happen to the world, after a while.
func (s *story) at(after time.Duration, what string, f func()) { s.push(after, what, nil, f) }

func (s *story) push(after time.Duration, what string, m *member, f func()) {
	e := &event{at: s.now + after, order: s.next, what: what, member: m, do: f}
	if m != nil {
		e.life = m.life
	}
	s.next++
	heap.Push(&s.todo, e)
}

// runUntil lets everything happen up to a moment, or up to the first failure.
func (s *story) runUntil(end time.Duration) {
	for s.failed == nil && len(s.todo) > 0 && s.todo[0].at <= end {
		e := heap.Pop(&s.todo).(*event)
		s.now = e.at
		s.step(e)
	}
	if s.failed == nil {
		s.now = max(s.now, end)
	}
}

// runWhile is runUntil, and ends early when more returns false.
func (s *story) runWhile(end time.Duration, more func() bool) {
	for s.failed == nil && more() && s.now < end {
		s.runUntil(min(end, s.now+10*time.Millisecond))
	}
}

// step lets one event happen. A panic in what is tested is a failure like any
// other.
func (s *story) step(e *event) {
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
	s.events++
	s.note(e)
	defer s.caught()
	e.do()
	if m != nil {
		m.settle()
	}
}

// caught is deferred around what may panic.
func (s *story) caught() {
	if r := recover(); r != nil {
		s.fail("no panic", "%v\n%s", r, debug.Stack())
	}
}

// note puts an event into the hash, and into the trace.
func (s *story) note(e *event) {
	who := uint64(0)
	if e.member != nil {
		who = e.member.id
	}
	s.mix(uint64(e.at), who, textHash(e.what))
	if s.trace != nil {
		s.tell(e.member, "%s", e.what)
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
func (s *story) mix(numbers ...uint64) {
	h := s.hash
	for _, n := range numbers {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	s.hash = h
}

// mixBytes adds data to the hash.
func (s *story) mixBytes(b []byte) { s.mix(bytesHash(b)) }

func bytesHash(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64()
}

// tell adds a line to the trace, if there is one.
func (s *story) tell(m *member, format string, args ...any) {
	if s.trace == nil {
		return
	}
	who := "     "
	if m != nil {
		who = fmt.Sprintf("%-5s", m.name())
	}
	s.trace(fmt.Sprintf("%11.6f %s %s", s.now.Seconds(), who, strings.TrimRight(fmt.Sprintf(format, args...), "\n")))
}

// fail says that an invariant does not hold. The first failure counts.
func (s *story) fail(invariant, format string, args ...any) {
	if s.failed != nil || s.branching && invariant != oneHistory {
		return // the book is about another history
	}
	s.failed = &Failure{Seed: s.seed, Invariant: invariant, Detail: fmt.Sprintf(format, args...), At: s.now}
	s.tell(nil, "FAILED: %s: %s", invariant, s.failed.Detail)
}

// between draws a duration.
func (s *story) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(s.rnd.Int64N(int64(hi-lo)))
}

// oneIn is true once in n times.
func (s *story) oneIn(n int) bool { return s.rnd.IntN(n) == 0 }

// pick draws one of several.
func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }
