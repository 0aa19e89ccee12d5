package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// later is what this member does about peers that name its cluster and that its records
// neither have nor had: the disks of a majority may have been set back to before they joined.
// By their records the others are all members, and go on without what was acknowledged since.
//
// Such a peer is a stranger, so its word changes nothing. This member calls it at the address
// that it named, and takes two things together for a proof that a majority forgot:
//
//   - The peer proves that it knows the incarnations of the voters that are recorded here
//     (CompareReply.Seals), and names an index up to which it has committed its log, in which it
//     is a member.
//   - A linearizable read of this member that begins after that ends, and its records have
//     neither the peer nor its removal.
//
// A member has its log from a snapshot that names it, so it was added at or before that index.
// In one history the read reaches that index, and the records there name the peer, or its
// removal, which they keep for ever. A member that is merely behind is brought up to date by
// the read. What a peer has and did not commit plays no part.
//
// While the peer leads this member there is no such read before it has brought this member up to
// date. There it is a proof that the two have committed different entries at one index.
//
// A member that the records have may prove the same, by the voters that it has committed: see
// forgets. An operator may give up what the others have: see accept.
//
// It belongs to the loop.
type later struct {
	loop *loop
	// peers called, and are neither members nor removed: laterMax at most.
	peers []laterPeer
	// wait is for how many ticks nobody is asked.
	wait int
	// told is such a peer of which a member said that it proved the same to that one.
	told uint64
	// by is the one that proved it, and err why this member serves nothing; nil: it serves.
	by  uint64
	err error
	// noted is by whom it was proven, also before this member was started, and why it serves
	// nothing since: until the records have that one, or an operator gives up what it has. It
	// takes part: it may elect that one.
	noted struct {
		by  uint64
		err error
	}
	// accepting is for how many ticks Config.AcceptLoss has waited for a majority.
	accepting int
}

// laterPeer is a peer that the records do not have, and how it introduced itself.
type laterPeer struct {
	transport.Hello
	// asking: an answer is waited for. pause is for how many rounds it is not asked.
	asking bool
	pause  int
	// failures counts the answers in a row that proved nothing, and alone how often in a row
	// no majority here answered.
	failures, alone int
	// question and answer are what it said of its log last; nil: nothing.
	question *octopiipb.CompareRequest
	answer   *octopiipb.CompareReply
}

// laterPauseMax is for how many rounds a peer is not asked that proved nothing again and again.
// It may come to: one that doubts its own log says nothing.
const laterPauseMax = 16

// fromLater looks at a peer that called, names this cluster, and is neither in the records here
// nor was removed.
func (t trust) fromLater(ms *octopiipb.Membership, peer transport.Hello) {
	mine := t.cluster.Load()
	if ms == nil || peer.Cluster != mine || peer.Call || peer.At != "" || recordOf(ms, peer.Node) != nil || ms.IsRemoved(peer.Node) ||
		peer.Host.Address == "" || len(peer.Host.Address) > addressBytesMax {
		return
	}
	t.inbox.call(func(l *loop) {
		l.later.met(peer)
		l.rivals.later(peer)
	})
}

// met takes note of such a peer.
func (r *later) met(peer transport.Hello) {
	if !r.isLater(peer.Node) {
		return
	}
	if p := r.find(peer.Node); p != nil {
		p.Hello, p.failures, p.pause = peer, 0, 0
		return
	}
	if len(r.peers) == laterMax { // one that proved least goes, and never the one by which this member is suspended
		proven := func(p *laterPeer) int {
			if p.Node == r.by {
				return -1
			}
			return p.failures
		}
		least := slices.MaxFunc(r.peers, func(a, b laterPeer) int { return cmp.Compare(proven(&a), proven(&b)) })
		r.peers = slices.DeleteFunc(r.peers, func(p laterPeer) bool { return p.Node == least.Node })
	}
	r.peers = append(r.peers, laterPeer{Hello: peer})
}

// find returns a peer of which it is not known otherwise; nil: there is none.
func (r *later) find(id uint64) *laterPeer {
	i := slices.IndexFunc(r.peers, func(p laterPeer) bool { return p.Node == id })
	if i < 0 || !r.isLater(id) {
		return nil
	}
	return &r.peers[i]
}

