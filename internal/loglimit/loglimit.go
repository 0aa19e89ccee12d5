// Package loglimit bounds log lines that others can cause as often as they like.
package loglimit

import (
	"cmp"
	"sync"
	"time"
)

// Limit lets one line pass in so much time, and counts the others. Its methods may be called
// from several goroutines.
type Limit struct {
	// Every is that time. 0: one second.
	Every time.Duration

	mu     sync.Mutex
	passed time.Time
	others int
}

// Pass says whether a line may be logged now. If so, others is how many were not since the
// one before.
func (l *Limit) Pass(now time.Time) (others int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.passed.IsZero() && now.Sub(l.passed) < cmp.Or(l.Every, time.Second) {
		l.others++
		return 0, false
	}
	others = l.others
	l.passed, l.others = now, 0
	return others, true
}
