package core

import (
	"errors"
	"fmt"

	octopiipb "github.com/octopii/octopii/proto"
)

// tryReturned queues again what another member sent back.
func (c *Core) tryReturned() {
	for _, it := range c.returned {
		c.wait(it)
	}
	clear(c.returned)
	c.returned = c.returned[:0]
}

// giveBack keeps a request that the leader certainly did not get.
func (it *request) giveBack() {
	if it.taken {
		it.taken = false
		it.Waiter.Untake()
	}
}

// forwardBytesMax is the size at which a message with requests is full.
const forwardBytesMax = 1 << 20

// forward sends what waits to the leader. Requests of other followers go back
// to them: they know best whom to ask.
func (c *Core) forward(leader uint64) {
	f := Forward{To: leader}
	size := 0
	for i := range c.waiting {
		it := c.waiting[i]
		if it.from != 0 {
			c.settle(it, Outcome{Err: errNotLeader})
			continue
		}
		if it.Waiter == nil || !it.take() {
			continue // what a leader wanted by itself the next one wants by itself
		}
		q, err := encodeRequest(it)
		if err != nil {
			c.settle(it, Outcome{Err: fmt.Errorf("%w: %w", ErrNotCommitted, err)})
			continue
		}
		if size += q.Size(); size > forwardBytesMax && len(f.Requests) > 0 {
			c.effects.Forwards = append(c.effects.Forwards, f)
			f, size = Forward{To: leader}, q.Size()
		}
		q.ID = c.forwarded.add(leader, it)
		f.Requests = append(f.Requests, q)
	}
	c.tookWaiting()
	if len(f.Requests) > 0 {
		c.effects.Forwards = append(c.effects.Forwards, f)
	}
}

func encodeRequest(it request) (octopiipb.Request, error) {
	switch it.Kind {
	case Propose:
		return octopiipb.Request{Proposal: it.Data}, nil
	case Transfer:
		return octopiipb.Request{Transfer: true, TransferTo: it.To}, nil
	default:
		data, err := encodeChanges(it.Changes)
		return octopiipb.Request{ConfChange: data, DryRun: it.DryRun}, err
	}
}

// Undelivered takes back requests that the transport certainly did not send.
// They are tried again at the next tick.
func (c *Core) Undelivered(f *Forward) {
	for _, q := range f.Requests {
		if it, ok := c.forwarded.remove(f.To, q.ID); ok {
			it.giveBack()
			c.returned = append(c.returned, it)
		}
	}
}

// stepReplies learns what became of requests that this member forwarded.
func (c *Core) stepReplies(r RemoteReplies) {
	for _, p := range r.Replies {
		it, ok := c.forwarded.remove(r.From, p.ID)
		if !ok {
			continue // given up already
		}
		err := FromCode(p.Code, p.Reason)
		switch {
		case errors.Is(err, errNotLeader):
			it.giveBack()
			c.returned = append(c.returned, it)
		case err != nil || it.Kind == Transfer:
			c.settle(it, Outcome{Err: err, Index: p.Index})
		default:
			c.placeForwarded(it, p.Index, p.Term)
		}
	}
}

// placeForwarded puts a proposal that the leader appended where this member
// will apply it, unless it has done so already: the reply and the commit came
// in another order than they were sent.
func (c *Core) placeForwarded(it request, index, term uint64) {
	if term == 0 {
		c.placeUnchanged(it, index)
		return
	}
	h := place{index: c.handed.Index, term: c.handed.Term}
	pl := place{index: index, term: term, waiter: it.Waiter}
	switch {
	case h.before(pl):
		c.pending.add(pl)
	case index > h.index:
		c.settle(it, Outcome{Err: ErrNotCommitted})
	default:
		c.settle(it, Outcome{Err: c.lateOutcome(index, term)})
	}
}

// lateOutcome tells what is known of an index that was applied without anybody
// waiting for it.
func (c *Core) lateOutcome(index, term uint64) error {
	if t, err := c.storage.Term(index); err == nil && t != term {
		return ErrNotCommitted
	}
	return fmt.Errorf("%w: index %d was applied before the leader's reply came, and its result is not kept", ErrUnknownOutcome, index)
}

// unchanged is a change of membership that changed nothing, on the leader.
type unchanged struct {
	request
	index uint64
}

// placeUnchanged answers a change that changed nothing once this member knows
// the membership that the leader looked at.
func (c *Core) placeUnchanged(it request, index uint64) {
	if it.Kind != ChangeMembership {
		c.settle(it, Outcome{Err: fmt.Errorf("%w: the leader's reply names no place", ErrUnknownOutcome)})
		return
	}
	c.unchanged = append(c.unchanged, unchanged{it, index})
	c.settleUnchanged()
}

func (c *Core) settleUnchanged() {
	keep := c.unchanged[:0]
	for _, u := range c.unchanged {
		if u.index > c.handed.Index {
			keep = append(keep, u)
			continue
		}
		c.settle(u.request, Outcome{Index: u.index, Membership: c.handed.Membership})
	}
	clear(c.unchanged[len(keep):])
	c.unchanged = keep
}
