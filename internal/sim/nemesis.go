package sim

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// nemesis breaks things, and is the operator who replaces what it broke for good.
//
// It keeps to a budget: of what loses acknowledged data for good (rot, a wiped
// disk) there is one at a time, and none before the last one was replaced by a
// new member that votes. So a majority always has a good copy of every committed
// entry, and nothing that was acknowledged may be lost.
type nemesis struct {
	w *world
	// kinds are the faults that this seed has.
	kinds []fault
	over  bool
	// held: no new faults for a while.
	held bool
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
	// branching: more disks were set back to old images than a quorum can spare. Then
	// two histories are possible, and what is checked is that nobody serves both: see
	// images.go.
	branching bool
}

// loss is a member that lost its disk, and the one that takes its place.
type loss struct{ lost, heir *member }

// fault is one kind of fault.
type fault struct {
	name string
	// every is about how often it strikes.
	every time.Duration
	do    func(n *nemesis)
}

// faults are all kinds, in the order of docs/TESTING.md.
var faults = []fault{
	{"kill", 6 * time.Second, func(n *nemesis) { n.kill(n.someone(), false) }},
	{"power", 6 * time.Second, func(n *nemesis) { n.kill(n.someone(), true) }},
	{"power-in-write", 5 * time.Second, (*nemesis).powerInWrite},
	{"outage", 20 * time.Second, (*nemesis).outage},
	{"pause", 6 * time.Second, (*nemesis).pause},
	{"partition", 8 * time.Second, (*nemesis).partition},
	{"isolate-leader", 10 * time.Second, (*nemesis).isolateLeader},
	{"one-way", 8 * time.Second, (*nemesis).oneWay},
	{"bridge", 12 * time.Second, (*nemesis).bridge},
	{"flap", 15 * time.Second, (*nemesis).flap},
	{"loss", 10 * time.Second, (*nemesis).loss},
	{"clog", 6 * time.Second, (*nemesis).clog},
	{"slow-disk", 10 * time.Second, (*nemesis).slowDisk},
	{"stall", 10 * time.Second, (*nemesis).stall},
	{"io-error", 8 * time.Second, (*nemesis).ioError},
	{"full-disk", 12 * time.Second, (*nemesis).fullDisk},
	{"rot", 15 * time.Second, (*nemesis).rot},
	{"wipe", 20 * time.Second, (*nemesis).wipe},
	{"rollback", 20 * time.Second, (*nemesis).rollback},
	{"join", 15 * time.Second, (*nemesis).join},
	{"remove", 20 * time.Second, (*nemesis).remove},
	{"several", 20 * time.Second, (*nemesis).several},
	{"swap", 15 * time.Second, (*nemesis).swap},
	{"no-show", 20 * time.Second, (*nemesis).noShow},
	{"demote", 12 * time.Second, (*nemesis).demote},
	{"move", 15 * time.Second, (*nemesis).move},
	{"transfer", 5 * time.Second, (*nemesis).transfer},
	{"snapshot", 5 * time.Second, (*nemesis).snapshot},
	{"clock", 8 * time.Second, (*nemesis).clock},
	{"power-at", 5 * time.Second, (*nemesis).powerAt},
	{"restarts", 12 * time.Second, (*nemesis).restarts},
	{"pause-leader", 10 * time.Second, (*nemesis).pauseLeader},
	{"left-behind", 12 * time.Second, (*nemesis).leaveBehind},
	{"forged", 3 * time.Second, (*nemesis).forge},
	{"abandoned", 15 * time.Second, (*nemesis).abandon},
	{"firewall", 10 * time.Second, (*nemesis).firewall},
	{"dead-disk", 15 * time.Second, (*nemesis).deadDisk},
	{"images", 40 * time.Second, (*nemesis).images},
	{"stranger", 3 * time.Second, (*nemesis).stranger},
	{"packets", 15 * time.Second, (*nemesis).packets},
	{"lost-log", 20 * time.Second, (*nemesis).lostLog},
	{"little-room", 12 * time.Second, (*nemesis).littleRoom},
}

// FaultNames lists the kinds of faults.
func FaultNames() []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

