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
	// handOverBackoffMin and handOverBackoffMax bound the cooldown before a leader whose disk is full
	// tries again to hand over: others may be as full, and each hand-over costs a moment.
	handOverBackoffMin = 2 * time.Second
	handOverBackoffMax = time.Minute
	handOverTimeout    = 5 * time.Second
)

// handOverWhenFull hands leadership over while this member leads and its disk is full: it
// can take no writes, and others may. It ends with ctx.
func (m *member) handOverWhenFull(ctx context.Context) {
	poll := time.NewTicker(spacePoll)
	defer poll.Stop()
	var backoff handOverBackoff
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
		if backoff.next(full, leads && better) {
			m.handOver(ctx)
		}
	}
}

// handOverBackoff decides when a full leader hands over: at once, and again after cooldowns that
// double. A disk that is full again right after it was not changes nothing of that.
//
// cooldown is the time until it may hand over again. backoff is the last cooldown.
type handOverBackoff struct{ cooldown, backoff time.Duration }

// next is called once a spacePoll. full: the disk is. may: another leader may take more.
func (p *handOverBackoff) next(full, may bool) (now bool) {
	p.cooldown = max(0, p.cooldown-spacePoll)
	switch {
	case p.cooldown > 0:
	case !full:
		p.backoff = 0
	case may:
		p.backoff = min(max(2*p.backoff, handOverBackoffMin), handOverBackoffMax)
		p.cooldown = p.backoff
		return true
	}
	return false
}

func (m *member) handOver(ctx context.Context) {
	m.lg.Warn("the disk of this member is full, and it leads; handing leadership over", zap.String("dir", m.cfg.DataDir))
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.node.TransferLeadership(ctx, 0); err != nil {
		m.lg.Warn("leadership was not handed over; it is tried again while the disk is full", zap.Error(err))
	}
}
