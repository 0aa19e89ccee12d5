package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// kindCompare is a call by which a member compares its log with what a majority has
// committed. It stands apart from the other kinds.
const kindCompare transport.Kind = 32

// inquiry asks the members, one after another, for what a majority has committed just now. It
// belongs to the loop.
type inquiry struct {
	loop *loop
	// asking is for how many ticks more the answer to a call is waited for, before another
	// member is asked, too: it may be lost. next is whom to ask then.
	asking int
	next   int
	newer  newer
}

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

// compareTimeouts is how many election timeouts a majority has to answer.
const compareTimeouts = 2

func (in *inquiry) tick(ticks int) {
	in.asking = max(0, in.asking-ticks)
	if in.newer.left -= ticks; in.newer.left <= 0 {
		in.newer = newer{}
	}
}

// ask asks the next member for what a majority has committed.
func (in *inquiry) ask() {
	l := in.loop
	members := in.others()
	in.lookFor()
	if in.asking > 0 || len(members) == 0 || l.doubt.fork.parted {
		return
	}
	// First those whose claim counts only once it is heard at their recorded address:
	// others may know of no loss, and say nothing that decides.
	slices.SortStableFunc(members, func(a, b octopiipb.Member) int { return cmp.Compare(in.unheard(b.ID), in.unheard(a.ID)) })
	m := members[in.next%len(members)]
	if in.newer.record.Address != "" {
		m = in.newer.record
	} else {
		in.next++
	}
	in.asking = (compareTimeouts + 1) * l.cfg.ElectionTicks
	st := l.core.Status()
	request := &octopiipb.CompareRequest{Index: st.Commit, Last: st.Last, Commit: st.Commit, Term: st.Term, Stranger: in.newer.by, Nonce: newNonce(), Voters: l.public.Voters()}
	if in.newer.kind == core.Diverged {
		request.Index = in.newer.at
	}
	for _, c := range l.doubt.claims {
		switch c.kind {
		case core.Diverged:
			request.Index = c.at
		case core.Forgot:
			request.Suspect, request.Remembered = true, toMemory(c.memory)
		}
	}
	if f := &l.doubt.fork; f.why != "" {
		request.Index = f.low + (f.high-f.low)/2
	}
	l.call(m.Address, kindCompare, request, func(payload []byte, err error) {
		l.soon(func() { in.answered(&m, st.Commit, request, payload, err) })
	})
}

// others are the members that can be asked: where they are recorded, and where they were met
// if that is elsewhere.
func (in *inquiry) others() (list []octopiipb.Member) {
	l := in.loop
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

// unheard is 1 for a member with a claim that was not heard at its recorded address.
func (in *inquiry) unheard(id uint64) int {
	if slices.ContainsFunc(in.loop.doubt.claims, func(c claim) bool { return c.by == id && !c.dialed }) {
		return 1
	}
	return 0
}

// lookFor has a majority asked where somebody is that remembers what is not here, and was not
// heard where the records have it.
func (in *inquiry) lookFor() {
	claims := in.loop.doubt.claims
	unheard := func(c claim) bool { return c.kind == core.Forgot && c.memory != transport.Memory{} && !c.dialed }
	if i := slices.IndexFunc(claims, unheard); i >= 0 && in.newer.by == 0 {
		in.newer = newer{claim: claims[i], left: 2 * in.loop.cfg.ElectionTicks}
	}
}

// stranger takes what somebody says that the records here do not name.
func (in *inquiry) stranger(c claim) {
	if in.newer.by == 0 && !in.loop.doubt.accepted && (c.kind == core.Forgot || c.kind == core.Diverged) {
		in.newer = newer{claim: c, left: 2 * in.loop.cfg.ElectionTicks}
		in.ask()
	}
}

// answered takes the answer to a question. commit is what was committed here before.
func (in *inquiry) answered(m *octopiipb.Member, commit uint64, q *octopiipb.CompareRequest, payload []byte, err error) {
	l := in.loop
	in.asking = 0
	var reply octopiipb.CompareReply
	if err == nil {
		err = reply.Unmarshal(payload)
	}
	if err == nil && !in.sealed(m, q, &reply) {
		err = errors.New("it does not prove that it is a member")
	}
	if err == nil && reply.Cluster != l.cluster.Load() {
		err = fmt.Errorf("it answers for cluster %x", PublicClusterID(reply.Cluster))
	}
	if err != nil {
		l.log.Debug("a member knows no majority", zap.String("peer", hex(m.ID)), zap.Error(err))
		return
	}
	in.introduced(m, q.Stranger, &reply)
	place := core.Place{Index: q.Index, Term: reply.Term}
	place.Sums = core.SumsFrom(reply.Sums)
	l.doubt.vouched(m, commit, reply.Index, place)
}

// sealed says whether an answer is a member's: of the records here, or the one that they do not
// have, as a majority has it. What a stranger answers who listens in the place of a member
// that is down says nothing.
func (in *inquiry) sealed(m *octopiipb.Member, q *octopiipb.CompareRequest, reply *octopiipb.CompareReply) bool {
	seal := reply.Seal
	reply.Seal, reply.Seals = nil, nil
	keys := keysOf(in.loop.membership, in.loop.id)
	if m.Incarnation != 0 && !slices.Contains(keys, m.Incarnation) {
		keys = append(keys, m.Incarnation)
	}
	return sealed(keys, q, reply, seal)
}

// introduced takes what an answer says of the one that was asked about, and what that one
// remembers, once it was called where a majority has it.
func (in *inquiry) introduced(m *octopiipb.Member, about uint64, reply *octopiipb.CompareReply) {
	l, by := in.loop, in.newer.by
	mine := func(c *claim) bool { return c.by == by && c.kind == core.Forgot && c.memory != transport.Memory{} }
	switch s := reply.Stranger; {
	case by == 0:
	case m.ID == by && m.Address == in.newer.record.Address:
		st, r := l.core.Status(), fromMemory(reply.Remembered)
		if last, err := l.view.LastIndex(); err == nil && contradicts(r, st.Term, last, l.core.TermOf) {
			l.fatal(forgotten(fmt.Sprintf("member %x remembers that this one had its log up to index %d in term %d, and up to %d committed, and it ends at index %d in term %d",
				m.ID, r.Match, r.Term, r.Commit, last, st.Term), reply.Index))
			return
		}
		in.newer = newer{}
		l.doubt.drop(mine)
	case about != by:
	case s == nil || s.Address == "": // it is no member any more, or none yet
		in.newer = newer{}
		l.doubt.drop(mine)
	default:
		in.newer.record = *s
		in.ask()
	}
}

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
	s.inbox.call(func(l *loop) { l.doubt.heard(from, &q) })
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
		s.inbox.call(func(l *loop) {
			if l.later.forgets(from, &q) {
				done(nil, errors.New("this member's majority forgot what the asking one has committed"))
				return
			}
			at := l.core.PlaceAt(q.Index)
			reply := &octopiipb.CompareReply{Cluster: s.cluster.Load(), Index: a.Index, Term: at.Term, Sums: at.Sums[:],
				Stranger: recordOf(s.members.Load(), q.Stranger), Remembered: toMemory(s.memory.get(from.Node))}
			s.sealAll(&q, reply)
			done(reply, nil)
		})
	})
	s.inbox.request(core.Request{Kind: core.Read, Waiter: w})
	s.host.timer(func() {
		if answered.CompareAndSwap(false, true) {
			s.inbox.gone(w)
			done(nil, errors.New("no majority answers"))
		}
	}).Reset(compareTimeouts * time.Duration(s.cfg.ElectionTicks) * s.cfg.TickInterval)
}
