package node_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// roomy is a durable state machine that says how much room it has. What begins with "+" makes
// it grow.
type roomy struct {
	*keeper
	mu   sync.Mutex
	room atomic.Int64
	// wait, if there is one, is what Apply waits for.
	wait chan struct{}
}

func (r *roomy) Durable() (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keeper.Durable()
}

func (r *roomy) Apply(entries []node.Entry) ([][]byte, error) {
	r.mu.Lock()
	wait := r.wait
	r.mu.Unlock()
	if wait != nil {
		<-wait
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keeper.Apply(entries)
}

func newRoomy() *roomy {
	r := &roomy{keeper: newKeeper()}
	r.every = 1
	r.room.Store(1 << 40)
	return r
}

func (r *roomy) Room() int64               { return r.room.Load() }
func (r *roomy) Grows(command []byte) bool { return strings.HasPrefix(string(command), "+") }

// segments are the files of a log that hold something.
func segments(disk *vfstest.Mem) (n int) {
	for _, name := range disk.Names("/data/wal/0000000000000001") {
		if strings.HasSuffix(name, ".seg") {
			n++
		}
	}
	return n
}

// withSegments starts a member whose log has several files, all of whose entries are applied.
func withSegments(t *testing.T) (m *member, sm *roomy, disk *vfstest.Mem, put func(command string) error) {
	t.Helper()
	m, sm = newMember(t, 1), newRoomy()
	disk = onMem(m)
	m.around = func(*history) node.StateMachine { return sm }
	m.cfg.Bootstrap = true
	m.start()
	put = func(command string) error {
		_, err := m.Propose(timeout(t), []byte(command+strings.Repeat("x", 4000)))
		return err
	}
	for range 60 {
		if err := put("+"); err != nil {
			t.Fatal(err)
		}
	}
	if n := segments(disk); n < 3 {
		t.Fatalf("the log has %d files, and the test shows nothing", n)
	}
	return m, sm, disk, put
}

// Where a state machine has no room, the log beside it gives its own back: all of it that is
// applied, as an older mark is not needed by one that keeps its own data. What makes it grow
// gets ErrNoSpace meanwhile.
func TestLogGivesWayToTheStateMachine(t *testing.T) {
	m, sm, disk, put := withSegments(t)
	sm.room.Store(0)
	eventually(t, "the log gives its room back", func() bool { return segments(disk) == 1 })
	if err := put("+"); !errors.Is(err, node.ErrNoSpace) {
		t.Errorf("growth without room: %v, want ErrNoSpace", err)
	}
	for range 60 { // also while it goes on
		if err := put("-"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the log gives its room back again", func() bool { return segments(disk) == 1 })
	sm.room.Store(1 << 40)
	eventually(t, "growth is taken again", func() bool { return put("+") == nil })
	m.kill()
	m.start()
	if err := put("+"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// An Apply that waits for room does not keep the log from giving its own.
func TestLogGivesWayWhileApplyWaits(t *testing.T) {
	m, sm, disk, put := withSegments(t)
	wait := make(chan struct{})
	sm.mu.Lock()
	sm.wait = wait
	sm.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- put("+") }()
	eventually(t, "it is in the log", func() bool { st := m.Status(); return st.Commit > st.Applied })
	sm.room.Store(0)
	eventually(t, "the log gives its room back", func() bool { return segments(disk) == 1 })
	close(wait)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