func newNemesis(w *world) *nemesis {
	return &nemesis{w: w, removed: map[uint64]bool{}, demoted: map[uint64]bool{}, shrinking: map[*member]time.Duration{}}
}

// names of the kinds of faults that there are; not nil.
func (n *nemesis) names() []string {
	list := []string{}
	for _, f := range n.kinds {
		list = append(list, f.name)
	}
	return list
}

// begin draws which faults there are: each seed has some of them, for where all
// are, they hide each other. It draws as much when they are given, so that those
// that a seed would have drawn lead to the same story.
func (n *nemesis) begin() {
	for _, f := range faults {
		drawn := n.w.oneIn(3)
		if n.w.cfg.Members == 1 && (f.name == "kill" || f.name == "power") {
			drawn = true // most others need a network
		}
		if n.w.cfg.Faults != nil {
			drawn = slices.Contains(n.w.cfg.Faults, f.name)
		}
		if drawn {
			n.kinds = append(n.kinds, f)
			n.schedule(f)
		}
	}
}

func (n *nemesis) schedule(f fault) {
	wait := n.w.between(f.every/4, 7*f.every/4)
	n.w.at(wait, f.name, func() {
		if n.over {
			return
		}
		if !n.held {
			n.w.faults++
			f.do(n)
		}
		n.schedule(f)
	})
}

// later undoes a fault.
func (n *nemesis) later(lo, hi time.Duration, what string, f func()) {
	n.w.at(n.w.between(lo, hi), what, func() {
		if !n.over { // else all was undone
			f()
		}
	})
}

// someone is a running member, or nil.
func (n *nemesis) someone() *member {
	up := n.w.running()
	if len(up) == 0 {
		return nil
	}
	return up[n.w.rnd.IntN(len(up))]
}

func (n *nemesis) tell(m *member, format string, args ...any) {
	n.w.tell(m, "NEMESIS "+format, args...)
}

func (n *nemesis) kill(m *member, power bool) {
	if m == nil {
		return
	}
	n.tell(m, "kill, power=%v", power)
	m.kill(power)
	m.restartLater()
}

func (n *nemesis) powerInWrite() {
	if m := n.someone(); m != nil {
		m.disk.crashIn = n.w.rnd.IntN(40)
		n.tell(m, "the power will fail after %d changes", m.disk.crashIn)
	}
}

// powerAt lets the power fail right before or behind an operation of a kind that
// is rare and matters: a name that appears or goes, a directory or a file that
// becomes durable.
func (n *nemesis) powerAt() {
	if m := n.someone(); m != nil {
		m.disk.crashAt = pick(n.w.rnd, vfstest.Rename, vfstest.SyncDir, vfstest.Remove, vfstest.Create, vfstest.Sync)
		m.disk.crashAfter = n.w.oneIn(2)
		n.tell(m, "the power will fail at the next %s, behind it: %v", m.disk.crashAt, m.disk.crashAfter)
	}
}

// restarts ends a member several times in a row, each time soon after its start.
func (n *nemesis) restarts() {
	m := n.someone()
	if m == nil {
		return
	}
	n.tell(m, "restarts several times")
	at := time.Duration(0)
	for range 2 + n.w.rnd.IntN(4) {
		at += n.w.between(time.Millisecond, 5*n.w.cfg.tick)
		n.later(at, at+1, "restart", func() {
			if n.held {
				return
			}
			if m.up() {
				m.kill(n.w.oneIn(2))
			}
			m.after(n.w.between(time.Microsecond, time.Millisecond), "start", m.start)
		})
	}
}

// pauseLeader stops the leader for longer than an election takes: calls wait at it
// while another one leads.
func (n *nemesis) pauseLeader() {
	m := n.w.leader()
	if m == nil || m.paused {
		return
	}
	n.tell(m, "pause, for longer than an election takes")
	m.pause()
	life, timeout := m.life, n.w.cfg.electionTimeout()
	n.later(timeout, 5*timeout, "resume", func() {
		if m.life == life {
			n.tell(m, "resume")
			m.resume()
		}
	})
}

