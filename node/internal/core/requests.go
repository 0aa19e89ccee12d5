package core

import (
	"fmt"

	"go.etcd.io/raft/v3"

	octopiipb "github.com/octopii/octopii/proto"
)

// The first byte of an entry says what it is. raft's own entries are empty, so
// an empty proposal is told from them.
const (
	// frameCommand: the rest is for the state machine.
	frameCommand = 1
	// frameBarrier: nothing else. When it is applied, a majority has on disk that
	// everything before it is committed, as its append said so.
	frameBarrier = 2
)

// Barrier returns the data of a Propose that tells when a majority knows that
// everything before it is committed.
func Barrier() []byte { return []byte{frameBarrier} }

// FrameProposal returns the entry's data for a proposal. It copies, so that
// the proposer's buffer is free again.
func FrameProposal(data []byte) []byte {
	b := make([]byte, 1+len(data))
	b[0] = frameCommand
	copy(b[1:], data)
	return b
}

// stepRequests gives every request to whoever can serve it: to raft here, if
// this is the leader, else to the leader, else to nobody yet.
func (c *Core) stepRequests(in *Input) {
	for _, r := range in.Requests {
		if r.Kind == Read {
			c.reads.waiting = append(c.reads.waiting, r.Waiter)
			continue
		}
		c.wait(request{Request: r})
	}
	for i := range in.Remote {
		c.takeRemote(&in.Remote[i])
	}
	if in.NoSpace {
		c.refuseProposals()
	}
	st := c.rn.BasicStatus()
	c.stepReads(&st)
	switch {
	case len(c.waiting) == 0:
	case st.RaftState == raft.StateLeader && st.LeadTransferee == raft.None:
		// While an append is on its way to the disk, proposals wait and join the
		// next. It costs them no time, since what is queued behind an fsync is
		// written by the one after it; and under load it makes one large message
		// of many small ones, which halves the CPU time of a proposal.
		if c.appending == 0 {
			c.serve()
		}
	case st.RaftState == raft.StateLeader:
		// They wait until the transfer has succeeded or was given up.
	case st.Lead != raft.None:
		c.forward(st.Lead)
	default:
		c.waitForLeader()
	}
}

// wait queues a request until somebody can serve it.
func (c *Core) wait(it request) {
	c.waiting = append(c.waiting, it)
	c.waitingBytes += int64(len(it.Data))
}

// tookWaiting empties the queue after everything in it was served.
func (c *Core) tookWaiting() {
	clear(c.waiting)
	c.waiting, c.waitingBytes = c.waiting[:0], 0
}

// keepWaiting keeps those for which keep is true.
func (c *Core) keepWaiting(keep func(*request) bool) {
	all := c.waiting
	c.waiting, c.waitingBytes = all[:0], 0
	for i := range all {
		if it := all[i]; keep(&it) {
			c.wait(it)
		}
	}
	clear(all[len(c.waiting):])
}

// pruneWaiting forgets requests whose callers gave up: while a disk or an
// election takes long, they must not pile up.
func (c *Core) pruneWaiting() {
	if len(c.waiting) > 0 {
		c.keepWaiting(func(it *request) bool {
			return it.from != 0 || it.Waiter == nil || it.taken || !it.Waiter.Gone()
		})
	}
}

// refuseProposals answers what is for the state machine while the disk is full.
// What the cluster needs for itself, such as a change of its members, may go into
// what is left of the log.
func (c *Core) refuseProposals() {
	c.keepWaiting(func(it *request) bool {
		if it.Kind != Propose || it.Data[0] != frameCommand {
			return true
		}
		c.settle(*it, Outcome{Err: ErrNoSpace})
		return false
	})
}

