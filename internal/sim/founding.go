package sim

import (
	"errors"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// How a cluster is founded here, how members come back with the command that they
// always had, and what is checked of both.

// listenTicks is what octopiid listens for before a member founds alone.
const listenTicks = 15

// foundTogether starts members that expect each other, while things break: members die
// and lose their disks at any moment of it, as long as a majority of them keeps its own.
func (w *world) foundTogether() {
	var addresses []string
	for range w.cfg.Members {
		addresses = append(addresses, w.addMember().address)
	}
	for i, m := range w.members {
		m.join, m.expect, m.rejoins = addresses, w.cfg.Members, true
		if w.byHand { // a script starts them
			continue
		}
		late := w.between(0, 300*time.Millisecond)
		if i == 0 && w.oneIn(4) {
			late = w.between(time.Second, 4*time.Second)
		}
		m.after(late, "start", m.start)
	}
	if w.byHand {
		return
	}
	w.nemesis.breakFounding()
	w.runUntil(w.now + foundingFaults)
	w.nemesis.mend(w.nemesis.hopeful())
	w.within(60*w.cfg.electionTimeout(), "a cluster is founded by all", w.foundedByAll)
}

// foundingFaults is for how long things break while a cluster is founded.
const foundingFaults = 5 * time.Second

// foundedByAll says whether all members that there are vote, and nobody else.
func (w *world) foundedByAll() bool {
	l := w.leader()
	if l == nil || len(l.status().Membership.Members) != w.cfg.Members {
		return false
	}
	for _, m := range w.members {
		if m.gone {
			continue
		}
		if self, ok := l.status().Membership.Member(m.id); !ok || self.Learner || !m.up() || m.log == nil {
			return false
		}
	}
	return true
}

// breakFounding draws what happens while the members found a cluster.
func (n *nemesis) breakFounding() {
	w, wiped := n.w, 0
	wipe := func() {
		if m := n.someone(); m != nil && wiped < (w.cfg.Members-1)/2 {
			wiped++
			n.wipeAndReturn(m)
		}
	}
	kinds := []func(){
		func() { n.kill(n.someone(), w.oneIn(2)) }, n.powerInWrite, n.powerInWrite, n.powerAt, n.powerAt,
		n.pause, n.partition, n.oneWay, n.loss, n.clog, n.stall, n.fullDisk, wipe, wipe,
	}
	for range w.rnd.IntN(12) {
		do := pick(w.rnd, kinds...)
		w.at(w.between(0, foundingFaults), "while it is founded", func() {
			if len(w.running()) > 0 {
				w.faults++
				do()
			}
		})
	}
}

// putAside has a member that gave way to the older cluster join that, as octopiid does.
func (n *nemesis) putAside(m *member, err error) {
	m.gone = true
	var other *node.OtherClusterError
	if n.w.byHand || !errors.As(err, &other) {
		return
	}
	h := n.wipeAndReturn(m)
	h.founder, h.expect, h.listens, h.join = false, 0, 0, nil
	for _, mem := range other.Proof.Members {
		if mem.Address != m.address {
			h.join = append(h.join, mem.Address)
		}
	}
	if n.heir == m {
		n.heir = h
	}
}

// seek is what transport/tcp does all the time: members of a cluster dial the addresses
// of all others until they are there. Here most of it is left out, as only a member
// without a log learns from it.
func (m *member) seek() {
	w := m.w
	if m.log != nil || m.listens == 0 && m.expect == 0 {
		return
	}
	for _, o := range w.running() {
		if o.paused || o.log == nil || o == m {
			continue
		}
		for _, mem := range o.status().Membership.Members {
			if mem.Address == m.address && mem.ID != m.id {
				end, id := o.end, mem.ID
				o.after(w.net.travel(o.address, m.address), "dial", func() { _, _ = end.meet(m.address, id, false) })
			}
		}
	}
}

// sought notes that a member of the cluster wants another one where m is.
func (m *member) sought(by *member) {
	if m.log == nil && by.log != nil && !by.phantom {
		m.told = true
	}
}

// well says whether nothing keeps a disk from writing.
func (d *disk) well() bool {
	return !d.dead && !d.struck && !d.readOnly && !d.roomless && d.failing == nil
}

// founded notes of which cluster a member is that was just brought to life. The first
// one in which somebody led is the cluster of this world. Others are phantoms, of
// which the book knows nothing.
func (c *checker) founded(m *member) {
	cluster := m.node.View().Start().Membership.Cluster
	switch {
	case c.cluster == cluster:
	case c.cluster == 0:
		c.cluster = cluster
	case len(c.leaders) == 0 && !c.inhabited():
		// Its founder lost its disk before anybody else had a log.
		c.w.tell(m, "  cluster %x, in which nobody led, is gone with its founder", c.cluster)
		spare, ops, moment := c.spare, c.ops, c.moment
		*c = *newChecker(c.w)
		c.spare, c.ops, c.moment, c.cluster = spare, ops, moment, cluster
	default:
		m.phantom = true
		c.w.tell(m, "  is of a second cluster %x; it was sought before: %v", cluster, m.told || m.knows)
		if m.expect > 0 {
			c.w.fail("one cluster for ever", "%s, which expects others, is of cluster %x beside %x", m.name(), cluster, c.cluster)
		}
	}
}

// inhabited says whether anybody has a log of the cluster of this world.
func (c *checker) inhabited() bool {
	for _, m := range c.w.members {
		if m.view.born && !m.gone && !m.phantom {
			return true
		}
	}
	return false
}

// phantomServed is told that a member of a second cluster served. It is excused only if no
// member of the cluster came to its address while it listened, in this life or, noted
// on its disk, in an earlier one. (It could not be reached then: see seek.)
func (c *checker) phantomServed(m *member) {
	if m.listens > 0 && (m.told || m.knows) {
		c.w.fail("one cluster for ever", "%s answers a linearizable read in a cluster of its own, and a member of the old one had come to its address before it founded", m.name())
	}
}

// askPhantom looks whether a phantom serves.
func (m *member) askPhantom() {
	m.node.Read(func(a stepped.Answer) {
		if a.Err == nil {
			m.w.check.phantomServed(m)
		}
	})
}

// The kinds of calls that anybody may make: see package node.
const (
	kindVouch transport.Kind = 6
	kindFound transport.Kind = 7
)

// askAsStranger asks a member what anybody may ask, with made-up contents: to promise a
// round that nobody founds, and to vouch for what never was.
func (n *nemesis) askAsStranger(m *member, lie transport.Hello) {
	rnd, h := n.w.rnd, m.end.handler
	self := octopiipb.Member{ID: m.id, Name: m.name(), Address: m.address, Incarnation: h.Hello(0).Incarnation, Priority: int32(m.priority)}
	other := octopiipb.Member{ID: lie.Node, Name: "stranger", Address: lie.Host.Address, Incarnation: lie.Incarnation}
	first := other
	if o := n.w.members[rnd.IntN(len(n.w.members))]; o.end != nil && n.w.oneIn(2) {
		first = octopiipb.Member{ID: o.id, Name: o.name(), Address: o.address, Incarnation: rnd.Uint64(), Priority: int32(o.priority)}
	}
	round := octopiipb.Round{Cluster: rnd.Uint64()>>1 + 1, Members: pick(rnd, nil, []octopiipb.Member{self}, []octopiipb.Member{first, self}, []octopiipb.Member{first, self, self}, []octopiipb.Member{first, {}, self})}
	ask := func(kind transport.Kind, req interface{ Marshal() ([]byte, error) }, then func(transport.Message, error)) {
		payload, err := req.Marshal()
		if err == nil {
			h.(stepped.Answerer).Answer(lie, transport.Inbound{Kind: kind, Payload: payload}, then)
		}
	}
	ask(kindFound, &octopiipb.FoundRequest{Member: first, Round: round, Promised: []uint64{round.Cluster, 0}}, func(r transport.Message, err error) {
		reply, ok := r.(*octopiipb.FoundReply)
		if !ok || err != nil {
			return
		}
		if reply.Promised || reply.Founded != 0 || reply.Cluster != 0 && reply.Cluster != transport.SomeCluster {
			n.w.fail("strangers are told nothing", "%s answers a stranger's round of founding with %v", m.name(), reply)
		}
	})
	question := &octopiipb.VouchRequest{Cluster: pick(rnd, 0, lie.Cluster, rnd.Uint64()), Member: pick(rnd, lie.Node, m.id), Address: m.address, Name: m.name()}
	ask(kindVouch, question, func(r transport.Message, err error) {
		reply, ok := r.(*octopiipb.VouchReply)
		if !ok || err != nil || question.Cluster == n.w.check.cluster {
			return
		}
		if reply.Cluster != 0 && reply.Cluster != transport.SomeCluster || len(reply.Members) > 0 {
			n.w.fail("strangers are told nothing", "%s vouches to a stranger: %v", m.name(), reply)
		}
	})
}

// keepsHolders: no automatic step lowers the number of holders. When a member's files are
// put aside, a majority of the voters without it has everything that was acknowledged.
func (c *calls) keepsHolders(m *member) {
	l, seen := c.w.leader(), c.order.Index()
	if l == nil || seen == 0 {
		return
	}
	voters, holders := l.status().Membership.Voters(), 0
	for _, id := range voters {
		o := c.w.member(id)
		if o == m || o.hopeless() || o.log == nil || o.log.last < seen {
			continue
		}
		if t, ok := o.view.termAt(seen); !ok || t == c.ledger[seen].term {
			holders++
		}
	}
	if holders <= len(voters)/2 {
		c.w.fail("no automatic step lowers the number of holders", "the files of %s are put aside, and of %d voters only %d others have entry %d, which was acknowledged: %s", m.name(), len(voters), holders, seen, c.w.summary())
	}
}
