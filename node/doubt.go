package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// kindCompare is a call by which a member compares its log with what a majority has
// committed. It stands apart from the other kinds.
const kindCompare transport.Kind = 32

// doubt is what this member was told of its own log and cannot know by itself: that it
// forgot something, or that it is on another branch than the majority. It belongs to the
// loop.
//
// Nobody's word alone stops a member or costs it its disk. What a proven member says
// suspends it: it serves nothing, votes for nobody and acknowledges nothing, and it asks
// the members, at the addresses that are recorded, for what a majority has committed just
// now. That answer decides: the log is another one (ErrDiverged), or it lost something
// (ErrAmnesia), or the claim was wrong. While no majority answers, it stays suspended.
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
	// suspects are members that said that they may have lost something, ordered by ID.
	suspects []Suspect
	// branches are what members have, or had, that the majority does not: branchesMax at
	// most, in the order in which they were found.
	branches []Branch
	// fork is where this log and that of the majority part, once they are known to.
	fork fork

	// age is for how many ticks this member has been suspended, or without a leader.
	age int
	// asking is for how many ticks more the answer to a call is waited for, before another
	// member is asked, too: it may be lost. next is whom to ask then.
	asking int
	next   int
	newer  newer
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
}

// outdated: what is committed here is of a later term than what is remembered. A disk that has
// that is no older than the memory, whatever else the memory says: no leader of that term, and
// no majority behind it, knew of it. This counts for a member that started again under a
// leader that goes on, too, which core.Established does not.
func (c *claim) outdated(committed core.Place) bool { return committed.Term > c.memory.Term }

// newer is somebody that says something of this log, and that the records here do not name,
// or not where it is: an old image of a disk does not know who came later, or moved, and that
// may be the leader. It counts for nothing until a majority has said that it is a member, and
// where.
type newer struct {
	claim
	// record is what a majority has of it; zero: nobody has said so yet.
	record octopiipb.Member
	// left is for how many ticks it is asked about, and nobody else.
	left int
}

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
		d.branched(Branch{ID: c.by, First: c.last + 1, Last: c.at}, false)
		return
	case c.kind == core.Forgot && c.memory != transport.Memory{} && (l.core.Established() || c.outdated(l.core.CommittedPlace())):
		if l.guests.branch(c.by, true) {
			l.log.Error("a member remembers what the majority does not have: it is on another branch, or a majority lost what was acknowledged; its messages are not taken until it has asked the majority",
				zap.String("peer", hex(c.by)), zap.String("says", c.text))
		}
		if r := c.memory; r.Commit > c.at {
			d.branched(Branch{ID: c.by, First: c.at + 1, Last: r.Commit}, false)
		}
		return
	}
	same := func(o claim) bool { return o.by == c.by && o.kind == c.kind }
	if i := slices.IndexFunc(d.claims, same); i >= 0 {
		c.dialed = c.dialed || d.claims[i].dialed
		d.claims[i] = c
		return
	}
	d.claims = append(d.claims, c)
	d.suspend()
	d.ask()
}

// stranger takes what somebody says that the records here do not name.
func (d *doubt) stranger(c claim) {
	if d.newer.by == 0 && !d.accepted && (c.kind == core.Forgot || c.kind == core.Diverged) {
		d.newer = newer{claim: c, left: 2 * d.loop.cfg.ElectionTicks}
		d.ask()
	}
}

