package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
)

// operator changes who belongs to the cluster, replaces what is lost, and keeps the budget of
// what may be.
type operator struct {
	breakdowns
	// removed are members that the operator wanted to remove, or the cluster gave up;
	// demoted those whose votes were taken away, and what took their places.
	removed, demoted map[uint64]bool
	// shrinking are members that were asked, and when, for a change that leaves fewer voters,
	// and have not answered.
	shrinking map[*member]time.Duration
	// moves counts the addresses that members moved to.
	moves int
	// lost is the member that is damaged and not yet replaced, and heir the one
	// that takes its place.
	lost, heir *member
	// more are members that were wiped beside lost, and what came back in their places.
	more []loss
}

// loss is a member that lost its disk, and the one that takes its place.
type loss struct{ lost, heir *member }

// mayLose says whether the budget allows that a member's data is lost for good. It
// must be one that everybody knows: one that is about to join may come back with
// another disk, and nothing is wrong with that.
func (n *operator) mayLose(lost *member) bool {
	l := n.w.leader()
	if n.lost != nil || l == nil {
		return false
	}
	ms := l.status().Membership
	if _, known := ms.Member(lost.id); !known {
		return false
	}
	voters := ms.Voters()
	good := 0
	for _, id := range voters {
		if m := n.w.member(id); m != nil && !m.hopeless() {
			good++
		}
	}
	// Of a change that was asked for the leader may not know yet; one whose member stopped may
	// be in the log.
	for _, asked := range n.shrinking {
		if n.w.now-asked < 20*time.Second {
			return false
		}
	}
	return len(voters) >= 3 && good == len(voters) && !n.w.changing()
}

// The operator's side of nemesis: who joins, goes, and takes whose place.

// heirs are the ways in which a new member takes the place of a lost one.
type heirs int

const (
	// byHand: it joins, and the operator removes the lost one.
	byHand heirs = iota
	// byID: it says whose place it takes.
	byID
	// byAddress: it is where the lost one was.
	byAddress
)

// replace has a new member take the place of a lost one: when a majority answers without
// it, as octopiid's own rule wants it.
func (n *operator) replace(m *member) {
	n.w.at(n.w.between(3*time.Second, 8*time.Second), "replace", func() {
		if n.over {
			return
		}
		n.prove(m, func() {
			if v, _ := selfheal.Aside(selfheal.Quarantine{Cause: selfheal.Lost, Proven: true}); v == selfheal.PutAside {
				n.putAway(m)
			}
		})
	})
}

// prove calls then when a majority of the voters has answered without a member, which does
// not run meanwhile, behind the barrier that vouches for it. It asks again until then.
func (n *operator) prove(m *member, then func()) {
	again := func() { n.w.at(time.Second, "prove", func() { n.prove(m, then) }) }
	l := n.asked()
	switch {
	case n.over:
		return
	case l == nil || l == m:
		again()
		return
	}
	if m.up() {
		m.kill(false)
	}
	asked, life := true, m.life
	end := func(ok bool) {
		if asked && !n.over {
			if asked = false; ok && m.life == life {
				then()
			} else {
				again()
			}
		}
	}
	l.node.Barrier(func(a stepped.Answer) { end(a.Err == nil) })
	n.w.at(2*n.w.cfg.electionTimeout(), "no proof in time", func() { end(false) })
	l.settle()
}

// putAway takes a member's files away, and starts the one that takes its place.
func (n *operator) putAway(m *member) {
	n.w.check.keepsHolders(m)
	n.tell(m, "is to be replaced")
	m.gone = true
	n.removed[m.id] = true
	n.heir = n.newHeir()
	n.settleLoss()
}

// newHeir starts the member that takes the lost one's place.
func (n *operator) newHeir() *member {
	m := n.w.addMember()
	switch m.heir = pick(n.w.rnd, byHand, byID, byAddress); m.heir {
	case byID:
		m.rejoins, m.replaces = true, n.lost.id
	case byAddress:
		m.rejoins, m.address = true, n.lost.address
	}
	n.letJoin(m)
	return m
}

