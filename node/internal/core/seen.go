package core

// seen knows which requests of one member were taken already: a transport may
// deliver a message twice, and late, and a proposal must not be appended twice.
//
// A member numbers its requests one after the other from a number that it draws at
// its start (newForwarded), so what belongs to one life of it is close together.
// Of the lives that were heard of last, the numbers close behind the highest are
// known one by one; an older one counts as taken, as nobody waits for it any more.
type seen struct {
	lives [seenLives]life
	// next is which of them is given up for a new one.
	next int
}

const (
	seenLives = 4
	// seenWindow is how far behind the highest number one is still known.
	seenWindow = 1 << 12
	// lifeNumbers is how far apart the numbers of one life are at most.
	lifeNumbers = 1 << 40
)

// life is what came of one life of a member. high 0: nothing.
type life struct {
	high uint64
	// bits has one for each of the numbers from high down, by their remainder.
	bits [seenWindow / 64]uint64
}

// take says whether a request is new, and remembers it.
func (s *seen) take(id uint64) bool {
	for i := range s.lives {
		if l := &s.lives[i]; l.high != 0 && distance(l.high, id) < lifeNumbers {
			return l.take(id)
		}
	}
	l := &s.lives[s.next]
	s.next = (s.next + 1) % seenLives
	*l = life{high: id}
	return l.take(id)
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

func (l *life) take(id uint64) bool {
	if id > l.high {
		if id-l.high >= seenWindow {
			clear(l.bits[:])
		} else {
			for n := l.high + 1; n <= id; n++ {
				l.set(n, false)
			}
		}
		l.high = id
	}
	if l.high-id >= seenWindow || l.has(id) {
		return false
	}
	l.set(id, true)
	return true
}

func (l *life) has(id uint64) bool { return l.bits[id%seenWindow/64]&(1<<(id%64)) != 0 }

func (l *life) set(id uint64, on bool) {
	if bit := uint64(1) << (id % 64); on {
		l.bits[id%seenWindow/64] |= bit
	} else {
		l.bits[id%seenWindow/64] &^= bit
	}
}
