package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
)

// snapshots takes this member's snapshots and streams them to others. It
// belongs to the loop; what it starts reports back through the inbox.
type snapshots struct {
	loop *loop
	// taking: one is under way. waiters are the TakeSnapshot calls that share it;
	// those that came later wait for the next.
	taking        bool
	waiters, next []func(SnapshotInfo, error)
	// pause is how many ticks to wait after a failure.
	pause int
	// shedTo is the mark before which the log was given up; starving is for how many ticks
	// there has been no room for the log or the state machine.
	shedTo   uint64
	starving int
	// stuckAt was applied, and nothing for stuckFor ticks, without room for more.
	stuckAt  uint64
	stuckFor int
	// lends: the log gives its spare files to the state machine.
	lends bool
	// failed are members to which streams failed, by ID. There are no more of them
	// than members that raft sent snapshots to.
	failed map[uint64]*failedStream
}

// failedStream holds the next snapshot to a member back: raft sends none while it does
// not know what became of the last one.
type failedStream struct {
	// pause is how many ticks the last wait takes, and left how many are left of it; 0:
	// raft was told.
	pause, left int
	// broken: the connection to it broke since the last stream.
	broken bool
}

const (
	// starvingTicks is for how long there must be no room before followers lose what they
	// may need of the log, and starvingForTicks if one of them does need it. It is short
	// of what they take to catch up, and long for a cluster that refuses writes.
	starvingTicks      = 30
	starvingForTicks   = 300
	snapshotRetryTicks = 50
	// streamPauseMax is the longest wait between two streams to a member that fail, in
	// ticks: 30 s if a tick takes 100 ms. The first wait is a tick, and each is twice as
	// long as the one before.
	streamPauseMax = 300
)

// tick lets the next stream begin to those that waited for long enough.
func (s *snapshots) tick(ticks int) {
	if s.starving += ticks; !s.starved() {
		s.starving = 0
	}
	if s.starving >= 2*starvingForTicks { // a snapshot may have come to be needless
		s.loop.incoming.noRoom.Store(false)
	}
	for _, to := range slices.Sorted(maps.Keys(s.failed)) {
		f := s.failed[to]
		if f.left == 0 {
			continue
		}
		if f.left = max(0, f.left-ticks); f.left == 0 {
			s.tell(to, false)
		}
	}
}

// lend lets the log give up what it has ready for later while the state machine waits for
// room: what it has to apply may be what makes some.
func (s *snapshots) lend(ticks int) {
	l := s.loop
	st := l.core.Status()
	if l.room != core.RoomFor(0) || st.Applied >= st.Commit || st.Applied != s.stuckAt {
		s.stuckAt, s.stuckFor = st.Applied, 0
	} else {
		s.stuckFor += ticks
	}
	lend := s.stuckFor >= starvingTicks
	if lend != s.lends {
		s.lends = lend
		l.log.Info("the log gives its spare files to the state machine while that waits for room", zap.Bool("gives", lend))
		l.appends.put(appendJob{wake: wakeLend, lend: lend})
	}
}

// tell tells raft how a stream went.
func (s *snapshots) tell(to uint64, ok bool) {
	s.loop.inbox.add(func(in *core.Input) {
		in.SnapshotsSent = append(in.SnapshotsSent, core.SnapshotSent{To: to, OK: ok})
	})
}

// settle notes how a stream to a member went. It runs on the loop.
func (s *snapshots) settle(to uint64, err error) {
	if err == nil {
		delete(s.failed, to)
		s.tell(to, true)
		return
	}
	if s.failed == nil {
		s.failed = make(map[uint64]*failedStream)
	}
	f := s.failed[to]
	if f == nil {
		f = new(failedStream)
		s.failed[to] = f
	}
	f.pause = min(max(1, 2*f.pause), streamPauseMax)
	f.left = f.pause
	if s.loop.ctx.Err() == nil {
		s.loop.log.Warn("a snapshot did not arrive; it is sent again after a while",
			zap.String("to", hex(to)), zap.Duration("after", time.Duration(f.left)*s.loop.cfg.TickInterval), zap.Error(err))
	}
}

// again lets the pauses begin anew for a member whose connection broke, and that connected
// again: it may have restarted, on a disk that was mended meanwhile. A stream has a
// connection of its own, which is no sign of that.
func (s *snapshots) again(id uint64) {
	if f := s.failed[id]; f != nil && f.broken {
		f.pause, f.left, f.broken = 0, min(f.left, 1), false
	}
}

// broke notes that the connection to a member broke.
func (s *snapshots) broke(id uint64) {
	if f := s.failed[id]; f != nil {
		f.broken = true
	}
}

// forget is called when the leader changes: raft knows nothing of the streams of another
// reign, and what held one back then may be over.
func (s *snapshots) forget() { s.failed = nil }

