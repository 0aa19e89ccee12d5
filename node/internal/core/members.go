package core

import (
	"cmp"
	"fmt"
	"slices"

	octopiipb "github.com/octopii/octopii/proto"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// members is what this member knows of the others: who is there, and how far each is.
type members struct {
	history
	peers peers
	reign reign
}

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
	// answered: it answered a heartbeat or an append since then. An older copy of its disk, which
	// doubts itself as soon as it is met, answers none.
	answered bool
	// formats is what it said in the last handshake that its program reads.
	formats Formats
	// silent is how many ticks ago something came from it.
	silent int
	// caughtUp is for how many ticks, as a learner that is to vote, it was close
	// behind, and absent for how many it was silent.
	caughtUp, absent int
	// seen are the requests that it forwarded to this member.
	seen seen
	toLeader
}

// toLeader is what the leader of a term noticed of a peer, which counts for nobody else.
type toLeader struct {
	// introduced: it acknowledged an append of this leader since it connected last, and so
	// has compared its log with this one: see introduce.
	introduced bool
	// compares is the index at which the last append with sums begins that it was sent since
	// then; 0: none was. What it acknowledges without one, such as a snapshot that it does not
	// need, it has compared with nothing.
	compares uint64
	// applied is the index that its state machine had when it last answered a heartbeat.
	// restoreGoal is the index that its state machine must have before this leader gives
	// it a vote, or hands over to it: that of the last snapshot it was sent, or about the
	// commit index when this leader first looked at it as a learner. 0: not known yet.
	applied, restoreGoal uint64
	// room is how much that has behind applied, and told whether it said so to this leader.
	room Room
	told bool
	// cooldown is the number of ticks until a transfer to it, as a voter, is as good as one to
	// others. backoff is the last cooldown; it doubles with each transfer that fails.
	cooldown, backoff int
	// nearTicks is for how many ticks, as a voter, it has been near: see score.
	nearTicks int
	// unanswered is for how many ticks it answered neither an append nor a heartbeat. It may be
	// heard of all the same, where it reaches this member and this member does not reach it.
	unanswered int
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
	notes.incarnation, notes.introduced, notes.compares, notes.formats = u.Incarnation, false, 0, u.Formats
	if u.Address != notes.reached {
		notes.answered = false
	}
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
		p.list[i].cooldown = max(p.list[i].cooldown-1, 0)
		p.list[i].unanswered = min(p.list[i].unanswered+1, silentMax)
	}
}

// forgetReign forgets what the leader of a term noticed: another leader or term began.
func (p *peers) forgetReign() {
	for _, o := range p.list {
		o.toLeader = toLeader{room: NoLimit}
	}
}

