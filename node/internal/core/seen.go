package core

import "cmp"

// seen knows which requests of one member were taken already: they may come twice, and
// late, as a member sends again what may be lost and a transport may double it; and a
// proposal must not be appended twice.
//
// A member numbers its requests one after the other from a number that it draws at
// its start (newForwarded), so what belongs to one life of it is close together.
// Of the lives that were heard of last, the numbers close behind the highest are
// known one by one. A member has no more numbers out than that.
type seen struct {
	// lives are nil where nothing came yet.
	lives [seenLives]*life
	// next is which of them is given up for a new one.
	next int
	// window is how far behind the highest number one is still known, in whole words
	// of 64 numbers. 0: seenWindow.
	window uint64
}

const (
	seenLives = 4
	// seenWindow is how far behind the highest number one is still known where nothing
	// else is said. It is twice
	// what a member has pending at most by default, so that one request that got lost
	// does not soon hold up the others.
	seenWindow = 1 << 15
	// lifeNumbers is how far apart the numbers of one life are at most.
	lifeNumbers = 1 << 40
)

// seenState is what is known of a number.
type seenState uint8

const (
	// fresh: it comes for the first time.
	fresh seenState = iota
	// taken: it is queued, or in the log.
	taken
	// passed: it is not in the log, and never will be.
	passed
	// forgotten: it is too old to be known.
	forgotten
)

// life is what came of one life of a member.
type life struct {
	high uint64
	// taken and passed have a bit for each of the numbers from high down, by their
	// remainder.
	taken, passed []uint64
}

// newLife is one of which a single number is known.
func newLife(id, window uint64) *life {
	return &life{high: id, taken: make([]uint64, window/64), passed: make([]uint64, window/64)}
}

// window is how many numbers are known one by one.
func (l *life) window() uint64 { return 64 * uint64(len(l.taken)) }

// take says what is known of a number, and takes it if it is fresh.
func (s *seen) take(id uint64) seenState {
	if l := s.find(id); l != nil {
		return l.take(id)
	}
	l := newLife(id, cmp.Or(s.window, seenWindow))
	s.lives[s.next] = l
	s.next = (s.next + 1) % seenLives
	return l.take(id)
}

// pass says that a number that was taken is not in the log, and never will be.
func (s *seen) pass(id uint64) {
	if l := s.find(id); l != nil && id <= l.high && l.high-id < l.window() {
		set(l.passed, id, true)
	}
}

// find returns the life to which a number belongs, or nil.
func (s *seen) find(id uint64) *life {
	for _, l := range s.lives {
		if l != nil && distance(l.high, id) < lifeNumbers {
			return l
		}
	}
	return nil
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

func (l *life) take(id uint64) seenState {
	l.grow(id)
	switch {
	case l.high-id >= l.window():
		return forgotten
	case has(l.passed, id):
		return passed
	case has(l.taken, id):
		return taken
	}
	set(l.taken, id, true)
	return fresh
}

// grow makes a number the highest, unless there is a higher one. Those between are
// fresh.
func (l *life) grow(id uint64) {
	if id <= l.high {
		return
	}
	if id-l.high >= l.window() {
		clear(l.taken)
		clear(l.passed)
	} else {
		for n := l.high + 1; n <= id; n++ {
			set(l.taken, n, false)
			set(l.passed, n, false)
		}
	}
	l.high = id
}

func has(bits []uint64, id uint64) bool {
	return bits[id/64%uint64(len(bits))]&(1<<(id%64)) != 0
}

func set(bits []uint64, id uint64, on bool) {
	word := &bits[id/64%uint64(len(bits))]
	if bit := uint64(1) << (id % 64); on {
		*word |= bit
	} else {
		*word &^= bit
	}
}
