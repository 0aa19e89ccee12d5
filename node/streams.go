package node

import (
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
)

// streams sends snapshots to members that raft wants to have one, and holds the next one
// back where the last one failed. It belongs to the loop.
type streams struct {
	loop *loop
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

// streamPauseMax is the longest wait between two streams to a member that fail, in
// ticks: 30 s if a tick takes 100 ms. The first wait is a tick, and each is twice as
// long as the one before.
const streamPauseMax = 300

// send streams a snapshot that raft wants a member to have.
func (s *streams) send(m *raftpb.Message) {
	(&snapshotJob{loop: s.loop, to: m.To, term: m.Term, header: raftstore.SnapshotHeader{Metadata: m.Snapshot.Metadata}}).want()
}

// tick lets the next stream begin to those that waited for long enough.
func (s *streams) tick(ticks int) {
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

// tell tells raft how a stream went.
func (s *streams) tell(to uint64, ok bool) {
	s.loop.inbox.add(func(in *core.Input) {
		in.SnapshotsSent = append(in.SnapshotsSent, core.SnapshotSent{To: to, OK: ok})
	})
}

// settle notes how a stream to a member went. It runs on the loop.
func (s *streams) settle(to uint64, err error) {
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
func (s *streams) again(id uint64) {
	if f := s.failed[id]; f != nil && f.broken {
		f.pause, f.left, f.broken = 0, min(f.left, 1), false
	}
}

// broke notes that the connection to a member broke.
func (s *streams) broke(id uint64) {
	if f := s.failed[id]; f != nil {
		f.broken = true
	}
}

// forget is called when the leader changes: raft knows nothing of the streams of another
// reign, and what held one back then may be over.
func (s *streams) forget() { s.failed = nil }
