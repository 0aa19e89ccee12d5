package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// doubt is what this member was told of its own log and cannot know by itself: that it
// forgot something, or that it is on another branch than the majority. It belongs to the
// loop.
//
// Nobody's word alone stops a member or costs it its disk. What a proven member says
// suspends it: it serves nothing, votes for nobody and acknowledges nothing, and it asks
// the members, where they are recorded or were met, for what a majority has committed just
// now. That answer decides: the log is another one (ErrDiverged), or it lost something
// (ErrAmnesia), or the claim was wrong. While no majority answers it stays suspended, unless
// the member denies the claim in whose name it was made (denials).
//
// A member whose log has a majority behind it in this life (core.Established) cannot have
// lost it, whatever a single member says. The one that says so is then on another branch:
// it is not listened to, and finds out by asking.
type doubt struct {
	loop *loop
	// claims are what suspends this member: one for each member and kind at most.
	claims []claim
	// err is why it is suspended; nil: it is not.
	err error
	// refusals are members that refuse this one because its disk is another.
	refusals map[uint64]bool
	// inquiry asks the others about it, and denials those in whose name it was said.
	inquiry inquiry
	denials denials
	// fork is where this log and that of the majority part, once they are known to.
	fork fork
	// losses are those of others.
	losses losses

	// age is for how many ticks this member has been suspended, or without a leader.
	age int
	// accepted: an operator gave up what is missing. patience is for how many ticks this
	// member does not campaign, so that one that has more is elected first.
	accepted bool
	patience int
}

// claim is what one member said.
type claim struct {
	by   uint64
	kind core.Claim
	// at is the place in the log that it is about, and memory what is remembered.
	at     uint64
	memory transport.Memory
	// last is where the log of this leader ended, for one that is told of more.
	last uint64
	text string
	// dialed: it was heard where this member called at the recorded address.
	dialed bool
	// heard is when it was heard last.
	heard time.Time
}

// outdated: what is committed here is of a later term than what is remembered. A disk that has
// that is no older than the memory, whatever else the memory says: no leader of that term, and
// no majority behind it, knew of it. This counts for a member that started again under a
// leader that goes on, too, which core.Established does not.
func (c *claim) outdated(committed core.Place) bool { return committed.Term > c.memory.Term }

// acceptTimeouts is how many election timeouts without an answer of a majority it takes
// until Config.AcceptLoss has an effect; and for how many a member then only votes.
const (
	acceptTimeouts   = 6
	patienceTimeouts = 3
)

// met takes what a proven member remembers of this one.
func (d *doubt) met(peer transport.Hello) {
	l := d.loop
	if l.core == nil {
		return
	}
	st := l.core.Status()
	last, err := l.view.LastIndex()
	if err != nil {
		return
	}
	r, dialed := peer.Remembers, atRecord(l.membership, peer)
	if !contradicts(r, st.Term, last, l.core.TermOf) {
		if l.guests.branch(peer.Node, false) {
			l.log.Info("a member remembers nothing any more that is not here", zap.String("peer", hex(peer.Node)))
		}
		if dialed {
			d.drop(func(c *claim) bool {
				return c.by == peer.Node && c.kind == core.Forgot && c.memory != transport.Memory{}
			})
		}
		return
	}
	d.add(claim{by: peer.Node, kind: core.Forgot, at: last, memory: r, dialed: dialed, text: fmt.Sprintf(
		"member %x remembers that this one had its log up to index %d in term %d, and up to %d committed, and it ends at index %d in term %d",
		peer.Node, r.Match, r.Term, r.Commit, last, st.Term)})
}

// add takes a claim of a member.
func (d *doubt) add(c claim) {
	l := d.loop
	switch {
	case d.accepted && (c.kind == core.Forgot || c.kind == core.Ahead):
		return
	case c.kind == core.Ahead && l.core.Established():
		d.losses.branched(Branch{ID: c.by, First: c.last + 1, Last: c.at}, false)
		return
	case c.kind == core.Forgot && c.memory != transport.Memory{} && (l.core.Established() || c.outdated(l.core.CommittedPlace())):
		if l.guests.branch(c.by, true) {
			l.log.Error("a member remembers what the majority does not have: it is on another branch, or a majority lost what was acknowledged; its messages are not taken until it has asked the majority",
				zap.String("peer", hex(c.by)), zap.String("says", c.text))
		}
		if r := c.memory; r.Commit > c.at {
			d.losses.branched(Branch{ID: c.by, First: c.at + 1, Last: r.Commit}, false)
		}
		return
	}
	c.heard = l.host.now()
	same := func(o claim) bool { return o.by == c.by && o.kind == c.kind }
	if i := slices.IndexFunc(d.claims, same); i >= 0 {
		c.dialed = c.dialed || d.claims[i].dialed
		d.claims[i] = c
		return
	}
	d.claims = append(d.claims, c)
	d.suspend()
	d.inquiry.ask()
	d.denials.ask()
}

