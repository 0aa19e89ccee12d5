package sim

import (
	"slices"
	"time"
)

// links are the faults of the network, which knows what of it is broken.
type links struct{ saboteur }

func (n *links) partition() {
	all := n.addresses()
	k := 1 + n.w.rnd.IntN(len(all))
	n.split(all[:k], all[k:])
	n.healLater()
}

func (n *links) split(a, b []string) {
	n.tell(nil, "partition %v | %v", a, b)
	for _, x := range a {
		for _, y := range b {
			n.w.net.apart(x, y)
		}
	}
}

func (n *links) healLater() {
	n.later(200*time.Millisecond, 6*time.Second, "heal", func() {
		n.tell(nil, "heal")
		n.w.net.heal()
	})
}

func (n *links) isolateLeader() {
	if l := n.w.leader(); l != nil {
		n.split([]string{l.address}, slices.DeleteFunc(n.addresses(), func(a string) bool { return a == l.address }))
		n.healLater()
	}
}

func (n *links) oneWay() {
	if all := n.addresses(); len(all) > 1 {
		n.tell(nil, "nothing gets from %s to %s", all[0], all[1])
		n.w.net.cut(all[0], all[1])
		n.healLater()
	}
}

// firewall has a living member refuse the connections of another one, which will
// take it for dead: often the leader, as nobody else is missed.
func (n *links) firewall() {
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
func (n *links) bridge() {
	if all := n.addresses(); len(all) > 2 {
		half := (len(all) + 1) / 2
		n.split(all[1:half], all[half:])
		n.healLater()
	}
}

// flap cuts and mends one link several times.
func (n *links) flap() {
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

func (n *links) loss() {
	net := n.w.net
	rate := func() int { return pick(n.w.rnd, 0, 3, 10, 50) }
	net.lose, net.double, net.late, net.breaking = rate(), rate(), rate(), 10*rate()
	net.lateMax = n.w.between(time.Millisecond, time.Second)
	n.tell(nil, "one message in %d is lost, %d doubled, %d late by up to %v; one in %d breaks its connection", net.lose, net.double, net.late, net.lateMax, net.breaking)
	n.later(time.Second, 8*time.Second, "calm", net.calm)
}

// packets are lost for a while, which no message is: the streams stand still.
func (n *links) packets() {
	percent, tuned := pick(n.w.rnd, 5, 15, 30), n.w.oneIn(2)
	n.tell(nil, "%d packets in a hundred are lost, more streams and short pauses: %v", percent, tuned)
	n.w.net.lossyStreams(percent, tuned)
	n.later(2*time.Second, 10*time.Second, "no packet is lost", func() { clear(n.w.net.lossy) })
}

func (n *links) clog() {
	if all := n.addresses(); len(all) > 1 {
		until := n.w.now + n.w.between(100*time.Millisecond, 3*time.Second)
		n.tell(nil, "from %s to %s nothing moves until %v", all[0], all[1], until)
		n.w.net.clogs[direction{all[0], all[1]}] = until
	}
}

// leaveBehind cuts one member off while the others go on and compact their logs.
func (n *links) leaveBehind() {
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

// abandon cuts the leader off with many proposals that only it has, while the
// others elect another one and compact their logs: what it has is longer than the
// snapshot that it gets then.
func (n *links) abandon() {
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
