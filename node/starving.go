package node

import (
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
)

// starving is what this member does while a volume has no room: it gives up what the log
// and followers can do without. It belongs to the loop.
type starving struct {
	loop *loop
	// ticks is for how long there has been no room for the log or the state machine.
	ticks int
	// shedTo is the mark before which the log was given up.
	shedTo uint64
	// stuckAt was applied, and nothing for stuckFor ticks, without room for more.
	stuckAt  uint64
	stuckFor int
	// lends: the log gives its spare files to the state machine.
	lends bool
}

const (
	// starvingTicks is for how long there must be no room before followers lose what they
	// may need of the log, and starvingForTicks if one of them does need it. It is short
	// of what they take to catch up, and long for a cluster that refuses writes.
	starvingTicks    = 30
	starvingForTicks = 300
)

// tick counts for how long there has been no room.
func (s *starving) tick(ticks int) {
	if s.ticks += ticks; !s.starved() {
		s.ticks = 0
	}
	if s.ticks >= 2*starvingForTicks { // a snapshot may have come to be needless
		s.loop.incoming.noRoom.Store(false)
	}
	s.lend(ticks)
}

// long says whether there has been no room for so long that a snapshot is worth its cost.
func (s *starving) long() bool { return s.ticks >= starvingTicks }

// starved: there is no room for the log's next file, for what makes the state machine grow,
// or for a snapshot that this member needs.
func (s *starving) starved() bool {
	l := s.loop
	return l.space.full.Load() || l.room == core.RoomFor(0) || l.incoming.noRoom.Load()
}

// lend lets the log give up what it has ready for later while the state machine waits for
// room: what it has to apply may be what makes some.
func (s *starving) lend(ticks int) {
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

// shed gives up the log before the newest mark, if there is no room and there cannot be a
// newer mark: nothing is taken then, so nothing would ever change. A state machine with data
// of its own needs no older one. A follower that still needs what goes would need a snapshot,
// for which it may have no room: it gets some time to catch up.
func (s *starving) shed() {
	l := s.loop
	newest := l.view.Newest()
	if !l.durable || !s.long() || newest.Index <= s.shedTo {
		return
	}
	needed := false
	l.core.VisitProgress(func(_, match uint64, _ string, alive bool) { needed = needed || alive && match < newest.Index })
	if needed && s.ticks < starvingForTicks {
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
		l.starving.shedTo, l.snapshots.pause = 0, snapshotRetryTicks
	} else if l.view.SnapshotIndex() == g.before.Index {
		l.view.Marked(raftstore.SnapshotHeader{Metadata: g.before}, l.cfg.TrailingEntries, l.cfg.SnapshotLogBytes/2)
	}
}
