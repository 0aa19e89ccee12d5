package core

import "fmt"

// pending are the proposals of local callers that this member appended as the leader
// and that are not applied yet. They have no ID: their place in the log is what is
// known of them, and that is enough.
//
// Invariant: ordered by (term, index), as one leader appends in order and a
// later leader has a later term.
type pending struct {
	queue []place
	head  int
}

// place is where a proposal stands.
type place struct {
	index, term uint64
	request     request
}

func (p place) before(o place) bool {
	return p.term < o.term || p.term == o.term && p.index < o.index
}

func (p *pending) len() int { return len(p.queue) - p.head }

// add puts a proposal into its place, behind all others: one leader appends in
// order, and when it leads again its term is a later one.
func (p *pending) add(pl place) {
	if p.head > 0 && p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	}
	if n := len(p.queue); n > p.head && !p.queue[n-1].before(pl) {
		panic(fmt.Sprintf("core: entry %d of term %d is appended behind %d of term %d",
			pl.index, pl.term, p.queue[n-1].index, p.queue[n-1].term))
	}
	p.queue = append(p.queue, pl)
}

// applied takes out what the committed entry (index, term) decides: the waiter
// of exactly that entry, and everything that it proves lost. Terms never fall
// along a log, so once an entry of this term is committed no entry of a lower
// term can be behind it: every pending proposal of a lower term is certainly
// not committed, and goes to lost.
func (p *pending) applied(index, term uint64, lost func(request), settle func(Waiter, error)) (w Waiter) {
	for p.head < len(p.queue) {
		first := &p.queue[p.head]
		if first.term > term || first.term == term && first.index > index {
			break
		}
		switch {
		case first.term < term:
			lost(first.request)
		case first.index < index:
			settle(first.request.Waiter, ErrUnknownOutcome)
		default:
			w = first.request.Waiter
		}
		*first = place{}
		p.head++
	}
	p.shrink()
	return w
}

// replaced takes out what a snapshot up to (index, term) decides. Of what it
// covers nobody here can tell whether it was committed.
func (p *pending) replaced(index, term uint64, lost func(request), settle func(Waiter, error)) {
	keep := p.queue[:0]
	for _, pl := range p.queue[p.head:] {
		switch {
		case pl.index <= index:
			settle(pl.request.Waiter, ErrUnknownOutcome)
		case pl.term < term:
			lost(pl.request)
		default:
			keep = append(keep, pl)
		}
	}
	clear(p.queue[len(keep):])
	p.queue, p.head = keep, 0
}

// shrink moves the live part to the front once the dead one is the larger.
func (p *pending) shrink() {
	if p.head < 1024 || p.head < len(p.queue)/2 {
		return
	}
	n := copy(p.queue, p.queue[p.head:])
	clear(p.queue[n:])
	p.queue, p.head = p.queue[:n], 0
}
