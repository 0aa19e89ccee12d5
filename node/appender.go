package node

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// idleAfter is for how long nothing must have been appended before the log is
// told so. It is longer than the pause that a single caller makes between two
// proposals, which is a round to a follower and its fsync, so that steady load
// pays for no mark; and shorter than anybody needs to pull a plug.
const idleAfter = 5 * time.Millisecond

// appender makes appends durable. Its goroutine owns the writing side of the
// store. While one fsync runs the next appends queue up, and all of them go
// into the one after it: group commit.
//
// A full disk is no error: what does not fit waits here, in its order, until
// there is space again.
type appender struct {
	node   *group
	writer *raftstore.Writer
	jobs   *mailbox[appendJob]
	taken  []appendJob
	wg     sync.WaitGroup

	// backlog is what is not done yet: while the disk is full, more than what came
	// last. batches and done are only there to be used again.
	backlog []appendJob
	batches []wal.Batch
	done    []*core.Append

	// quiet fires when nothing came for a while after an append; unproven says
	// that there was one since the log was last told that it is idle.
	quiet    stepped.Timer
	unproven bool

	next nextFile
}

// appendJob is an append, the mark of a local snapshot, or a reason to look at
// what there is to do.
type appendJob struct {
	append *core.Append
	// mark makes a mark, or gives up the log before one, and tells the loop.
	mark func(*raftstore.Writer) error
	wake wake
	// err is what came of a wakeReserved, and lend what a wakeLend wants.
	err  error
	lend bool
}

// wake is why the appender was woken, if not for work.
type wake uint8

const (
	notWoken wake = iota
	// wakeQuiet: nothing came for a while.
	wakeQuiet
	// wakeRetry: it is time to try a full disk again.
	wakeRetry
	// wakeReserved: an attempt to make the next file is over.
	wakeReserved
	// wakeLend: the state machine waits for room, or does no more.
	wakeLend
)

func newAppender(g *group, w *raftstore.Writer) *appender {
	a := &appender{node: g, writer: w, jobs: newMailbox[appendJob](g.host.bell())}
	a.quiet = a.timer(wakeQuiet)
	a.next = nextFile{node: g, writer: w, jobs: a.jobs, retry: a.timer(wakeRetry)}
	if a.writer.Initialized() { // else the loop makes the log, later
		a.next.begin()
	}
	g.host.unit(&a.wg, a, a.jobs.bell, 0)
	return a
}

// timer wakes the appender each time that it is set and not stopped.
func (a *appender) timer(why wake) stepped.Timer {
	return a.node.host.timer(func() { a.jobs.put(appendJob{wake: why}) })
}

// close waits until everything that was queued is done or refused. What a full
// disk kept waiting is dropped: nobody was told that it is durable.
func (a *appender) close() {
	a.jobs.close()
	a.wg.Wait()
	a.quiet.Stop()
	a.next.close()
}

func (a *appender) ready() bool { return a.jobs.waiting() }

// turn takes the jobs that are there.
func (a *appender) turn(int) bool {
	var open bool
	if a.taken, open = a.jobs.take(a.taken); len(a.taken) == 0 {
		return open
	}
	if err := a.take(a.taken); err != nil {
		// The store refuses everything from here on, and so nothing that is
		// still queued is ever acknowledged.
		a.backlog = nil
		a.node.fatal(err)
	}
	return true
}

// take does what there is to do and prepares what may come next.
func (a *appender) take(jobs []appendJob) error {
	if len(jobs) == 1 && jobs[0].wake == wakeQuiet {
		return a.idle()
	}
	a.quiet.Stop()
	again, err := a.sort(jobs)
	if err != nil {
		return err
	}
	if again || !a.node.space.stuck.Load() {
		if err := a.work(); err != nil {
			return err
		}
	}
	back, err := a.next.look(a.node.space.stuck.Load())
	if back { // an attempt to tell that the log rests may have failed
		a.unproven = true
		a.quiet.Reset(idleAfter)
	}
	return err
}

