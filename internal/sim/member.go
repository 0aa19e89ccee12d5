package sim

import (
	"fmt"
	"iter"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
)

const (
	roleLeader = node.Leader
	// dataDir is where a member's files are on its disk.
	dataDir = "/data"
)

// member is one member of the cluster: a process that comes and goes, and a disk
// that stays.
type member struct {
	w       *world
	id      uint64
	disk    *disk
	machine *machine
	launch
	fate
	process
	helpers helpers
	drift
	// dark: its machine has no power. Nothing there refuses a connection, and those
	// that there were do not break.
	dark bool
	// log is what its log has taken, since it was last opened or made; nil: it has
	// none. installs counts the snapshots that took the place of its log.
	log      *watchedLog
	installs int
	// chains are those of the states that this life had, by index, since images of disks
	// were put back: see images.go.
	chains map[uint64]uint64
	// view is what the checker knows of it.
	view view
}

// launch is how a member is started: what an operator would write on its command line.
type launch struct {
	address string
	// founder and join are how it first starts.
	founder bool
	join    []string
	// expect is node.Config's, and listens its FoundAfterTicks.
	expect, listens int
	// rejoins and replaces: it takes another one's place.
	rejoins  bool
	replaces uint64
	// priority is in its record when it founds or joins.
	priority int
	// acceptLoss is node.Config's, and gaveUp whether it ever was.
	acceptLoss, gaveUp bool
	// reads is up to which format level its program reads; 0: as far as it really does.
	reads uint32
}

// fill sets what of a Config is the operator's.
func (l *launch) fill(c *node.Config) {
	c.Bootstrap, c.FoundAfterTicks, c.Expect, c.Join = l.founder, l.listens, l.expect, l.join
	c.Rejoin, c.Replaces, c.Priority, c.AcceptLoss = l.rejoins, l.replaces, l.priority, l.acceptLoss
}

// fate is what became of a member over all of its lives, as those know who look from outside.
type fate struct {
	// knows: a member of the cluster came here and wanted another one, and this one had a
	// turn since, so that its disk says it. phantom: it is of another cluster than that of
	// this world. See founding.go.
	knows, phantom bool
	// heir is how it took the place of another one.
	heir heirs
	// noShow: it was added, and never runs. gone: it is not started again.
	noShow, gone bool
	// wiped: its disk was, and it came back under its old ID. voted: it had a vote
	// by then.
	wiped, voted bool
	// lostLog: its log is lost, and its identity is not.
	lostLog bool
}

// process is what runs of a member, one life after another.
type process struct {
	// node is nil while the process does not run. life counts its starts: what was
	// meant for an earlier one does not happen.
	node stepped.Node
	real *node.Node
	life int
	end  *endpoint
	// ended is why the process ended by itself.
	ended error
	// paused: the process does not run, and does not know; held is what happened
	// meanwhile.
	paused bool
	held   []*event
	// awakeSince is when it started, or was paused last.
	awakeSince time.Duration
	// state is the number of its last state, of its coverage.
	state uint32
	// told: a member of the cluster came here in this life and wanted another one.
	told bool
	// due: a turn of that part is on its way. writing is the appender's, if it has
	// begun.
	due     stepped.Work
	writing *writing
	// receives is the snapshot that it gets; nil: none.
	receives *stream
	// remembered is the term of a leader that remembers more than it has: see
	// breakdowns.forge. beats counts the heartbeats of that kind in this life.
	remembered uint64
	beats      int
}

// begins forgets what the last life left.
func (p *process) begins(now time.Duration) {
	p.life++
	p.ended, p.due, p.remembered, p.beats, p.told = nil, stepped.Work{}, 0, 0, false
	p.awakeSince, p.state = now, 0
}

// ends leaves nothing of a life.
func (p *process) ends() {
	p.node, p.real, p.end, p.receives = nil, nil, nil, nil
	p.life++
	p.paused, p.held = false, nil
}

// up says whether the process runs, paused or not.
func (p *process) up() bool { return p.node != nil }

// awake says whether it also does something.
func (p *process) awake() bool { return p.node != nil && !p.paused }