// isLater says whether a peer may be one: the records neither have it nor had it, and no
// operator gave up what it has.
func (r *later) isLater(id uint64) bool {
	ms := r.loop.membership
	return ms != nil && recordOf(ms, id) == nil && !ms.IsRemoved(id) && !r.loop.guests.isGivenUp(id)
}

// tick asks each of them now and then, and says to the others why this member serves nothing.
// The only voter of a cluster asks as rivals do, as nobody can have been added without it. It may
// lead itself, in the term in which another one leads, and then no message contradicts it.
func (r *later) tick(ticks int) {
	l := r.loop
	if l.core != nil {
		r.accept(ticks)
	}
	if r.wait = max(0, r.wait-ticks); ticks == 0 || r.wait > 0 || l.core == nil {
		return
	}
	r.wait = l.cfg.ElectionTicks
	if r.err != nil {
		r.tell()
		if p := r.find(r.by); p != nil { // the others may have elected it meanwhile
			r.askMajority(r.by, p.Host.Address)
		}
		return
	}
	r.peers = slices.DeleteFunc(r.peers, func(p laterPeer) bool { return !r.isLater(p.Node) })
	alone := r.isOnlyVoter()
	for i := range r.peers {
		switch p := &r.peers[i]; {
		case alone:
			l.rivals.askLater(p.Hello)
		case p.pause > 0:
			p.pause--
		case !p.asking:
			p.asking = true
			r.ask(p.Node, p.Host.Address)
		}
	}
}

// isOnlyVoter says whether the records name no other voter, and the log has no change of them
// that is not known to be committed yet, as there may be after a start.
func (r *later) isOnlyVoter() bool {
	l := r.loop
	return slices.Equal(l.public.Voters(), []uint64{l.id}) && l.core.HandedAll()
}

// ask asks a peer what it has by itself.
func (r *later) ask(id uint64, address string) {
	l := r.loop
	q := &octopiipb.CompareRequest{Index: l.core.HandedPlace().Index, Alone: true, Nonce: newNonce(), Voters: l.public.Voters()}
	l.call(address, kindCompare, q, func(payload []byte, err error) {
		l.soon(func() { r.answered(id, q, payload, err) })
	})
}

// answered takes what a peer has, and lets the majority say whether that is so.
func (r *later) answered(id uint64, q *octopiipb.CompareRequest, payload []byte, err error) {
	l, p := r.loop, r.find(id)
	if p == nil {
		return
	}
	p.asking = false
	if r.err != nil {
		return
	}
	reply := &octopiipb.CompareReply{}
	if err == nil {
		err = reply.Unmarshal(payload)
	}
	if err == nil && (reply.Cluster != l.cluster.Load() || reply.Index == 0 || !r.sealedByVoters(q, reply)) {
		err = errors.New("it does not prove that it knows the members of this cluster")
	}
	if err != nil {
		p.failures++
		p.pause = min(1<<min(p.failures, 8), laterPauseMax)
		if saysRemoved(err) && !l.core.Lonely() {
			l.leaving.dismissal.warn(p.Host.Address)
		}
		l.log.Debug("a peer that the records do not have proves nothing", zap.String("peer", hex(id)), zap.Error(err))
		return
	}
	p.failures, p.question, p.answer = 0, q, reply
	// A member that follows the peer is brought up to date by it, and takes the word of no other
	// member for a read: else the peer would lose its majority. If their logs contradict each
	// other that never ends, and no read does.
	if leads := l.core.Status().Leader == id; leads && r.contradicts(p) || !leads && r.told == id {
		r.confirmed(id)
		return
	}
	p.asking = true
	r.read(id, q)
	if p.alone > 0 { // by the records here there may be no majority any more
		r.askMajority(id, p.Host.Address)
	}
}

// laterWarns is how many reads in a row must fail until this member says that a majority may
// have forgotten: after a start it knows for a moment fewer members than its log has.
const laterWarns = 3

