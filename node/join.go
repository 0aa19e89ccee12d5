package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// joinBackoffMax bounds how long a joiner waits between two rounds of asking, in
// ticks. It begins with one.
const joinBackoffMax = 20

// Join codes, on the wire.
const (
	joinAccepted uint32 = iota
	joinRetry
	joinReused
	joinForgot
	joinFormat
)

// joiner asks the members that Config.Join names, one after the other, to let
// this one in, until it is part of the cluster. Asking twice changes nothing, so it
// asks again after any failure. It belongs to the loop.
type joiner struct {
	loop *loop
	// asking: a call is under way. round are the addresses to ask then, all of one cluster;
	// wait is for how many ticks not to, and backoff how many after the next round.
	asking        bool
	round         []string
	wait, backoff int
	// ends is why this member cannot join, as endings of the addresses of the round say, and
	// others says that another one of it did not say so.
	ends    error
	endings int
	others  bool
	// survey finds out of which cluster the addresses are; nil: none is under way.
	survey *survey
}

// begin asks for the first time.
func (j *joiner) begin() {
	j.backoff = 1
	j.tick(0)
}

// hurry asks at once, and often again.
func (j *joiner) hurry() {
	j.wait, j.backoff, j.round = 0, 1, nil
	j.tick(0)
}

// tick asks if it is time to.
func (j *joiner) tick(ticks int) {
	l := j.loop
	j.surveyTick(ticks)
	if j.wait = max(0, j.wait-ticks); j.wait > 0 || j.asking || l.core != nil {
		return
	}
	if len(j.round) == 0 && !j.begins() {
		return
	}
	address := j.round[0]
	j.asking, j.round = true, j.round[1:]
	request := &octopiipb.JoinRequest{Member: l.self(), Rejoins: l.cfg.Rejoin}
	request.Member.Replaces = cmp.Or(l.cfg.Replaces, l.founding.origin.Replaces)
	l.call(address, kindJoin, request, func(payload []byte, err error) {
		l.soon(func() { j.asked(address, joinOutcome(address, payload, err)) })
	})
}

// asked goes on after one answer: to the next member at once, or after a pause
// when all were asked, or one agreed.
func (j *joiner) asked(address string, err error) {
	l := j.loop
	j.asking = false
	if l.core != nil {
		return // it has a log by now, which tells it everything
	}
	if err == nil {
		l.log.Info("the cluster will bring this member in", zap.String("asked", address))
		j.round, j.ends, j.endings, j.others = nil, nil, 0, false
		j.rest()
		return
	}
	if errors.Is(err, ErrRemoved) || errors.Is(err, ErrIDReused) || errors.Is(err, ErrAmnesia) || errors.Is(err, ErrFormatLevel) {
		j.ends = err
		j.endings++
	} else {
		l.log.Warn("could not ask to join; trying again", zap.String("asked", address), zap.Error(err))
		j.others = true
	}
	if len(j.round) > 0 {
		j.tick(0)
		return
	}
	ends, believed := j.ends, !j.others && j.isMajority(j.endings)
	j.ends, j.endings, j.others = nil, 0, false
	if ends != nil && believed {
		l.fatal(ends)
		return
	}
	if ends != nil {
		l.warnSome(&l.quiet.refusals, "an address says that this member cannot join; it is believed when more than half of those to join say so",
			zap.String("address", address), zap.NamedError("what it says", ends))
	}
	j.rest()
}

// isMajority says whether so many of the addresses to join are more than half of them.
// One alone may be a stranger in the place of a member that is not there yet.
func (j *joiner) isMajority(count int) bool {
	l := j.loop
	addresses := slices.DeleteFunc(l.founding.toJoin(), func(a string) bool { return a == l.cfg.Transport.Address() })
	return len(addresses) > 0 && count > len(addresses)/2
}

// rest waits before the next round: by chance, so that those who began together do not go
// on together.
func (j *joiner) rest() {
	j.wait = j.backoff + int(randomID()%uint64(j.backoff+1))
	j.backoff = min(2*j.backoff, joinBackoffMax)
}