// maybeTake takes a snapshot when the log behind the last one has grown enough,
// or there is no room to grow, for it or for the state machine, which may be on the same
// volume: what is behind the snapshot is free then.
func (s *snapshots) maybeTake() {
	l := s.loop
	st := l.core.Status()
	last := l.view.SnapshotIndex()
	if s.pause > 0 {
		s.pause--
		return
	}
	if st.Applied <= last {
		s.shed()
		return
	}
	if st.Applied-last >= l.cfg.SnapshotEntries || l.view.LogBytes() >= l.cfg.SnapshotLogBytes || l.space.full.Load() || s.starving >= starvingTicks {
		s.take(nil)
	}
}

// take begins a snapshot. One that is under way may be of a state before this
// call: a caller that waits gets the next.
func (s *snapshots) take(done func(SnapshotInfo, error)) {
	if s.taking {
		if done != nil {
			s.next = append(s.next, done)
		}
		return
	}
	s.taking = true
	if done != nil {
		s.waiters = append(s.waiters, done)
	}
	(&snapshotJob{loop: s.loop}).want()
}

// finish answers those who wait for the snapshot that was under way, and begins the next one
// if somebody waits for it.
func (s *snapshots) finish(info SnapshotInfo, err error) {
	if err != nil {
		s.loop.log.Warn("no snapshot was taken; the log stays as it is", zap.Error(err))
		s.pause = snapshotRetryTicks
	}
	for _, done := range s.waiters {
		s.loop.answers = append(s.loop.answers, func() { done(info, err) })
	}
	s.taking, s.waiters, s.next = false, s.next, nil
	if len(s.waiters) > 0 {
		s.take(nil)
	}
}

// send streams a snapshot that raft wants a member to have.
func (s *snapshots) send(m *raftpb.Message) {
	(&snapshotJob{loop: s.loop, to: m.To, term: m.Term, header: raftstore.SnapshotHeader{Metadata: m.Snapshot.Metadata}}).want()
}

// starved: there is no room for the log's next file, for what makes the state machine grow,
// or for a snapshot that this member needs.
func (s *snapshots) starved() bool {
	l := s.loop
	return l.space.full.Load() || l.room == core.RoomFor(0) || l.incoming.noRoom.Load()
}

// shed gives up the log before the newest mark, if there is no room and there cannot be a
// newer mark: nothing is taken then, so nothing would ever change. A state machine with data
// of its own needs no older one. A follower that still needs what goes would need a snapshot,
// for which it may have no room: it gets some time to catch up.
func (s *snapshots) shed() {
	l := s.loop
	newest := l.view.Newest()
	if !l.durable || s.starving < starvingTicks || newest.Index <= s.shedTo {
		return
	}
	needed := false
	l.core.VisitProgress(func(_, match uint64, _ string, alive bool) { needed = needed || alive && match < newest.Index })
	if needed && s.starving < starvingForTicks {
		return
	}
	s.shedTo = newest.Index
	l.appends.put(appendJob{mark: (&shedding{loop: l, before: newest}).mark})
}

// shedding gives up the log before a mark that is there, on the way of the last steps of a
// snapshotJob.
type shedding struct {
	loop   *loop
	before raftpb.SnapshotMetadata
	err    error
}

// mark runs on the appender.
func (g *shedding) mark(w *raftstore.Writer) (err error) {
	if g.err = g.loop.store.CheckSnapshot(g.before); g.err != nil { // it is tried again
		g.loop.log.Warn("the newest mark cannot be read; the log before it stays, though the disk is full", zap.Error(g.err))
	} else {
		err = w.Shed()
		g.err = err
	}
	g.loop.soon(g.release)
	return err
}

// release runs on the loop.
func (g *shedding) release() {
	l := g.loop
	if g.err != nil {
		l.snapshots.shedTo, l.snapshots.pause = 0, snapshotRetryTicks
	} else if l.view.SnapshotIndex() == g.before.Index {
		l.view.Marked(raftstore.SnapshotHeader{Metadata: g.before}, l.cfg.TrailingEntries, l.cfg.SnapshotLogBytes/2)
	}
}

// TakeSnapshot takes a snapshot of this member's state now and returns when it
// is durable and the log behind it is free. A durable state machine is not
// copied: the snapshot is a mark at what it has on its own disk.
func (n *Node) TakeSnapshot(ctx context.Context) (SnapshotInfo, error) {
	if err := n.callbacks.waitsForSnapshot(); err != nil {
		return SnapshotInfo{}, err
	}
	if err := n.ready(ctx, "TakeSnapshot"); err != nil {
		return SnapshotInfo{}, err
	}
	type result struct {
		info SnapshotInfo
		err  error
	}
	done := make(chan result, 1)
	n.inbox.call(func(l *loop) {
		l.snapshots.take(func(info SnapshotInfo, err error) { done <- result{info, err} })
	})
	select {
	case r := <-done:
		return r.info, r.err
	case <-ctx.Done():
		return SnapshotInfo{}, fmt.Errorf("node: take a snapshot: %w", ctx.Err())
	case <-n.done:
		return SnapshotInfo{}, n.stopped()
	}
}