// introduced takes what an answer says of the one that was asked about, and what that one
// remembers, once it was called where a majority has it.
func (d *doubt) introduced(m *octopiipb.Member, about uint64, reply *octopiipb.CompareReply) {
	l, by := d.loop, d.newer.by
	mine := func(c *claim) bool { return c.by == by && c.kind == core.Forgot && c.memory != transport.Memory{} }
	switch s := reply.Stranger; {
	case by == 0:
	case m.ID == by && m.Address == d.newer.record.Address:
		st, r := l.core.Status(), fromMemory(reply.Remembered)
		if last, err := l.view.LastIndex(); err == nil && contradicts(r, st.Term, last, l.core.TermOf) {
			l.fatal(forgotten(fmt.Sprintf("member %x remembers that this one had its log up to index %d in term %d, and up to %d committed, and it ends at index %d in term %d",
				m.ID, r.Match, r.Term, r.Commit, last, st.Term), reply.Index))
			return
		}
		d.newer = newer{}
		d.drop(mine)
	case about != by:
	case s == nil || s.Address == "": // it is no member any more, or none yet
		d.newer = newer{}
		d.drop(mine)
	default:
		d.newer.record = *s
		d.ask()
	}
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
		d.age, d.next = 0, 0
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

// keep forgets what was said by or of those who are no members any more, but for the
// branches: a member that has one is soon replaced, and an operator must hear of it.
func (d *doubt) keep(ms *octopiipb.Membership) {
	d.drop(func(c *claim) bool { return !isMember(ms, c.by) })
	d.suspects = slices.DeleteFunc(slices.Clone(d.suspects), func(s Suspect) bool { return !isMember(ms, s.ID) })
}

// suspension is why this member serves nothing: it doubts its own log, another cluster claims
// its address, or a majority forgot. nil: it serves.
func (l *loop) suspension() error { return cmp.Or(l.doubt.err, l.rivals.err, l.later.err) }

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
	l.inbox.notify()
}

// filter keeps from a suspended member what it would vote, acknowledge or serve by. What
// its disk and its state machine have done still counts.
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
	empty(&in.Messages)
	empty(&in.Remote)
	empty(&in.Replies)
	empty(&in.PeersGone)
	in.Campaign, in.Ticks, in.Refuse = false, 0, err
}

