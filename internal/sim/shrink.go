package sim

import (
	"slices"
	"time"
)

// Shrink makes a failure smaller: while a seed still fails with the same invariant
// it drops kinds of faults, members and clients, and shortens the time. It returns
// Options that name what is left, and their Report; a seed that does not fail
// comes back as it was.
//
// With less in it a seed is another story, in which the same thing need not come
// about. So several Variants of it are tried.
//
// tried, if set, is told of every attempt, whether it failed in the same way or
// not, and ends the search by returning false.
func Shrink(seed uint64, o Options, tried func(o Options, r Report) bool) (Options, Report) {
	o.Trace = nil
	r := simulate(seed, o)
	if r.Failure == nil {
		return o, r
	}
	// From here on nothing of this is drawn.
	o.Members, o.Clients, o.Duration, o.Faults = r.Members, r.Clients, r.Duration, r.Kinds
	s := &shrinker{seed: seed, o: o, r: r, tried: tried}
	for s.smaller() {
	}
	s.r.explain(seed, s.o)
	return s.o, s.r
}

// shrinker searches for the smallest Options that fail.
type shrinker struct {
	seed  uint64
	o     Options
	r     Report
	tried func(Options, Report) bool
	ended bool
}

// smaller goes over everything once, and says whether anything could be dropped.
func (s *shrinker) smaller() bool {
	before := s.r.Hash
	// What comes after the failure goes first, which changes nothing else and makes
	// every later attempt quicker.
	s.duration(s.r.Failure.At.Truncate(time.Second) + time.Second)
	s.faults()
	for _, members := range []int{3, 5} {
		if members < s.o.Members && s.try(func(o *Options) { o.Members = members }) {
			break
		}
	}
	for _, clients := range []int{1, s.o.Clients / 2, s.o.Clients - 1} {
		if clients > 0 && clients < s.o.Clients && s.try(func(o *Options) { o.Clients = clients }) {
			break
		}
	}
	for s.duration((s.o.Duration / 2).Truncate(time.Millisecond)) {
	}
	s.duration((s.o.Duration * 3 / 4).Truncate(time.Millisecond))
	return !s.ended && s.r.Hash != before
}

// faults drops kinds of faults: many at a time, then fewer, then each alone.
func (s *shrinker) faults() {
	for many := len(s.o.Faults); many > 0; many /= 2 {
		for at := 0; at < len(s.o.Faults); {
			end := min(at+many, len(s.o.Faults))
			if !s.try(func(o *Options) { o.Faults = slices.Delete(slices.Clone(o.Faults), at, end) }) {
				at = end
			}
		}
	}
}

func (s *shrinker) duration(d time.Duration) bool {
	return d > 0 && d < s.o.Duration && s.try(func(o *Options) { o.Duration = d })
}

// variantsMax is how many stories are tried of each smaller cluster.
const variantsMax = 8

// try takes a change over if a story still fails in the same way.
func (s *shrinker) try(change func(*Options)) bool {
	o := s.o
	change(&o)
	for i := uint64(0); i < variantsMax && !s.ended; i++ {
		o.Variant = s.o.Variant + i
		r := simulate(s.seed, o)
		s.ended = s.tried != nil && !s.tried(o, r)
		if r.Failure != nil && r.Failure.Invariant == s.r.Failure.Invariant {
			s.o, s.r = o, r
			return true
		}
	}
	return false
}