// leaveBehind cuts one member off while the others go on and compact their logs.
func (n *nemesis) leaveBehind() {
	m := n.someone()
	if m == nil {
		return
	}
	n.split([]string{m.address}, slices.DeleteFunc(n.addresses(), func(a string) bool { return a == m.address }))
	end := n.w.between(2*time.Second, 8*time.Second)
	for i := range time.Duration(3) {
		at := (i + 1) * end / 4
		n.later(at, at+1, "snapshots", func() {
			for _, o := range n.w.running() {
				if o != m && !o.paused {
					n.snapshotOf(o)
				}
			}
		})
	}
	n.later(end, end+1, "heal", n.w.net.heal)
}

// kindRaft is what raft's messages travel as.
const kindRaft transport.Kind = 1

// abandon cuts the leader off with many proposals that only it has, while the
// others elect another one and compact their logs: what it has is longer than the
// snapshot that it gets then.
func (n *nemesis) abandon() {
	l := n.w.leader()
	if l == nil || l.paused {
		return
	}
	n.tell(l, "is cut off with many proposals")
	n.split([]string{l.address}, slices.DeleteFunc(n.addresses(), func(a string) bool { return a == l.address }))
	for range 20 + n.w.rnd.IntN(80) {
		once := &client{w: n.w, number: len(n.w.clients) + 1, once: true}
		once.propose(l)
	}
	end := n.w.between(3*n.w.cfg.electionTimeout(), 5*n.w.cfg.electionTimeout())
	n.later(end-1, end, "snapshots", func() {
		for _, o := range n.w.running() {
			if o != l && !o.paused {
				n.snapshotOf(o)
			}
		}
	})
	n.later(end+n.w.cfg.taskMax, end+n.w.cfg.taskMax+1, "heal", n.w.net.heal)
}

// forge gives a member a message that no honest one sends, as from a peer of
// another making, or one that remembers what was lost here. Nothing may come of it.
func (n *nemesis) forge() {
	if m := n.someone(); m != nil {
		n.forgeFor(m)
	}
}

func (n *nemesis) forgeFor(m *member) {
	if m.paused || m.end == nil || m.end.handler == nil {
		return
	}
	others := slices.DeleteFunc(n.w.running(), func(o *member) bool { return o == m })
	if len(others) == 0 {
		return
	}
	st := m.status()
	msg := octopiipb.PeerMessage{Message: raftpb.Message{From: others[n.w.rnd.IntN(len(others))].id, To: m.id, Term: st.Term}}
	switch {
	case m.log == nil:
		// Of a term that nobody has, so that an answer to it is told from others.
		m.remembered = 1 << 40
		msg.Term = m.remembered
		msg.Type = pick(n.w.rnd, raftpb.MsgVote, raftpb.MsgHeartbeat)
		if msg.Type == raftpb.MsgHeartbeat {
			msg.Commit = 10
		}
	case st.Role == node.Leader && !m.established():
		return // it would have to believe it
	case st.Role == node.Leader:
		msg.Type, msg.Index = raftpb.MsgAppResp, st.LastIndex+1000
	case st.Leader == 0 || st.Leader == m.id || m.beats == 2:
		return
	default:
		m.beats++ // more of them would be a reason to stop
		msg.Type, msg.From, msg.Commit = raftpb.MsgHeartbeat, st.Leader, st.LastIndex+1000
	}
	n.tell(m, "gets a forged %s", gistOf(&msg))
	payload, err := msg.Marshal()
	if err != nil {
		panic(fmt.Sprintf("sim: a message that cannot be encoded: %v", err))
	}
	m.end.handler.HandleMessages(msg.From, []transport.Inbound{{Kind: kindRaft, Payload: payload}})
	m.settle()
}

// established says whether what a leader has committed ends in its own term.
func (m *member) established() bool {
	st := m.status()
	term, ok := m.view.termAt(st.Applied)
	return ok && term == st.Term
}

// outage ends most members at once, or all.
func (n *nemesis) outage() {
	up := n.w.running()
	spared := n.w.rnd.IntN(len(up)/2 + 1)
	power := n.w.oneIn(2)
	for i, at := range n.w.rnd.Perm(len(up)) {
		if i >= spared {
			n.kill(up[at], power)
		}
	}
}

