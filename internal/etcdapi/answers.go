package etcdapi

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
)

const (
	// answerFreeBytes is how much an answer may have without being counted. Most
	// answers have less. Streams are bounded, and so are these.
	answerFreeBytes = 16 << 10
	// answerStepBytes is how much is counted at once at least, of a longer one.
	answerStepBytes = 64 << 10
	// answerCopies: what was read is in memory as it was read, and encoded.
	answerCopies = 2
	// connectionShare is the part of all bytes that the answers of one connection
	// may have, unless there is only one of them: no work is done for a client that does
	// not take what it has.
	connectionShare = 32
)

// errAnswersFull and errConnectionGone end a wait for memory.
var (
	errAnswersFull    = errors.New("etcdapi: too many bytes of answers are in memory")
	errConnectionGone = errors.New("etcdapi: the connection is gone")
)

// answers counts the bytes of answers that are in memory: those that are being read,
// and those that clients have not taken yet.
//
// Invariant: used is the sum of held over all tickets, and at most bytesMax.
type answers struct {
	bytesMax     int64
	stallTimeout time.Duration

	mu   sync.Mutex
	used int64
	// queue are the tickets that wait for memory, in the order in which they came.
	queue []*waitingTicket
}

// ticket is one answer: made by its request, and given back when the client has it.
type ticket struct {
	all  *answers
	conn *connection

	// wanted is how many bytes the read has asked for. Owned by the request.
	wanted int64
	// turn is where the answer has its turn from, if it has one: it is large, and is being
	// read or encoded. Owned by the request.
	turn chan struct{}

	// Guarded by all.mu.
	held int64
	// unsent and checked are the bytes that were not written to the connection yet,
	// now and when the stall timer was set.
	unsent, checked int64
	stall           *time.Timer
}

type waitingTicket struct {
	*ticket
	bytes int64
	// admitted is closed when the ticket has the bytes, or its connection is gone.
	admitted chan struct{}
}

// grant is the kv.Grant of the answer.
func (t *ticket) grant(bytes int64) bool {
	t.wanted += bytes
	counted := t.wanted - answerFreeBytes
	if counted <= 0 {
		return true
	}
	if t.turn == nil {
		return false
	}
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	need := answerCopies*counted - t.held
	if need <= 0 {
		return true
	}
	// In steps that grow, but not more than there is.
	for _, step := range []int64{max(need, t.held, answerStepBytes), need} {
		if len(t.all.queue) == 0 && t.all.fits(t, step) {
			t.all.take(t, step)
			return true
		}
	}
	return false
}

// fits says whether t may have so many bytes more. all.mu is held.
func (a *answers) fits(t *ticket, bytes int64) bool {
	return a.used+bytes <= a.bytesMax && a.fitsConnection(t, bytes)
}

func (a *answers) fitsConnection(t *ticket, bytes int64) bool {
	alone := t.conn.held == t.held
	return !t.conn.gone && (alone || t.conn.held+bytes <= a.bytesMax/connectionShare)
}

// take counts bytes, which may be negative. all.mu is held.
func (a *answers) take(t *ticket, bytes int64) {
	if t.conn.gone {
		return // all that it had was given back
	}
	a.used += bytes
	t.conn.held += bytes
	t.held += bytes
	if bytes < 0 {
		a.admit()
	}
}

// admit lets those go on that wait, the first ones first. One that waits only for
// other answers of its own connection keeps no other one waiting.
func (a *answers) admit() {
	full := false // and those behind wait, too, or a large answer would wait for ever
	a.queue = slices.DeleteFunc(a.queue, func(w *waitingTicket) bool {
		switch {
		case w.conn.gone:
		case !a.fitsConnection(w.ticket, w.bytes):
			return false
		case full || a.used+w.bytes > a.bytesMax:
			full = true
			return false
		default:
			a.used += w.bytes
			w.conn.held += w.bytes
			w.held += w.bytes
		}
		close(w.admitted)
		return true
	})
}

