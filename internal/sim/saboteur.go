package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/octopii/octopii/node"
)

// saboteur knows which faults this seed has, whom they may strike, and how all of them end.
type saboteur struct {
	w *world
	// kinds are the faults that this seed has.
	kinds []fault
	over  bool
	// held: no new faults for a while.
	held bool
}

// names of the kinds of faults that there are; not nil.
func (n *saboteur) names() []string {
	list := []string{}
	for _, f := range n.kinds {
		list = append(list, f.name)
	}
	return list
}

// later undoes a fault.
func (n *saboteur) later(lo, hi time.Duration, what string, f func()) {
	n.w.at(n.w.between(lo, hi), what, func() {
		if !n.over { // else all was undone
			f()
		}
	})
}

// someone is a running member, or nil.
func (n *saboteur) someone() *member {
	up := n.w.running()
	if len(up) == 0 {
		return nil
	}
	return up[n.w.rnd.IntN(len(up))]
}

// addresses of all members, in a drawn order.
func (n *saboteur) addresses() []string {
	var list []string
	for _, at := range n.w.rnd.Perm(len(n.w.members)) {
		if a := n.w.members[at].address; !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

func (n *saboteur) tell(m *member, format string, args ...any) {
	n.w.tell(m, "NEMESIS "+format, args...)
}

func (n *saboteur) kill(m *member, power bool) {
	if m == nil {
		return
	}
	n.tell(m, "kill, power=%v", power)
	m.kill(power)
	m.restartLater()
}

// snapshotOf asks a member for a snapshot, which it takes if its disk lets it.
func (n *saboteur) snapshotOf(m *member) {
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

// hopeful are all members that will run again.
func (n *saboteur) hopeful() []*member {
	return slices.DeleteFunc(slices.Clone(n.w.members), (*member).hopeless)
}

// heal undoes everything for good for some members, and ends the others.
func (n *saboteur) heal(keep []*member) {
	n.over = true
	n.mend(keep)
	for _, m := range n.w.members {
		if m.up() && !slices.Contains(keep, m) {
			m.kill(n.w.oneIn(2))
		}
	}
}

// mend undoes everything for some members.
func (n *saboteur) mend(keep []*member) {
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
			if m.reads == 1 && !n.w.byHand { // the others may write what it cannot read
				m.reads = 2
				if m.up() {
					m.kill(false)
				}
			}
			m.resume()
			m.start()
			m.settle()
		}
	}
}

// mendNetwork leaves every disk and every link well.
func (n *saboteur) mendNetwork() {
	n.w.net.calm()
	n.w.net.heal()
	for _, m := range n.w.members {
		m.rate = 1
		m.disk.slow, m.disk.stalled = 2*time.Millisecond, 0
		m.disk.mem.SetCapacity(0)
		m.disk.failing, m.disk.crashIn, m.disk.crashAt = nil, -1, ""
	}
}

func names(ms []*member) string {
	var list []string
	for _, m := range ms {
		list = append(list, m.name())
	}
	return fmt.Sprint(list)
}
