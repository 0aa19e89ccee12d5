package node

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
)

// watchdogBeats is how often the watchdog looks within Config.StallLimit.
const watchdogBeats = 8

// watchdog ends a node whose disk does not answer. It looks now and then whether
// the same operation is still under way, and depends on none of those who wait for
// one: the loop reads the log, and may hang as well.
//
// It counts its own looks and asks no clock: a process that was stopped, or whose
// machine slept, has missed them, and is not taken for one whose disk hung.
type watchdog struct {
	node *group
	// queued says whether something waits to be appended.
	queued func() bool
	// loop are the loop's turns, with its reads of the log as steps, log the appender's writes, and files what is written
	// beside the log: snapshots, and files for the log that are made ahead.
	loop, log, files progress
	// expired is closed when one of them took longer than the limit; nil: never.
	expired chan struct{}

	mu     sync.Mutex
	timer  stepped.Timer
	closed bool
}

// progress counts operations. Any goroutine may begin and end some.
type progress struct {
	begun, ended atomic.Uint64
	// steps counts what went well inside operations that are under way.
	steps atomic.Uint64
	// seen is how many operations and steps had ended when the watchdog looked last, and
	// beats how often in a row it was the same while one was under way. The watchdog's own.
	seen  uint64
	beats int
}

func (p *progress) begin() { p.begun.Add(1) }
func (p *progress) end()   { p.ended.Add(1) }
func (p *progress) step()  { p.steps.Add(1) }

// hangs looks, and says whether nothing has ended for the limit. due: there is
// something to begin.
func (p *progress) hangs(due bool) bool {
	ended := p.ended.Load()
	seen := ended + p.steps.Load()
	if seen == p.seen && (due || p.begun.Load() > ended) {
		p.beats++
	} else {
		p.beats = 0
	}
	p.seen = seen
	return p.beats >= watchdogBeats
}

// watchedLog is the log as the core reads it. A read that returns shows that the disk
// answers, however many of them a turn of the loop makes: a turn that takes long is slow,
// and no reason to end.
type watchedLog struct {
	core.Storage
	loop *progress
}

func (w watchedLog) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	defer w.loop.step()
	return w.Storage.Entries(lo, hi, maxSize)
}

// start begins to look, unless Config.StallLimit is negative.
func (w *watchdog) start(g *group, queued func() bool) {
	if g.cfg.StallLimit > 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.node, w.queued, w.expired = g, queued, make(chan struct{})
		w.timer = w.node.host.timer(w.look)
		w.timer.Reset(w.period())
	}
}

func (w *watchdog) period() time.Duration {
	return max(w.node.cfg.StallLimit/watchdogBeats, time.Millisecond)
}

// look looks at everything once.
func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	log, loop, files := w.log.hangs(w.queued()), w.loop.hangs(false), w.files.hangs(false)
	switch {
	case log:
		w.expire("a write to the log")
	case loop:
		w.expire("a read of the log")
	case files:
		w.expire("writing a snapshot, or a file for the log,")
	default:
		w.timer.Reset(w.period())
	}
}

// expire stops the node, and lets Close leave behind what hangs.
func (w *watchdog) expire(what string) {
	cfg := &w.node.cfg
	w.node.fatal(fmt.Errorf("%w: %s did not return in %v; check the disk of %s", ErrDiskStalled, what, cfg.StallLimit, cfg.Dir))
	close(w.expired)
}

func (w *watchdog) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// diskState tells when the log's disk hangs, and when it does no longer. It belongs
// to the loop.
type diskState struct{ stalled bool }

// look takes for how many ticks the oldest write has not returned.
func (d *diskState) look(l *loop, unwritten int) {
	limit := l.cfg.StallTicks
	if stalled := limit > 0 && unwritten > limit; stalled != d.stalled {
		d.stalled = stalled
		took := time.Duration(unwritten) * l.cfg.TickInterval
		if stalled {
			l.log.Warn("the disk stalls: a write to the log has not returned; who leads hands over",
				zap.Duration("for", took), zap.String("dir", l.cfg.Dir), zap.Duration("the node ends after", l.cfg.StallLimit))
			l.events.diskStalled(took)
		} else {
			l.log.Info("the disk answers again")
		}
	}
}