// settleLoss waits until the lost member is replaced, and has a hand in it if it must.
func (n *operator) settleLoss() {
	n.w.at(time.Second, "is it replaced?", func() {
		l := n.asked()
		if n.over || n.lost == nil {
			return
		}
		if l == nil {
			n.settleLoss()
			return
		}
		ms := l.status().Membership
		_, there := ms.Member(n.lost.id)
		heir, ok := ms.Member(n.heir.id)
		switch {
		case there && n.heir.heir == byHand:
			n.change(l, octopiipb.MemberChange{Op: octopiipb.Remove, Member: octopiipb.Member{ID: n.lost.id}})
		case n.heir.gone: // it was given up
			n.heir = n.newHeir()
		case !there && ok && n.settled(heir) && len(n.more) > 0:
			n.tell(n.lost, "is replaced by %s", n.heir.name())
			n.lost, n.heir, n.more = n.more[0].lost, n.more[0].heir, n.more[1:]
		case !there && ok && n.settled(heir):
			n.tell(n.lost, "is replaced by %s", n.heir.name())
			n.lost, n.heir = nil, nil
			return
		}
		n.settleLoss()
	})
}

// settled says whether the heir of a lost member is what that was: a voter, or a learner
// whose vote was taken away.
func (n *operator) settled(heir node.Member) bool { return !heir.Learner || n.demoted[heir.ID] }

// asked is the leader if it can be asked for something, else nil.
func (n *operator) asked() *member {
	if l := n.w.leader(); l != nil && !l.paused {
		return l
	}
	return nil
}

// spare is a voter that the cluster can do without, and whom to ask; nil if there is
// none.
func (n *operator) spare() (l *member, id uint64) {
	if l = n.asked(); l == nil || n.lost != nil {
		return nil, 0
	}
	voters := l.status().Membership.Voters()
	if len(voters) <= n.w.cfg.votersMin {
		return nil, 0
	}
	return l, voters[n.w.rnd.IntN(len(voters))]
}

// change asks a member for a change of membership.
func (n *operator) change(m *member, cs ...octopiipb.MemberChange) {
	shrinks := slices.ContainsFunc(cs, func(c octopiipb.MemberChange) bool { return c.Op == octopiipb.Remove || c.Op == octopiipb.Demote })
	if shrinks {
		n.shrinking[m] = n.w.now
	}
	m.node.Change(cs, func(a stepped.Answer) {
		if shrinks {
			delete(n.shrinking, m)
		}
		for _, c := range cs {
			n.tell(m, "change %d of %x: %v", c.Op, c.Member.ID, a.Err)
		}
	})
	m.settle()
}

// targets are some members to ask to join.
func (n *operator) targets() []string {
	var list []string
	for _, m := range n.w.running() {
		list = append(list, m.address)
	}
	n.w.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), 3)]
}

// newcomer starts a new member that asks to join.
func (n *operator) newcomer() *member {
	m := n.w.addMember()
	n.letJoin(m)
	return m
}

func (n *operator) letJoin(m *member) {
	m.join = n.targets()
	if len(m.join) == 0 {
		m.join = []string{n.w.members[0].address}
	}
	n.tell(m, "joins by %v", m.join)
	n.letIn(m)
}

// letIn starts a member that has no log yet.
func (n *operator) letIn(m *member) {
	m.start()
	if slices.ContainsFunc(n.kinds, func(f fault) bool { return f.name == "forged" }) {
		for i := range time.Duration(4) { // while it has no log
			n.later((i+1)*n.w.cfg.tick/2, (i+2)*n.w.cfg.tick/2, "forged", func() { n.forgeFor(m) })
		}
	}
}

// membersMax bounds how many members a cluster has.
const membersMax = 7

// room is how many more members there may be.
func (n *operator) room() int {
	living := 0
	for _, m := range n.w.members {
		if !m.gone {
			living++
		}
	}
	return membersMax - living
}

func (n *operator) join() {
	if n.room() > 0 {
		n.newcomer()
	}
}

// toVote is the change that adds a member which wants to vote.
func toVote(m *member, replaces uint64) octopiipb.MemberChange {
	return octopiipb.MemberChange{Op: octopiipb.AddLearner, Member: octopiipb.Member{ID: m.id, Name: m.name(), Address: m.address, Promote: true, Replaces: replaces}}
}

