package node

import (
	"context"
	"fmt"

	"go.uber.org/zap"
)

// snapshots decides when this member takes a snapshot of its own. It belongs to the
// loop; what it starts reports back through the inbox.
type snapshots struct {
	loop *loop
	// taking: one is under way. waiters are the TakeSnapshot calls that share it;
	// those that came later wait for the next.
	taking        bool
	waiters, next []func(SnapshotInfo, error)
	// pause is how many ticks to wait after a failure.
	pause int
}

const snapshotRetryTicks = 50

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
		l.starving.shed()
		return
	}
	if st.Applied-last >= l.cfg.SnapshotEntries || l.view.LogBytes() >= l.cfg.SnapshotLogBytes || l.space.full.Load() || l.starving.long() {
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
