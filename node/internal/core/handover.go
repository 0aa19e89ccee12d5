package core

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// pauseTimeoutsMax bounds, in election timeouts, how long a leader waits after
// transfers that did not succeed before it tries the same member again.
const pauseTimeoutsMax = 16

// handOver lets another member lead, if this one should not any more. raft gives a
// transfer up after an election timeout, and until then nothing else is tried.
func (c *Core) handOver() {
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || st.LeadTransferee != raft.None {
		return
	}
	if to := c.offered; to != raft.None {
		c.offered = raft.None
		c.peers.get(to).declined(c.cfg.ElectionTicks)
	}
	if c.stalled() {
		c.leaveStalled()
		return
	}
	c.yield(&st)
}

// offer begins a transfer of leadership that nobody asked for.
func (c *Core) offer(to uint64) {
	c.offered = to
	c.rn.TransferLeader(to)
}

// declined: a transfer to this member did not succeed. It is not tried again for
// an election timeout, and each time for twice as long as before: while raft tries
// one, it takes no proposals.
func (p *peer) declined(electionTicks int) {
	p.pause = min(max(2*p.pause, electionTicks), pauseTimeoutsMax*electionTicks)
	p.rest = p.pause
}

// bestCandidate is the voter that should lead instead of this one, 0 if none is
// alive: of those that are close behind, or else of all, the one of the highest
// priority, and of those the one that has most of the log. With rested, members to
// which a transfer failed lately are left out.
func (c *Core) bestCandidate(rested bool) uint64 {
	var best candidate
	commit := c.rn.BasicStatus().Commit
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if id == c.cfg.ID || typ == raft.ProgressTypeLearner || m == nil || !c.alive(id) {
			return
		}
		if rested && c.peers.get(id).rest > 0 {
			return
		}
		near := pr.State != tracker.StateSnapshot && pr.Match+c.cfg.PromoteLagMax >= commit
		if one := (candidate{id, near, m.Priority, pr.Match}); one.before(best) {
			best = one
		}
	})
	return best.id
}

// candidate is a member that could lead. near: it is close behind.
type candidate struct {
	id       uint64
	near     bool
	priority int32
	match    uint64
}

// before: a should lead rather than b.
func (a candidate) before(b candidate) bool {
	switch {
	case b.id == 0:
		return true
	case a.near != b.near:
		return a.near
	case a.priority != b.priority:
		return a.priority > b.priority
	default:
		return a.match > b.match
	}
}