// several adds two members in one change. They wait to be added.
func (n *operator) several() {
	l := n.asked()
	if l == nil || n.room() < 2 {
		return
	}
	a, b := n.w.addMember(), n.w.addMember()
	n.tell(l, "add %x and %x", a.id, b.id)
	n.letIn(a)
	n.letIn(b)
	n.change(l, toVote(a, 0), toVote(b, 0))
}

// swap has a new member take the place of one that is well.
func (n *operator) swap() {
	l := n.asked()
	if l == nil || n.lost != nil || n.room() < 1 {
		return
	}
	voters := l.status().Membership.Voters()
	old := voters[n.w.rnd.IntN(len(voters))]
	m := n.w.addMember()
	n.tell(l, "replace %x by %x", old, m.id)
	n.removed[old] = true
	n.letIn(m)
	n.change(l, toVote(m, old))
}

// noShow adds a member that never shows up: it is given up.
func (n *operator) noShow() {
	l := n.asked()
	if l == nil || n.room() < 1 {
		return
	}
	m := n.w.addMember()
	m.gone, m.noShow = true, true
	n.tell(l, "add %x, which never shows up", m.id)
	n.change(l, toVote(m, 0))
}

// move has a member come back at another address, or two at each other's. Whoever moved
// calls the others, and so they learn of it; all others are well and stay meanwhile, for
// of two that cannot find each other neither may know where a third one is.
func (n *operator) move() {
	n.held = true
	n.mend(n.hopeful())
	timeout := n.w.cfg.electionTimeout()
	n.w.at(4*timeout, "somebody moves", func() {
		if !n.over {
			n.moveNow()
		}
		n.w.at(8*timeout, "it was found", func() { n.held = false })
	})
}

func (n *operator) moveNow() {
	l := n.asked()
	if l == nil || n.lost != nil {
		return
	}
	// They must be known, and part of it: one that waits to be added is where it was.
	var some []*member
	for _, mem := range l.status().Membership.Members {
		if m := n.w.member(mem.ID); m.log != nil && m.awake() && !m.hopeless() && m.address == mem.Address {
			some = append(some, m)
		}
	}
	if len(some) == 0 {
		return
	}
	n.w.rnd.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	if len(some) > 1 && n.w.oneIn(2) {
		a, b := some[0], some[1]
		n.tell(a, "swaps its address with %s", b.name())
		a.kill(false)
		b.kill(false)
		a.address, b.address = b.address, a.address
		a.restartLater()
		b.restartLater()
		return
	}
	a := some[0]
	n.moves++
	n.tell(a, "moves")
	a.kill(false)
	a.address = fmt.Sprintf("n%d.%d", a.id, n.moves)
	a.restartLater()
}

// demote takes a vote away for a while.
func (n *operator) demote() {
	l, id := n.spare()
	if l == nil {
		return
	}
	n.tell(l, "demote %x", id)
	n.change(l, octopiipb.MemberChange{Op: octopiipb.Demote, Member: octopiipb.Member{ID: id}})
	n.demoted[id] = true
	n.later(time.Second, 6*time.Second, "promote", func() {
		if l := n.asked(); l != nil {
			// At once, which is refused if it lags; and else when it has caught up.
			n.change(l, octopiipb.MemberChange{Op: octopiipb.Promote, Member: octopiipb.Member{ID: id}})
			if m := n.w.member(id); n.w.oneIn(2) {
				n.change(l, toVote(m, 0))
			}
		}
	})
}

func (n *operator) remove() {
	l, id := n.spare()
	if l == nil {
		return
	}
	n.tell(l, "remove %x", id)
	n.removed[id] = true
	n.change(l, octopiipb.MemberChange{Op: octopiipb.Remove, Member: octopiipb.Member{ID: id}})
}

func (n *operator) transfer() {
	m := n.someone()
	if m == nil || m.paused {
		return
	}
	to := uint64(0)
	if voters := m.status().Membership.Voters(); len(voters) > 0 && n.w.oneIn(2) {
		to = voters[n.w.rnd.IntN(len(voters))]
	}
	n.tell(m, "transfer leadership to %x", to)
	m.node.Transfer(to, func(stepped.Answer) {})
	m.settle()
}