func (p *process) status() node.Status { return p.real.Status() }

// drift is how wrong a member's clock is.
type drift struct {
	// rate is how fast it goes, and offset by how much it is wrong.
	rate   float64
	offset time.Duration
}

// clock is how long a duration by the member's clock really is.
func (d *drift) clock(by time.Duration) time.Duration { return time.Duration(float64(by) / d.rate) }

// writing is a turn of the appender that is under way: it pauses while the disk
// works.
type writing struct {
	next func() (time.Duration, bool)
	stop func()
}

// addMember makes a member that does not run yet.
func (w *world) addMember() *member {
	m := &member{w: w, id: w.nextID, drift: drift{rate: 1}}
	m.helpers.m = m
	m.disk = newDisk(m)
	m.address = fmt.Sprintf("n%d", m.id)
	m.machine = newMachine(m)
	m.reads = w.cfg.reads
	if at := len(w.members); w.byHand && at < len(w.cfg.priorities) {
		m.priority = w.cfg.priorities[at]
	} else if !w.byHand {
		m.priority = pick(w.rnd, 0, 0, 1, 2)
	}
	w.nextID++
	w.members = append(w.members, m)
	return m
}

func (m *member) name() string { return fmt.Sprintf("n%d", m.id) }

// after has something happen to this life of the member.
func (m *member) after(d time.Duration, what string, f func()) { m.w.push(d, what, m, f) }

// start starts the process.
func (m *member) start() {
	if m.node != nil || m.gone {
		return
	}
	w, c := m.w, &m.w.cfg
	m.begins(w.now)
	m.dark = false
	before := m.log
	m.log = nil
	if m.chains != nil {
		m.chains = map[uint64]uint64{}
	}
	m.machine.restart()
	m.end = newEndpoint(m)
	logger := zap.NewNop()
	if w.trace != nil {
		logger = zap.New(traceCore{m: m})
	}
	cfg := node.Config{
		ID: m.id, Dir: dataDir, StateMachine: m.machine, Transport: m.end,
		FailoverByTimeout:   c.failoverByTimeout,
		WAL:                 watched{wal.New(wal.Options{FS: m.disk.fs, SegmentBytes: c.segmentBytes}), m},
		TickInterval:        c.tick,
		ElectionTicks:       c.electionTicks,
		SnapshotEntries:     c.snapshotEntries,
		SnapshotLogBytes:    c.snapshotLogBytes,
		TrailingEntries:     c.trailingEntries,
		MessageBytesMax:     c.messageBytes,
		InflightMessagesMax: c.inflight,
		PromoteLagMax:       c.promoteLag,
		JoinTimeoutTicks:    c.joinTimeoutTicks,
		StallLimit:          c.stallLimit,
		Logger:              logger,
	}
	m.fill(&cfg)
	n, err := stepped.Start(stepped.Config{FS: m.disk.fs, Host: host{m}, CacheBytes: c.cacheBytes, RequestWindow: c.requestWindow,
		OldestFormat: min(1, m.reads), NewestFormat: m.reads, Node: cfg})
	if err != nil {
		m.end.close()
		m.log = before
		w.tell(m, "does not start: %v", err)
		w.check.refused(m, err)
		m.stopped(err)
		return
	}
	m.node, m.real = n, n.Node().(*node.Node)
	w.tell(m, "starts")
	w.check.started(m)
	m.tick()
	m.settle()
	if !w.byHand && w.oneIn(3) { // its state machine may be ahead of its log
		m.after(w.between(0, 2*c.loopMax), "snapshot", func() { w.nemesis.snapshotOf(m) })
	}
}

// tick lets the member's clock tick, for as long as it lives.
func (m *member) tick() {
	m.after(m.clock(m.w.cfg.tick), "tick", func() {
		m.view.ticks++
		if w := m.w; w.net.troubled() || m.disk.struck || m.disk.stalled > w.now || m.rate != 1 {
			w.troubled = w.now
		}
		m.seek()
		m.node.Loop(1)
		m.w.check.looked(m)
		if m.phantom && m.node != nil {
			m.askPhantom()
		}
		m.tick()
	})
}