// read makes a linearizable read that begins now, after the answer to a question. When it has
// ended the records here are no older than what any member had committed before.
func (r *later) read(id uint64, q *octopiipb.CompareRequest) {
	l, ended := r.loop, false
	end := func(confirmed bool) {
		l.soon(func() {
			p := r.find(id)
			if ended || p == nil || p.question != q { // a read says nothing of what was answered later
				return
			}
			ended, p.asking = true, false
			switch {
			case r.err != nil:
			case confirmed:
				r.confirmed(id)
			default:
				if p.alone++; p.alone >= laterWarns {
					l.rivals.warn(r.text(p), "a majority may have forgotten what it acknowledged")
					l.rivals.unknown = id
				}
			}
		})
	}
	w := newWaiterFor(func(a answer) { end(a.Err == nil) })
	l.inbox.request(core.Request{Kind: core.Read, Waiter: w})
	l.host.timer(func() {
		l.inbox.gone(w)
		end(false)
	}).Reset(compareTimeouts * time.Duration(l.cfg.ElectionTicks) * l.cfg.TickInterval)
}

// confirmed stops serving, if the records still do not have the peer. What it said counts by the
// records of now: after a start they were older.
func (r *later) confirmed(id uint64) {
	p := r.find(id)
	if r.err != nil || p == nil || p.answer == nil || !r.sealedByVoters(p.question, p.answer) {
		return
	}
	r.stop(id, r.text(p).Error())
}

// stop stops serving, by a member that the records do not have.
func (r *later) stop(id uint64, text string) {
	r.by, r.err = id, fmt.Errorf("%w: %s", ErrSuspect, text)
	r.note(id, text)
	r.loop.log.Error("this member serves nothing: a majority forgot what it acknowledged", zap.Error(r.err))
	r.loop.suspensionChanged()
	r.tell()
}

// forgets stops serving if a member that asks for what a majority has committed has itself
// committed records with a voter that the records here neither have nor had. A linearizable
// read that began after the question has just ended here: in one history it reached the change
// by which that voter came.
func (r *later) forgets(from transport.Hello, q *octopiipb.CompareRequest) bool {
	i := slices.IndexFunc(q.Voters, r.isLater)
	if i < 0 || recordOf(r.loop.membership, from.Node) == nil {
		return false
	}
	if r.err == nil {
		r.stop(q.Voters[i], fmt.Sprintf("member %x at %s has committed its log up to index %d, in which %x is a voter, which the records here do not have: the disks of a majority were set back to before that one joined. Start all other members: a majority of them has these rebuilt. If there is none, put newer copies of the disks back; or give up what the others have: stop all of them, start these once with --accept-loss (Config.AcceptLoss), and then empty the data directories of the others and let them join again",
			from.Node, from.Host.Address, q.Commit, q.Voters[i]))
	}
	return true
}

// accept gives up, as an operator wants, what the one has by which this member serves nothing,
// once there was time for a majority to answer. If one answers first, nothing is lost, and this
// member is rebuilt.
func (r *later) accept(ticks int) {
	l := r.loop
	if r.noted.err == nil || !l.cfg.AcceptLoss {
		r.accepting = 0
		return
	}
	if r.accepting += ticks; r.accepting < acceptTimeouts*l.cfg.ElectionTicks {
		return
	}
	by, was := r.noted.by, r.noted.err
	r.accepting = 0
	if !r.noteGivenUp(by) {
		return
	}
	l.log.Warn("LOSS ACCEPTED: this member goes on without what another one has, and speaks to that one no more: empty its data directory and let it join again",
		zap.String("peer", hex(by)), zap.NamedError("was", was))
	r.by, r.err, r.told = 0, nil, 0
	r.noted.by, r.noted.err = 0, nil
	l.rivals.warning = nil
	l.suspensionChanged()
}

// missing is the range of indexes at which the log here certainly lacks what a peer has.
func (r *later) missing(p *laterPeer) (from, to uint64) {
	return min(r.loop.core.PartsFrom(p.answer.Terms, p.answer.Index), p.answer.Index), p.answer.Index
}

// contradicts says whether a peer has committed other entries than are committed here up to the
// place that it was asked for. In one history there are no such two.
func (r *later) contradicts(p *laterPeer) bool {
	at := core.Place{Index: p.question.Index, Term: p.answer.Term, Sums: core.SumsFrom(p.answer.Sums)}
	_, err := r.loop.core.Contradicts(0, p.answer.Index, at)
	return err != nil
}

