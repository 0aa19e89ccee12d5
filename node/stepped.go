package node

import (
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/node/internal/stepped"
	"github.com/octopii/octopii/raftstore"
)

func init() { stepped.Start = startStepped }

// steppedHost runs nothing by itself: a simulator takes the turns.
type steppedHost struct{ stepped.Host }

func (steppedHost) unit(*sync.WaitGroup, func())         {}
func (h steppedHost) helper(_ *sync.WaitGroup, f func()) { h.Go(f) }
func (h steppedHost) aside(_ *sync.WaitGroup, f func())  { h.Aside(f) }
func (h steppedHost) timer(f func()) stepped.Timer       { return h.Timer(f) }
func (h steppedHost) now() time.Time                     { return h.Now() }
func (h steppedHost) await(f func(), _ <-chan struct{}) <-chan struct{} {
	f()
	return nil
}
func (h steppedHost) decided(eff *core.Effects) { h.Decided(eff) }

// steppedNode is a Node whose turns somebody else takes. The goroutines of an
// ordinary one do the same in loops of their own.
type steppedNode struct{ n *Node }

func startStepped(cfg stepped.Config) (stepped.Node, error) {
	c := cfg.Node.(Config)
	c.fs, c.cacheBytes, c.requestWindow = cfg.FS, cfg.CacheBytes, cfg.RequestWindow
	n, err := startOn(c, steppedHost{cfg.Host})
	if err != nil {
		return nil, err
	}
	return steppedNode{n}, nil
}

func (s steppedNode) Node() any { return s.n }

func (s steppedNode) Work() stepped.Work {
	l := s.n.snapshots.loop
	return stepped.Work{
		Loop:   len(s.n.inbox.wake) > 0 || l.core != nil && l.core.More(),
		Append: s.n.appender.jobs.waiting(),
		Apply:  s.n.applier.jobs.waiting(),
	}
}

func (s steppedNode) Loop(ticks int) {
	select {
	case <-s.n.inbox.wake:
	default:
	}
	s.n.snapshots.loop.turn(ticks)
	s.n.events.flush()
}

func (s steppedNode) Append() {
	if s.n.appender.jobs.waiting() {
		if jobs, ok := s.n.appender.jobs.take(nil); ok {
			s.n.appender.turn(jobs)
		}
	}
}

func (s steppedNode) Apply() {
	if s.n.applier.jobs.waiting() {
		if jobs, ok := s.n.applier.jobs.take(nil); ok {
			s.n.applier.turn(jobs)
		}
	}
}

func (s steppedNode) Submit(r core.Request, done func(stepped.Answer)) func() error {
	if err := s.n.open(); err != nil {
		if r.Kind == core.Propose {
			err = neverProposed(err)
		}
		done(stepped.Answer{Err: err})
		return func() error { return err }
	}
	w := newWaiterFor(func(a answer) {
		done(stepped.Answer{Index: a.Index, Data: a.data, Membership: a.Membership, Err: publicError(a.Err)})
	})
	r.Waiter = w
	s.n.inbox.request(r)
	return w.quit
}

func (s steppedNode) Snapshot(done func(uint64, error)) {
	if err := s.n.open(); err != nil {
		done(0, err)
		return
	}
	s.n.inbox.call(func() {
		s.n.snapshots.take(func(info SnapshotInfo, err error) { done(info.Index, err) })
	})
}

func (s steppedNode) Store() *raftstore.Store     { return s.n.store }
func (s steppedNode) HardState() raftpb.HardState { return s.n.store.Durable() }

func (s steppedNode) Close() error {
	s.Append()
	s.n.closeOnce.Do(func() {
		s.n.stop(ErrClosed)
		s.n.closeErr = s.n.shutdown()
	})
	return s.n.closeErr
}
