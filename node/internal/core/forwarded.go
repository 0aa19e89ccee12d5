package core

import (
	"cmp"

	"go.etcd.io/raft/v3"
)

// forwarded are requests of local callers that were sent to the leader of a term and
// are not decided yet.
//
// What becomes of one is read off the log. Its entry names this member and its number
// (frameForwarded), and the leader appends it in the term for which it was sent, or
// never. So when this member applies the entry it has the answer; and when it applies
// one of a later term first, the request is certainly not in the log and never will
// be, for terms never fall along a log. Until then it may be sent again under its
// number to the leader of that term, which is the same process and takes a number
// once (seen).
//
// Invariant: ordered by number, without gaps. No more numbers are out than seen
// knows apart.
type forwarded struct {
	// next is the number of the next one.
	next uint64
	sent []sentRequest
	// head is where the first in sent is that is not decided.
	head int
	// window is how many numbers a leader knows apart. 0: seenWindow.
	window uint64
}

type sentRequest struct {
	request
	// to leads in term, and entries up to commit are committed, as far as was known.
	to, term, commit uint64
	// age is for how many ticks nothing was heard of it.
	age int
	// resent: it was sent more than once. has: the leader says that it has it.
	resent, has bool
	done        bool
}

// newForwarded begins its numbers at seed, so that what is left of the time before a
// restart is not taken for an answer.
func newForwarded(seed uint64) forwarded { return forwarded{next: seed>>1 + 1} }

// full: the numbers that are out are all that a leader can tell apart.
func (f *forwarded) full() bool { return uint64(len(f.sent)-f.head) >= cmp.Or(f.window, seenWindow) }

// add notes what is sent under the next number.
func (f *forwarded) add(st *raft.BasicStatus, it request) {
	f.next++
	f.sent = append(f.sent, sentRequest{request: it, to: st.Lead, term: st.Term, commit: st.Commit})
}

// find returns what was sent under a number and is not decided, or nil.
func (f *forwarded) find(id uint64) *sentRequest {
	behind := f.next - id // counts from the end
	if behind == 0 || behind > uint64(len(f.sent)-f.head) {
		return nil
	}
	if s := &f.sent[len(f.sent)-int(behind)]; !s.done {
		return s
	}
	return nil
}

// remove takes out what was sent under a number.
func (f *forwarded) remove(id uint64) (request, bool) {
	s := f.find(id)
	if s == nil {
		return request{}, false
	}
	it := s.request
	*s = sentRequest{done: true}
	f.shrink()
	return it, true
}

// broken: a connection to or from a member broke, and what was sent on it may be
// lost. It is due at the next tick.
func (f *forwarded) broken(to uint64, due int) {
	for i := f.head; i < len(f.sent); i++ {
		if s := &f.sent[i]; s.to == to {
			s.age = due
		}
	}
}

// displaced takes out what an entry of a term proves lost.
func (f *forwarded) displaced(term uint64, lost func(request)) {
	f.takeOut(func(s *sentRequest) bool { return s.term < term }, lost)
}

// replaced takes out what a snapshot up to (index, term) may have covered: nobody here
// can tell whether it was committed. What was sent when that much was known to be
// committed has its entry behind it.
func (f *forwarded) replaced(index, term uint64, settle func(Waiter, error)) {
	f.takeOut(func(s *sentRequest) bool { return s.term <= term && s.commit < index }, func(it request) {
		if it.Kind == Transfer {
			settle(it.Waiter, ErrTransferLost)
			return
		}
		settle(it.Waiter, ErrUnknownOutcome)
	})
}

func (f *forwarded) takeOut(which func(*sentRequest) bool, out func(request)) {
	for i := f.head; i < len(f.sent); i++ {
		if s := &f.sent[i]; !s.done && which(s) {
			it := s.request
			*s = sentRequest{done: true}
			out(it)
		}
	}
	f.shrink()
}

// shrink forgets what is decided at the front, and moves the rest there once the dead
// part is the larger.
func (f *forwarded) shrink() {
	for f.head < len(f.sent) && f.sent[f.head].done {
		f.head++
	}
	switch {
	case f.head == len(f.sent):
		f.sent, f.head = f.sent[:0], 0
	case f.head >= 1024 && f.head >= len(f.sent)/2:
		n := copy(f.sent, f.sent[f.head:])
		clear(f.sent[n:])
		f.sent, f.head = f.sent[:n], 0
	}
}
