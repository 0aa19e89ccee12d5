package core

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

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
	for i := range r.Requests {
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
		change, err := decodeChange(q.ConfChange)
		if err != nil {
			return it, fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
		}
		it.Kind, it.Change = ChangeMembership, change
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

// serve gives all waiting requests to raft: what is for the log becomes one
// MsgProp, and transfers of leadership come after it, as raft takes no proposals
// while one is under way.
func (c *Core) serve() {
	entries := make([]raftpb.Entry, 0, len(c.waiting))
	transfers := 0
	for i := range c.waiting {
		it := &c.waiting[i]
		if !it.take() {
			continue
		}
		if it.Kind == Transfer {
			c.waiting[transfers] = *it
			transfers++
			continue
		}
		e, ok := c.entryFor(it, len(entries))
		if !ok {
			continue
		}
		entries = append(entries, e)
		c.placing = append(c.placing, *it)
	}
	if len(entries) > 0 {
		c.append(entries)
	}
	for _, it := range c.waiting[:transfers] {
		c.transfer(it)
	}
	c.tookWaiting()
}

// append proposes what is in placing.
func (c *Core) append(entries []raftpb.Entry) {
	err := c.rn.Step(raftpb.Message{Type: raftpb.MsgProp, From: c.cfg.ID, Entries: entries})
	if err == nil {
		return
	}
	// raft drops a batch as a whole when too much is not applied yet.
	for _, it := range c.placing {
		c.settle(it, Outcome{Err: fmt.Errorf("%w: %w", ErrOverloaded, err)})
	}
	c.confIndex = 0
	c.dropPlacing()
}

func (c *Core) dropPlacing() {
	clear(c.placing)
	c.placing = c.placing[:0]
}

// entryFor returns the entry that a request wants in the log, if it wants one
// and may have it; otherwise the request is settled. before is how many
// entries stand before it in the same batch.
func (c *Core) entryFor(it *request, before int) (raftpb.Entry, bool) {
	if it.Kind == Propose {
		return raftpb.Entry{Data: it.Data}, true
	}
	err := c.allowChange(it.Change)
	var data []byte
	if err == nil {
		data, err = encodeChange(it.Change)
	}
	if err == nil {
		c.confIndex = c.last + uint64(before) + 1 // at least; placeProposals knows
		return raftpb.Entry{Type: raftpb.EntryConfChangeV2, Data: data}, true
	}
	o := Outcome{Err: err, Index: c.handed.Membership.Index, Membership: c.handed.Membership}
	if errors.Is(err, errNoChange) {
		o.Err = nil
	}
	c.settleNoEntry(*it, o)
	return raftpb.Entry{}, false
}

// settleNoEntry answers a change for which there was nothing to do. A follower
// that forwarded it learns the index up to which it must have applied.
func (c *Core) settleNoEntry(it request, o Outcome) {
	if it.from != 0 && o.Err == nil {
		c.reply(it.from, octopiipb.Reply{ID: it.id, Index: o.Index})
		return
	}
	c.settle(it, o)
}

// placeProposals learns where the proposals of this Step stand: at the end of
// what raft wants appended.
func (c *Core) placeProposals(entries []raftpb.Entry) {
	n := len(c.placing)
	if n == 0 {
		return
	}
	if len(entries) < n {
		panic(fmt.Sprintf("core: raft took %d proposals and appends %d entries", n, len(entries)))
	}
	for i, e := range entries[len(entries)-n:] {
		it := &c.placing[i]
		if it.Kind == ChangeMembership {
			c.confIndex = e.Index
		}
		switch {
		case it.from != 0:
			c.reply(it.from, octopiipb.Reply{ID: it.id, Index: e.Index, Term: e.Term})
		case it.Waiter != nil:
			c.pending.add(place{index: e.Index, term: e.Term, waiter: it.Waiter})
		}
	}
	c.dropPlacing()
}

// transfer begins to hand leadership over. The outcome's Index is the member
// that will lead if all goes well.
func (c *Core) transfer(it request) {
	to := it.To
	if to == 0 {
		to = c.bestCandidate()
	}
	m := find(c.handed.Membership, to)
	switch {
	case to == 0 || m == nil || m.Learner:
		c.settle(it, Outcome{Err: fmt.Errorf("%w: %x", ErrNoTarget, it.To)})
		return
	case to != c.cfg.ID:
		c.rn.TransferLeader(to)
	}
	if it.from != 0 {
		c.reply(it.from, octopiipb.Reply{ID: it.id, Index: to})
		return
	}
	c.settle(it, Outcome{Index: to})
}

// bestCandidate is the voter that is alive, of the highest priority, and of
// those the one that has most of the log; 0 if there is none but this one.
func (c *Core) bestCandidate() uint64 {
	var best uint64
	var bestMatch uint64
	var bestPriority int32
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if id == c.cfg.ID || typ == raft.ProgressTypeLearner || m == nil || !c.alive(id) {
			return
		}
		if best == 0 || m.Priority > bestPriority || m.Priority == bestPriority && pr.Match > bestMatch {
			best, bestMatch, bestPriority = id, pr.Match, m.Priority
		}
	})
	return best
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
		data, err := encodeChange(it.Change)
		return octopiipb.Request{ConfChange: data}, err
	}
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