// settle looks at what an event left to do.
func (m *member) settle() {
	if m.node == nil {
		return
	}
	if m.disk.dead {
		m.w.tell(m, "the power fails within a write")
		m.kill(true)
		m.restartLater()
		return
	}
	select {
	case <-m.real.Done():
		m.stopped(m.real.Err())
		return
	default:
	}
	w, work := m.w, m.node.Work()
	if work.Loop && !m.due.Loop {
		m.due.Loop = true
		m.after(w.between(time.Microsecond, w.cfg.loopMax), "loop", func() {
			m.due.Loop = false
			m.node.Loop(0)
			w.check.looked(m)
		})
	}
	if work.Append && !m.due.Append {
		m.due.Append = true
		if w.byHand {
			m.after(m.disk.latency(m.w), "append", m.appendAtOnce)
		} else {
			m.after(w.between(time.Microsecond, w.cfg.appendMax), "append", m.append)
		}
	}
	if work.Apply && !m.due.Apply {
		m.due.Apply = true
		m.after(w.between(time.Microsecond, w.cfg.applyMax), "apply", func() {
			m.due.Apply = false
			m.node.Apply()
		})
	}
}

// append begins a turn of the appender. While the disk writes for it everything
// else goes on, as it does beside a thread: what is told before it is done is
// found out.
func (m *member) append() {
	n := m.node
	var t writing
	t.next, t.stop = iter.Pull(func(yield func(time.Duration) bool) {
		m.disk.pause = func(d time.Duration) {
			m.disk.gone = !yield(d)
		}
		n.Append()
	})
	m.writing = &t
	m.write()
}

// appendAtOnce lets the appender do all of its turn in one moment, unless the disk
// stalled meanwhile: in a script the disk has worked when it is over.
func (m *member) appendAtOnce() {
	if wait := m.disk.stalled - m.w.now; wait > 0 {
		m.after(wait, "append", m.appendAtOnce)
		return
	}
	m.due.Append = false
	m.node.Append()
}

// write goes on with the turn of the appender up to its next pause.
func (m *member) write() {
	wait, more := m.writing.next()
	if more {
		m.after(wait, "write", m.write)
		return
	}
	m.writing, m.disk.pause, m.due.Append = nil, nil, false
	m.w.check.wrote(m)
}

// stopWriting ends the appender where it is: nothing that it still wants to do
// happens.
func (m *member) stopWriting() {
	if m.writing == nil {
		return
	}
	m.writing.stop()
	m.writing, m.disk.pause, m.disk.gone = nil, nil, false
}

// stopped is called when the process ended by itself.
func (m *member) stopped(err error) {
	m.w.tell(m, "stops: %v", err)
	m.ended = err
	struck := m.disk.struck
	dead := m.disk.dead
	m.kill(false)
	m.w.check.stopped(m, err, struck || dead)
	m.w.nemesis.stopped(m, err, struck || dead)
}

// kill ends the process; with power, the machine with it.
func (m *member) kill(power bool) {
	m.dark = m.dark || power
	if m.end != nil {
		m.end.close()
	}
	m.stopWriting()
	m.helpers.stop()
	if m.node != nil {
		m.w.check.killed(m)
	}
	m.ends()
	m.disk.loses(power)
	m.machine.crash()
	for _, c := range m.w.clients {
		c.lost(m)
	}
}

// restartLater starts the process again after a while.
func (m *member) restartLater() {
	if m.w.byHand {
		return
	}
	m.after(m.w.between(m.w.cfg.tick, 20*m.w.cfg.tick), "restart", m.start)
}

// pause stops the process without its noticing.
func (m *member) pause() { m.paused = m.node != nil }

// resume lets everything happen at once that was held back.
func (m *member) resume() {
	if !m.paused {
		return
	}
	m.paused, m.awakeSince = false, m.w.now
	held := m.held
	m.held = nil
	for _, e := range held {
		m.w.push(0, e.what, m, e.do)
	}
}
