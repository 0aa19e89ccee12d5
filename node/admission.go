package node

import (
	"fmt"
	"sync/atomic"
)

// admission says which calls may begin.
type admission struct {
	// pending counts what callers have under way, against the bounds in Config.
	pending, pendingBytes atomic.Int64
	// closing: Close was called, and no call begins any more. drained gets a token
	// when the last one has ended then.
	closing atomic.Bool
	drained chan struct{}
	// removed: this member has applied its own removal, and no call begins any more.
	removed atomic.Bool
	// suspended is why no call is taken; nil: they are.
	suspended atomic.Pointer[error]
}

// open says whether this member takes calls.
func (g *group) open() error {
	select {
	case <-g.done:
		return g.stopped()
	default:
	}
	if g.closing.Load() {
		return ErrClosed
	}
	if err := g.suspended.Load(); err != nil {
		return *err
	}
	if g.removed.Load() {
		return ErrRemoved
	}
	select {
	case <-g.initialized:
		return nil
	default:
		return ErrUninitialized
	}
}

// admit counts a proposal against the bounds; leave takes it off again. After Close
// began it lets none in: see drain.
func (g *group) admit(bytes int) error {
	count := g.pending.Add(1)
	size := g.pendingBytes.Add(int64(bytes))
	if g.closing.Load() {
		g.leave(bytes)
		return neverProposed(ErrClosed)
	}
	if count > int64(g.cfg.PendingProposalsMax) || size > g.cfg.PendingBytesMax {
		g.leave(bytes)
		return fmt.Errorf("%w: %d proposals with %d bytes are pending", ErrOverloaded, count-1, size-int64(bytes))
	}
	return nil
}

func (a *admission) leave(bytes int) {
	a.pendingBytes.Add(-int64(bytes))
	if a.pending.Add(-1) == 0 && a.closing.Load() {
		select {
		case a.drained <- struct{}{}:
		default:
		}
	}
}
