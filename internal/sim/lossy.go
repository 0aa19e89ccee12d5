package sim

import "time"

// lossy is one direction between two members on a network that loses packets. A stream
// delivers in order: what follows a lost packet waits until it has been sent again, and
// the pauses before that double. So nothing is lost, and everything is late by a time
// that may be longer than an election timeout.
type lossy struct {
	// percent of the packets are lost.
	percent int
	// streams are the connections among which a sender may choose.
	streams []stalling
	// first is the pause before a packet is sent again, and last the longest one.
	first, last time.Duration
}

// stalling is one stream.
type stalling struct {
	// since is when it lost the packet for which it stands still, and until when it moves again.
	since, until time.Duration
}

// unnoticed is how long a sender takes a stream that stands still for one that moves.
const unnoticed = 50 * time.Millisecond

// lossy makes packets get lost between all members: on one stream to each peer as kernels
// have it, or with what transport/tcp does about it on Linux.
func (n *network) lossyStreams(percent int, tuned bool) {
	for _, from := range n.w.members {
		for _, to := range n.w.members {
			l := &lossy{percent: percent, streams: make([]stalling, 1), first: 200 * time.Millisecond, last: 2 * time.Minute}
			if tuned {
				l.streams, l.first, l.last = make([]stalling, 3), 50*time.Millisecond, time.Second
			}
			n.lossy[direction{from.address, to.address}] = l
		}
	}
}

// arrives is when what is sent now comes out of the other end, beside the way itself.
func (n *network) arrives(d direction) time.Duration {
	l := n.lossy[d]
	if l == nil {
		return n.w.now
	}
	s := l.choose(n.w.now)
	for pause := l.first; n.w.rnd.IntN(100) < l.percent; pause = min(2*pause, l.last) {
		if s.until <= n.w.now {
			s.since, s.until = n.w.now, n.w.now
		}
		s.until += pause
	}
	return s.until
}

// choose returns the first stream that moves, as far as the sender knows, or the one that
// is the first to move again.
func (l *lossy) choose(now time.Duration) *stalling {
	best := &l.streams[0]
	for i := range l.streams {
		s := &l.streams[i]
		if s.until <= now || now < s.since+unnoticed {
			return s
		}
		if s.until < best.until {
			best = s
		}
	}
	return best
}