// sort puts work behind the backlog and takes notice of the rest. again says
// that a backlog that did not fit is worth another try.
func (a *appender) sort(jobs []appendJob) (again bool, err error) {
	for i := range jobs {
		switch j := &jobs[i]; j.wake {
		case notWoken:
			if j.mark != nil && a.node.space.stuck.Load() {
				// It needs nothing of what waits, and may free what that waits for.
				a.node.watchdog.log.begin()
				err := a.special(j)
				a.node.watchdog.log.end()
				if err != nil {
					return false, err
				}
				again = true // what a mark covers may go on without a whole file
				continue
			}
			a.backlog = append(a.backlog, *j)
		case wakeLend:
			a.next.lend = j.lend
		case wakeRetry:
			a.next.retrying = false
			again = again || a.writer.Reserved()
		case wakeReserved:
			switch err := a.next.made(j.err); {
			case err == nil:
				again = true
			case errors.Is(err, wal.ErrNoSpace):
				again = again || a.node.space.stuck.Load() // what a mark covers needs less
			default:
				return false, err
			}
		}
	}
	return again, nil
}

// work does the backlog, as far as the disk has room.
func (a *appender) work() error {
	if len(a.backlog) == 0 {
		return nil
	}
	start := a.node.host.now()
	a.node.space.waits.Store(false)
	n, err := a.do(a.backlog)
	a.backlog = slices.Delete(a.backlog, 0, n)
	if errors.Is(err, wal.ErrNoSpace) {
		a.next.noSpace(err)
		err = nil
	}
	a.node.space.stuck.Store(len(a.backlog) > 0)
	a.node.space.waits.Store(len(a.backlog) > 0)
	if n > 0 {
		a.unproven = true
		// On a slow disk a caller's pauses are longer.
		a.quiet.Reset(max(idleAfter, 2*a.node.host.now().Sub(start)))
	}
	return err
}

// do performs jobs in order, neighbouring appends together. It returns how many
// are done. With wal.ErrNoSpace nothing of the others is.
func (a *appender) do(jobs []appendJob) (done int, err error) {
	for done < len(jobs) {
		n := nextGroup(jobs[done:])
		a.node.watchdog.log.begin()
		if n > 0 {
			err = a.write(jobs[done : done+n])
			if n > 1 && errors.Is(err, wal.ErrNoSpace) { // one may have room where all have not
				n = 1
				err = a.write(jobs[done : done+n])
			}
		} else {
			n = 1
			err = a.special(&jobs[done])
		}
		a.node.watchdog.log.end()
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// group returns how many appends at the front are written together; 0 if what
// comes first stands for itself.
func nextGroup(jobs []appendJob) int {
	size := 0
	for i := range jobs {
		if jobs[i].append == nil || jobs[i].append.Snapshot != nil {
			return i
		}
		for j := range jobs[i].append.Entries {
			size += len(jobs[i].append.Entries[j].Data)
		}
		if size >= groupBytesMax {
			return i + 1
		}
	}
	return len(jobs)
}

// write makes appends durable together and tells the loop.
func (a *appender) write(jobs []appendJob) error {
	for i := range jobs {
		b := jobs[i].append
		a.batches = append(a.batches, wal.Batch{Entries: b.Entries, HardState: b.HardState})
		a.done = append(a.done, b)
	}
	start := time.Now()
	err := a.writer.Append(a.batches)
	if err == nil {
		a.node.metrics.appends.Observe(time.Since(start).Seconds())
		a.tell(a.done...)
	}
	empty(&a.batches)
	empty(&a.done)
	return err
}

func (a *appender) tell(done ...*core.Append) {
	a.node.inbox.add(func(in *core.Input) { in.Appended = append(in.Appended, done...) })
}

// special does what cannot be put together with others.
func (a *appender) special(j *appendJob) error {
	if j.mark != nil {
		err := j.mark(a.writer)
		if errors.Is(err, wal.ErrNoSpace) {
			// It was told as a snapshot that failed; the next one is due soon.
			a.next.noSpace(err)
			return nil
		}
		return err
	}
	return a.install(j.append)
}

// idle tells the log, once after the last append, that it rests. Nobody waits
// for what it writes then.
func (a *appender) idle() error {
	if !a.unproven || a.node.space.stuck.Load() {
		return nil
	}
	a.unproven = false
	a.node.watchdog.log.begin()
	err := a.writer.Idle()
	a.node.watchdog.log.end()
	if errors.Is(err, wal.ErrNoSpace) {
		a.next.noSpace(err)
		return nil
	}
	return err
}
