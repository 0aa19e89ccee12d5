package node

import (
	"errors"
	"testing"
	"time"
)

// After a stream that failed, raft hears of it after a pause that doubles up to a bound,
// and that begins anew after one that arrived.
func TestStreamBackoff(t *testing.T) {
	s := &streams{loop: bareLoop()}
	s.loop.cfg.TickInterval = time.Millisecond
	told := func() int { return len(s.loop.inbox.input.SnapshotsSent) }
	pause := func() int {
		s.settle(2, errors.New("no room"))
		before := told()
		for ticks := 1; ticks <= 2*streamPauseMax; ticks++ {
			if s.tick(1); told() > before {
				return ticks
			}
		}
		t.Fatal("raft never heard of a stream that failed")
		return 0
	}
	want := 1
	for range 12 {
		if got := pause(); got != want {
			t.Fatalf("raft heard of it after %d ticks; want %d", got, want)
		}
		want = min(2*want, streamPauseMax)
	}
	before := told()
	s.settle(2, nil)
	if told() != before+1 {
		t.Fatal("raft did not hear at once of a stream that arrived")
	}
	if got := pause(); got != 1 {
		t.Errorf("after a success the first pause is of %d ticks; want 1", got)
	}
	for range 5 {
		pause()
	}
	s.settle(2, errors.New("no room"))
	before = told()
	s.again(2) // the stream's own connection
	if s.tick(1); told() != before {
		t.Error("the connection of a stream that failed ended its pause")
	}
	s.broke(2)
	s.again(2) // while it waits
	if s.tick(1); told() != before+1 {
		t.Error("a member that connected anew waits for a pause of its former life")
	}
	if got := pause(); got != 1 {
		t.Errorf("to a member that connected anew the first pause is of %d ticks; want 1", got)
	}
	for range 5 {
		pause()
	}
	s.forget()
	if got := pause(); got != 1 {
		t.Errorf("in another reign the first pause is of %d ticks; want 1", got)
	}
}
