package node

import (
	"fmt"
	"sync"
	"time"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// appender makes appends durable. Its goroutine owns the writing side of the
// store. While one fsync runs the next appends queue up, and all of them go
// into the one after it: group commit.
type appender struct {
	node  *Node
	store *raftstore.Store
	jobs  *mailbox[appendJob]
	wg    sync.WaitGroup

	batches []wal.Batch
	done    []*core.Append
}

// appendJob is an append, or the mark of a local snapshot.
type appendJob struct {
	append *core.Append
	mark   *octopiipb.SnapshotHeader
	marked func(error)
}

func newAppender(n *Node) *appender {
	a := &appender{node: n, store: n.store, jobs: newMailbox[appendJob]()}
	a.wg.Go(a.run)
	return a
}

// close waits until everything that was queued is done or refused.
func (a *appender) close() {
	a.jobs.close()
	a.wg.Wait()
}

func (a *appender) run() {
	var jobs []appendJob
	for {
		var ok bool
		if jobs, ok = a.jobs.take(jobs); !ok {
			return
		}
		if err := a.do(jobs); err != nil {
			// The store refuses everything from here on, and so nothing that is
			// still queued is ever acknowledged.
			a.node.fatal(err)
		}
	}
}

// do performs the jobs in order, neighbouring appends together.
func (a *appender) do(jobs []appendJob) error {
	for i := range jobs {
		j := &jobs[i]
		if j.append != nil && j.append.Snapshot == nil {
			a.batches = append(a.batches, wal.Batch{Entries: j.append.Entries, HardState: j.append.HardState})
			a.done = append(a.done, j.append)
			continue
		}
		if err := a.flush(); err != nil {
			return err
		}
		if err := a.special(j); err != nil {
			return err
		}
	}
	return a.flush()
}

// flush makes the collected appends durable and tells the loop.
func (a *appender) flush() error {
	if len(a.batches) == 0 {
		return nil
	}
	start := time.Now()
	err := a.store.Append(a.batches)
	a.node.metrics.appends.Observe(time.Since(start).Seconds())
	clear(a.batches)
	a.batches = a.batches[:0]
	if err == nil {
		a.tell(a.done...)
	}
	clear(a.done)
	a.done = a.done[:0]
	return err
}

func (a *appender) tell(done ...*core.Append) {
	a.node.inbox.add(func(in *core.Input) { in.Appended = append(in.Appended, done...) })
}

// special does what cannot be put together with others.
func (a *appender) special(j *appendJob) error {
	if j.mark != nil {
		err := a.store.Mark(*j.mark)
		j.marked(err)
		return err
	}
	meta := j.append.Snapshot.Metadata
	r, err := a.store.OpenSnapshot(meta.Term, meta.Index)
	if err != nil {
		return fmt.Errorf("node: install the snapshot at %d: %w", meta.Index, err)
	}
	header := r.Header
	if err := r.Close(); err != nil {
		return err
	}
	if err := a.store.Install(header, j.append.HardState, j.append.Entries); err != nil {
		return err
	}
	j.append.Installed = labelOf(header)
	a.tell(j.append)
	return nil
}