// answers: this leader reaches the member.
func (p *peer) answers() { p.answered, p.unanswered = true, 0 }

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
func (c *members) alive(id uint64) bool {
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
func (c *members) hushed(err error) error {
	if c.reign.term == c.status.Term && c.reign.ticks >= c.cfg.ElectionTicks {
		return err
	}
	return fmt.Errorf("%w: the leader was just elected and does not know yet who is alive", ErrMembershipBusy)
}

// roomToJoin refuses one more that asks to join, and takes nobody's place.
func (c *members) roomToJoin(change Change) error {
	joiners := 0
	for i := range c.handed.Membership.Members {
		if m := &c.handed.Membership.Members[i]; m.Kind == octopiipb.Learner && m.Promote {
			joiners++
		}
	}
	m := &change.Member
	if !change.IfSilent || joiners < joinersMax || m.Replaces != 0 || find(c.handed.Membership, m.ID) != nil {
		return nil
	}
	return fmt.Errorf("%w: %d members are to vote and do not yet; who does not show up is removed after %d election timeouts", ErrMembershipBusy, joiners, c.cfg.JoinTimeoutTicks/c.cfg.ElectionTicks)
}

// remembersNone refuses to let a member in under an ID that acknowledged entries to this
// leader: whoever asks to join has no log, and so it forgot them. A joiner that crashed
// before its first snapshot was on its disk acknowledged nothing, and may ask again.
func (c *members) remembersNone(changes []Change) error {
	for _, change := range changes {
		if change.Op != AddLearner || !change.IfSilent {
			continue
		}
		if pr, ok := c.progressOf(change.Member.ID); ok && pr.Match > 0 {
			return fmt.Errorf("%w: member %x acknowledged the log up to %d, and asks to join without one", ErrForgot, change.Member.ID, pr.Match)
		}
	}
	return nil
}

// caughtUp refuses to give a vote to a learner that has not the log behind it, or whose
// state machine has not restored what it was sent.
func (c *members) caughtUp(id uint64) error {
	pr, _ := c.progressOf(id)
	commit := c.rn.BasicStatus().Commit
	notes := c.peers.get(id)
	if notes.restoreGoal == 0 {
		notes.restoreGoal = max(commit, c.cfg.PromoteLagMax) - c.cfg.PromoteLagMax
	}
	switch {
	case !c.alive(id):
		return c.hushed(fmt.Errorf("%w: learner %x was not heard of for %d ticks; start it and try again", ErrUnsafeMembership, id, min(notes.silent, silentMax)))
	case pr.Match == 0 || pr.Match+c.cfg.PromoteLagMax < commit:
		return fmt.Errorf("%w: learner %x has the log up to %d of %d, and may lag by %d entries; try again when it has caught up",
			ErrUnsafeMembership, id, pr.Match, commit, c.cfg.PromoteLagMax)
	case !notes.hasRestored():
		return fmt.Errorf("%w: the state machine of learner %x is at index %d, and restores what it was sent up to %d; try again when it has",
			ErrUnsafeMembership, id, notes.applied, notes.restoreGoal)
	}
	return nil
}

func (c *members) progressOf(id uint64) (pr progress, ok bool) {
	c.rn.WithProgress(func(other uint64, _ raft.ProgressType, p progress) {
		if other == id {
			pr, ok = p, true
		}
	})
	return pr, ok
}

// keepsQuorum refuses changes that would leave a majority of silent voters.
func (c *members) keepsQuorum(changes []Change) error {
	cs, err := tryChanges(c.handed.ConfState, changes)
	if err != nil {
		return err
	}
	if slices.Equal(cs.Voters, c.handed.ConfState.Voters) {
		return nil
	}
	alive := 0
	for _, id := range cs.Voters {
		if c.alive(id) {
			alive++
		}
	}
	if quorum := len(cs.Voters)/2 + 1; alive < quorum {
		return c.hushed(fmt.Errorf("%w: it would leave %d voters, of which %d must be alive and %d are",
			ErrUnsafeMembership, len(cs.Voters), quorum, alive))
	}
	return nil
}

// mayTakePlace says whether a member may take the places of all at its address beside the
// one that it names: this leader must have reached it there, and nothing of them for as long
// as a member that is to vote may be silent. A copied address is no proof, and who is not
// there may have moved, live, and be cut off. Of one that came in and has no vote yet nobody
// counts a copy: it is a former life that was lost on its way, or asks again.
func (c *members) mayTakePlace(m octopiipb.Member) error {
	for _, old := range replacedBy(c.handed.Membership, m) {
		switch {
		case old.ID == m.Replaces || old.Address != m.Address: // somebody named it
			continue
		case c.alive(old.ID):
			return errPlaceTaken(m, &old)
		case !c.answersAt(m.ID, m.Address):
			return fmt.Errorf("%w: member %x, which is to take the place of %x at %s, was not reached there yet", ErrMembershipBusy, m.ID, old.ID, m.Address)
		}
		if onItsWay := old.Kind == octopiipb.Learner && old.Promote; !onItsWay && !c.longGone(old.ID) {
			return fmt.Errorf("%w: member %x is at %s in the membership, where %x answers, and may have moved; it is taken for gone when it was silent for %d ticks",
				ErrMembershipBusy, old.ID, m.Address, m.ID, c.cfg.JoinTimeoutTicks)
		}
	}
	return nil
}

// longGone: this leader has heard nothing of a member for as long as one that is to vote may
// be silent before it is given up.
func (c *members) longGone(id uint64) bool {
	return c.reign.term == c.status.Term && min(c.reign.ticks, c.peers.get(id).silent) >= c.cfg.JoinTimeoutTicks
}

// answersAt: this leader reached the member at an address, where it proved itself.
func (c *members) answersAt(id uint64, address string) bool {
	notes := c.peers.find(id)
	return notes != nil && address != "" && notes.reached == address
}

// answersElsewhere: this leader reached the member last where its record does not have it.
func (c *members) answersElsewhere(m *octopiipb.Member) bool {
	notes := c.peers.find(m.ID)
	return notes != nil && notes.reached != "" && notes.reached != m.Address
}

// othersElect: the voters that are alive are a majority without this one.
func (c *members) othersElect() bool {
	cs := &c.handed.ConfState
	return c.aliveMajority(cs.Voters) && (len(cs.VotersOutgoing) == 0 || c.aliveMajority(cs.VotersOutgoing))
}

func (c *members) aliveMajority(voters []uint64) bool {
	alive := 0
	for _, id := range voters {
		if id != c.cfg.ID && c.alive(id) {
			alive++
		}
	}
	return alive > len(voters)/2
}

// Lonely says that nothing was heard of a leader for an election timeout. A
// learner goes on naming the last one for ever, as it never campaigns.
func (c *members) Lonely() bool {
	return c.status.Lead == raft.None || !c.alive(c.status.Lead)
}

// settleOwnAddress forgets where this member was started once its record has that, as its leader
// says: if the record changes again, this member was met elsewhere, and may not know it itself.
func (c *members) settleOwnAddress() {
	notes, m := c.peers.find(c.cfg.ID), find(c.handed.Membership, c.cfg.ID)
	if notes != nil && m != nil && notes.address == m.Address && c.status.Lead != raft.None && c.applied >= c.status.Commit {
		notes.address = ""
	}
}

// unreachableTimeouts is for how many election timeouts a member answers nothing until a leader
// takes it for one that it does not reach.
const unreachableTimeouts = 3

// Unreachable says, on a leader, whether a member answers nothing that this leader sends it: it
// is away, or not where its record has it.
func (c *members) Unreachable(id uint64) bool {
	notes := c.peers.find(id)
	return c.status.RaftState == raft.StateLeader && id != c.cfg.ID && find(c.handed.Membership, id) != nil && notes != nil &&
		notes.unanswered > unreachableTimeouts*c.cfg.ElectionTicks
}

// Silent returns how many ticks ago something came from a member; heard is false if nothing
// ever did.
func (c *members) Silent(id uint64) (ticks int, heard bool) {
	notes := c.peers.find(id)
	if notes == nil || notes.silent >= silentMax {
		return 0, false
	}
	return notes.silent, true
}

// VisitProgress calls f for every other member, ordered by ID. Only a leader
// knows any.
func (c *members) VisitProgress(f func(id, match uint64, state string, alive bool)) {
	if c.status.RaftState != raft.StateLeader {
		return
	}
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		if id != c.cfg.ID {
			f(id, pr.Match, pr.State.String(), c.alive(id))
		}
	})
}
