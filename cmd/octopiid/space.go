package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node"
)

const (
	// spacePoll is how often a member looks whether its disk is full: a leader whose disk is
	// full has all writes refused until it has handed over.
	spacePoll = 100 * time.Millisecond
	// handOverPauseMin and handOverPauseMax bound the wait before a leader whose disk is full
	// tries again to hand over: others may be as full, and each hand-over costs a moment.
	handOverPauseMin = 2 * time.Second
	handOverPauseMax = time.Minute
	handOverTimeout  = 5 * time.Second
)

// yieldWhenFull hands leadership over while this member leads and its disk is full: it
// can take no writes, and others may. It ends with ctx.
func (m *member) yieldWhenFull(ctx context.Context) {
	poll := time.NewTicker(spacePoll)
	defer poll.Stop()
	var pauses handOverPauses
	for {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return
		}
		st := m.node.Status()
		full := st.NoSpace || m.store.NoSpace()
		// Where no other database has more room, and the log has its next file, another
		// leader could take no more: to hand over would cost a moment for nothing.
		better := st.NoSpace || st.RoomierVoter
		leads := st.Role == node.Leader && len(st.Membership.Members) > 1
		if pauses.next(full, leads && better) {
			m.yield(ctx)
		}
	}
}

// handOverPauses decides when a full leader hands over: at once, and again after pauses that
// double. A disk that is full again right after it was not changes nothing of that.
type handOverPauses struct{ wait, pause time.Duration }

// next is called once a spacePoll. full: the disk is. may: another leader may take more.
func (p *handOverPauses) next(full, may bool) (now bool) {
	p.wait = max(0, p.wait-spacePoll)
	switch {
	case p.wait > 0:
	case !full:
		p.pause = 0
	case may:
		p.pause = min(max(2*p.pause, handOverPauseMin), handOverPauseMax)
		p.wait = p.pause
		return true
	}
	return false
}

func (m *member) yield(ctx context.Context) {
	m.lg.Warn("the disk of this member is full, and it leads; handing leadership over", zap.String("dir", m.cfg.DataDir))
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.node.TransferLeadership(ctx, 0); err != nil {
		m.lg.Warn("leadership was not handed over; it is tried again while the disk is full", zap.Error(err))
	}
}
