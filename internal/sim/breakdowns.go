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

// breakdowns are the faults of processes, disks and clocks that take nothing away for good.
// The member has what of it is broken.
type breakdowns struct{ links }

func (n *breakdowns) powerInWrite() {
	if m := n.someone(); m != nil {
		m.disk.crashIn = n.w.rnd.IntN(40)
		n.tell(m, "the power will fail after %d changes", m.disk.crashIn)
	}
}

// powerAt lets the power fail right before or behind an operation of a kind that
// is rare and matters: a name that appears or goes, a directory or a file that
// becomes durable.
func (n *breakdowns) powerAt() {
	if m := n.someone(); m != nil {
		m.disk.crashAt = pick(n.w.rnd, vfstest.Rename, vfstest.SyncDir, vfstest.Remove, vfstest.Create, vfstest.Sync)
		m.disk.crashAfter = n.w.oneIn(2)
		n.tell(m, "the power will fail at the next %s, behind it: %v", m.disk.crashAt, m.disk.crashAfter)
	}
}

// restarts ends a member several times in a row, each time soon after its start.
func (n *breakdowns) restarts() {
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

func (n *breakdowns) pause() {
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

// pauseLeader stops the leader for longer than an election takes: calls wait at it
// while another one leads.
func (n *breakdowns) pauseLeader() {
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

// outage ends most members at once, or all.
func (n *breakdowns) outage() {
	up := n.w.running()
	spared := n.w.rnd.IntN(len(up)/2 + 1)
	power := n.w.oneIn(2)
	for i, at := range n.w.rnd.Perm(len(up)) {
		if i >= spared {
			n.kill(up[at], power)
		}
	}
}

func (n *breakdowns) slowDisk() {
	if m := n.someone(); m != nil {
		m.disk.slow = n.w.between(5*time.Millisecond, 300*time.Millisecond)
		n.tell(m, "its disk takes up to %v", m.disk.slow)
		n.later(time.Second, 8*time.Second, "fast disk", func() { m.disk.slow = 2 * time.Millisecond })
	}
}

func (n *breakdowns) stall() {
	if m := n.someone(); m != nil {
		m.disk.stalled = n.w.now + n.w.between(200*time.Millisecond, 5*time.Second)
		n.tell(m, "its disk stalls until %v", m.disk.stalled)
	}
}

// deadDisk lets the leader's disk hang while all others are well and connected:
// another one must lead soon (hashicorp/raft 503). It comes back, or hangs until
// the process has ended of it.
func (n *breakdowns) deadDisk() {
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
func (n *breakdowns) othersRun(l *member) bool {
	voters, run := l.status().Membership.Voters(), 0
	for _, id := range voters {
		if m := n.w.member(id); m != l && m.awake() && !m.hopeless() {
			run++
		}
	}
	return run > len(voters)/2
}

func (n *breakdowns) ioError() {
	if m := n.someone(); m != nil {
		kind := pick(n.w.rnd, vfstest.Write, vfstest.Sync, vfstest.Sync, vfstest.SyncDir, vfstest.Rename, vfstest.Create, vfstest.Read)
		n.tell(m, "the next %s fails", kind)
		m.disk.failing = map[vfstest.Kind]error{kind: errIO}
	}
}

func (n *breakdowns) fullDisk() {
	if m := n.someone(); m != nil {
		room := n.w.rnd.Int64N(256 << 10)
		n.tell(m, "its disk has room for %d bytes", room)
		m.disk.mem.SetCapacity(m.disk.mem.Used() + room)
		m.disk.roomless = true
		n.later(time.Second, 10*time.Second, "space", func() { m.disk.mem.SetCapacity(0) })
	}
}

// littleRoom leaves the state machines of some members, or of all, with little room.
func (n *breakdowns) littleRoom() {
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

// clock lets a member's clock be set and go wrong.
func (n *breakdowns) clock() {
	if m := n.someone(); m != nil {
		m.rate = 0.7 + 0.6*n.w.rnd.Float64()
		m.offset = time.Duration((m.rate - 1) * float64(time.Hour))
		n.tell(m, "its clock is set by %v, and goes %.2f times as fast", m.offset, m.rate)
	}
}

func (n *breakdowns) snapshot() {
	if m := n.someone(); m != nil && !m.paused {
		n.tell(m, "take a snapshot")
		n.snapshotOf(m)
	}
}

// forge gives a member a message that no honest one sends, as from a peer of
// another making, or one that remembers what was lost here. Nothing may come of it.
func (n *breakdowns) forge() {
	if m := n.someone(); m != nil {
		n.forgeFor(m)
	}
}

func (n *breakdowns) forgeFor(m *member) {
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
