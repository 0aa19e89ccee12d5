package sim

import (
	"path"
	"syscall"
	"time"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// disk is a member's disk: files in memory that know what a loss of power may
// undo, and the faults that strike their operations.
type disk struct {
	w   *world
	m   *member
	mem *vfstest.Mem
	// renamed are the names that files have since they were opened.
	renamed map[string]string
	fs      *vfstest.Faulty

	power
	pace
	// readOnly: the file system could not write its journal, and takes no change
	// until the machine starts again.
	readOnly bool
	// failing is what the next operation of a kind fails with.
	failing map[vfstest.Kind]error
	// struck: one did, so that the process must end.
	struck bool
	// roomless: it was full once.
	roomless bool
	// refusedLog: an operation on the log failed of which the appender must know.
	refusedLog bool
}

// power is that of the disk's machine, and where among its changes it will fail.
type power struct {
	// crashIn is how many changes are still let through before the power fails;
	// negative: it does not. dead: it has.
	crashIn int
	dead    bool
	// crashAt is a kind of change at which the power fails, before it or, with
	// crashAfter, before the next one; empty: it does not.
	crashAt    vfstest.Kind
	crashAfter bool
}

// failsAt says whether the power fails before a change.
func (p *power) failsAt(kind vfstest.Kind) bool {
	if p.crashAt == kind {
		p.crashAt, p.crashIn = "", 0
		if p.crashAfter {
			p.crashIn = 1
		}
	}
	if p.crashIn == 0 {
		p.dead = true
		return true
	}
	p.crashIn = max(p.crashIn-1, -1)
	return false
}

// pace is how long a disk takes, in which others go on.
type pace struct {
	// fast and slow bound how long a group of appends takes; stalled is until when
	// nothing is written at all.
	fast, slow time.Duration
	stalled    time.Duration
	// hung is until when a write hangs at least, also if the disk is mended.
	hung time.Duration
	// pause is called before a file of the log is written or synced, while the
	// appender works: others go on meanwhile. gone: the process ended there.
	pause func(time.Duration)
	gone  bool
}

// take lets the time pass that a write or a sync of the log takes.
func (p *pace) take(w *world, kind vfstest.Kind) {
	switch {
	case kind == vfstest.Sync:
		p.pause(w.between(p.fast, p.slow))
		for p.stalled > w.now && !p.gone { // it may be mended meanwhile
			p.hung = w.now + min(p.stalled-w.now, 100*time.Millisecond)
			p.pause(p.hung - w.now)
		}
	case w.oneIn(8):
		p.pause(w.between(0, p.fast))
	}
}

// latency is how long the next group of appends takes.
func (p *pace) latency(w *world) time.Duration {
	t := w.between(p.fast, p.slow)
	return max(t, p.stalled-w.now)
}

func newDisk(m *member) *disk {
	d := &disk{w: m.w, m: m, pace: pace{fast: 50 * time.Microsecond, slow: 2 * time.Millisecond}}
	d.plug(vfstest.NewMem())
	return d
}

// plug gives the disk a content, without faults.
func (d *disk) plug(mem *vfstest.Mem) {
	d.mem, d.failing, d.power = mem, nil, power{crashIn: -1}
	d.renamed = map[string]string{}
	d.readOnly, d.struck, d.refusedLog = false, false, false
	var fs *vfstest.Faulty
	fs = vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		if fs != d.fs { // of a process that has ended
			return vfstest.ErrCrashed
		}
		return d.strike(op)
	})
	d.fs = fs
}

// strike decides what becomes of an operation.
func (d *disk) strike(op vfstest.Op) error {
	op.Path = d.name(op)
	err := d.decide(op)
	if err == nil && op.Kind == vfstest.Rename {
		d.renamed[op.Path] = op.To
	}
	return err
}

// name is what the file of an operation is called now. An open one is known by the
// name under which it was opened: a segment of the log was a spare then.
func (d *disk) name(op vfstest.Op) string {
	switch op.Kind {
	case vfstest.Read, vfstest.Write, vfstest.Sync, vfstest.Truncate:
		if now, ok := d.renamed[op.Path]; ok {
			return now
		}
	case vfstest.Create, vfstest.Open, vfstest.OpenReadWrite:
		delete(d.renamed, op.Path) // another file
	}
	return op.Path
}

func (d *disk) decide(op vfstest.Op) error {
	log := d.pause != nil && (op.Kind == vfstest.Write || op.Kind == vfstest.Sync) && path.Ext(op.Path) == ".seg"
	if log && !d.dead && !d.gone {
		d.take(d.w, op.Kind)
	}
	if d.dead || d.gone {
		return vfstest.ErrCrashed
	}
	if l := d.m.log; l != nil && l.writes && op.Changes() && !d.w.byHand && d.w.oneIn(probeWithin) {
		l.probe()
	}
	if op.Changes() {
		if d.failsAt(op.Kind) {
			return vfstest.ErrCrashed
		}
		if d.readOnly {
			return syscall.EROFS
		}
	}
	err, ok := d.failing[op.Kind]
	if !ok {
		return nil
	}
	delete(d.failing, op.Kind)
	d.struck = true
	d.refusedLog = d.refusedLog || log
	switch op.Kind {
	case vfstest.SyncDir, vfstest.Rename, vfstest.Create:
		// Names are in the journal.
		d.readOnly = true
	case vfstest.Sync:
		// What Linux does: the pages are dropped, and called clean.
		if _, err := d.mem.Stat(op.Path); err == nil { // else the file was removed
			d.mem.DropUnsynced(op.Path, d.w.rnd)
		}
	case vfstest.Write:
		if d.w.oneIn(2) {
			// Whole sectors, as a kernel stops between two of its pages.
			n := d.w.rnd.IntN(int(op.Length) + 1)
			return &vfstest.ShortWrite{N: max(0, n-int(op.Offset+int64(n))%vfstest.SectorSize), Err: err}
		}
	}
	return err
}

// loses says what the end of a process leaves: all that it wrote, or, when the
// power fails, some of it.
func (d *disk) loses(power bool) {
	if power || d.dead || d.readOnly {
		d.plug(d.mem.Crash(d.w.rnd))
		return
	}
	d.plug(d.mem.CrashKeepingAll())
}

// errors that disks have.
var errIO error = syscall.EIO
