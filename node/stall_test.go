package node_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// gate is a disk that hangs, in a system call as it were, until it is let go.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // nil: it works
}

func (g *gate) pass(op vfstest.Op) error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil && op.Changes() {
		<-shut
	}
	return nil
}

func (g *gate) hang() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// onGate gives a member a disk in memory that can hang.
func onGate(t *testing.T, m *member) *gate {
	g := &gate{}
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, vfstest.NewFaulty(vfstest.NewMem(), g.pass), smallSegment)
	t.Cleanup(g.release)
	return g
}

// A leader whose disk hangs hands over: writes go on without it, callers that it has
// get their answers when the disk is back, and it catches up (hashicorp/raft 503).
func TestStalledLeaderHandsOver(t *testing.T) {
	var ms []*member
	told := make(chan time.Duration, 10)
	var disk *gate
	for id := uint64(1); id <= 3; id++ {
		m := newMember(t, id)
		if id == 1 {
			m.cfg.Bootstrap = true
			m.cfg.Events.DiskStalled = func(d time.Duration) { told <- d }
			disk = onGate(t, m)
		}
		ms = append(ms, m.start())
		if id > 1 {
			add(t, ms[0], m)
		}
	}
	propose(t, ms[0], "before")
	disk.hang()
	result := make(chan error, 1)
	go func() {
		_, err := ms[0].Propose(timeout(t), []byte("while it hangs"))
		result <- err
	}()
	eventually(t, "another one leads", func() bool { return ms[1].Status().Leader > 1 && ms[2].Status().Leader > 1 })
	leader(t, ms...)
	propose(t, ms[1], "without it")
	if d := <-told; d < 15*ms[0].cfg.TickInterval {
		t.Errorf("DiskStalled was told after %v, want more than one and a half election timeouts", d)
	}
	if st := ms[0].Status(); st.DiskStalled == 0 {
		t.Error("Status().DiskStalled is 0 while its disk hangs")
	}
	disk.release()
	if err := <-result; err != nil {
		t.Errorf("the proposal that waited for the disk: %v", err)
	}
	converged(t, ms...)
	if got := ms[0].sm.all(); len(got) != 3 {
		t.Errorf("it has %q, want three commands", got)
	}
}

// A disk that hangs for longer than the limit ends the node, and Close leaves behind
// what cannot be ended. When the disk answers after all, it ends by itself.
func TestStalledForEver(t *testing.T) {
	for name, closeFirst := range map[string]bool{"by itself": false, "while it closes": true} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t, 1)
			m.cfg.Bootstrap = true
			m.cfg.StallLimit = 400 * time.Millisecond
			disk := onGate(t, m)
			n := m.start().Node
			propose(t, m, "before")
			disk.hang()
			result := make(chan error, 1)
			go func() {
				_, err := n.Propose(timeout(t), []byte("never"))
				result <- err
			}()
			eventually(t, "the write hangs", func() bool { return n.Status().DiskStalled > 0 || n.Err() != nil })
			if !closeFirst {
				<-n.Done()
				if !errors.Is(n.Err(), node.ErrDiskStalled) || !strings.Contains(n.Err().Error(), "/data") {
					t.Errorf("Err: %v, want ErrDiskStalled and the directory", n.Err())
				}
			}
			m.Node = nil
			err := n.Close()
			if !errors.Is(err, node.ErrDiskStalled) || !strings.Contains(err.Error(), "the appender") {
				t.Errorf("Close: %v, want ErrDiskStalled and what is left", err)
			}
			if err := <-result; !errors.Is(err, node.ErrClosed) {
				t.Errorf("the proposal: %v, want ErrClosed", err)
			}
			disk.release()
			eventually(t, "the directory is free", func() bool { return m.tryStart() == nil })
			leader(t, m)
			propose(t, m, "after")
		})
	}
}

// A snapshot that hangs ends the node as well: it is the same disk.
func TestStalledSnapshot(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	m.cfg.StallLimit = 400 * time.Millisecond
	disk := onGate(t, m)
	n := m.start().Node
	propose(t, m, "before")
	m.Node = nil
	disk.hang()
	_, err := n.TakeSnapshot(timeout(t))
	if !errors.Is(err, node.ErrDiskStalled) {
		t.Errorf("TakeSnapshot: %v, want ErrDiskStalled", err)
	}
	if err := n.Close(); !errors.Is(err, node.ErrDiskStalled) {
		t.Errorf("Close: %v, want ErrDiskStalled", err)
	}
	disk.release()
	eventually(t, "the directory is free", func() bool { return m.tryStart() == nil })
}