// reserve waits until the answer may have so many bytes, and starts over with them.
func (t *ticket) reserve(ctx context.Context, bytes int64) error {
	a := t.all
	w := &waitingTicket{t, min(bytes, a.bytesMax), make(chan struct{})}
	a.mu.Lock()
	a.take(t, -t.held)
	t.wanted = 0
	a.queue = append(a.queue, w)
	a.admit()
	a.mu.Unlock()
	select {
	case <-w.admitted:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case t.conn.gone:
		return errConnectionGone
	case t.held == w.bytes:
		return nil
	}
	a.queue = slices.DeleteFunc(a.queue, func(other *waitingTicket) bool { return other == w })
	a.admit()
	return errAnswersFull
}

// used says whether anything was counted.
func (t *ticket) used() bool {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	return t.held > 0
}

// release gives everything back.
func (t *ticket) release() {
	t.endTurn()
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.all.take(t, -t.held)
	if t.stall != nil {
		t.stall.Stop()
	}
}

// sending says that the answer is encoded and has so many bytes. From now on the
// client must take some of it again and again, or its connection is closed.
func (t *ticket) sending(bytes int64) {
	t.endTurn()
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.all.take(t, bytes-t.held)
	t.unsent, t.checked = bytes, bytes
	t.stall = time.AfterFunc(t.all.stallTimeout, t.checkStall)
}

func (t *ticket) checkStall() {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	switch {
	case t.unsent == 0 || t.conn.gone:
	case t.unsent < t.checked:
		t.checked = t.unsent
		t.stall.Reset(t.all.stallTimeout)
	default:
		t.conn.close()
	}
}

// Get implements mem.BufferPool. It is never called.
func (t *ticket) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put implements mem.BufferPool: gRPC needs a part of the answer no more, as it was
// written, or never will be.
func (t *ticket) Put(part *[]byte) {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	t.unsent -= int64(len(*part))
	if t.unsent == 0 {
		t.stall.Stop()
		t.all.take(t, -t.held)
	}
}

// ticketKey is the key of a request's ticket in its context.
type ticketKey struct{}

func ticketOf(ctx context.Context) *ticket { return ctx.Value(ticketKey{}).(*ticket) }

// newTicket returns a context with the ticket of the answer to a request.
func (a *answers) newTicket(ctx context.Context) (context.Context, *ticket) {
	t := &ticket{all: a, conn: connectionOf(ctx)}
	return context.WithValue(ctx, ticketKey{}, t), t
}

// takeTurn waits until the answer is one of the few large ones that are read and encoded.
func (t *ticket) takeTurn(ctx context.Context, turns chan struct{}) error {
	select {
	case turns <- struct{}{}:
		t.turn = turns
		return nil
	case <-ctx.Done():
		return errAnswersFull
	}
}

func (t *ticket) endTurn() {
	if t.turn != nil {
		<-t.turn
		t.turn = nil
	}
}

// largeReadsMax is how many large answers are read and encoded at a time: a half of the
// processors are left to the log and to everything else.
func largeReadsMax() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// reading executes a read that counts what it brings into memory. A small one is executed
// at once. One that is not is given up, and begins anew when there is room for it and it is
// its turn, if that comes in time.
//
// many: it is about more than single keys.
func (s *server) reading(ctx context.Context, many bool, read func(kv.Grant) error) error {
	t := ticketOf(ctx)
	for {
		err := s.scans.inTurn(ctx, many, func() error { return read(t.grant) })
		if !errors.Is(err, kv.ErrOverBudget) {
			return err
		}
		t.endTurn()
		if answerCopies*(t.wanted-answerFreeBytes) > s.answers.bytesMax {
			return status.Errorf(codes.ResourceExhausted, "octopii: the answer has more than %d bytes, and would take more memory than --answer-bytes-max; read it in parts, with a limit", t.wanted)
		}
		// What it would have needed in all is not known. Two rounds more, and it is.
		if err := t.reserve(ctx, 2*answerCopies*t.wanted); err != nil {
			return err
		}
		if err := t.takeTurn(ctx, s.largeReads); err != nil {
			return err
		}
	}
}