// text says what is missing here and how it ends.
func (r *later) text(p *laterPeer) error {
	from, to := r.missing(p)
	return fmt.Errorf("member %x at %s, which the records here do not have, proves that it is a member of this cluster, and has committed its log up to index %d in term %d; entries %d to %d of it are missing here: the disks of a majority were set back to before it joined. Stop these members and put newer copies of their disks back; or give up what that one has: stop all of them, start these once with --accept-loss (Config.AcceptLoss), and that one when they have a leader; then empty its data directory and let it join again",
		p.Node, p.Host.Address, to, core.TermIn(p.answer.Terms, to, to), from, to)
}

// begin serves nothing from the start where it was proven before that a majority forgot.
func (r *later) begin() {
	if o := r.loop.store.Origin(); o.ForgotBy != 0 {
		r.noted.by, r.noted.err = o.ForgotBy, fmt.Errorf("%w: %s", ErrSuspect, o.Forgot)
		r.loop.log.Error("this member serves nothing: a majority forgot what it acknowledged", zap.Error(r.noted.err))
		r.loop.suspensionChanged()
	}
}

// note makes durable by whom it was proven that a majority forgot; 0: it is not so any more.
func (r *later) note(by uint64, text string) {
	r.noted.by, r.noted.err = by, nil
	if by != 0 {
		r.noted.err = fmt.Errorf("%w: %s", ErrSuspect, text)
	}
	o := r.loop.store.Origin()
	o.ForgotBy, o.Forgot = by, text
	if err := r.loop.store.SetOrigin(o); err != nil {
		r.loop.log.Error("cannot write down whether a majority forgot: started again, this member may judge that anew", zap.Error(err))
	}
}

// noteGivenUp makes durable that what a member has counts no more.
func (r *later) noteGivenUp(id uint64) bool {
	l := r.loop
	o := l.store.Origin()
	o.GivenUp = append(slices.Clone(o.GivenUp), id)
	o.GivenUp = o.GivenUp[max(0, len(o.GivenUp)-givenUpMax):]
	if o.RemovedBy == id {
		o.RemovedBy, o.RemovedAt = 0, ""
	}
	if o.ForgotBy == id {
		o.ForgotBy, o.Forgot = 0, ""
	}
	if err := l.store.SetOrigin(o); err != nil {
		l.log.Error("cannot write down that what a member has is given up; trying again", zap.String("peer", hex(id)), zap.Error(err))
		return false
	}
	l.guests.giveUp(o.GivenUp)
	return true
}

// keep serves again once the records have the peer by which this member was suspended, or its
// removal: what was missing has come.
func (r *later) keep() {
	if r.noted.by != 0 && !r.isLater(r.noted.by) {
		r.serveAgain("the records have the member by which a majority seemed to have forgotten")
	}
}

// serveAgain ends the suspension. What other members said of the peer counts no more: it takes
// a read of this member's own to suspend it again.
func (r *later) serveAgain(why string) {
	l := r.loop
	l.log.Warn("this member serves again: "+why, zap.String("peer", hex(r.noted.by)), zap.String("was", r.noted.err.Error()))
	r.by, r.err, r.told = 0, nil, 0
	r.note(0, "")
	l.suspensionChanged()
}

// tell tells the others why this member serves nothing. One to which the same peer proves itself
// stops serving, too, and needs no read: no majority may be left for that.
func (r *later) tell() {
	l := r.loop
	for _, m := range l.doubt.inquiry.others() {
		l.call(m.Address, kindCompare, &octopiipb.CompareRequest{Later: r.by}, func([]byte, error) {})
	}
}

// heardOf takes it from another member that a peer proved to it that a majority forgot.
func (r *later) heardOf(id uint64) {
	if r.err == nil && r.isLater(id) {
		r.told, r.wait = id, 0
	}
}

// askMajority asks a peer what a majority has committed. Where it is of a majority that goes on,
// it proves that this member is the one that forgot, or is on another branch.
func (r *later) askMajority(id uint64, address string) {
	l := r.loop
	st := l.core.Status()
	q := &octopiipb.CompareRequest{Index: st.Commit, Last: st.Last, Commit: st.Commit, Term: st.Term, Nonce: newNonce(), Voters: l.public.Voters()}
	l.call(address, kindCompare, q, func(payload []byte, err error) {
		l.soon(func() { r.answeredByMajority(&octopiipb.Member{ID: id, Address: address}, q, payload, err) })
	})
}

