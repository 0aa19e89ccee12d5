package node

import (
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
)

func init() {
	stepped.Start = startStepped
	stepped.ConfState = core.ConfState
}

// steppedHost runs nothing by itself: a simulator asks which units are ready, and takes
// their turns.
type steppedHost struct{ stepped.Host }

func (steppedHost) bell() bell                                      { return silent{} }
func (steppedHost) unit(*sync.WaitGroup, unit, bell, time.Duration) {}
func (h steppedHost) helper(_ *sync.WaitGroup, f func())            { h.Go(f) }
func (h steppedHost) aside(_ *sync.WaitGroup, f func())             { h.Aside(f) }
func (h steppedHost) timer(f func()) stepped.Timer                  { return h.Timer(f) }
func (h steppedHost) now() time.Time                                { return h.Now() }
func (h steppedHost) await(f func(), _ <-chan struct{}) <-chan struct{} {
	f()
	return nil
}

// silent is a bell that nobody hears.
type silent struct{}

func (silent) ring() {}

// decided shows a simulator what the core decided, in the simulator's words.
func (h steppedHost) decided(eff *core.Effects) {
	d := stepped.Decision{
		Messages: eff.Messages, Snapshots: len(eff.Snapshots), Outcomes: len(eff.Outcomes),
		Membership: eff.Membership, GivenUp: eff.GivenUp,
	}
	for i := range eff.Forwards {
		d.Forwards = append(d.Forwards, stepped.Batch{To: eff.Forwards[i].To, Count: len(eff.Forwards[i].Requests)})
	}
	for i := range eff.Replies {
		d.Replies = append(d.Replies, stepped.Batch{To: eff.Replies[i].To, Count: len(eff.Replies[i].Replies)})
	}
	if a := eff.Append; a != nil {
		d.Append = &stepped.Append{Entries: a.Entries, HardState: a.HardState, Snapshot: a.Snapshot}
	}
	if eff.Apply != nil {
		d.Applies, d.ApplyTo = true, eff.Apply.Label.Index
	}
	h.Decided(&d)
}

// steppedNode is a Node whose turns somebody else takes. The goroutines of an
// ordinary one do the same in loops of their own.
type steppedNode struct{ n *Node }

func startStepped(cfg stepped.Config) (stepped.Node, error) {
	c := cfg.Node.(Config)
	c.fs, c.cacheBytes, c.requestWindow = cfg.FS, cfg.CacheBytes, cfg.RequestWindow
	c.formats = core.Formats{Oldest: cfg.OldestFormat, Newest: cfg.NewestFormat}
	n, err := startOn(c, steppedHost{cfg.Host})
	if err != nil {
		return nil, err
	}
	return steppedNode{n}, nil
}

func (s steppedNode) Node() any { return s.n }

func (s steppedNode) Work() stepped.Work {
	return stepped.Work{Loop: s.n.loop.ready(), Append: s.n.appender.ready(), Apply: s.n.applier.ready()}
}

func (s steppedNode) Loop(ticks int) {
	s.n.loop.turn(ticks)
	s.n.events.turn(0)
}

func (s steppedNode) Append() {
	s.n.appender.turn(0)
}

func (s steppedNode) Apply() {
	s.n.applier.turn(0)
}

func (s steppedNode) Propose(data []byte, done func(stepped.Answer)) func() error {
	return s.request(core.NewProposal(data, nil), done)
}

func (s steppedNode) Barrier(done func(stepped.Answer)) func() error {
	return s.request(core.Request{Kind: core.Propose, Data: core.Barrier()}, done)
}

func (s steppedNode) Read(done func(stepped.Answer)) func() error {
	return s.request(core.Request{Kind: core.Read}, done)
}

func (s steppedNode) Change(changes []octopiipb.MemberChange, done func(stepped.Answer)) func() error {
	return s.request(core.Request{Kind: core.ChangeMembership, Changes: changes}, done)
}

func (s steppedNode) Transfer(to uint64, done func(stepped.Answer)) func() error {
	return s.request(core.Request{Kind: core.Transfer, To: to}, done)
}

// request hands a request to the loop.
func (s steppedNode) request(r core.Request, done func(stepped.Answer)) func() error {
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
	return func() error { return s.n.quit(w) }
}

func (s steppedNode) Snapshot(done func(uint64, error)) {
	if err := s.n.open(); err != nil {
		done(0, err)
		return
	}
	s.n.inbox.call(func(l *loop) {
		l.snapshots.take(func(info SnapshotInfo, err error) { done(info.Index, err) })
	})
}

func (s steppedNode) View() *raftstore.View       { return s.n.loop.view }
func (s steppedNode) HardState() raftpb.HardState { return s.n.appender.writer.Durable() }

func (s steppedNode) Close() error {
	s.Append()
	s.n.closeOnce.Do(func() {
		s.n.stop(ErrClosed)
		s.n.closeErr = s.n.shutdown()
	})
	return s.n.closeErr
}