// joinOutcome reads what a member answered.
func joinOutcome(address string, payload []byte, err error) error {
	if saysRemoved(err) {
		return ErrRemoved
	}
	var refused *transport.RemoteError
	if errors.As(err, &refused) && refused.Code == refusedDisk {
		return fmt.Errorf("%w: %s says: %s", ErrAmnesia, address, refused.Reason)
	}
	if err != nil {
		return err
	}
	var reply octopiipb.JoinReply
	if err := reply.Unmarshal(payload); err != nil {
		return fmt.Errorf("node: %s answered what cannot be read: %w", address, err)
	}
	switch reply.Code {
	case joinAccepted:
		return nil
	case joinReused:
		return ErrIDReused
	case joinForgot:
		return fmt.Errorf("%w: %s says: %s", ErrAmnesia, address, reply.Reason)
	case joinFormat:
		return fmt.Errorf("%w: %s says: %s", ErrFormatLevel, address, strings.TrimPrefix(reply.Reason, ErrFormatLevel.Error()+": "))
	default:
		return fmt.Errorf("node: %s answered: %s", address, reply.Reason)
	}
}

// handleJoin lets a new member in, on whichever member it asked.
func (s service) handleJoin(from transport.Hello, payload []byte, done func(transport.Message, error)) {
	var req octopiipb.JoinRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("join request cannot be read: %w", err))
		return
	}
	m := req.Member
	if m.ID == 0 || m.ID != from.Node || m.Address == "" {
		done(nil, fmt.Errorf("join request of member %x describes member %x at %q", from.Node, m.ID, m.Address))
		return
	}
	if err := s.open(); err != nil {
		// Not as an error: that this member was removed says nothing of the one that asks.
		done(&octopiipb.JoinReply{Code: joinRetry, Reason: err.Error()}, nil)
		return
	}
	if err := s.peerReadsLevel(from); err != nil {
		done(&octopiipb.JoinReply{Code: joinFormat, Reason: err.Error()}, nil)
		return
	}
	if r := s.memory.get(m.ID); r != (transport.Memory{}) {
		// Who asks has no log. A joiner that crashed before it had one acknowledged nothing.
		done(&octopiipb.JoinReply{Code: joinForgot, Reason: fmt.Sprintf(
			"member %x had its log up to %d in term %d, and asks to join without one", m.ID, r.Match, r.Term)}, nil)
		return
	}
	ms := s.members.Load()
	if ms != nil {
		for _, old := range ms.Members {
			if old.ID == m.ID { // who added it knows better what it is called
				m.Name, m.Priority = old.Name, old.Priority
			}
		}
	}
	if !req.Rejoins || m.Replaces == m.ID {
		m.Replaces = 0
	} else if ms != nil {
		m.Replaces = placeOf(ms, &m)
	}
	if place := recordOf(ms, m.Replaces); place != nil && place.Address == m.Address && namesake(ms, &m) != nil {
		m.Name = place.Name // another one has its own by now: where disks were exchanged
	}
	if other := namesake(ms, &m); req.Rejoins && other != nil {
		done(&octopiipb.JoinReply{Code: joinRetry, Reason: fmt.Sprintf(
			"the name %q is that of member %x at %s, and a name is not an identity: choose another one, or say that it takes that place with octopiictl member replace or member remove",
			m.Name, other.ID, other.Address)}, nil)
		return
	}
	if m.Kind != octopiipb.Voter {
		done(&octopiipb.JoinReply{Code: joinRetry, Reason: fmt.Sprintf("member %x wants to be a %v, and this version knows how to make a voter of it only", m.ID, m.Kind)}, nil)
		return
	}
	m.Promote = true // the leader knows whether it is to vote
	s.changeSoon(core.Change{Op: core.AddLearner, Member: m, IfSilent: true}, joinTries, func(err error) {
		switch {
		case err == nil:
			s.log.Info("bringing a new member in", zap.String("id", hex(m.ID)), zap.String("name", m.Name), zap.String("address", m.Address))
			done(&octopiipb.JoinReply{}, nil)
		case errors.Is(err, ErrIDReused):
			done(&octopiipb.JoinReply{Code: joinReused, Reason: err.Error()}, nil)
		case errors.Is(err, ErrAmnesia):
			done(&octopiipb.JoinReply{Code: joinForgot, Reason: err.Error()}, nil)
		default:
			done(&octopiipb.JoinReply{Code: joinRetry, Reason: err.Error()}, nil)
		}
	})
}

