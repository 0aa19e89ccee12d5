package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node"
)

const (
	// spacePoll is how often a member looks whether its disk is full.
	spacePoll = time.Second
	// handOverPauseMax bounds the wait before a leader whose disk is full tries again to
	// hand over: others may be as full, and each hand-over costs a moment.
	handOverPauseMax = time.Minute
	handOverTimeout  = 5 * time.Second
)

// yieldWhenFull hands leadership over while this member leads and its disk is full: it
// can take no writes, and others may. It ends with ctx.
func (m *member) yieldWhenFull(ctx context.Context) {
	poll := time.NewTicker(spacePoll)
	defer poll.Stop()
	wait, pause := spacePoll, spacePoll
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
		switch {
		case !full:
			wait, pause = spacePoll, spacePoll
		case wait > 0:
			wait -= spacePoll
		case st.Role == node.Leader && len(st.Membership.Members) > 1 && better:
			pause = min(2*pause, handOverPauseMax)
			wait = pause
			m.yield(ctx)
		}
	}
}

func (m *member) yield(ctx context.Context) {
	m.lg.Warn("the disk of this member is full, and it leads; handing leadership over", zap.String("dir", m.cfg.DataDir))
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.node.TransferLeadership(ctx, 0); err != nil {
		m.lg.Warn("leadership was not handed over; it is tried again while the disk is full", zap.Error(err))
	}
}
