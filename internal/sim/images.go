package sim

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// served is what was answered since images of disks were put back on more members than
// a majority can spare. Two histories are possible then, and the book of the checker is
// about the first one. What must hold is that clients see one order: of any two answers
// one is from a state that the other one's is a continuation of.
type served struct {
	by    *member
	index uint64
	// chains of the life that answered, by index.
	chains map[uint64]uint64
}

// oneHistory is the invariant that holds where two histories are possible.
const oneHistory = "nobody serves another branch"

// branch begins the time of two histories.
func (n *damages) branch() {
	n.w.branching = true
	n.w.check.served = nil
	for _, m := range n.w.members {
		m.chains = map[uint64]uint64{}
	}
}

// oneHistory fails unless a state from which a member answers is of one history with
// all from which was answered before.
func (c *calls) oneHistory(m *member) {
	if d := c.forgets(m); d != nil {
		c.w.fail(oneHistory, "%s answers, and %s has been there for long, joined after the images of a majority were taken, and has committed up to %d", m.name(), d.name(), d.status().Commit)
		return
	}
	s := served{by: m, index: m.machine.applied, chains: m.chains}
	for _, o := range c.served {
		at := common(s, o)
		if at > 0 && s.chains[at] != o.chains[at] {
			c.w.fail("nobody serves another branch", "%s answers from its state at index %d, and %s answered from a state at index %d of another history: they differ at index %d",
				m.name(), s.index, o.by.name(), o.index, at)
			return
		}
	}
	if i := slices.IndexFunc(c.served, func(o served) bool { return o.by == m && sameMap(o.chains, s.chains) }); i >= 0 {
		c.served[i] = s
		return
	}
	c.served = append(c.served, s)
}

// forgets returns a member that has something committed which this one and a majority of the
// voters by its records forgot: it joined after their images were taken, knows a majority of
// those voters as members or as removed, and all of them have been there for long enough to
// hear of it. Where all that this one knows were removed since, it can only hear of that by
// somebody at an address that it knows: see the limits in ARCHITECTURE. nil: there is none.
func (c *calls) forgets(m *member) *member {
	long := c.w.now - 20*c.w.cfg.electionTimeout()
	if slices.ContainsFunc(c.w.members, func(o *member) bool { return o.up() && (o.paused || o.awakeSince > long) }) || c.w.net.troubled() {
		return nil
	}
	mine := m.status().Membership
	for _, d := range c.w.members {
		if d == m || !d.awake() || d.log == nil || d.gaveUp || m.gaveUp || c.w.nemesis.removed[d.id] {
			continue
		}
		st := d.status()
		_, known := mine.Member(d.id)
		_, itself := st.Membership.Member(d.id)
		knows := func(id uint64) bool { _, ok := st.Membership.Member(id); return ok || c.w.check.buried[id] }
		voters := slices.DeleteFunc(mine.Voters(), func(id uint64) bool { return !knows(id) })
		proves := slices.ContainsFunc(mine.Members, func(o node.Member) bool {
			_, stays := st.Membership.Member(o.ID)
			return stays || o.Address == d.address
		})
		if proves && !known && itself && knows(m.id) && st.Suspended == nil && len(voters) > len(mine.Voters())/2 && len(mine.Voters()) > 1 {
			return d
		}
	}
	return nil
}

func sameMap(a, b map[uint64]uint64) bool { return fmt.Sprintf("%p", a) == fmt.Sprintf("%p", b) }

// common is the highest index of which both know the state; 0 if there is none.
func common(a, b served) (at uint64) {
	for i := range a.chains {
		if _, ok := b.chains[i]; ok && i <= min(a.index, b.index) {
			at = max(at, i)
		}
	}
	return at
}

// images puts old images back on a majority or on all members, each from another
// moment, and starts them in a drawn order, some of them late. Nobody can say what is
// right then. But nobody may serve another history than the others, and where a
// majority came back without the rest, the rest finds out.
func (n *damages) images() {
	l := n.w.leader()
	if l == nil || n.lost != nil || n.w.branching || !n.mayLose(l) {
		return
	}
	voters := n.w.voterMembers(l)
	n.w.rnd.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	count := len(voters)/2 + 1 + n.w.rnd.IntN((len(voters)+1)/2)
	old := map[*member]image{}
	n.tell(nil, "images of the disks of %s are taken", names(voters[:count]))
	for _, m := range voters[:count] {
		n.w.at(n.w.between(0, 2*time.Second), "an image is taken", func() {
			old[m] = image{m.disk.mem.CrashKeepingAll(), m.machine.saved}
		})
	}
	if n.w.oneIn(4) {
		n.w.at(2*time.Second, "rebuild", func() { n.rebuild(voters, old, n.w.now+time.Minute) })
		return
	}
	if n.w.oneIn(2) { // the records of the images do not have it
		n.w.at(2*time.Second, "join", func() {
			if !n.over && !n.held && n.lost == nil {
				n.join()
			}
		})
	}
	n.w.at(n.w.between(3*time.Second, 8*time.Second), "the images are put back", func() {
		if n.over || n.held || n.lost != nil {
			return
		}
		n.putBack(voters, old)
	})
}

