package core

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"

	octopiipb "github.com/octopii/octopii/proto"
)

// tryReturned queues again what another member sent back.
func (c *requests) tryReturned() {
	for _, it := range c.returned {
		c.wait(it)
	}
	clear(c.returned)
	c.returned = c.returned[:0]
}

// untake says that nothing became of a request: its caller may give it up again.
func (it *request) untake() {
	it.Waiter.caller().taken = false
}

// forwardBytesMax is the size at which a message with requests is full.
const forwardBytesMax = 1 << 20

// forward sends what waits to the leader. Requests of other followers go
// back to them: they know best whom to ask.
func (c *requests) forward(st *raft.BasicStatus) {
	f := forwarding{Forward: Forward{To: st.Lead, Term: st.Term}}
	c.keepWaiting(func(it *request) bool {
		switch {
		case it.from != 0:
			c.settle(*it, Outcome{Err: errNotLeader})
		case it.Waiter == nil: // what a leader wanted by itself the next one wants by itself
		case c.forwarded.full():
			return true
		case it.take():
			q, err := c.encodeRequest(it, c.forwarded.next)
			if err != nil {
				c.settle(*it, Outcome{Err: fmt.Errorf("%w: %w", ErrNotCommitted, err)})
				return false
			}
			c.forwarded.add(st, *it)
			f.add(c, q)
		}
		return false
	})
	f.end(c)
}

// forwarding collects requests in messages of a size that a transport takes.
type forwarding struct {
	Forward
	size int
}

func (f *forwarding) add(c *requests, q octopiipb.Request) {
	size := q.Size()
	if f.size+size > int(min(forwardBytesMax, c.cfg.MessageBytesMax)) {
		f.end(c)
	}
	f.size += size
	f.Requests = append(f.Requests, q)
}

func (f *forwarding) end(c *requests) {
	if len(f.Requests) > 0 {
		c.effects.Forwards = append(c.effects.Forwards, f.Forward)
	}
	f.Requests, f.size = nil, 0
}

// encodeRequest returns what is sent under a number.
func (c *requests) encodeRequest(it *request, id uint64) (octopiipb.Request, error) {
	by := origin{member: c.cfg.ID, id: id}
	switch it.Kind {
	case Propose, ChangeSetting:
		return octopiipb.Request{ID: id, Proposal: it.wrap(by)}, nil
	case Transfer:
		return octopiipb.Request{ID: id, Transfer: true, TransferTo: it.To}, nil
	default:
		data, err := encodeChanges(it.Changes, by)
		return octopiipb.Request{ID: id, ConfChange: data, DryRun: it.DryRun}, err
	}
}

// sendAgain sends again, once more at every election timeout, what the leader may
// not have got. Of other leaders' requests the log will tell.
func (c *requests) sendAgain() { c.sendDue(1) }

// sendDue lets so many ticks pass for what was forwarded, and sends again what is due.
func (c *requests) sendDue(ticks int) {
	st := c.rn.BasicStatus()
	f := forwarding{Forward: Forward{To: st.Lead, Term: st.Term}}
	for i := c.forwarded.head; i < len(c.forwarded.sent); i++ {
		s := &c.forwarded.sent[i]
		if s.age += ticks; s.done || s.age < c.cfg.ElectionTicks {
			continue
		}
		s.age = 0
		id := c.forwarded.next - uint64(len(c.forwarded.sent)-i)
		switch {
		case s.Kind == Transfer:
			c.settle(s.request, Outcome{Err: ErrTransferLost})
			*s = sentRequest{done: true}
		case s.Waiter.caller().gone:
			*s = sentRequest{done: true} // whatever becomes of it
		case !s.has && s.to == st.Lead && s.term == st.Term:
			s.resent = true
			if q, err := c.encodeRequest(&s.request, id); err == nil { // as it was the first time
				f.add(c, q)
			}
		}
	}
	c.forwarded.shrink()
	f.end(c)
}

// undelivered takes back requests that the transport certainly did not send.
func (c *requests) undelivered(f *Forward) {
	for _, q := range f.Requests {
		switch s := c.forwarded.find(q.ID); {
		case s == nil:
		case s.resent:
			s.age = c.cfg.ElectionTicks // it stays due
		default:
			it, _ := c.forwarded.remove(q.ID)
			c.giveBack(it)
		}
	}
}

// giveBack keeps a request that is certainly not in the log until the next tick, or
// the next leader: whoever sent it back would do so again.
func (c *requests) giveBack(it request) {
	it.untake()
	c.returned = append(c.returned, it)
}

// tryAgain queues a request that an entry proved lost.
func (c *requests) tryAgain(it request) {
	if it.Kind == Transfer {
		c.settle(it, Outcome{Err: ErrTransferLost}) // that entry's leader may be whom it wanted
		return
	}
	it.untake()
	c.wait(it)
}

// stepReplies learns what became of requests that this member forwarded and that are
// not in the log.
func (c *requests) stepReplies(r RemoteReplies) {
	for _, p := range r.Replies {
		s := c.forwarded.find(p.ID)
		if s == nil || s.to != r.From {
			continue // decided already
		}
		err := FromCode(p.Code, p.Reason)
		if errors.Is(err, errTaken) {
			s.has = true
			continue
		}
		it, _ := c.forwarded.remove(p.ID)
		switch {
		case errors.Is(err, errNotLeader):
			c.giveBack(it)
		case err != nil || it.Kind == Transfer:
			c.settle(it, Outcome{Err: err, Index: p.Index})
		default:
			c.placeUnchanged(it, p.Index)
		}
	}
}

// unchanged is a change of membership that changed nothing, on the leader.
type unchanged struct {
	request
	index uint64
}

// placeUnchanged answers a change that changed nothing once this member knows
// the membership that the leader looked at.
func (c *requests) placeUnchanged(it request, index uint64) {
	if it.Kind == Propose {
		c.settle(it, Outcome{Err: fmt.Errorf("%w: the leader answers a proposal as if it were a change of membership", ErrUnknownOutcome)})
		return
	}
	c.unchanged = append(c.unchanged, unchanged{it, index})
	c.settleUnchanged()
}

func (c *requests) settleUnchanged() {
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
