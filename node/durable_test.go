package node_test

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octopii/octopii/node"
)

// keeper is a durable state machine whose disk is a field: what it has synced
// outlives a crash, and what it has not is gone. It syncs by itself only every
// so many commands.
type keeper struct {
	*history
	every  int
	synced int // commands
	index  uint64
}

func newKeeper() *keeper { return &keeper{history: &history{}, every: 7} }

func (k *keeper) Durable() (uint64, bool) { return k.index, true }

func (k *keeper) Apply(entries []node.Entry) ([][]byte, error) {
	results, err := k.history.Apply(entries)
	if n := len(k.commands); err == nil && n-k.synced >= k.every {
		k.synced, k.index = n, k.indexes[n-1]
	}
	return results, err
}

func (k *keeper) Restore(index uint64, r io.Reader) error {
	err := k.history.Restore(index, r)
	k.synced, k.index = len(k.commands), index
	return err
}

// crash forgets what was not synced.
func (k *keeper) crash() {
	k.commands, k.indexes = k.commands[:k.synced], k.indexes[:k.synced]
}

// TestDurableStateMachine: it gets every entry once over restarts, needs no
// snapshot files, and newcomers are streamed what it has.
func TestDurableStateMachine(t *testing.T) {
	m := newMember(t, 1)
	m.disk = newKeeper()
	m.cfg.Bootstrap, m.cfg.SnapshotEntries, m.cfg.TrailingEntries = true, 20, 5
	m.start()
	for i := range 100 {
		propose(t, m, fmt.Sprint("command ", i))
	}
	eventually(t, "the log begins behind a mark", func() bool { return m.Status().SnapshotIndex > 60 })
	m.kill()
	m.disk.crash()
	if got := len(m.disk.commands); got == 100 {
		t.Fatal("the crash lost nothing: the test proves nothing")
	}
	m.start()
	leader(t, m)
	if _, err := m.ReadBarrier(timeout(t), node.Linearizable); err != nil {
		t.Fatal(err)
	}
	if got := len(m.sm.all()); got != 100 {
		t.Fatalf("after the crash %d commands are there, want 100", got)
	}

	n2 := newMember(t, 2)
	n2.disk = newKeeper()
	n2.cfg.SnapshotEntries, n2.cfg.TrailingEntries = 20, 5
	n2.start()
	add(t, m, n2)
	converged(t, m, n2)
	for i := range 50 {
		propose(t, n2, fmt.Sprint("more ", i))
	}
	converged(t, m, n2)
	info, err := n2.TakeSnapshot(timeout(t))
	if err != nil || info.Index == 0 {
		t.Fatalf("take a snapshot: %+v, %v", info, err)
	}
	n2.kill()
	n2.start()
	leader(t, m, n2)
	converged(t, m, n2)
	if got := len(n2.sm.all()); got != 150 {
		t.Errorf("the newcomer has %d commands, want 150", got)
	}
}

// TestStateMachineLost: the directory of the state machine and that of the node
// belong together. Either without the other is refused, and nothing changed.
func TestStateMachineLost(t *testing.T) {
	m := newMember(t, 1)
	m.disk = newKeeper()
	m.cfg.Bootstrap, m.cfg.SnapshotEntries, m.cfg.TrailingEntries = true, 20, 5
	m.start()
	for i := range 50 {
		propose(t, m, fmt.Sprint("command ", i))
	}
	eventually(t, "the log begins behind a mark", func() bool { return m.Status().SnapshotIndex > 20 })
	m.close()

	full := m.disk
	m.disk = newKeeper()
	if err := m.tryStart(); !errors.Is(err, node.ErrAmnesia) {
		t.Errorf("without the state machine's data: %v, want ErrAmnesia", err)
	}
	m.disk = full
	dir := m.cfg.Dir
	m.cfg.Dir = filepath.Join(t.TempDir(), "new")
	if err := m.tryStart(); !errors.Is(err, node.ErrAmnesia) || !strings.Contains(err.Error(), m.cfg.Dir) {
		t.Errorf("without the log: %v, want ErrAmnesia that names %s", err, m.cfg.Dir)
	}
	m.cfg.Dir = dir
	m.start()
	propose(t, m, "both together")
}
