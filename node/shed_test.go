package node_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// A log on a full volume gives up nothing before a mark that cannot be read: what is before it may
// be the only copy. It does when the mark can be read again.
func TestLogBeforeAMarkThatCannotBeRead(t *testing.T) {
	m, sm := newMember(t, 1), newRoomy()
	disk := vfstest.NewMem()
	var unreadable atomic.Bool
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, vfstest.NewFaulty(disk, func(op vfstest.Op) error {
		if op.Kind == vfstest.Open && filepath.Ext(op.Path) == ".snap" && unreadable.Load() {
			return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.EIO}
		}
		return nil
	}), smallSegment)
	m.around = func(*history) node.StateMachine { return sm }
	m.cfg.Bootstrap = true
	said := observed(m)
	m.start()
	for range 60 {
		propose(t, m, "+"+strings.Repeat("x", 4000))
	}
	unreadable.Store(true)
	sm.room.Store(0)
	eventually(t, "the log cannot be given up", func() bool { return said("the newest mark cannot be read") })
	takesTurns(t, m, 30)
	if n := segments(disk); n < 2 {
		t.Errorf("the log has %d file", n)
	}
	if err := m.Err(); err != nil {
		t.Fatalf("it ended: %v", err)
	}
	unreadable.Store(false)
	eventually(t, "the log gives its room back", func() bool { return segments(disk) == 1 })
}
