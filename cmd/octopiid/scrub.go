package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/kv"
)

const (
	// scrubBytesPerSecond is how fast a member reads its database to verify it.
	scrubBytesPerSecond = 10 << 20
	// failurePoll is how often a member looks which database is open: one that was
	// restored takes the place of the one before.
	failurePoll = time.Second
	// contentTimeout bounds how long a proposal of a comparison waits.
	contentTimeout = 10 * time.Second
)

// watchDatabase ends this member when its database fails: it serves nothing any more.
func (m *member) watchDatabase(ctx context.Context) {
	poll := time.NewTicker(failurePoll)
	defer poll.Stop()
	for {
		failed, why := m.store.Failed()
		select {
		case <-failed:
			m.failed <- why()
			return
		case <-poll.C:
		case <-ctx.Done():
			return
		}
	}
}

// scrub verifies this member's database at intervals. The first one comes at a random
// time, so that members do not all read at once.
func (m *member) scrub(ctx context.Context) {
	wait := rand.N(m.cfg.ScrubInterval)
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = m.cfg.ScrubInterval
		begin := time.Now()
		switch err := m.store.Scrub(ctx, scrubBytesPerSecond); {
		case ctx.Err() != nil:
			return
		case errors.Is(err, kv.ErrDamaged):
			return // watchDatabase sees it
		case err != nil:
			m.lg.Warn("the database could not be verified; trying again later", zap.Error(err), zap.Duration("after", wait))
		default:
			total, _ := m.store.Size()
			m.lg.Info("the database was verified", zap.Int64("bytes", total), zap.Duration("took", time.Since(begin)))
		}
	}
}

// compare has the members compare their databases at intervals, which the leader
// begins, and ends this one if it differs from a majority.
func (m *member) compare(ctx context.Context) {
	begin := time.NewTicker(m.cfg.ScrubInterval)
	defer begin.Stop()
	var said uint64
	var alarm string
	for {
		select {
		case <-begin.C:
			if st := m.node.Status(); st.Leader == st.ID {
				m.proposeContent(ctx, kv.CompareCommand())
			}
		case <-m.store.ComparisonChanged():
		case <-ctx.Done():
			return
		}
		c := m.store.Comparison()
		if c.Noted && c.Index != said {
			said = c.Index
			m.proposeContent(ctx, kv.ContentCommand(m.node.Status().ID, c.Index, c.Own))
		}
		news, err := c.Verdict(m.voters())
		if err != nil {
			m.failed <- err
			return
		}
		if news != "" && news != alarm {
			m.lg.Error(news)
		}
		alarm = news
	}
}

// proposeContent proposes a command of a comparison. One that fails is made again with
// the next comparison.
func (m *member) proposeContent(ctx context.Context, command []byte) {
	ctx, cancel := context.WithTimeout(ctx, contentTimeout)
	defer cancel()
	if _, err := m.node.Propose(ctx, command); err != nil && ctx.Err() == nil {
		m.lg.Warn("this member takes no part in a comparison of databases", zap.Error(err))
	}
}

// voters returns the IDs of those that vote.
func (m *member) voters() (ids []uint64) {
	for _, o := range m.node.Status().Membership.Members {
		if !o.Learner {
			ids = append(ids, o.ID)
		}
	}
	return ids
}
