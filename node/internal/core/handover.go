package core

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	octopiipb "github.com/octopii/octopii/proto"
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
	if c.leaves() && c.handOn() {
		return
	}
	c.leaveAgain()
	if c.stalled() {
		c.leaveStalled()
		return
	}
	c.yield(&st)
}

// leaves says whether this leader is no voter any more when the joint configuration is
// left.
func (c *Core) leaves() bool {
	cs := &c.handed.ConfState
	return len(cs.VotersOutgoing) > 0 && !slices.Contains(cs.Voters, c.cfg.ID)
}

// handOn lets one of those lead that stay, before this leader leaves the joint
// configuration: when it has, it is gone, and the others may not know that it has, and
// wait for its vote. raft does not leave while leadership is handed over; the next
// leader does. (Where it was the only voter there was nobody to hand over to before.)
//
// It returns false if there is nobody.
func (c *Core) handOn() bool {
	var best candidate
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		if slices.Contains(c.handed.ConfState.Voters, id) && c.alive(id) {
			if one := (candidate{id: id, match: pr.Match}); one.before(best) {
				best = one
			}
		}
	})
	if best.id != 0 {
		c.rn.TransferLeader(best.id)
	}
	return best.id != 0
}

// leaveAgain leaves a joint configuration that nothing else would leave. raft proposes
// that when an entry is applied, and its proposal is dropped if leadership is being
// handed over just then. If the transfer fails, and no entry follows, the change would
// stay half done for good.
func (c *Core) leaveAgain() {
	if len(c.handed.ConfState.VotersOutgoing) > 0 && c.applied == c.last {
		_ = c.rn.ProposeConfChange(raftpb.ConfChangeV2{}) // dropped: the next tick tries again
	}
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
		near := pr.State != tracker.StateSnapshot && pr.Match+c.cfg.PromoteLagMax >= commit &&
			c.peers.get(id).hasRestored() && !c.isReplaced(id)
		if one := (candidate{id, near, m.Priority, pr.Match}); one.before(best) {
			best = one
		}
	})
	return best.id
}

// isReplaced says whether another member is about to take this one's place: it should
// not lead, for it had to hand over again.
func (c *Core) isReplaced(id uint64) bool {
	return slices.ContainsFunc(c.handed.Membership.Members, func(m octopiipb.Member) bool { return m.Replaces == id && m.Promote })
}

// candidate is a member that could lead. near: it is close behind, and stays.
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
