package node

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// raft's chatter is for who debugs, what it warns of is for an operator, and what it calls fatal
// ends nothing but this member: the process is somebody else's.
func TestRaftsLog(t *testing.T) {
	observed, logs := observer.New(zapcore.DebugLevel)
	l := raftLogger{zap.New(observed).Sugar()}
	l.Info("i")
	l.Infof("i %d", 1)
	l.Warning("w")
	l.Warningf("w %d", 1)
	for name, fatal := range map[string]func(){"Fatal": func() { l.Fatal("f") }, "Fatalf": func() { l.Fatalf("f %d", 1) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			fatal()
		}()
	}
	for level, want := range map[zapcore.Level]int{zapcore.DebugLevel: 2, zapcore.WarnLevel: 2, zapcore.PanicLevel: 2, zapcore.InfoLevel: 0} {
		if got := logs.FilterLevelExact(level).Len(); got != want {
			t.Errorf("%d lines of level %s, want %d", got, level, want)
		}
	}
}

// Events for a user that is slow are bounded: the oldest are dropped, and the order stays.
func TestEventsAreBounded(t *testing.T) {
	e := &events{bell: machine{}.bell(), inside: &callback{}}
	var told []int
	for i := range eventsMax + 10 {
		e.add(func() { told = append(told, i) })
	}
	e.turn(0)
	if len(told) != eventsMax || told[0] != 10 || told[eventsMax-1] != eventsMax+9 {
		t.Errorf("%d events, from %d to %d; want the newest %d", len(told), told[0], told[len(told)-1], eventsMax)
	}
	// What nobody asks for costs nothing; the rest is told.
	e.snapshotInstalled(SnapshotInfo{})
	e.peerRefused(1, ErrRemoved)
	if len(e.pending) > 0 {
		t.Errorf("%d events for nobody", len(e.pending))
	}
	var installed uint64
	var refused error
	e.SnapshotInstalled = func(s SnapshotInfo) { installed = s.Index }
	e.PeerRefused = func(_ uint64, reason error) { refused = reason }
	e.snapshotInstalled(SnapshotInfo{Index: 7})
	e.peerRefused(1, ErrRemoved)
	if e.turn(0); installed != 7 || refused != ErrRemoved {
		t.Errorf("told of a snapshot at %d, and of %v", installed, refused)
	}
}

// Nobody answers a call twice: the second answer would be another caller's.
func TestAnsweredTwice(t *testing.T) {
	w := newWaiter()
	w.finish(answer{})
	defer func() {
		if recover() == nil {
			t.Error("a second answer is taken")
		}
	}()
	w.finish(answer{})
}