func (r *later) answeredByMajority(m *octopiipb.Member, q *octopiipb.CompareRequest, payload []byte, err error) {
	l := r.loop
	var reply octopiipb.CompareReply
	if err == nil {
		err = reply.Unmarshal(payload)
	}
	if err != nil || r.find(m.ID) == nil || reply.Cluster != l.cluster.Load() || !r.sealedByVoters(q, &reply) {
		return
	}
	st, had := l.core.Status(), fromMemory(reply.Remembered)
	if last, err := l.view.LastIndex(); err == nil && contradicts(had, st.Term, last, l.core.TermOf) {
		l.fatal(forgotten(fmt.Sprintf("member %x, which joined later, remembers that this one had its log up to index %d in term %d, and up to %d committed, and it ends at index %d in term %d",
			m.ID, had.Match, had.Term, had.Commit, last, st.Term), reply.Index))
		return
	}
	place := core.Place{Index: q.Index, Term: reply.Term, Sums: core.SumsFrom(reply.Sums)}
	index, err := l.core.Contradicts(q.Commit, reply.Index, place)
	switch {
	case err != nil && l.doubt.fork.why == "":
		l.doubt.fork.begin(index, fmt.Sprintf("%v, as member %x at %s says, which joined later", err, m.ID, m.Address))
	case err == nil && place.Term != 0 && r.err != nil && m.ID == r.by:
		// A majority goes on that has this member in its records, and all that is committed here
		// is in its log. What is missing here it sends.
		r.serveAgain("a majority of the members that the peer knows goes on, and has all that is committed here")
	}
}

// sealedByVoters says whether an answer proves that its sender knows the incarnations of the
// voters that are recorded here, and so has them in its own records.
func (r *later) sealedByVoters(q *octopiipb.CompareRequest, reply *octopiipb.CompareReply) bool {
	l := r.loop
	bare, seals := *reply, reply.Seals
	bare.Seal, bare.Seals = nil, nil
	voters, known := 0, 0
	for i := range l.membership.Members {
		m := &l.membership.Members[i]
		if m.Kind != octopiipb.Voter {
			continue
		}
		voters++
		if slices.ContainsFunc(seals, func(seal []byte) bool { return sealed([]uint64{m.Incarnation}, q, &bare, seal) }) {
			known++
		}
	}
	return knowsVoters(known, voters, l.authenticated())
}

// knowsVoters says whether somebody that knows the incarnations of some of the voters here is of
// this cluster. Without certificates that takes all of them: members tell their own to the one
// that listens at the address of another member, which is a stranger where that one is down, and
// only the one that is down is then unknown to it.
func knowsVoters(known, voters int, authenticated bool) bool {
	return known == voters || authenticated && known > voters/2
}

// sealAll seals an answer under the incarnation of this member, and under those of the voters
// that the asker names, whether they are members here or were removed.
func (s service) sealAll(q *octopiipb.CompareRequest, reply *octopiipb.CompareReply) {
	seal := sealOf(s.identity.Incarnation, q, reply)
	var seals [][]byte
	if ms := s.members.Load(); ms != nil {
		for _, id := range q.Voters[:min(len(q.Voters), sealsMax)] {
			if key := ms.IncarnationOf(id); key != 0 {
				seals = append(seals, sealOf(key, q, reply))
			}
		}
	}
	reply.Seal, reply.Seals = seal, seals
}

// answerAlone tells a member what is committed here, without a majority. One that doubts its own
// log, or is no member any more, says nothing.
func (s service) answerAlone(q *octopiipb.CompareRequest, done func(transport.Message, error)) {
	s.inbox.call(func(l *loop) {
		if l.core == nil || l.suspension() != nil || s.removed.Load() || !isMember(l.membership, l.id) {
			done(nil, errors.New("this member cannot say what is committed"))
			return
		}
		at := l.core.PlaceAt(q.Index)
		reply := &octopiipb.CompareReply{Cluster: s.cluster.Load(), Index: l.core.HandedPlace().Index, Term: at.Term, Sums: at.Sums[:], Terms: l.core.Terms()}
		s.sealAll(q, reply)
		done(reply, nil)
	})
}
