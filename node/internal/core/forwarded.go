package core

import "sort"

// forwarded are requests that were sent to the leader and not answered yet.
//
// Invariant: ordered by id.
type forwarded struct {
	nextID uint64
	sent   []sentRequest
}

type sentRequest struct {
	request
	sentID, to uint64
	age        int
	done       bool
}

// newForwarded starts its IDs at seed, so that a reply to a request from before
// a restart is not taken for an answer.
func newForwarded(seed uint64) forwarded { return forwarded{nextID: seed>>1 + 1} }

// add returns the ID under which the leader gets the request.
func (f *forwarded) add(to uint64, it request) uint64 {
	id := f.nextID
	f.nextID++
	f.sent = append(f.sent, sentRequest{request: it, sentID: id, to: to})
	return id
}

// remove takes out what was sent to a member under an ID.
func (f *forwarded) remove(to, id uint64) (request, bool) {
	i := sort.Search(len(f.sent), func(i int) bool { return f.sent[i].sentID >= id })
	if i == len(f.sent) || f.sent[i].sentID != id || f.sent[i].to != to || f.sent[i].done {
		return request{}, false
	}
	it := f.sent[i].request
	f.sent[i] = sentRequest{sentID: id, done: true}
	n := 0
	for n < len(f.sent) && f.sent[n].done {
		n++
	}
	f.sent = f.sent[n:]
	return it, true
}

// dropped gives up on everything sent to a member whose connection broke: it
// may have arrived.
func (f *forwarded) dropped(to uint64, refuse func(Waiter, error)) {
	f.giveUp(refuse, func(s *sentRequest) bool { return s.to == to })
}

// tick gives up on what was not answered within limit ticks.
func (f *forwarded) tick(limit int, refuse func(Waiter, error)) {
	f.giveUp(refuse, func(s *sentRequest) bool {
		s.age++
		return s.age >= limit
	})
}

func (f *forwarded) giveUp(refuse func(Waiter, error), which func(*sentRequest) bool) {
	keep := f.sent[:0]
	for i := range f.sent {
		s := f.sent[i]
		if s.done {
			continue
		}
		if which(&s) {
			refuse(s.Waiter, ErrUnknownOutcome)
			continue
		}
		keep = append(keep, s)
	}
	clear(f.sent[len(keep):])
	f.sent = keep
}
