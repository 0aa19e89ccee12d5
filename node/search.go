package node

import (
	"slices"

	"go.uber.org/zap"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// search is what is done to find members that are not where they are recorded, and to be found.
// It belongs to the loop.
type search struct {
	loop *loop
	// ticks is for how long no leader was known, or this leader did not reach a member.
	ticks int
}

// tick calls the members in turn, one each time that two election timeouts have passed, while
// this one hears of no leader, or leads and does not reach a member. A removed member is refused
// and so learns of it (see handler.Refused); a learner would not find out otherwise, since it
// never campaigns. And those who are called learn where this one is now: that is why the
// addresses of Config.Join are among them, for all members may have moved. They answer where
// they met the others. Whom a leader finds so may have moved without being started again: it
// does not know where it is itself.
func (s *search) tick(ticks int) {
	l := s.loop
	if !l.core.Lonely() && !slices.ContainsFunc(l.public.Members, func(m Member) bool { return l.core.Unreachable(m.ID) }) {
		s.ticks = 0
		return
	}
	every := 2 * l.cfg.ElectionTicks
	before := s.ticks / every
	s.ticks += ticks
	round := s.ticks / every
	if round == before {
		return
	}
	addresses := slices.Clone(l.cfg.Join)
	for _, m := range l.public.Members {
		addresses = append(addresses, m.Address) // also where this one was: it may have been a swap
	}
	addresses = slices.DeleteFunc(addresses, func(a string) bool { return a == l.cfg.Transport.Address() })
	if len(addresses) > 0 {
		s.knock(addresses[round%len(addresses)])
	}
}

// knock calls whoever is at an address, and looks for others where that one met them.
func (s *search) knock(address string) {
	l := s.loop
	last, _ := l.view.LastIndex() // 0 if it cannot be told: then no record follows this member yet
	l.call(address, kindKnock, &octopiipb.KnockRequest{Term: l.core.Status().Term, Last: last}, func(payload []byte, err error) {
		var reply octopiipb.KnockReply
		if err == nil {
			err = reply.Unmarshal(payload)
		}
		if err != nil {
			l.log.Debug("a member cannot be called", zap.String("address", address), zap.Error(err))
			return
		}
		l.soon(func() { s.found(reply.Members, address) })
	})
}

// found looks for members where another one met them, or where this one called one that says
// that it is where its record has it: for all of them as long as this one hears of no leader, and
// as a leader for those that it does not reach. Their records may be old. It is no more than a
// hint: a copy of a member's disk may have been met there, and who is where the record says is
// preferred.
func (s *search) found(met []octopiipb.Member, called string) {
	l := s.loop
	if l.core == nil {
		return
	}
	lonely := l.core.Lonely()
	for id, at := range l.peers {
		if !lonely && !l.core.Unreachable(id) {
			continue
		}
		address := called
		if l.whereabouts.get(id) != at || !l.whereabouts.answeredAt(id, called) {
			i := slices.IndexFunc(met, func(m octopiipb.Member) bool { return m.ID == id })
			if i < 0 {
				continue
			}
			address = met[i].Address
		}
		if address != "" && address != at && address != l.cfg.Transport.Address() {
			s.hint(func(t transport.Hinted) { t.Hint(id, address) })
		}
	}
}

// hint tells the transport something about where members are, if it takes hints.
func (s *search) hint(say func(transport.Hinted)) {
	if t, ok := s.loop.transport.(transport.Hinted); ok {
		say(t)
	}
}
