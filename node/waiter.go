package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/octopii/octopii/node/internal/core"
)

// waiter is one call that waits for its outcome. It is a core.Waiter: what its Call says
// changes in the loop's turns only.
type waiter struct {
	core.Call
	// done gets exactly one answer, unless the node stops first.
	done chan answer
	// then, if set, is called with it instead, and must not wait.
	then func(answer)
}

// answer is the outcome of a call.
type answer struct {
	core.Outcome
	data []byte
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan answer, 1)} }}

func newWaiter() *waiter {
	w := waiters.Get().(*waiter)
	w.Call = core.Call{}
	return w
}

// newWaiterFor makes a waiter that nobody waits at: then is called by whoever has
// the answer.
func newWaiterFor(then func(answer)) *waiter { return &waiter{then: then} }

// finish answers the call. Whoever gave up left room for the answer.
func (w *waiter) finish(a answer) {
	if w.then != nil {
		w.then(a)
		return
	}
	select {
	case w.done <- a:
	default:
		panic("node: a call was answered twice")
	}
}

// wait returns the outcome, or what can be said without it.
func (v verbs) wait(ctx context.Context, w *waiter) (answer, error) {
	select {
	case a := <-w.done:
		waiters.Put(w)
		return a, publicError(a.Err)
	case <-ctx.Done():
		return v.giveUp(w, ctx.Err())
	case <-v.done:
		return v.giveUp(w, v.stopped())
	}
}

// giveUp is what a call returns that stopped waiting because of cause. The
// waiter is not used again: somebody may still answer it.
func (v verbs) giveUp(w *waiter, cause error) (answer, error) {
	err := v.quit(w)
	select {
	case a := <-w.done: // it came at the same moment
		return a, publicError(a.Err)
	default:
		return answer{}, fmt.Errorf("%w: %w", err, cause)
	}
}

// turnWaitMax is for how long a call that has given up waits for the end of the turn that is
// under way. A turn takes less than a millisecond, unless it reads the log from a disk that
// hangs.
const turnWaitMax = 100 * time.Millisecond

// quit gives a call up, and says what is known of it then. Between two turns that is certain:
// a request that no Step has taken by then is taken by none, since the next one is told that
// the caller is gone. Whether the turn that is under way takes it, only its end can tell.
func (g *group) quit(w *waiter) error {
	select {
	case <-g.inbox.turn:
	default:
		select {
		case <-g.inbox.turn:
		case <-time.After(turnWaitMax):
			g.inbox.gone(w)
			return ErrUnknownOutcome
		}
	}
	defer func() { g.inbox.turn <- struct{}{} }()
	g.inbox.gone(w)
	if w.Taken() {
		return ErrUnknownOutcome
	}
	return ErrNotCommitted
}

// publicErrors are the core's errors and what callers know them as.
var publicErrors = []struct{ core, node error }{
	{core.ErrNotCommitted, ErrNotCommitted},
	{core.ErrUnknownOutcome, ErrUnknownOutcome},
	{core.ErrOverloaded, ErrOverloaded},
	{core.ErrMembershipBusy, ErrMembershipBusy},
	{core.ErrUnsafeMembership, ErrUnsafeMembership},
	{core.ErrIDReused, ErrIDReused},
	{core.ErrForgot, ErrAmnesia},
	{core.ErrNoSpace, ErrNoSpace},
	{core.ErrNoTarget, ErrNoTarget},
	{ErrSuspect, ErrSuspect},
	{ErrDiverged, ErrDiverged},
	{ErrClaimed, ErrClaimed},
}

// detailedError is an error that callers know, with the core's reason for it. Both have a
// text for the kind of the error: only that of public is shown.
type detailedError struct {
	public, cause error
	detail        string
}

func (e *detailedError) Error() string   { return e.public.Error() + ": " + e.detail }
func (e *detailedError) Unwrap() []error { return []error{e.public, e.cause} }

// publicError turns an error of the core into one that callers know, and keeps
// its words.
func publicError(err error) error {
	if err == nil {
		return nil
	}
	for _, p := range publicErrors {
		if err == p.core {
			return p.node
		}
		if errors.Is(err, p.node) {
			return err
		}
		if errors.Is(err, p.core) {
			return &detailedError{public: p.node, cause: err, detail: strings.TrimPrefix(err.Error(), p.core.Error()+": ")}
		}
	}
	return fmt.Errorf("node: %w", err)
}
