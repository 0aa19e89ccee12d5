package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/octopii/octopii/node/internal/core"
)

// Propose replicates data and returns what StateMachine.Apply made of it, once
// this member has applied it: a caller can then read its own write here. It
// may be called on any member; a follower forwards to the leader, and while
// there is none the call waits. data is free again when Propose returns.
//
// A change of leader, whether by a transfer, a stop or a crash, and a message that is
// lost fail no proposal: one that is certainly not committed is proposed again, and
// it is committed once at most. So the call may last as long as an election, and
// without a majority as long as ctx.
//
// Errors: ErrTooLarge, ErrOverloaded, ErrNoSpace, ErrReentrant and ErrNotCommitted say that the
// proposal is certainly not committed. ErrNotCommitted comes with ctx.Err(), ErrClosed
// or ErrRemoved, if ctx ended or this member stopped before the proposal was given
// to a leader, or with the leader's reason to refuse it. ErrUnknownOutcome says that
// the proposal may be committed, now or later: ctx ended or this member stopped, which
// it wraps likewise, while it was under way; or a snapshot took the place of the log
// in which this member would have found it; or ctx ended while this member reads its log from a
// disk that hangs: the call returns 100 ms later then.
func (n *Node) Propose(ctx context.Context, data []byte) (Result, error) {
	if err := n.ready(ctx, "Propose"); err != nil {
		return Result{}, neverProposed(err)
	}
	if len(data) > n.cfg.ProposalBytesMax {
		return Result{}, fmt.Errorf("%w: it has %d bytes, and Config.ProposalBytesMax is %d", ErrTooLarge, len(data), n.cfg.ProposalBytesMax)
	}
	if err := n.admit(len(data)); err != nil {
		return Result{}, err
	}
	defer n.leave(len(data))
	w := newWaiter()
	n.inbox.request(core.NewProposal(data, w))
	a, err := n.wait(ctx, w)
	if err != nil {
		return Result{}, err
	}
	return Result{Index: a.Index, Data: a.data}, nil
}

// neverProposed adds what else is known when a member has stopped.
func neverProposed(err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrRemoved) || isSuspension(err) {
		return fmt.Errorf("%w: %w", ErrNotCommitted, err)
	}
	return err
}

// ready says whether a call of a verb can begin.
func (v verbs) ready(ctx context.Context, verb string) error {
	if err := v.callbacks.waits(verb); err != nil {
		return err
	}
	if err := v.open(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotCommitted, err)
	}
	return nil
}

// ReadBarrier returns when this member's state machine has applied every write
// that was acknowledged, on any member, before the call began: a read of it
// that follows is linearizable. It returns the index that was applied. It may
// be called on any member; while there is no leader it waits.
func (n *Node) ReadBarrier(ctx context.Context, level ReadLevel) (uint64, error) {
	if level != Linearizable && level != Lease {
		return 0, fmt.Errorf("node: unknown read level %d", level)
	}
	if err := n.ready(ctx, "ReadBarrier"); err != nil {
		return 0, readError(err, ctx)
	}
	if err := n.admit(0); err != nil {
		return 0, err
	}
	defer n.leave(0)
	w := newWaiter()
	n.inbox.request(core.Request{Kind: core.Read, Waiter: w})
	a, err := n.wait(ctx, w)
	if err != nil {
		return 0, readError(err, ctx)
	}
	return a.Index, nil
}

// readError leaves out what only makes sense for a proposal.
func readError(err error, ctx context.Context) error {
	switch cause := ctx.Err(); {
	case isSuspension(err):
		return err
	case cause != nil:
		return fmt.Errorf("node: read barrier: %w", cause)
	case errors.Is(err, ErrClosed):
		return ErrClosed
	}
	return err
}
