package node

import (
	"errors"
	"fmt"
	"sync"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
)

// applier owns the state machine: its goroutine makes all calls to it.
type applier struct {
	node *group
	sm   StateMachine
	jobs *mailbox[applyJob]
	wg   sync.WaitGroup

	// taken are the jobs of the last turn, and left how many of them, the last ones, wait
	// for a snapshot that cannot be restored yet.
	taken []applyJob
	left  int
	again retry

	// durable is the index up to which the state machine had everything when it
	// was opened: entries up to it are not given to it again. Invariant: it only
	// grows.
	durable uint64
	// label is the state that the state machine has now.
	label core.Label

	entries []Entry
	waiters []*waiter
	applied []*core.Apply
}

// applyJob is one of: entries to apply, a snapshot to restore, a snapshot to capture.
type applyJob struct {
	apply    *core.Apply
	restore  *raftstore.SnapshotHeader
	snapshot *snapshotJob
}

func newApplier(g *group) *applier {
	a := &applier{node: g, sm: g.cfg.StateMachine, jobs: newMailbox[applyJob](g.host.bell())}
	a.again.timer = g.host.timer(func() {
		a.again.due.Store(true)
		a.jobs.bell.ring()
	})
	return a
}

// start begins to apply behind label. Entries up to durable are known to the
// state machine already.
func (a *applier) start(label core.Label, durable uint64) {
	a.label, a.durable = label, durable
	a.node.host.unit(&a.wg, a, a.jobs.bell, 0)
}

// close waits until what was queued is done, or was dropped because the node
// stopped.
func (a *applier) close() {
	a.jobs.close()
	a.wg.Wait()
	a.again.timer.Stop()
}

func (a *applier) ready() bool {
	if a.left > 0 {
		return a.again.due.Load() || a.node.err() != nil && a.jobs.waiting()
	}
	return a.jobs.waiting()
}

// turn does the jobs that are there. It returns false when the state machine failed: it
// gets no more.
func (a *applier) turn(int) bool {
	switch {
	case a.left == 0:
		var open bool
		if a.taken, open = a.jobs.take(a.taken); len(a.taken) == 0 {
			return open
		}
		a.left = len(a.taken)
	case a.node.err() != nil:
		return false
	case !a.again.due.Swap(false):
		return true
	}
	for ; a.left > 0; a.left-- {
		err := a.do(&a.taken[len(a.taken)-a.left])
		if errors.Is(err, errRestoreLater) {
			return true
		}
		if err != nil {
			a.node.fatal(err)
			return false
		}
	}
	if err := a.flush(); err != nil {
		a.node.fatal(err)
		return false
	}
	return true
}

func (a *applier) do(j *applyJob) error {
	if j.apply != nil {
		a.collect(j.apply)
		if len(a.entries) >= applyEntriesMax {
			return a.flush()
		}
		return nil
	}
	if err := a.flush(); err != nil {
		return err
	}
	if j.restore != nil {
		return a.restore(*j.restore)
	}
	j.snapshot.capture(a)
	return nil
}

// The calls of the state machine. See callbacks.

func (a *applier) callApply() ([][]byte, error) {
	a.node.callbacks.applier.enter("StateMachine.Apply")
	defer a.node.callbacks.applier.leave()
	return a.sm.Apply(a.entries)
}

func (a *applier) callSnapshot() (Snapshot, error) {
	a.node.callbacks.applier.enter("StateMachine.Snapshot")
	defer a.node.callbacks.applier.leave()
	return a.sm.Snapshot()
}

func (a *applier) callDurable() uint64 {
	a.node.callbacks.applier.enter("StateMachine.Durable")
	defer a.node.callbacks.applier.leave()
	index, _ := a.sm.Durable()
	return index
}

func (a *applier) callRestore(h raftstore.SnapshotHeader) error {
	a.node.callbacks.applier.enter("StateMachine.Restore")
	defer a.node.callbacks.applier.leave()
	return restoreFrom(a.node, a.sm, h)
}

// collect adds a batch to the next call of Apply.
func (a *applier) collect(b *core.Apply) {
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Index <= a.durable {
			continue // the state machine has it from before the restart
		}
		a.entries = append(a.entries, Entry{Index: e.Index, Term: e.Term, Data: e.Data})
		w, _ := e.Waiter.(*waiter)
		a.waiters = append(a.waiters, w)
	}
	a.applied = append(a.applied, b)
	a.label = b.Label
}

// flush gives the collected entries to the state machine, answers the callers
// and tells the loop.
func (a *applier) flush() error {
	if len(a.applied) == 0 {
		return nil
	}
	if len(a.entries) > 0 {
		results, err := a.callApply()
		first, last := a.entries[0].Index, a.entries[len(a.entries)-1].Index
		if err != nil {
			return fmt.Errorf("node: the state machine failed to apply entries %d to %d: %w", first, last, err)
		}
		if results != nil && len(results) != len(a.entries) {
			return fmt.Errorf("node: the state machine returned %d results for the %d entries %d to %d", len(results), len(a.entries), first, last)
		}
		a.node.applied.Store(a.label.Index)
		a.answer(results)
	}
	applied := a.applied
	a.node.inbox.add(func(in *core.Input) { in.Applied = append(in.Applied, applied...) })
	empty(&a.entries)
	empty(&a.waiters)
	empty(&a.applied)
	return nil
}

func (a *applier) answer(results [][]byte) {
	for i, w := range a.waiters {
		if w == nil {
			continue
		}
		ans := answer{Outcome: core.Outcome{Index: a.entries[i].Index}}
		if results != nil {
			ans.data = results[i]
		}
		w.finish(ans)
	}
}