// rebuild empties the disks of all voters, one after the other: each comes back as a new member,
// and votes before the next one goes. Then the images are put back, and none of those that were
// members when they were taken is one any more.
func (n *damages) rebuild(voters []*member, old map[*member]image, until time.Duration) {
	next := slices.IndexFunc(voters, func(m *member) bool { return !m.gone })
	switch {
	case n.over || n.held || n.w.branching || n.w.now > until:
		return
	case n.lost != nil || n.w.leader() == nil:
	case next < 0:
		n.putBack(slices.DeleteFunc(voters, func(m *member) bool { _, ok := old[m]; return !ok }), old)
		return
	case n.mayLose(voters[next]):
		n.lost, n.heir = voters[next], n.wipeAndReturn(voters[next])
		n.settleLoss()
	}
	n.w.at(time.Second, "rebuild", func() { n.rebuild(voters, old, until) })
}

// putBack ends the story of faults: what comes is the story of the images.
func (n *damages) putBack(voters []*member, old map[*member]image) {
	n.held = true
	voters = append(voters, n.joined(voters, len(old))...)
	for _, m := range n.w.members {
		m.kill(false)
	}
	n.mendNetwork()
	n.branch()
	n.w.rnd.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	at := time.Duration(0)
	for _, m := range voters {
		if img, ok := old[m]; ok {
			n.tell(m, "an old image of its disk is put back")
			m.disk.plug(img.mem.Clone())
			m.machine.saved = img.data
			m.view.forgets, m.gone = true, false
		}
		m.after(at, "start", m.start)
		at += pick(n.w.rnd, 0, n.w.cfg.tick, 3*n.w.cfg.electionTimeout())
	}
}

// joined are the voters that the cluster has now beside those that it had. If all of which no
// image was taken are a majority, two majorities would serve two histories, and nobody could
// know: then they stay away.
func (n *damages) joined(had []*member, images int) []*member {
	l := n.w.leader()
	if l == nil {
		return nil
	}
	all := n.w.voterMembers(l)
	if len(all)-images > len(all)/2 {
		return nil
	}
	return slices.DeleteFunc(all, func(m *member) bool {
		return slices.ContainsFunc(had, func(o *member) bool { return o.address == m.address })
	})
}

// image is the content of a disk.
type image struct {
	mem  *vfstest.Mem
	data saved
}

// reaches notes a state of this life.
func (m *member) reaches(index, chain uint64) {
	if m.chains != nil {
		m.chains[index] = chain
	}
}

// stranger lets somebody lie in a handshake with a member.
func (n *nemesis) stranger() {
	if m := n.someone(); m != nil {
		n.strangerAt(m)
	}
}

// strangerAt says hello as nobody, or as a real member whose incarnation it cannot know,
// with a memory of what never was; asks what a member asks; and tells the member that it
// was removed, or forgot. Nothing may come of it.
func (n *nemesis) strangerAt(m *member) {
	if m.paused || m.end == nil || m.end.handler == nil {
		return
	}
	rnd := n.w.rnd
	others := slices.DeleteFunc(slices.Clone(n.w.members), func(o *member) bool { return o == m })
	lie := transport.Hello{Node: rnd.Uint64()>>1 + 1, Incarnation: rnd.Uint64(), Host: transport.Host{Address: "nowhere"},
		Remembers: transport.Memory{Term: 1 << 40, Match: 1 << 40, Commit: 1 << 40}}
	if len(others) > 0 && n.w.oneIn(2) {
		lie.Node, lie.Host.Address = others[rnd.IntN(len(others))].id, m.address
	}
	h := m.end.handler
	told := h.Hello(lie.Node).For(lie)
	lie.Cluster = pick(rnd, 0, told.Cluster, rnd.Uint64())
	n.tell(m, "a stranger says that it is %x", lie.Node)
	if m.log != nil && (told.Cluster != transport.SomeCluster || told.Incarnation != 0 || told.Remembers != transport.Memory{}) {
		n.w.fail("strangers are told nothing", "%s tells one that names no cluster: %+v", m.name(), told)
	}
	n.askAsStranger(m, lie)
	if m.log == nil {
		return // it may be waiting for its cluster, and has nothing to lose
	}
	if h.Accept(lie) == nil {
		st := m.status()
		for _, msg := range []raftpb.Message{
			{Type: raftpb.MsgHeartbeat, Commit: 1 << 40, Term: 1 << 40},
			{Type: raftpb.MsgVote, Index: 1 << 40, LogTerm: 1 << 39, Term: 1 << 40},
			{Type: raftpb.MsgApp, Index: st.Commit, LogTerm: 1, Commit: st.Commit, Term: st.Term + 1},
		} {
			msg.From, msg.To = lie.Node, m.id
			payload, err := (&octopiipb.PeerMessage{Message: msg}).Marshal()
			if err != nil {
				panic(fmt.Sprintf("sim: a message that cannot be encoded: %v", err))
			}
			h.HandleMessages(lie.Node, []transport.Inbound{{Kind: kindRaft, Payload: payload}})
		}
	}
	for code := range uint32(4) { // those that node has, and more
		h.Refused(lie, transport.Refusal{Code: code, Reason: "forged"})
	}
	m.settle()
}
