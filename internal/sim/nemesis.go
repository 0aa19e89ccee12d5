package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport"
)

// nemesis breaks things, and is the operator who replaces what it broke for good.
//
// It keeps to a budget: of what loses acknowledged data for good (rot, a wiped
// disk) there is one at a time, and none before the last one was replaced by a
// new member that votes. So a majority always has a good copy of every committed
// entry, and nothing that was acknowledged may be lost.
//
// It is layers, each of which knows only those below:
//
//	saboteur    which faults there are, and how they end       saboteur.go
//	links       faults of the network                          links.go
//	breakdowns  faults of processes, disks and clocks          breakdowns.go
//	operator    who belongs to the cluster, and the budget     operator.go
//	damages     what is lost for good                          damages.go, images.go
//
// links, breakdowns and damages own no field. They stand apart for the budget: a fault of the
// network, of a process, a disk or a clock cannot reach it, as the operator is above them.
//
// nemesis lets them strike, and answers what comes of it.
type nemesis struct{ damages }

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
	b := breakdowns{links{saboteur{w: w}}}
	return &nemesis{damages{operator{breakdowns: b, removed: map[uint64]bool{}, demoted: map[uint64]bool{}, shrinking: map[*member]time.Duration{}}}}
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
	if n.w.cfg.reads != 0 {
		n.upgrade()
	}
}

// upgrade has members run a newer program, one now and one then, and some an older one again.
// It draws for itself, so that it moves no other story.
func (n *nemesis) upgrade() {
	rnd := rand.New(rand.NewPCG(n.w.cfg.Seed, 3))
	for range 8 * n.w.cfg.Members {
		n.w.at(time.Duration(rnd.Int64N(int64(n.w.cfg.Duration))), "another program", func() {
			up := n.w.running()
			if n.over || n.held || len(up) == 0 {
				return
			}
			m, back := up[rnd.IntN(len(up))], rnd.IntN(12) == 0
			m.reads = 2
			if back {
				m.reads = 1
			}
			n.kill(m, false)
		})
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

// kindRaft is what raft's messages travel as.
const kindRaft transport.Kind = 1

// established says whether what a leader has committed ends in its own term.
func (m *member) established() bool {
	st := m.status()
	term, ok := m.view.termAt(st.Applied)
	return ok && term == st.Term
}

// stopped is called when a process ended by itself.
func (n *nemesis) stopped(m *member, err error, struck bool) {
	switch {
	case m.phantom && errors.Is(err, node.ErrOtherCluster):
		n.putAside(m, err)
	case errors.Is(err, node.ErrRemoved), errors.Is(err, node.ErrIDReused), errors.Is(err, node.ErrAmnesia):
		m.gone = true
	case m.gone:
	case m.isOlder(err) && !n.w.byHand: // the operator reads why
		m.reads = 2
		m.restartLater()
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