// placeOf is the member whose place one takes that comes back without a log. The place is the
// address: where somebody is recorded there, it does not matter whose disk this was. Where
// nobody is it moved, and is whom its files name.
func placeOf(ms *octopiipb.Membership, m *octopiipb.Member) uint64 {
	return cmp.Or(formerSelf(ms, m), m.Replaces)
}

// formerSelf is the member that one that lost its disk was before: the one at the same
// address, a voter before a learner, which may be from an attempt to come back that
// failed; 0 if there is none. A name is not an identity: a new machine that was given
// the name of a member must not take its place, however silent that is.
func formerSelf(ms *octopiipb.Membership, m *octopiipb.Member) uint64 {
	first := func(same func(o *octopiipb.Member) bool) uint64 {
		for i := range ms.Members {
			if o := &ms.Members[i]; o.ID != m.ID && same(o) {
				return o.ID
			}
		}
		return 0
	}
	return cmp.Or(
		first(func(o *octopiipb.Member) bool { return o.Address == m.Address && o.Kind == octopiipb.Voter }),
		first(func(o *octopiipb.Member) bool { return o.Address == m.Address }))
}

// namesake is another member with the name of one that asks to come back, whose place
// it does not take.
func namesake(ms *octopiipb.Membership, m *octopiipb.Member) *octopiipb.Member {
	if ms == nil || m.Name == hex(m.ID) {
		return nil
	}
	for i := range ms.Members {
		if o := &ms.Members[i]; o.Name == m.Name && o.ID != m.ID && o.ID != m.Replaces && o.Address != m.Address {
			return o
		}
	}
	return nil
}

// joinTries is how often a join is tried while another change is under way.
const joinTries = 100

// changeSoon has a change of membership applied, and tries again so many times
// while another one is under way. done is not called if this member stops first.
func (g *group) changeSoon(c core.Change, tries int, done func(error)) {
	w := newWaiterFor(func(a answer) {
		err := publicError(a.Err)
		if tries == 0 || !errors.Is(err, ErrMembershipBusy) {
			done(err)
			return
		}
		g.host.timer(func() { g.changeSoon(c, tries-1, done) }).Reset(changeRetry)
	})
	g.inbox.request(core.Request{Kind: core.ChangeMembership, Changes: []core.Change{c}, Waiter: w})
}

func (s service) handleKnock(from transport.Hello, payload []byte, done func(transport.Message, error)) {
	var req octopiipb.KnockRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("knock cannot be read: %w", err))
		return
	}
	done(s.answerKnock(from, &req), nil)
}

// answerKnock answers a member that hears of no leader. Being let in was the question;
// beside that it is told where this member met the others, and if it moved, the leader,
// which looks for it in vain, is told by its record.
func (s service) answerKnock(from transport.Hello, req *octopiipb.KnockRequest) *octopiipb.KnockReply {
	reply := &octopiipb.KnockReply{}
	ms := s.members.Load()
	if ms == nil {
		return reply
	}
	for i := range ms.Members {
		m := ms.Members[i]
		if m.ID != from.Node {
			continue
		}
		if isProven(ms.Cluster, ms, from) {
			reply.Members = s.whereabouts.list(ms)
		}
		older := contradicts(s.memory.get(m.ID), req.Term, req.Last, func(uint64) uint64 { return 0 })
		if m.Address != from.Host.Address && from.Host.Address != "" && isProven(ms.Cluster, ms, from) && !older {
			m.Address = from.Host.Address
			s.changeSoon(core.Change{Op: core.UpdateAddress, Member: m, IfSilent: true}, 0, func(err error) {
				if err != nil {
					s.log.Debug("cannot tell where a member moved", zap.String("peer", hex(m.ID)), zap.Error(err))
				}
			})
		}
	}
	return reply
}
