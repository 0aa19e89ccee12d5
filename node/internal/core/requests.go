package core

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"

	octopiipb "github.com/octopii/octopii/proto"
)

// requests are all that callers wait for, here and at the members that forward.
type requests struct {
	guard

	queue
	// placing are those that raft has taken, whose place the next Ready
	// shows; pending have a place; returned are those that another member sent back, to
	// be tried again at the next tick or under the next leader, or when that can be
	// reached again.
	placing, returned []request
	pending           pending
	forwarded         forwarded
	// unchanged wait until this member has applied a membership that a leader
	// found to be as it was asked to be.
	unchanged []unchanged
	// halfDone wait until the joint configuration is left that they led to.
	halfDone []Outcome
}

// The first byte of an entry says what it is. raft's own entries are empty, so
// an empty proposal is told from them.
const (
	// frameCommand: the rest is for the state machine.
	frameCommand = 1
	// frameBarrier: nothing else. When it is applied, a majority has on disk that
	// everything before it is committed, as its append said so.
	frameBarrier = 2
	// frameForwarded: the member that forwarded it and the number of its request
	// follow, and then one of the others. See forwarded.
	frameForwarded = 3
	// frameSetting: an octopiipb.SettingChange follows. See settings.go.
	frameSetting = 4
	// forwardedHead is how much stands before what was forwarded.
	forwardedHead = 1 + 8 + 8
)

// origin says which member forwarded something, and under which number. Zero:
// nobody did.
type origin struct{ member, id uint64 }

// unwrap returns what is in the frame of a request that was forwarded, and whose it
// is. A frame that is none it returns as it is.
func unwrap(data []byte) (origin, []byte) {
	if len(data) <= forwardedHead || data[0] != frameForwarded {
		return origin{}, data
	}
	return origin{
		member: binary.LittleEndian.Uint64(data[1:]),
		id:     binary.LittleEndian.Uint64(data[9:]),
	}, data[forwardedHead:]
}

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

// NewProposal returns the Request for a proposal. It copies, and leaves room for
// the origin, so that forwarding it is not another copy.
func NewProposal(data []byte, w Waiter) Request {
	b := make([]byte, forwardedHead+1+len(data))
	b[forwardedHead] = frameCommand
	copy(b[forwardedHead+1:], data)
	return Request{Kind: Propose, Data: b, room: forwardedHead, Waiter: w}
}

// frame is the entry's data for a proposal.
func (r *Request) frame() []byte { return r.Data[r.room:] }

// wrap is the entry's data for a proposal that is forwarded. What it returned before
// may still be on its way to somebody, and is left alone.
func (it *request) wrap(by origin) []byte {
	if it.wrapped {
		if of, _ := unwrap(it.Data); of == by {
			return it.Data
		}
	}
	if it.room != forwardedHead || it.wrapped {
		b := make([]byte, forwardedHead+len(it.frame()))
		copy(b[forwardedHead:], it.frame())
		it.Data, it.room = b, forwardedHead
	}
	it.wrapped = true
	it.Data[0] = frameForwarded
	binary.LittleEndian.PutUint64(it.Data[1:], by.member)
	binary.LittleEndian.PutUint64(it.Data[9:], by.id)
	return it.Data
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
			c.serveWithRoom(st.Term)
		}
	case st.RaftState == raft.StateLeader:
		// They wait until the transfer has succeeded or was given up.
	case st.Lead != raft.None:
		c.forward(&st)
	default:
		c.waitForLeader()
	}
}

// refuseProposals answers what is for the state machine while the disk is full.
// What the cluster needs for itself, such as a change of its members, may go into
// what is left of the log.
func (c *requests) refuseProposals() {
	c.keepWaiting(func(it *request) bool {
		if it.Kind != Propose {
			return true
		}
		if _, frame := unwrap(it.frame()); frame[0] != frameCommand {
			return true
		}
		c.settle(*it, Outcome{Err: ErrNoSpace})
		return false
	})
}

// stepReads begins a round of ReadIndex when one is wanted and can be answered.
func (c *reading) stepReads(st *raft.BasicStatus) {
	if !c.canRead(st) {
		return
	}
	if context := c.reads.next(st.Commit); context != nil {
		c.rn.ReadIndex(context)
	}
	for _, m := range c.reads.early {
		// A follower's raft would pass it on in the name of who asks, and nobody believes
		// that. Who asks begins a round with the next leader by itself.
		if st.RaftState == raft.StateLeader {
			_ = c.rn.Step(m)
		}
	}
	c.reads.early = nil
}

// canRead: there is somebody to ask, and, on the leader, an answer can be true.
//
// Thesis 6.4: a leader must have committed an entry of its own term, since until
// then it does not know which of its entries are committed. raft sees to that
// where there are several voters, but answers at once where there is only one;
// and its commit index may be an old one after a restart, as it is written
// without an fsync (etcd 7331, raft 105).
//
// What the leader has applied says nothing of that: one whose disk is full applies
// nothing for as long as it is full, and the others have room for what they read.
func (c *reading) canRead(st *raft.BasicStatus) bool {
	if st.RaftState != raft.StateLeader || c.handed.Term == st.Term {
		return st.Lead != raft.None
	}
	term, ok := c.termAt(st.Commit)
	return ok && term == st.Term
}

