package core

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// yield hands leadership to a voter of a higher priority that has been close behind
// for PromoteStableTicks. Priorities change no votes: whoever is elected leads, and
// gives leadership on when that is safe and quick.
//
// It waits until this leader has committed an entry of its term, and while a change
// of membership is under way: a target that has one to apply does not campaign.
func (c *Core) yield(st *raft.BasicStatus) {
	before := c.committed
	c.committed = st.Commit
	self := find(c.handed.Membership, c.cfg.ID)
	if self == nil || c.handed.Term != st.Term || c.confIndex > c.applied {
		return
	}
	var best candidate
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if typ == raft.ProgressTypeLearner || m == nil || m.Priority <= self.Priority || c.isReplaced(id) {
			return
		}
		notes := c.peers.get(id)
		// What was committed a tick ago it must have: one whose disk hangs is alive,
		// and falls behind only slowly.
		if pr.State != tracker.StateReplicate || !c.alive(id) || pr.Match < before || pr.Match+c.cfg.PromoteLagMax < st.Commit || !c.peers.get(id).hasRestored() {
			notes.near = 0
			return
		}
		notes.near++
		one := candidate{id, true, m.Priority, pr.Match}
		if notes.near >= c.cfg.PromoteStableTicks && notes.rest == 0 && one.before(best) {
			best = one
		}
	})
	if best.id != 0 {
		c.offer(best.id)
	}
}