// withhold keeps back what a suspended member would say.
func (d *doubt) withhold(eff *core.Effects) {
	err := d.loop.suspension()
	if err == nil {
		return
	}
	eff.Messages, eff.Snapshots, eff.Forwards, eff.Replies = nil, nil, nil, nil
	eff.CampaignSoon = 0
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
	d.asking = max(0, d.asking-ticks)
	if d.newer.left -= ticks; d.newer.left <= 0 {
		d.newer = newer{}
	}
	if d.err == nil && !l.core.Lonely() {
		d.age, d.suspects = 0, nil
		return
	}
	before := d.age
	d.age += ticks
	if d.fork.why != "" {
		if d.fork.left -= ticks; d.fork.left <= 0 {
			d.part()
		}
	}
	timeout := l.cfg.ElectionTicks
	if d.err == nil {
		timeout *= 2
	}
	if d.age/timeout != before/timeout {
		d.ask()
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
	voters, against := 0, 0
	for _, m := range l.membership.Members {
		if m.Kind == octopiipb.Voter {
			voters++
			if d.refusals[m.ID] {
				against++
			}
		}
	}
	if against > voters/2 {
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

// others are the members that can be asked: where they are recorded, and where they were met
// if that is elsewhere.
func (d *doubt) others() (list []octopiipb.Member) {
	l := d.loop
	for _, m := range l.membership.Members {
		met := l.whereabouts.get(m.ID)
		for _, at := range []string{m.Address, met} {
			if m.Address = at; m.ID != l.id && at != "" && at != l.cfg.Transport.Address() {
				list = append(list, m)
			}
			if met == at {
				break
			}
		}
	}
	return list
}

// ask asks the next member for what a majority has committed.
func (d *doubt) ask() {
	l := d.loop
	members := d.others()
	d.lookFor()
	if d.asking > 0 || len(members) == 0 || d.fork.parted {
		return
	}
	// First those whose claim counts only once it is heard at their recorded address:
	// others may know of no loss, and say nothing that decides.
	slices.SortStableFunc(members, func(a, b octopiipb.Member) int { return cmp.Compare(d.unheard(b.ID), d.unheard(a.ID)) })
	m := members[d.next%len(members)]
	if d.newer.record.Address != "" {
		m = d.newer.record
	} else {
		d.next++
	}
	d.asking = (compareTimeouts + 1) * l.cfg.ElectionTicks
	st := l.core.Status()
	request := &octopiipb.CompareRequest{Index: st.Commit, Last: st.Last, Commit: st.Commit, Term: st.Term, Stranger: d.newer.by, Nonce: newNonce()}
	if d.newer.kind == core.Diverged {
		request.Index = d.newer.at
	}
	for _, c := range d.claims {
		switch c.kind {
		case core.Diverged:
			request.Index = c.at
		case core.Forgot:
			request.Suspect, request.Remembered = true, toMemory(c.memory)
		}
	}
	if f := &d.fork; f.why != "" {
		request.Index = f.low + (f.high-f.low)/2
	}
	l.call(m.Address, kindCompare, request, func(payload []byte, err error) {
		l.inbox.call(func() { d.answered(&m, st.Commit, request, payload, err) })
	})
}

// unheard is 1 for a member with a claim that was not heard at its recorded address.
func (d *doubt) unheard(id uint64) int {
	if slices.ContainsFunc(d.claims, func(c claim) bool { return c.by == id && !c.dialed }) {
		return 1
	}
	return 0
}

// lookFor has a majority asked where somebody is that remembers what is not here, and was not
// heard where the records have it.
func (d *doubt) lookFor() {
	unheard := func(c claim) bool { return c.kind == core.Forgot && c.memory != transport.Memory{} && !c.dialed }
	if i := slices.IndexFunc(d.claims, unheard); i >= 0 && d.newer.by == 0 {
		d.newer = newer{claim: d.claims[i], left: 2 * d.loop.cfg.ElectionTicks}
	}
}

// answered takes the answer to a question. commit is what was committed here before.
func (d *doubt) answered(m *octopiipb.Member, commit uint64, q *octopiipb.CompareRequest, payload []byte, err error) {
	l := d.loop
	d.asking = 0
	var reply octopiipb.CompareReply
	if err == nil {
		err = reply.Unmarshal(payload)
	}
	if err == nil && !d.sealed(m, q, &reply) {
		err = errors.New("it does not prove that it is a member")
	}
	if err == nil && reply.Cluster != l.cluster.Load() {
		err = fmt.Errorf("it answers for cluster %x", PublicClusterID(reply.Cluster))
	}
	if err != nil {
		l.log.Debug("a member knows no majority", zap.String("peer", hex(m.ID)), zap.Error(err))
		return
	}
	d.introduced(m, q.Stranger, &reply)
	place := core.Place{Index: q.Index, Term: reply.Term}
	place.Sums = core.SumsFrom(reply.Sums)
	d.vouched(m, commit, reply.Index, place)
}

// sealed says whether an answer is a member's: of the records here, or the one that they do not
// have, as a majority has it. What a stranger answers who listens in the place of a member
// that is down says nothing.
func (d *doubt) sealed(m *octopiipb.Member, q *octopiipb.CompareRequest, reply *octopiipb.CompareReply) bool {
	seal := reply.Seal
	reply.Seal, reply.Seals = nil, nil
	keys := keysOf(d.loop.membership, d.loop.id)
	if m.Incarnation != 0 && !slices.Contains(keys, m.Incarnation) {
		keys = append(keys, m.Incarnation)
	}
	return sealed(keys, q, reply, seal)
}

// vouched decides by what a majority has committed just now.
func (d *doubt) vouched(m *octopiipb.Member, commit, last uint64, at core.Place) {
	l := d.loop
	index, err := l.core.Contradicts(commit, last, at)
	switch {
	case d.fork.why != "":
		d.narrow(at, index, err != nil)
		return
	case err != nil:
		d.diverged(index, fmt.Sprintf("%v, as member %x at %s says", err, m.ID, m.Address))
		return
	}
	for i := range d.claims {
		switch c := &d.claims[i]; {
		case c.kind == core.Diverged && at.Term == 0:
			d.diverged(c.at, c.text) // nobody can look it up any more, and it was a leader that said so
			return
		case c.kind == core.Ahead && c.at > last:
			d.branched(Branch{ID: c.by, First: last + 1, Last: c.at}, false)
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

// compareTimeouts is how many election timeouts a majority has to answer.
const compareTimeouts = 2

// answerCompare tells a member what a majority has committed, by a linearizable read that
// begins now. A suspended member cannot, and takes note of the other.
func (s service) answerCompare(from transport.Hello, payload []byte, done func(transport.Message, error)) {
	var q octopiipb.CompareRequest
	if err := q.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("a question that cannot be read: %w", err))
		return
	}
	if !isProven(s.cluster.Load(), s.members.Load(), from) {
		done(nil, errStranger)
		return
	}
	if q.Alone {
		s.answerAlone(&q, done)
		return
	}
	s.inbox.call(func() { s.loop.doubt.heard(from, &q) })
	if q.Branch != (octopiipb.Branch{}) || q.Later != 0 {
		done(&octopiipb.CompareReply{Cluster: s.cluster.Load()}, nil)
		return
	}
	if err := s.open(); err != nil {
		done(nil, err)
		return
	}
	var answered atomic.Bool
	w := newWaiterFor(func(a answer) {
		if !answered.CompareAndSwap(false, true) {
			return
		}
		if a.Err != nil {
			done(nil, publicError(a.Err))
			return
		}
		at := s.loop.core.PlaceAt(q.Index) // the loop has the answers of reads
		reply := &octopiipb.CompareReply{Cluster: s.cluster.Load(), Index: a.Index, Term: at.Term, Sums: at.Sums[:],
			Stranger: recordOf(s.members.Load(), q.Stranger), Remembered: toMemory(s.memory.get(from.Node))}
		s.sealAll(&q, reply)
		done(reply, nil)
	})
	s.inbox.request(core.Request{Kind: core.Read, Waiter: w})
	s.host.timer(func() {
		if answered.CompareAndSwap(false, true) {
			_ = w.quit()
			done(nil, errors.New("no majority answers"))
		}
	}).Reset(compareTimeouts * time.Duration(s.cfg.ElectionTicks) * s.cfg.TickInterval)
}

// heard takes what another member says of itself in a question.
func (d *doubt) heard(from transport.Hello, q *octopiipb.CompareRequest) {
	l := d.loop
	if l.core == nil {
		return
	}
	if b := q.Branch; b != (octopiipb.Branch{}) {
		d.branched(Branch{ID: from.Node, First: b.First, Last: b.Last, Term: b.Term}, true)
		return
	}
	if q.Later != 0 {
		l.later.heardOf(q.Later)
		return
	}
	if q.Suspect {
		d.note(from.Node, q)
		if m := recordOf(l.membership, from.Node); m != nil && m.Address == from.Host.Address {
			l.hint(func(t transport.Hinted) { t.Doubt(m.ID) }) // a copy of its disk that has more may run elsewhere
		}
	}
	// What was committed in later terms a leader that was deposed need not have.
	if st := l.core.Status(); q.Commit > st.Last && q.Term <= st.Term && st.Role == raft.StateLeader {
		d.add(claim{by: from.Node, kind: core.Ahead, at: q.Commit, last: st.Last, text: fmt.Sprintf(
			"member %x has committed up to index %d, and the log of this leader ends at %d", from.Node, q.Commit, st.Last)})
	}
}

// note keeps that another member may have lost something, while there is no majority.
func (d *doubt) note(id uint64, q *octopiipb.CompareRequest) {
	l := d.loop
	s := Suspect{ID: id, LastIndex: q.Last, Remembered: max(q.Remembered.Match, q.Remembered.Commit)}
	list := slices.DeleteFunc(slices.Clone(d.suspects), func(o Suspect) bool { return o.ID == id })
	at, _ := slices.BinarySearchFunc(list, id, func(o Suspect, id uint64) int { return cmp.Compare(o.ID, id) })
	if s.Remembered <= s.LastIndex { // of a term that it forgot, and of no entry
		return
	}
	if !slices.Contains(d.suspects, s) {
		l.log.Error("a member may have lost entries: it is remembered for more than it has, and serves nothing until a majority answers",
			zap.String("peer", hex(id)), zap.Uint64("from index", s.LastIndex+1), zap.Uint64("to index", s.Remembered))
	}
	d.suspects = slices.Insert(list, at, s)
}
