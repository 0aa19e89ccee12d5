package core

import (
	"cmp"
	"fmt"
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

// One policy says who should lead. Every voter has a score, the leader too, and the reasons to
// hand leadership over are inputs of it. At the end of a Step tendLeadership compares the scores
// and begins at most one transfer. Votes are not touched: any voter may be elected, and may hand
// leadership over then.

// leadership is what a leader remembers for that policy. A new term or leader clears it.
type leadership struct {
	// transferAsked: a Transfer waits. voteTaken: a change waits that takes this leader's vote
	// away. serve sets both, for the end of the Step.
	transferAsked, voteTaken bool
	// target is the voter to which the last transfer was begun; 0: none, or it was given up.
	target uint64
	// committed is the commit index of the last tick.
	committed uint64
}

// score is how well a voter would lead.
type score struct {
	id uint64
	// alive: it was heard within an election timeout.
	alive bool
	// stays: it has no reason to hand over. A voter has one if another member is about to take its
	// place. A leader has one if a change that waits takes its vote away, if it has no vote when
	// the joint configuration is left, or if its disk hangs.
	stays bool
	// near: it is close behind, in log and state machine. cooledDown: its cooldown is over.
	near, cooledDown bool
	room             roomLevel
	priority         int32
	match            uint64
	// steady: it has been near for PromoteStableTicks. A leader: its disk answers, and it has
	// applied an entry of its term and all changes of membership. It is not compared.
	steady bool
}

// compare is greater than 0 if a transfer to a should be tried before one to b.
func (a score) compare(b score) int {
	return cmp.Or(compareBool(a.alive, b.alive), compareBool(a.stays, b.stays), compareBool(a.near, b.near),
		compareBool(a.cooledDown, b.cooledDown), cmp.Compare(a.room, b.room), cmp.Compare(a.priority, b.priority),
		cmp.Compare(a.match, b.match))
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

// replacement is the first of the voters to which a leader should hand over; 0: none. A leader
// that does not stay hands over to any voter that is alive. One that stays hands over only to a
// voter of a higher priority.
func replacement(voters []score, leader score) uint64 {
	for _, s := range voters {
		preferred := leader.steady && s.stays && s.steady && s.cooledDown && s.room >= leader.room && s.priority > leader.priority
		if s.alive && (preferred || !leader.stays) {
			return s.id
		}
	}
	return raft.None
}

// backoffTimeoutsMax bounds a backoff, in election timeouts.
const backoffTimeoutsMax = 16

// tendLeadership begins a transfer if another voter should lead. Step calls it at its end, when
// all reasons are known, also those that the Ready brought. The next Ready has the message to
// that voter.
//
// It compares the scores after a tick, and at once if a request waits for that, or if this
// leader is about to lose its vote: when the change is applied, raft leaves the joint
// configuration. raft gives a transfer up after an election timeout; until then no other is begun.
func (c *leading) tendLeadership(ticked bool) {
	l := &c.leadership
	if !ticked && !l.transferAsked && !l.voteTaken && !c.leavesJoint() {
		return
	}
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return
	}
	if l.target != raft.None && st.LeadTransferee == raft.None {
		c.peers.get(l.target).backOff(c.cfg.ElectionTicks) // raft gave the transfer up
	}
	voters := c.rankVoters(ticked)
	if ticked {
		l.committed = st.Commit
	}
	if st.LeadTransferee != raft.None {
		return
	}
	l.target = replacement(voters, c.ownScore(&st))
	if l.transferAsked {
		l.target = cmp.Or(c.answerTransfers(replacement(voters, score{})), l.target)
	}
	l.transferAsked, l.voteTaken = false, false
	switch {
	case l.target != raft.None:
		c.rn.TransferLeader(l.target)
	case ticked:
		c.leaveJointAgain()
	}
}

// ownScore is the score of this leader.
func (c *leading) ownScore(st *raft.BasicStatus) score {
	s := score{id: c.cfg.ID, room: c.roomLevel(c.cfg.ID)}
	// If its disk hangs it still hands over: the others have all that it appended, as that was sent
	// to them beside its own write. If they cannot elect a leader it stays, as reads need no disk.
	s.stays = !c.leadership.voteTaken && !c.leavesJoint() && !(c.stalled() && c.othersElect())
	if m := find(c.handed.Membership, c.cfg.ID); m != nil {
		s.priority = m.Priority
		// A voter that has a change of membership to apply does not campaign.
		s.steady = !c.stalled() && c.handed.Term == st.Term && c.confIndex <= c.applied
	}
	return s
}

// rankVoters returns the scores of the other voters, the best first. A member that has no vote
// when the joint configuration is left is not among them. ticked: a tick more that each is near,
// or is not.
func (c *leading) rankVoters(ticked bool) []score {
	commit := c.rn.BasicStatus().Commit
	var voters []score
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if id == c.cfg.ID || m == nil || !slices.Contains(c.handed.ConfState.Voters, id) {
			return
		}
		notes := c.peers.get(id)
		// It must have what was committed at the last tick: a voter whose disk hangs is alive, and
		// falls behind only slowly.
		near := c.alive(id) && pr.State == tracker.StateReplicate && notes.hasRestored() &&
			pr.Match >= c.leadership.committed && pr.Match+c.cfg.PromoteLagMax >= commit
		switch {
		case ticked && near:
			notes.nearTicks++
		case ticked:
			notes.nearTicks = 0
		}
		voters = append(voters, score{
			id:         id,
			alive:      c.alive(id),
			stays:      !c.isReplaced(id),
			near:       near,
			cooledDown: notes.cooldown == 0,
			room:       c.roomLevel(id),
			priority:   m.Priority,
			match:      pr.Match,
			steady:     notes.nearTicks >= c.cfg.PromoteStableTicks,
		})
	})
	slices.SortStableFunc(voters, func(a, b score) int { return b.compare(a) })
	return voters
}