// forgotten is why a member stops for good. last is what a majority has committed.
func forgotten(text string, last uint64) error {
	return fmt.Errorf("%w: %s, and a majority has committed up to %d without it: was an old image of the disk put back? Remove this member, and join again with an empty directory",
		ErrAmnesia, text, last)
}

// suspend stops serving because of the newest claim.
func (d *doubt) suspend() {
	c := &d.claims[len(d.claims)-1]
	err := fmt.Errorf("%w: %s", ErrSuspect, c.text)
	if c.kind == core.Diverged {
		err = fmt.Errorf("%w: %s; asking the majority", ErrDiverged, c.text)
	}
	d.stopServing(err)
}

// stopServing refuses what waits here, and all that comes.
func (d *doubt) stopServing(err error) {
	l := d.loop
	l.log.Error("this member serves nothing until a majority has said what is true; start the other members. If a majority lost something, put newer copies of the disks back, or start those that lost it once with --accept-loss (Config.AcceptLoss). If two members say so of each other, stop the one whose history is to be given up and keep its files, and start the other again",
		zap.Error(err))
	if d.err == nil {
		d.age, d.inquiry.next = 0, 0
	}
	d.err = err
	l.suspensionChanged()
}

// drop forgets claims, and serves again if none is left.
func (d *doubt) drop(which func(*claim) bool) {
	d.claims = slices.DeleteFunc(d.claims, func(c claim) bool { return which(&c) })
	if len(d.claims) == 0 && d.err != nil && d.fork.why == "" {
		d.loop.log.Warn("this member serves again: what was said of its log is not so", zap.String("was", d.err.Error()))
		d.err, d.age = nil, 0
		d.loop.suspensionChanged()
	}
}

// keep forgets what was said by or of those who are no members any more.
func (d *doubt) keep(ms *octopiipb.Membership) {
	d.drop(func(c *claim) bool { return !isMember(ms, c.by) })
	d.losses.keep(ms)
}

// suspension is why this member serves nothing: it doubts its own log, another cluster claims
// its address, a majority forgot, or it was removed. nil: it serves.
func (l *loop) suspension() error {
	return cmp.Or(l.doubt.err, l.rivals.err, l.later.err, l.later.noted.err, l.leaving.dismissal.removed)
}

// standstill is why this member does not vote or acknowledge either. nil: it does.
func (l *loop) standstill() error {
	return cmp.Or(l.doubt.err, l.rivals.err, l.later.err, l.leaving.dismissal.err)
}

// isSuspension: a call was refused because this member serves nothing.
func isSuspension(err error) bool {
	return errors.Is(err, ErrSuspect) || errors.Is(err, ErrDiverged) || errors.Is(err, ErrClaimed)
}

// suspensionChanged lets callers know of it; those that wait for an answer hear of it in the
// next turn (filter).
func (l *loop) suspensionChanged() {
	err := l.suspension()
	if err == nil {
		l.suspended.Store(nil)
		return
	}
	l.suspended.Store(&err)
	l.inbox.add(func(*core.Input) {}) // the next turn comes soon
}

// filter keeps from a suspended member what it would serve by, and from one that stands still what
// it would vote or acknowledge by. What its disk and its state machine have done still counts.
func (d *doubt) filter(in *core.Input) {
	if d.patience > 0 && in.Ticks > 0 {
		d.patience -= in.Ticks
		in.Ticks = 0
	}
	err := d.loop.suspension()
	if err == nil || d.loop.core == nil {
		return
	}
	for _, r := range in.Requests {
		if r.Waiter != nil {
			r.Waiter.(*waiter).finish(answer{Outcome: core.Outcome{Waiter: r.Waiter, Err: err}})
		}
	}
	empty(&in.Requests)
	empty(&in.Remote)
	empty(&in.Replies)
	in.Refuse = err
	if d.loop.standstill() != nil {
		empty(&in.Messages)
		empty(&in.PeersGone)
		in.Campaign, in.Ticks = false, 0
	}
}

// withhold keeps back what a suspended member would say.
func (d *doubt) withhold(eff *core.Effects) {
	err := d.loop.suspension()
	if err == nil {
		return
	}
	eff.Forwards, eff.Replies = nil, nil
	if d.loop.standstill() != nil {
		eff.Messages, eff.Snapshots, eff.CampaignSoon = nil, nil, 0
	}
	for i := range eff.Outcomes {
		if o := &eff.Outcomes[i]; o.Err == nil && o.Membership == nil {
			o.Err = err // a read, of a state that may not be the majority's
		}
	}
}