func (n *nemesis) pause() {
	if m := n.someone(); m != nil && !m.paused {
		n.tell(m, "pause")
		m.pause()
		life := m.life
		n.later(100*time.Millisecond, 4*time.Second, "resume", func() {
			if m.life == life {
				n.tell(m, "resume")
				m.resume()
			}
		})
	}
}

// addresses of all members, in a drawn order.
func (n *nemesis) addresses() []string {
	var list []string
	for _, at := range n.w.rnd.Perm(len(n.w.members)) {
		if a := n.w.members[at].address; !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

func (n *nemesis) healLater() {
	n.later(200*time.Millisecond, 6*time.Second, "heal", func() {
		n.tell(nil, "heal")
		n.w.net.heal()
	})
}

func (n *nemesis) partition() {
	all := n.addresses()
	k := 1 + n.w.rnd.IntN(len(all))
	n.split(all[:k], all[k:])
	n.healLater()
}

func (n *nemesis) split(a, b []string) {
	n.tell(nil, "partition %v | %v", a, b)
	for _, x := range a {
		for _, y := range b {
			n.w.net.apart(x, y)
		}
	}
}

func (n *nemesis) isolateLeader() {
	if l := n.w.leader(); l != nil {
		n.split([]string{l.address}, slices.DeleteFunc(n.addresses(), func(a string) bool { return a == l.address }))
		n.healLater()
	}
}

func (n *nemesis) oneWay() {
	if all := n.addresses(); len(all) > 1 {
		n.tell(nil, "nothing gets from %s to %s", all[0], all[1])
		n.w.net.cut(all[0], all[1])
		n.healLater()
	}
}

// firewall has a living member refuse the connections of another one, which will
// take it for dead: often the leader, as nobody else is missed.
func (n *nemesis) firewall() {
	all := n.addresses()
	if len(all) < 2 {
		return
	}
	from, to := all[0], all[1]
	if l := n.w.leader(); l != nil && l.address != from {
		to = l.address
	}
	n.tell(nil, "%s refuses connections from %s", to, from)
	n.w.net.wall(from, to)
	n.healLater()
}

// bridge cuts the cluster in two halves that share one member.
func (n *nemesis) bridge() {
	if all := n.addresses(); len(all) > 2 {
		half := (len(all) + 1) / 2
		n.split(all[1:half], all[half:])
		n.healLater()
	}
}

// flap cuts and mends one link several times.
func (n *nemesis) flap() {
	all := n.addresses()
	if len(all) < 2 {
		return
	}
	n.tell(nil, "the link between %s and %s flaps", all[0], all[1])
	for i := range 10 {
		at := time.Duration(i) * 400 * time.Millisecond
		n.later(at, at+200*time.Millisecond, "flap", func() { n.w.net.apart(all[0], all[1]) })
		n.later(at+200*time.Millisecond, at+400*time.Millisecond, "flap", n.w.net.heal)
	}
}

func (n *nemesis) loss() {
	net := n.w.net
	rate := func() int { return pick(n.w.rnd, 0, 3, 10, 50) }
	net.lose, net.double, net.late, net.breaking = rate(), rate(), rate(), 10*rate()
	net.lateMax = n.w.between(time.Millisecond, time.Second)
	n.tell(nil, "one message in %d is lost, %d doubled, %d late by up to %v; one in %d breaks its connection", net.lose, net.double, net.late, net.lateMax, net.breaking)
	n.later(time.Second, 8*time.Second, "calm", net.calm)
}

// packets are lost for a while, which no message is: the streams stand still.
func (n *nemesis) packets() {
	percent, tuned := pick(n.w.rnd, 5, 15, 30), n.w.oneIn(2)
	n.tell(nil, "%d packets in a hundred are lost, more streams and short pauses: %v", percent, tuned)
	n.w.net.lossyStreams(percent, tuned)
	n.later(2*time.Second, 10*time.Second, "no packet is lost", func() { clear(n.w.net.lossy) })
}

func (n *nemesis) clog() {
	if all := n.addresses(); len(all) > 1 {
		until := n.w.now + n.w.between(100*time.Millisecond, 3*time.Second)
		n.tell(nil, "from %s to %s nothing moves until %v", all[0], all[1], until)
		n.w.net.clogs[direction{all[0], all[1]}] = until
	}
}

func (n *nemesis) slowDisk() {
	if m := n.someone(); m != nil {
		m.disk.slow = n.w.between(5*time.Millisecond, 300*time.Millisecond)
		n.tell(m, "its disk takes up to %v", m.disk.slow)
		n.later(time.Second, 8*time.Second, "fast disk", func() { m.disk.slow = 2 * time.Millisecond })
	}
}

func (n *nemesis) stall() {
	if m := n.someone(); m != nil {
		m.disk.stalled = n.w.now + n.w.between(200*time.Millisecond, 5*time.Second)
		n.tell(m, "its disk stalls until %v", m.disk.stalled)
	}
}

// deadDisk lets the leader's disk hang while all others are well and connected:
// another one must lead soon (hashicorp/raft 503). It comes back, or hangs until
// the process has ended of it.
func (n *nemesis) deadDisk() {
	n.held = true
	n.mend(n.hopeful())
	timeout := n.w.cfg.electionTimeout()
	n.w.at(4*timeout, "a disk dies", func() {
		l := n.w.leader()
		if n.over || l == nil || !n.othersRun(l) {
			n.held = false
			return
		}
		life := l.life
		l.disk.stalled = n.w.now + 12*timeout
		if n.w.oneIn(2) {
			l.disk.stalled = n.w.now + 4*n.w.cfg.stallLimit
		}
		n.tell(l, "its disk hangs until %v", l.disk.stalled)
		once := &client{w: n.w, number: len(n.w.clients) + 1, once: true}
		once.propose(l) // else it has nothing to write
		n.w.at(10*timeout, "does another one lead?", func() {
			n.held = false
			if !n.over && l.life == life && n.w.leader() == l {
				n.w.fail("a leader whose disk hangs hands over", "%s leads, and its disk has hung for %v: %s", l.name(), 10*timeout, n.w.summary())
			}
		})
	})
}

// othersRun says whether a majority runs without one of the voters.
func (n *nemesis) othersRun(l *member) bool {
	voters, run := l.status().Membership.Voters(), 0
	for _, id := range voters {
		if m := n.member(id); m != l && m.awake() && !m.hopeless() {
			run++
		}
	}
	return run > len(voters)/2
}

func (n *nemesis) ioError() {
	if m := n.someone(); m != nil {
		kind := pick(n.w.rnd, vfstest.Write, vfstest.Sync, vfstest.Sync, vfstest.SyncDir, vfstest.Rename, vfstest.Create, vfstest.Read)
		n.tell(m, "the next %s fails", kind)
		m.disk.failing = map[vfstest.Kind]error{kind: errIO}
	}
}

func (n *nemesis) fullDisk() {
	if m := n.someone(); m != nil {
		room := n.w.rnd.Int64N(256 << 10)
		n.tell(m, "its disk has room for %d bytes", room)
		m.disk.mem.SetCapacity(m.disk.mem.Used() + room)
		m.disk.roomless = true
		n.later(time.Second, 10*time.Second, "space", func() { m.disk.mem.SetCapacity(0) })
	}
}

// littleRoom leaves the state machines of some members, or of all, with little room.
func (n *nemesis) littleRoom() {
	for _, m := range n.w.running() {
		if n.w.oneIn(3) {
			continue
		}
		room := n.w.rnd.Int64N(8 << 10)
		n.tell(m, "its state machine has room for %d bytes", room)
		m.machine.limit(room, true)
		n.later(time.Second, 10*time.Second, "room", m.machine.free)
	}
}

// mayLose says whether the budget allows that a member's data is lost for good. It
// must be one that everybody knows: one that is about to join may come back with
// another disk, and nothing is wrong with that.
func (n *nemesis) mayLose(lost *member) bool {
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
		if m := n.member(id); m != nil && !m.hopeless() {
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

func (n *nemesis) member(id uint64) *member {
	i := slices.IndexFunc(n.w.members, func(m *member) bool { return m.id == id })
	if i < 0 {
		return nil
	}
	return n.w.members[i]
}

// rot damages files of a member that does not run.
func (n *nemesis) rot() {
	m := n.someone()
	if m == nil || !n.mayLose(m) {
		return
	}
	// A log that was closed has the proof that its end was durable, so that no damage
	// to it can be taken for a write that did not become whole.
	closed := n.w.oneIn(2) && m.awake() && m.writing == nil && m.node.Close() == nil && !m.disk.struck && !m.disk.dead
	m.kill(!closed && n.w.oneIn(2))
	n.lost, m.view.damaged = m, true
	n.damage(m, closed)
	for !closed && n.w.oneIn(3) {
		n.damage(m, false)
	}
	m.restartLater()
	n.replace(m)
}

// damage changes some bytes on a disk; of a log that is proven to its end those that
// were written last.
func (n *nemesis) damage(m *member, proven bool) {
	image := m.disk.mem.Image()
	var files []string
	for p, data := range image {
		if len(data) > 0 && !strings.HasSuffix(p, "LOCK") {
			files = append(files, p)
		}
	}
	if len(files) == 0 {
		return
	}
	slices.Sort(files)
	file := files[n.w.rnd.IntN(len(files))]
	at := n.w.rnd.IntN(len(image[file]))
	what := pick(n.w.rnd, "a bit flipped", "a bit flipped", "a bit flipped", "a bit flipped", "a sector zeroed", "a misdirected write", "a file cut short", "a file missing")
	if proven && n.w.oneIn(2) {
		what = "a sector zeroed"
	}
	if proven || what == "a bit flipped" {
		// Where it counts: in what was written last. (No bit of that can be taken for a
		// write that did not become whole, as a sector of zeros can.)
		file, at = n.target(files, image, file)
	}
	data := slices.Clone(image[file])
	sector := at / vfstest.SectorSize * vfstest.SectorSize
	end := min(sector+vfstest.SectorSize, len(data))
	switch what {
	case "a bit flipped":
		data[at] ^= 1 << n.w.rnd.IntN(8)
	case "a sector zeroed":
		clear(data[sector:end])
	case "a misdirected write":
		from := n.w.rnd.IntN(len(data)) / vfstest.SectorSize * vfstest.SectorSize
		copy(data[sector:end], data[from:])
	case "a file cut short":
		data = data[:at]
	}
	if !proven && n.isUnwritten(m, file, sector, data) {
		what, data = "a bit flipped", slices.Clone(image[file])
		data[at] ^= 1
	}
	n.tell(m, "%s in %s at %d", what, path.Base(file), at)
	if what == "a file missing" {
		_ = m.disk.mem.Remove(file)
		_ = m.disk.mem.SyncDir(path.Dir(file))
		return
	}
	m.disk.mem.WriteFile(file, data)
}

// isUnwritten says whether a sector of zeros is now where the last frame of a log that was
// not closed has a sector. No disk tells that from a write that did not become whole: the
// process may have ended before it could acknowledge what is in it.
func (n *nemesis) isUnwritten(m *member, file string, sector int, data []byte) bool {
	end := min(sector+vfstest.SectorSize, len(data))
	if path.Ext(file) != ".seg" || sector >= end || slices.ContainsFunc(data[sector:end], func(b byte) bool { return b != 0 }) {
		return false
	}
	var last wal.Record
	_, err := wal.Inspect(m.disk.mem, path.Dir(file), func(r *wal.Record) error { last = *r; return nil }, nil)
	return err != nil || last.Segment == path.Base(file) && int64(sector) >= last.Offset && int64(sector) < last.Offset+last.Size
}

// target is a place in the newest segment of the log, in the newest snapshot, or in
// the file that was drawn: in the last bytes there that were written.
func (n *nemesis) target(files []string, image map[string][]byte, file string) (string, int) {
	wanted := pick(n.w.rnd, ".seg", ".seg", ".snap", "")
	for _, f := range files {
		if wanted != "" && path.Ext(f) == wanted {
			file = f
		}
	}
	const lastBytes = 16 << 10
	var written []int
	for i, b := range image[file] {
		if b != 0 {
			written = append(written, i)
		}
	}
	if len(written) == 0 {
		return file, 0
	}
	written = written[max(0, len(written)-lastBytes):]
	return file, written[n.w.rnd.IntN(len(written))]
}

// wipe empties a member's disk. It comes back with the same command, or under the same ID.
func (n *nemesis) wipe() {
	m := n.someone()
	if m == nil || !n.mayLose(m) {
		return
	}
	if n.w.oneIn(2) {
		n.wipeSome(m)
		return
	}
	n.tell(m, "its disk is wiped")
	m.voted = n.w.votes(m)
	m.kill(false)
	m.disk.plug(vfstest.NewMem())
	m.machine.wipe()
	m.log, m.wiped = nil, true
	m.founder, m.expect, m.join = false, 0, n.targets()
	n.lost, m.view.forgets = m, true
	m.restartLater()
	n.replace(m)
}

// lostLog takes a member's log, and leaves it all of its other files. It starts with the
// command that it had, and is not to come back under its ID, whoever remembers it.
func (n *nemesis) lostLog() {
	m := n.someone()
	if m == nil || m.phantom || !n.mayLose(m) || !m.view.born {
		return
	}
	m.kill(n.w.oneIn(2))
	n.loseLog(m)
	if len(m.join) == 0 {
		m.join = n.targets()
	}
	n.lost = m
	m.restartLater()
	n.replace(m)
}

// loseLog removes the log of a member that does not run.
func (n *nemesis) loseLog(m *member) {
	n.tell(m, "its log is lost, and its identity is not")
	for _, dir := range []string{"wal", "snap"} {
		if err := m.disk.mem.RemoveAll(path.Join(dataDir, dir)); err != nil {
			panic(fmt.Sprintf("sim: cannot remove %s: %v", dir, err))
		}
	}
	if err := m.disk.mem.SyncDir(dataDir); err != nil {
		panic(fmt.Sprintf("sim: cannot sync %s: %v", dataDir, err))
	}
	m.log, m.lostLog, m.view.forgets = nil, true, true
}

// wipeSome wipes a member, and at times more, as long as a majority keeps its disks. All
// come back with their own commands.
func (n *nemesis) wipeSome(m *member) {
	var others []*member
	voters := n.w.leader().status().Membership.Voters()
	for _, id := range voters {
		if o := n.member(id); o != m && o.up() {
			others = append(others, o)
		}
	}
	n.lost, n.heir = m, n.wipeAndReturn(m)
	for spare := (len(voters)-1)/2 - 1; spare > 0 && len(others) > 0 && n.w.oneIn(2); spare-- {
		at := n.w.rnd.IntN(len(others))
		n.more = append(n.more, loss{others[at], n.wipeAndReturn(others[at])})
		others = slices.Delete(others, at, at+1)
	}
	n.settleLoss()
}

// rollback puts an older image of a member's disk back. Nobody but those that
// remember can know, so all others are well and connected meanwhile (design, section
// 8: if those that never had the lost entries are all that is left, no protocol can
// know); and then it must be noticed.
func (n *nemesis) rollback() {
	m := n.someone()
	if m == nil || !n.mayLose(m) || !m.view.born {
		return
	}
	n.tell(m, "an image of its disk is taken")
	mem, saved, old := m.disk.mem.Clone(), m.machine.saved, m.view
	n.later(2*time.Second, 6*time.Second, "rollback", func() {
		if m.gone || n.held || !n.mayLose(m) {
			return
		}
		n.held = true
		n.mend(n.hopeful())
		// What a leader has on its disk by now, it has told a while later.
		led := m == n.w.leader() && m.view.commit > old.last()
		n.w.at(4*n.w.cfg.electionTimeout(), "the old image is put back", func() {
			if n.held = false; n.over || m.gone || !m.up() || !n.mayLose(m) {
				return
			}
			if min(m.view.ackIndex, n.w.check.learnt[m.id]) <= old.ackIndex && (!led || m != n.w.leader()) {
				return // nothing is lost by it
			}
			n.tell(m, "an old image of its disk is put back; it leads: %v", m == n.w.leader())
			n.held = true
			m.kill(false)
			m.disk.plug(mem.CrashKeepingAll())
			m.machine.saved = saved
			n.lost, m.view.forgets = m, true
			m.start()
			n.w.at(6*n.w.cfg.electionTimeout(), "was it noticed?", func() {
				n.held = false
				if !n.over && !errors.Is(m.ended, node.ErrAmnesia) {
					n.w.fail("a rolled-back disk is noticed", "%s goes on: %v: %s", m.name(), m.ended, n.w.summary())
				}
			})
			n.replace(m)
		})
	})
}

// hopeful are all members that will run again.
func (n *nemesis) hopeful() []*member {
	return slices.DeleteFunc(slices.Clone(n.w.members), (*member).hopeless)
}

func (n *nemesis) snapshot() {
	if m := n.someone(); m != nil && !m.paused {
		n.tell(m, "take a snapshot")
		n.snapshotOf(m)
	}
}

// snapshotOf asks a member for a snapshot, which it takes if its disk lets it.
func (n *nemesis) snapshotOf(m *member) {
	m.node.Snapshot(func(_ uint64, err error) {
		d := m.disk
		if err == nil || m.log == nil || d.struck || d.dead || d.failing != nil || d.roomless || m.view.damaged || m.view.forgets {
			return
		}
		if errors.Is(err, node.ErrRemoved) || errors.Is(err, node.ErrIDReused) || errors.Is(err, node.ErrAmnesia) || errors.Is(err, node.ErrClosed) {
			return // it ends
		}
		n.w.fail("a snapshot is taken when it is asked for", "%s: %v", m.name(), err)
	})
	m.settle()
}

// clock lets a member's clock be set and go wrong.
func (n *nemesis) clock() {
	if m := n.someone(); m != nil {
		m.rate = 0.7 + 0.6*n.w.rnd.Float64()
		m.offset = time.Duration((m.rate - 1) * float64(time.Hour))
		n.tell(m, "its clock is set by %v, and goes %.2f times as fast", m.offset, m.rate)
	}
}

// stopped is called when a process ended by itself.
func (n *nemesis) stopped(m *member, err error, struck bool) {
	switch {
	case m.phantom && errors.Is(err, node.ErrOtherCluster):
		n.putAside(m, err)
	case errors.Is(err, node.ErrRemoved), errors.Is(err, node.ErrIDReused), errors.Is(err, node.ErrAmnesia):
		m.gone = true
	case m.gone:
	case errors.Is(err, node.ErrDiskStalled):
		if !n.w.byHand { // the operator has another one put in
			m.disk.stalled = 0
			m.restartLater()
		}
	case struck || m.view.damaged || m.view.forgets:
		// The operator starts it again, and once more; and may pull the plug then.
		m.restartLater()
		if struck && !n.w.byHand && n.w.oneIn(2) {
			n.later(20*n.w.cfg.tick, 40*n.w.cfg.tick, "power", func() {
				if m.up() && !n.held {
					n.kill(m, true)
				}
			})
		}
	}
}

// heal undoes everything for good for some members, and ends the others.
func (n *nemesis) heal(keep []*member) {
	n.over = true
	n.mend(keep)
	for _, m := range n.w.members {
		if m.up() && !slices.Contains(keep, m) {
			m.kill(n.w.oneIn(2))
		}
	}
}

// mend undoes everything for some members.
func (n *nemesis) mend(keep []*member) {
	net := n.w.net
	net.calm()
	net.heal()
	for _, m := range n.w.members {
		m.rate = 1
		m.disk.slow, m.disk.stalled = 2*time.Millisecond, 0
		m.disk.mem.SetCapacity(0)
		m.machine.free()
		if slices.Contains(keep, m) {
			m.disk.failing, m.disk.crashIn, m.disk.crashAt = nil, -1, ""
			if m.up() && m.disk.readOnly {
				m.kill(true) // nothing less mends a file system
			}
			m.resume()
			m.start()
			m.settle()
		}
	}
}

func names(ms []*member) string {
	var list []string
	for _, m := range ms {
		list = append(list, m.name())
	}
	return fmt.Sprint(list)
}
