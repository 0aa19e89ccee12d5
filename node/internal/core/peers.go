package core

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

type progress = tracker.Progress

// peers is what this member noticed of the others.
type peers struct {
	list []*peer
}

type peer struct {
	id uint64
	// incarnation is what it showed in the last handshake; 0: none yet.
	incarnation uint64
	// silent is how many ticks ago something came from it.
	silent int
	// caughtUp is for how many ticks, as a learner, it was close behind.
	caughtUp int
	// seen are the requests that it forwarded to this member.
	seen seen
}

// get returns the notes on a peer, new ones if there are none.
func (p *peers) get(id uint64) *peer {
	i := slices.IndexFunc(p.list, func(o *peer) bool { return o.id == id })
	if i < 0 {
		p.list = append(p.list, &peer{id: id, silent: 1 << 20})
		i = len(p.list) - 1
	}
	return p.list[i]
}

func (p *peers) up(u PeerUp)     { p.get(u.ID).incarnation = u.Incarnation }
func (p *peers) heard(id uint64) { p.get(id).silent = 0 }
func (p *peers) forget(id uint64) {
	p.list = slices.DeleteFunc(p.list, func(o *peer) bool { return o.id == id })
}

func (p *peers) tick() {
	for i := range p.list {
		p.list[i].silent = min(p.list[i].silent+1, 1<<20)
	}
}

// alive: the member was heard within an election timeout.
func (c *Core) alive(id uint64) bool {
	return id == c.cfg.ID || c.peers.get(id).silent <= c.cfg.ElectionTicks
}

// allowChange says whether this leader may append a change now. Beside what
// every member checks when it applies it, the leader looks at who is alive.
func (c *Core) allowChange(change Change) error {
	if err := checkChange(c.handed.Membership, c.handed.ConfState, change); err != nil {
		return err
	}
	if c.confIndex > c.applied {
		return fmt.Errorf("%w: the one at index %d is not applied yet", ErrMembershipBusy, c.confIndex)
	}
	if change.Op != Remove {
		return nil
	}
	return c.keepsQuorum(change.Member.ID)
}

// keepsQuorum refuses the removal of a voter that would leave a majority of
// silent ones.
func (c *Core) keepsQuorum(removed uint64) error {
	voters := c.handed.ConfState.Voters
	if !slices.Contains(voters, removed) {
		return nil
	}
	alive := 0
	for _, id := range voters {
		if id != removed && c.alive(id) {
			alive++
		}
	}
	left := len(voters) - 1
	if quorum := left/2 + 1; alive < quorum {
		return fmt.Errorf("%w: without member %x there are %d voters, of which %d must be alive and %d are",
			ErrUnsafeMembership, removed, left, quorum, alive)
	}
	return nil
}

// promoteLearners makes voters of the learners that want to be and have caught
// up for long enough: a vote is worth something only with the log behind it.
func (c *Core) promoteLearners() {
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || c.confIndex > c.applied {
		return
	}
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		m := find(c.handed.Membership, id)
		if typ != raft.ProgressTypeLearner || m == nil || !m.Promote {
			return
		}
		notes := c.peers.get(id)
		if pr.State != tracker.StateReplicate || !c.alive(id) || pr.Match+c.cfg.PromoteLagMax < st.Commit {
			notes.caughtUp = 0
			return
		}
		if notes.caughtUp++; notes.caughtUp < c.cfg.PromoteStableTicks {
			return
		}
		notes.caughtUp = 0
		voter := *m
		voter.Learner, voter.Promote = false, false
		if notes.incarnation != 0 {
			voter.Incarnation = notes.incarnation
		}
		c.wait(request{Request: Request{Kind: ChangeMembership, Change: Change{Op: Promote, Member: voter}}})
	})
}
