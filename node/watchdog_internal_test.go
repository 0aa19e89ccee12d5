package node

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
)

// emptyLog is a log whose reads return at once.
type emptyLog struct{ core.Storage }

func (emptyLog) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) { return nil, nil }

// A turn that takes longer than the limit is no hung disk while its reads of the log return;
// once none returns any more it is.
func TestSlowTurnIsNoStall(t *testing.T) {
	var loop progress
	log := watchedLog{emptyLog{}, &loop}
	loop.hangs(false)
	loop.begin()
	for look := range 10 * watchdogBeats {
		if _, err := log.Entries(1, 2, 1); err != nil {
			t.Fatal(err)
		}
		if loop.hangs(false) {
			t.Fatalf("at look %d a turn counts as hung, though it read the log before each", look)
		}
	}
	for look := 1; ; look++ {
		if hangs := loop.hangs(false); hangs != (look >= watchdogBeats) {
			t.Errorf("after %d looks without a read that returned: hangs is %t", look, hangs)
		}
		if look > watchdogBeats {
			break
		}
	}
	loop.end()
	if loop.hangs(false) {
		t.Error("between two turns the loop counts as hung")
	}
}