// takeRemote queues what a follower wants, as far as there is room, if this member
// leads in the term that the follower believes it does.
//
// What is sent back is certainly not in the log, and never will be: its number was
// not taken by this process, and is not from here on. That says nothing of the
// process before it, which may have led in a term that it had on its disk when it
// ended.
func (c *requests) takeRemote(r *RemoteRequests) {
	if r.Term <= c.since || find(c.handed.Membership, r.From) == nil {
		return // the log says what became of them, or nobody asks any more
	}
	st := c.rn.BasicStatus()
	leads := st.RaftState == raft.StateLeader && st.Term == r.Term
	seen := &c.peers.get(r.From).seen
	for i := range r.Requests {
		q := &r.Requests[i]
		it := request{from: r.From, id: q.ID, term: r.Term}
		switch was := seen.take(q.ID); {
		case was == passed || was == fresh && !leads:
			c.settle(it, Outcome{Err: errNotLeader})
		case was == fresh:
			c.queueRemote(it, q)
		case was == taken && leads:
			c.reply(it.from, octopiipb.Reply{ID: it.id, Code: Code(errTaken)})
		case was == forgotten:
			c.settle(it, Outcome{Err: ErrUnknownOutcome})
		}
	}
}

// queueRemote queues a follower's request that came for the first time.
func (c *requests) queueRemote(it request, q *octopiipb.Request) {
	err := c.decodeRequest(&it, q)
	if err == nil && c.waitingBytes+int64(len(it.Data)) > c.cfg.WaitingBytesMax {
		err = fmt.Errorf("%w: %d bytes wait on the leader", ErrOverloaded, c.waitingBytes)
	}
	if err != nil {
		c.settle(it, Outcome{Err: err})
		return
	}
	c.wait(it)
}

// decodeRequest reads what a follower wants. What it wants in the log must name it
// and the number of the request: nobody finds the caller by anything else.
func (c *requests) decodeRequest(it *request, q *octopiipb.Request) error {
	by := origin{member: it.from, id: q.ID}
	of, frame := unwrap(q.Proposal)
	switch {
	case len(q.Proposal) > c.cfg.ProposalBytesMax+1+forwardedHead:
		return fmt.Errorf("%w: the leader takes proposals of at most %d bytes", ErrNotCommitted, c.cfg.ProposalBytesMax)
	case len(q.Proposal) > 0 && knownFrame(q.Proposal) == nil && of == by:
		it.Kind, it.Data = Propose, q.Proposal
		if frame[0] == frameSetting {
			it.Kind = ChangeSetting
		}
	case len(q.ConfChange) > 0:
		d, err := decodeChanges(q.ConfChange)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
		}
		if d.by != by {
			return fmt.Errorf("%w: the change of request %d of member %x is marked as %d of %x", ErrNotCommitted, by.id, by.member, d.by.id, d.by.member)
		}
		it.Kind, it.Changes, it.DryRun = ChangeMembership, d.changes, q.DryRun
	case q.Transfer:
		it.Kind, it.To = Transfer, q.TransferTo
	default:
		return fmt.Errorf("%w: a request of an unknown kind, or one that does not name its sender; is member %x of another version than the leader?", ErrNotCommitted, it.from)
	}
	return nil
}

// settle answers a request, wherever its caller is.
func (c *requests) settle(it request, o Outcome) {
	if it.from == 0 {
		if it.Waiter != nil {
			o.Waiter = it.Waiter
			c.effects.Outcomes = append(c.effects.Outcomes, o)
		}
		return
	}
	r := octopiipb.Reply{ID: it.id, Index: o.Index, Code: Code(o.Err)}
	if o.Err != nil {
		r.Reason, r.Index = o.Err.Error(), 0
	}
	// It is not in the log: if this answer is lost, the next copy gets another.
	c.peers.get(it.from).seen.pass(it.id)
	c.reply(it.from, r)
}

func (c *base) reply(to uint64, r octopiipb.Reply) {
	for i := range c.effects.Replies {
		if b := &c.effects.Replies[i]; b.To == to {
			b.Replies = append(b.Replies, r)
			return
		}
	}
	c.effects.Replies = append(c.effects.Replies, Reply{To: to, Replies: []octopiipb.Reply{r}})
}

// take says that a request may be committed from here on, unless its caller has given up.
func (it *request) take() bool {
	if it.from != 0 || it.Waiter == nil {
		return true
	}
	call := it.Waiter.caller()
	call.taken = !call.abandoned()
	return call.taken
}

// waitForLeader keeps what local callers want until there is a leader, or they
// give up.
func (c *requests) waitForLeader() {
	c.keepWaiting(func(it *request) bool {
		if it.from != 0 {
			c.settle(*it, Outcome{Err: errNotLeader})
		}
		return it.from == 0 && it.Waiter != nil
	})
}
