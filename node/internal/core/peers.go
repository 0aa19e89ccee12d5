package core

import (
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

type progress = tracker.Progress

// peers is what this member noticed of the others.
type peers struct {
	list []*peer
	// window is that of each seen.
	window uint64
}

// silentMax stands for: never.
const silentMax = 1 << 20

type peer struct {
	id uint64
	// incarnation is what it showed in the last handshake; 0: none yet.
	incarnation uint64
	// address is where it was reached last, if that is not where its record says.
	address string
	// reached is where it was reached last, and proved itself.
	reached string
	// introduced: it acknowledged an append of this leader since it connected last, and so
	// has compared its log with this one: see introduce.
	introduced bool
	// compares is the index at which the last append with sums begins that it was sent since
	// then; 0: none was. What it acknowledges without one, such as a snapshot that it does not
	// need, it has compared with nothing.
	compares uint64
	// silent is how many ticks ago something came from it.
	silent int
	// caughtUp is for how many ticks, as a learner that is to vote, it was close
	// behind, and absent for how many it was silent.
	caughtUp, absent int
	// applied is the index that its state machine had when it last answered a heartbeat.
	// restoreGoal is the index that its state machine must have before this leader gives
	// it a vote, or hands over to it: that of the last snapshot it was sent, or about the
	// commit index when this leader first looked at it as a learner. 0: not known yet.
	applied, restoreGoal uint64
	// room is how much that has behind applied, and told whether it said so to this leader.
	room Room
	told bool
	// rest is for how many ticks this leader does not hand over to it, and pause for
	// how many it did not after the last transfer to it that failed.
	rest, pause int
	// near is for how many ticks, as a voter, it was close behind.
	near int
	// seen are the requests that it forwarded to this member.
	seen seen
}

// get returns the notes on a peer, new ones if there are none.
func (p *peers) get(id uint64) *peer {
	if notes := p.find(id); notes != nil {
		return notes
	}
	p.list = append(p.list, &peer{id: id, silent: silentMax, seen: seen{window: p.window}})
	return p.list[len(p.list)-1]
}

// find returns the notes on a peer, or nil.
func (p *peers) find(id uint64) *peer {
	if i := slices.IndexFunc(p.list, func(o *peer) bool { return o.id == id }); i >= 0 {
		return p.list[i]
	}
	return nil
}

func (p *peers) up(u PeerUp) {
	notes := p.get(u.ID)
	notes.incarnation, notes.introduced, notes.compares = u.Incarnation, false, 0
	notes.address = cmp.Or(u.Address, notes.address)
	notes.reached = cmp.Or(u.Address, notes.reached)
}

func (p *peers) heard(id uint64) { p.get(id).silent = 0 }
func (p *peers) forget(id uint64) {
	p.list = slices.DeleteFunc(p.list, func(o *peer) bool { return o.id == id })
}

func (p *peers) tick() {
	for i := range p.list {
		p.list[i].silent = min(p.list[i].silent+1, silentMax)
		p.list[i].rest = max(p.list[i].rest-1, 0)
	}
}

// rested forgets what became of transfers: somebody else leads, or another term.
func (p *peers) rested() {
	for _, o := range p.list {
		o.rest, o.pause, o.near = 0, 0, 0
		o.applied, o.restoreGoal, o.introduced, o.compares = 0, 0, false, 0
		o.room, o.told = NoLimit, false
	}
}

// acknowledged: the member has the log of this leader up to an index.
func (p *peer) acknowledged(index uint64) {
	if p.compares != 0 && index >= p.compares {
		p.introduced = true
	}
}

// hasRestored says whether a member's state machine has what it was sent: its log may
// have all of it long before.
func (p *peer) hasRestored() bool { return p.applied >= p.restoreGoal }

// alive: the member was heard within an election timeout.
func (c *Core) alive(id uint64) bool {
	return id == c.cfg.ID || c.peers.get(id).silent <= c.cfg.ElectionTicks
}

// reign is for how long this member has led, in ticks, in which term.
type reign struct {
	term  uint64
	ticks int
}

func (r *reign) tick(st *raft.BasicStatus) {
	if st.RaftState != raft.StateLeader || st.Term != r.term {
		*r = reign{term: st.Term}
		return
	}
	r.ticks++
}

// hushed is the error for a member, or several, from whom nothing was heard. Who was
// just elected may only not have heard of them yet: those whose votes it did not need.
func (c *Core) hushed(err error) error {
	if c.reign.term == c.status.Term && c.reign.ticks >= c.cfg.ElectionTicks {
		return err
	}
	return fmt.Errorf("%w: the leader was just elected and does not know yet who is alive", ErrMembershipBusy)
}