// tick asks, now and then, while this member is suspended or hears of no leader.
func (d *doubt) tick(ticks int) {
	l := d.loop
	if ticks == 0 || l.core == nil {
		return
	}
	d.inquiry.tick(ticks)
	if d.err == nil && !l.core.Lonely() {
		d.age, d.losses.suspects = 0, nil
		return
	}
	before := d.age
	d.age += ticks
	d.fork.tick(ticks)
	timeout := l.cfg.ElectionTicks
	if d.err == nil {
		timeout *= 2
	}
	if d.age/timeout != before/timeout {
		d.inquiry.ask()
		d.denials.ask()
	}
	if d.err != nil && d.age/(10*timeout) != before/(10*timeout) {
		l.log.Error("this member still serves nothing, and no majority answers", zap.Error(d.err))
	}
	if d.err != nil && l.cfg.AcceptLoss && d.age >= acceptTimeouts*timeout {
		d.accept()
	}
}

// accept goes on without what is missing, as an operator wants it.
func (d *doubt) accept() {
	if slices.ContainsFunc(d.claims, func(c claim) bool { return c.kind == core.Diverged }) {
		return
	}
	for _, c := range d.claims {
		from, to := c.missing()
		d.loop.log.Warn("LOSS ACCEPTED: this member goes on without what it is remembered for",
			zap.Uint64("from index", from), zap.Uint64("to index", to), zap.String("reminded", c.text))
	}
	d.accepted, d.patience = true, patienceTimeouts*d.loop.cfg.ElectionTicks
	d.drop(func(*claim) bool { return true })
}

// refused counts the voters that refuse this member because its disk is another. This
// member has a log, and so it takes a majority.
func (d *doubt) refused(peer transport.Hello, reason string) {
	l := d.loop
	if l.core == nil || !atRecord(l.membership, peer) {
		return
	}
	if d.refusals == nil {
		d.refusals = map[uint64]bool{}
	}
	d.refusals[peer.Node] = true
	if inMajority(l.membership, d.refusals) {
		l.fatal(fmt.Errorf("%w: a majority says so, as member %x: %s", ErrAmnesia, peer.Node, reason))
	}
}

// missing is the range of indexes that a claim is about.
func (c *claim) missing() (from, to uint64) {
	if c.kind == core.Ahead {
		return c.last + 1, c.at
	}
	return c.at + 1, max(c.memory.Match, c.memory.Commit)
}

// vouched decides by what a majority has committed just now.
func (d *doubt) vouched(m *octopiipb.Member, commit, last uint64, at core.Place) {
	l := d.loop
	index, err := l.core.Contradicts(commit, last, at)
	switch {
	case d.fork.why != "":
		d.fork.narrow(at, index, err != nil)
		return
	case err != nil:
		d.fork.begin(index, fmt.Sprintf("%v, as member %x at %s says", err, m.ID, m.Address))
		return
	}
	for i := range d.claims {
		switch c := &d.claims[i]; {
		case c.kind == core.Diverged && at.Term == 0:
			d.fork.begin(c.at, c.text) // nobody can look it up any more, and it was a leader that said so
			return
		case c.kind == core.Ahead && c.at > last:
			d.losses.branched(Branch{ID: c.by, First: last + 1, Last: c.at}, false)
		case c.kind == core.Forgot && c.dialed:
			l.fatal(forgotten(c.text, last))
			return
		}
	}
	// What is left is refuted, or is in what the majority has; but for what members remember
	// that are not where their records say: that the log here is long enough does not show
	// that it has what they remember. See introduced.
	holds := last <= l.core.Status().Last
	d.drop(func(c *claim) bool { return c.kind != core.Forgot || holds && c.memory == transport.Memory{} })
}

// heard takes what another member says of itself in a question.
func (d *doubt) heard(from transport.Hello, q *octopiipb.CompareRequest) {
	l := d.loop
	if l.core == nil {
		return
	}
	if b := q.Branch; b != (octopiipb.Branch{}) {
		d.losses.branched(Branch{ID: from.Node, First: b.First, Last: b.Last, Term: b.Term}, true)
		return
	}
	if q.Later != 0 {
		l.later.heardOf(q.Later)
		return
	}
	if q.Suspect {
		d.losses.note(from.Node, q)
		if m := recordOf(l.membership, from.Node); m != nil && m.Address == from.Host.Address {
			l.search.hint(func(t transport.Hinted) { t.Doubt(m.ID) }) // a copy of its disk that has more may run elsewhere
		}
	}
	// What was committed in later terms a leader that was deposed need not have.
	if st := l.core.Status(); q.Commit > st.Last && q.Term <= st.Term && st.Role == raft.StateLeader {
		d.add(claim{by: from.Node, kind: core.Ahead, at: q.Commit, last: st.Last, text: fmt.Sprintf(
			"member %x has committed up to index %d, and the log of this leader ends at %d", from.Node, q.Commit, st.Last)})
	}
}
