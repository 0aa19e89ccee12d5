package loglimit

import (
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	var l Limit
	start := time.Now()
	for i, c := range []struct {
		after  time.Duration
		others int
		ok     bool
	}{
		{0, 0, true},
		{0, 0, false},
		{999 * time.Millisecond, 0, false},
		{time.Second, 2, true},
		{1500 * time.Millisecond, 0, false},
		{3 * time.Second, 1, true},
		{4 * time.Second, 0, true},
	} {
		if others, ok := l.Pass(start.Add(c.after)); others != c.others || ok != c.ok {
			t.Errorf("line %d, after %v: %d others, passes: %v; want %d and %v", i, c.after, others, ok, c.others, c.ok)
		}
	}
}