// answerTransfers answers the callers that ask for another leader, and returns the voter that
// the last of them gets; 0: none. The outcome's Index is the member that will lead if all goes
// well.
func (c *leading) answerTransfers(best uint64) (last uint64) {
	c.keepWaiting(func(it *request) bool {
		if it.Kind != Transfer {
			return true
		}
		to := cmp.Or(it.To, best)
		err := c.checkTarget(to)
		if err == nil && to != c.cfg.ID {
			last = to
		}
		c.settle(*it, Outcome{Index: to, Err: err})
		return false
	})
	return last
}

// checkTarget says why no transfer to a member can be begun.
func (c *leading) checkTarget(id uint64) error {
	switch m := find(c.handed.Membership, id); {
	case id == raft.None:
		return fmt.Errorf("%w: no other voter is alive; start one, or wait for it", ErrNoTarget)
	case m == nil:
		return fmt.Errorf("%w: there is no member %x", ErrNoTarget, id)
	case m.Kind == octopiipb.Learner:
		return fmt.Errorf("%w: member %x is a learner; promote it first", ErrNoTarget, id)
	}
	return nil
}

// isReplaced says whether another member is about to take this one's place.
func (c *leading) isReplaced(id uint64) bool {
	return slices.ContainsFunc(c.handed.Membership.Members, func(m octopiipb.Member) bool { return m.Replaces == id && m.Promote })
}

// leavesJoint says whether this leader is no voter any more when the joint configuration is
// left. When it has left, it steps down, and the others may not know that it has, and wait for
// its vote. raft does not leave during a transfer; the next leader does. (Where this leader was
// the only voter, no other could lead before.)
func (c *leading) leavesJoint() bool {
	cs := &c.handed.ConfState
	return len(cs.VotersOutgoing) > 0 && !slices.Contains(cs.Voters, c.cfg.ID)
}

// takesOwnVote says whether a request takes this leader's vote away while another voter is
// alive. The request waits, and the next leader makes the change, so that no election is needed.
// If no other voter is alive, this leader makes it.
func (c *leading) takesOwnVote(it *request) bool {
	return !it.DryRun && slices.ContainsFunc(it.Changes, func(o Change) bool {
		return o.Member.ID == c.cfg.ID && (o.Op == Remove || o.Op == Demote)
	}) && slices.ContainsFunc(c.handed.ConfState.Voters, func(id uint64) bool {
		return id != c.cfg.ID && c.alive(id)
	}) && c.allowChanges(it.Changes) == nil
}

// leaveJointAgain leaves a joint configuration that nothing else would leave. raft proposes
// that when an entry is applied, and drops its proposal during a transfer. If the transfer
// fails, and no entry follows, the change would stay half done for good.
func (c *leading) leaveJointAgain() {
	if len(c.handed.ConfState.VotersOutgoing) > 0 && c.applied == c.last {
		_ = c.rn.ProposeConfChange(raftpb.ConfChangeV2{}) // dropped: the next tick tries again
	}
}

// backOff begins a cooldown after a transfer to this member that failed: an election timeout,
// and after each further failure twice as long. While raft tries a transfer, it takes no
// proposals.
func (p *peer) backOff(electionTicks int) {
	p.backoff = min(max(2*p.backoff, electionTicks), backoffTimeoutsMax*electionTicks)
	p.cooldown = p.backoff
}
