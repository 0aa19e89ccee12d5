package core

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	octopiipb "github.com/octopii/octopii/proto"
)

// leading decides who should lead, and when to campaign.
type leading struct {
	changes
	leadership leadership
	// campaigns is how often this member campaigned, or is about to, since it forgot a
	// leader that is dead. 0: it has another one, or leaves it to the election timeout.
	// yielded: another one got a vote or a pre-vote of this member since.
	campaigns int
	yielded   bool
}

// One policy says who should lead: every voter has a score, a leader has reasons to let
// another one lead, and it begins one transfer at a time, to the best that the reason
// allows. Votes are not touched: whoever is elected leads, and gives leadership on.

// reason is why a leader lets another voter lead.
type reason uint8

const (
	// none: it goes on.
	none reason = iota
	// preferred: another has a higher priority, and has been close behind for a while.
	preferred
	// asked: a caller wants it, or this member is about to close.
	asked
	// dismissed: a change of membership that waits takes its vote away. The next leader
	// makes the change, so that nobody waits for an election.
	dismissed
	// leaving: it is no voter when the joint configuration is left. When it has left, it
	// is gone, and the others may not know that it has, and wait for its vote. raft does
	// not leave while leadership is handed over; the next leader does. (Where it was the
	// only voter there was nobody to hand over to before.)
	leaving
	// stalled: its disk hangs. A transfer needs nothing of that: the others have all that
	// this leader appended, as it was sent to them beside its own write.
	stalled
)

// leadership is what a leader remembers for that.
type leadership struct {
	// offered is the voter to which leadership is handed over; 0: none.
	offered uint64
	// committed is the commit index of the last tick.
	committed uint64
}

// score is how well a voter would lead.
type score struct {
	id uint64
	// stays: nobody is about to take its place. It would have to hand over again.
	stays bool
	// near: it is close behind, in log and state machine. rested: no transfer to it
	// failed lately. steady: it has been near for PromoteStableTicks.
	near, rested, steady bool
	room                 roomLevel
	priority             int32
	match                uint64
}

// compare is greater than 0 if a should lead rather than b.
func (a score) compare(b score) int {
	return cmp.Or(compareBool(a.stays, b.stays), compareBool(a.near, b.near), compareBool(a.rested, b.rested),
		cmp.Compare(a.room, b.room), cmp.Compare(a.priority, b.priority), cmp.Compare(a.match, b.match))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// pauseTimeoutsMax bounds, in election timeouts, how long a member rests after transfers
// to it that failed.
const pauseTimeoutsMax = 16

// tickLeadership lets another member lead if this leader should not any more. raft gives
// a transfer up after an election timeout, and until then nothing else is tried.
func (c *leading) tickLeadership() {
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return
	}
	c.visitVoters(func(s score) {
		if notes := c.peers.get(s.id); s.near {
			notes.near++
		} else {
			notes.near = 0
		}
	})
	c.leadership.committed = st.Commit
	if st.LeadTransferee != raft.None {
		return
	}
	if to := c.leadership.offered; to != raft.None {
		c.leadership.offered = raft.None
		c.peers.get(to).declined(c.cfg.ElectionTicks)
	}
	c.handOver(c.whyHandOver(&st))
	c.leaveAgain()
}

// whyHandOver looks for what nobody asked for.
func (c *leading) whyHandOver(st *raft.BasicStatus) reason {
	switch {
	case c.leaves():
		return leaving
	case c.stalled() && c.othersElect():
		return stalled
	case c.stalled(), c.handed.Term != st.Term, c.confIndex > c.applied:
		// Reads need no disk, and would fail as well if nobody could be elected. Who has
		// a change of membership to apply does not campaign.
		return none
	}
	return preferred
}

// handOver begins a transfer to the voter that should lead instead of this one, if there
// is one, and returns its ID, or 0.
func (c *leading) handOver(why reason) uint64 {
	to := c.successor(why)
	if to != 0 {
		c.offer(to)
	}
	return to
}

// offer begins a transfer. If it fails, the member rests.
func (c *leading) offer(to uint64) {
	c.leadership.offered = to
	c.rn.TransferLeader(to)
}

// successor is the voter that should lead instead of this one, 0 if none is alive, or none
// is good enough for that reason.
func (c *leading) successor(why reason) uint64 {
	var best score
	self := find(c.handed.Membership, c.cfg.ID)
	if why == none || why == preferred && self == nil {
		return 0
	}
	room := c.roomLevel(c.cfg.ID)
	c.visitVoters(func(s score) {
		if !c.alive(s.id) || why == preferred && (s.priority <= self.Priority || !s.stays || !s.steady || !s.rested || s.room < room) {
			return
		}
		if best.id == 0 || s.compare(best) > 0 {
			best = s
		}
	})
	return best.id
}

// visitVoters calls f for every other voter, ordered by ID. One that has no vote when the
// joint configuration is left is none.
func (c *leading) visitVoters(f func(score)) {
	commit := c.rn.BasicStatus().Commit
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if id == c.cfg.ID || m == nil || !slices.Contains(c.handed.ConfState.Voters, id) {
			return
		}
		notes := c.peers.get(id)
		f(score{
			id:    id,
			stays: !c.isReplaced(id),
			// What was committed a tick ago it must have: one whose disk hangs is alive, and
			// falls behind only slowly.
			near: c.alive(id) && pr.State == tracker.StateReplicate && notes.hasRestored() &&
				pr.Match >= c.leadership.committed && pr.Match+c.cfg.PromoteLagMax >= commit,
			rested:   notes.rest == 0,
			steady:   notes.near >= c.cfg.PromoteStableTicks,
			room:     c.roomLevel(id),
			priority: m.Priority,
			match:    pr.Match,
		})
	})
}

// isReplaced says whether another member is about to take this one's place.
func (c *leading) isReplaced(id uint64) bool {
	return slices.ContainsFunc(c.handed.Membership.Members, func(m octopiipb.Member) bool { return m.Replaces == id && m.Promote })
}

// leaves says whether this leader is no voter any more when the joint configuration is
// left.
func (c *leading) leaves() bool {
	cs := &c.handed.ConfState
	return len(cs.VotersOutgoing) > 0 && !slices.Contains(cs.Voters, c.cfg.ID)
}

// isDismissed says whether a request takes this leader's vote away, and another one can
// lead before that. If there is nobody else it is made all the same.
func (c *leading) isDismissed(it *request) bool {
	goes := slices.ContainsFunc(it.Changes, func(o Change) bool {
		return o.Member.ID == c.cfg.ID && (o.Op == Remove || o.Op == Demote)
	})
	return goes && !it.DryRun && c.successor(dismissed) != 0 && c.allowChanges(it.Changes) == nil
}

// leaveAgain leaves a joint configuration that nothing else would leave. raft proposes
// that when an entry is applied, and its proposal is dropped if leadership is being
// handed over just then. If the transfer fails, and no entry follows, the change would
// stay half done for good.
func (c *leading) leaveAgain() {
	if len(c.handed.ConfState.VotersOutgoing) > 0 && c.applied == c.last {
		_ = c.rn.ProposeConfChange(raftpb.ConfChangeV2{}) // dropped: the next tick tries again
	}
}

// declined: a transfer to this member did not succeed. It rests for an election timeout,
// and each time for twice as long as before: while raft tries one, it takes no proposals.
func (p *peer) declined(electionTicks int) {
	p.pause = min(max(2*p.pause, electionTicks), pauseTimeoutsMax*electionTicks)
	p.rest = p.pause
}