// stepReads begins a round of ReadIndex when one is wanted, there is somebody
// to ask, and, on the leader, an answer can be true.
//
// Thesis 6.4: a leader must have committed an entry of its own term, since until
// then it does not know which of its entries are committed. raft sees to that
// where there are several voters, but answers at once where there is only one;
// and its commit index may be an old one after a restart, as it is written
// without an fsync (etcd 7331, raft 105).
func (c *Core) stepReads(st *raft.BasicStatus) {
	if st.Lead == raft.None || st.RaftState == raft.StateLeader && c.handed.Term != st.Term {
		return
	}
	if context := c.reads.next(); context != nil {
		c.rn.ReadIndex(context)
	}
	for _, m := range c.reads.early {
		_ = c.rn.Step(m)
	}
	c.reads.early = nil
}

// takeRemote queues what a follower wants, as far as there is room.
func (c *Core) takeRemote(r *RemoteRequests) {
	if find(c.handed.Membership, r.From) == nil {
		// Whoever was removed is not answered: what it asked may be a copy of what was
		// appended before, which nobody remembers any more.
		return
	}
	seen := &c.peers.get(r.From).seen
	for i := range r.Requests {
		if !seen.take(r.Requests[i].ID) {
			continue // it was answered when it came first
		}
		it, err := c.decodeRequest(r.From, &r.Requests[i])
		if err == nil && c.waitingBytes+int64(len(it.Data)) > c.cfg.WaitingBytesMax {
			err = fmt.Errorf("%w: %d bytes wait on the leader", ErrOverloaded, c.waitingBytes)
		}
		if err != nil {
			c.settle(it, Outcome{Err: err})
			continue
		}
		c.wait(it)
	}
}

func (c *Core) decodeRequest(from uint64, q *octopiipb.Request) (request, error) {
	it := request{from: from, id: q.ID}
	switch {
	case len(q.Proposal) > c.cfg.ProposalBytesMax+1:
		return it, fmt.Errorf("%w: the leader takes proposals of at most %d bytes", ErrNotCommitted, c.cfg.ProposalBytesMax)
	case len(q.Proposal) > 0 && knownFrame(q.Proposal):
		it.Kind, it.Data = Propose, q.Proposal
	case len(q.ConfChange) > 0:
		changes, err := decodeChanges(q.ConfChange)
		if err != nil {
			return it, fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
		}
		it.Kind, it.Changes, it.DryRun = ChangeMembership, changes, q.DryRun
	case q.Transfer:
		it.Kind, it.To = Transfer, q.TransferTo
	default:
		return it, fmt.Errorf("%w: a request of an unknown kind; is member %x newer than the leader?", ErrNotCommitted, from)
	}
	return it, nil
}

// settle answers a request, wherever its caller is.
func (c *Core) settle(it request, o Outcome) {
	if it.from == 0 {
		if it.Waiter != nil {
			o.Waiter = it.Waiter
			c.effects.Outcomes = append(c.effects.Outcomes, o)
		}
		return
	}
	r := octopiipb.Reply{ID: it.id, Code: Code(o.Err)}
	if o.Err != nil {
		r.Reason = o.Err.Error()
	}
	c.reply(it.from, r)
}

func (c *Core) reply(to uint64, r octopiipb.Reply) {
	for i := range c.effects.Replies {
		if b := &c.effects.Replies[i]; b.To == to {
			b.Replies = append(b.Replies, r)
			return
		}
	}
	c.effects.Replies = append(c.effects.Replies, Reply{To: to, Replies: []octopiipb.Reply{r}})
}

// take makes a request irrevocable, unless its caller has given up.
func (it *request) take() bool {
	if it.from == 0 && it.Waiter != nil && !it.taken {
		it.taken = true
		return it.Waiter.Take()
	}
	return true
}

// waitForLeader keeps what local callers want until there is a leader, or they
// give up.
func (c *Core) waitForLeader() {
	c.keepWaiting(func(it *request) bool {
		if it.from != 0 {
			c.settle(*it, Outcome{Err: errNotLeader})
		}
		return it.from == 0 && it.Waiter != nil
	})
}
