package node_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// onHooked gives a member a disk in memory of which snapshot files cannot be opened while the
// returned one is true. They can be written.
func onHooked(m *member) (refuses *atomic.Bool, refused *atomic.Int64) {
	refuses, refused = &atomic.Bool{}, &atomic.Int64{}
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, vfstest.NewFaulty(vfstest.NewMem(), func(op vfstest.Op) error {
		if op.Kind == vfstest.Open && filepath.Ext(op.Path) == ".snap" && refuses.Load() {
			refused.Add(1)
			return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.EMFILE}
		}
		return nil
	}), smallSegment)
	return refuses, refused
}

// A newcomer that has no descriptor for the snapshot that it got ends for that no more than for
// want of space: it comes to life when there is one.
func TestNewcomerWithoutADescriptor(t *testing.T) {
	leads := founder(t)
	propose(t, leads, "a")
	m := newMember(t, 2)
	said := observed(m)
	refuses, refused := onHooked(m)
	refuses.Store(true)
	m.start()
	if _, err := leads.AddLearner(timeout(t), node.Member{ID: 2, Address: m.addr}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has no descriptor for the snapshot", func() bool { return refused.Load() > 0 && said("no room for the log") })
	if err := m.Err(); err != nil {
		t.Fatalf("it ended: %v", err)
	}
	refuses.Store(false)
	eventually(t, "it has it all the same", func() bool { return len(m.sm.all()) == 1 })
}

// A follower that has none for a snapshot that is to take the place of its log waits, as for
// space, and installs it when it has.
func TestFollowerWithoutADescriptor(t *testing.T) {
	network := localnet.New()
	var ms []*member
	for id := uint64(1); id <= 3; id++ {
		m := newMember(t, id)
		m.network, m.addr = network, fmt.Sprint("m", id)
		m.cfg.Bootstrap, m.cfg.TrailingEntries = id == 1, 1
		ms = append(ms, m)
	}
	refuses, refused := onHooked(ms[2])
	for i, m := range ms {
		if m.start(); i > 0 {
			add(t, ms[0], m)
		}
	}
	ms[2].kill()
	for i := range 50 {
		propose(t, ms[0], fmt.Sprint("missed ", i))
	}
	for range 2 { // of two snapshots the log between them is kept
		propose(t, ms[0], "and more")
		for _, m := range ms[:2] {
			if _, err := m.TakeSnapshot(timeout(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	network.Partition("m1", "m3")
	network.Partition("m2", "m3")
	ms[2].start() // which opens the snapshot that it has
	refuses.Store(true)
	network.Heal()
	eventually(t, "it has a snapshot to install, and no descriptor for it", func() bool { return refused.Load() > 0 && ms[2].Stuck() })
	if err := ms[2].Err(); err != nil {
		t.Fatalf("it ended: %v", err)
	}
	refuses.Store(false)
	leader(t, ms...)
	converged(t, ms...)
}
