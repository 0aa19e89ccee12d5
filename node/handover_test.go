package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
)

// These tests let callers write on every member while leaders change, in all the ways
// in which they do. No write may fail, and each must be in the log once.

// quietCluster is three voters on a network whose connections can be broken.
func quietCluster(t *testing.T) (*localnet.Network, []*member) {
	t.Helper()
	network := localnet.New()
	ms := make([]*member, 3)
	for i := range ms {
		m := newMember(t, uint64(i+1))
		m.network, m.addr = network, fmt.Sprintf("m%d", i+1)
		m.cfg.Bootstrap = i == 0
		ms[i] = m.start()
		if i > 0 {
			add(t, ms[0], m)
		}
	}
	return network, ms
}

// writers write without a pause until they are stopped.
type writers struct {
	t     *testing.T
	quit  chan struct{}
	count int
	wg    sync.WaitGroup
	mu    sync.Mutex
	wrote []string
	began map[*node.Node]int
}

// write lets n callers write on each of some members.
func write(t *testing.T, n int, ms ...*member) *writers {
	w := &writers{t: t, quit: make(chan struct{}), began: map[*node.Node]int{}}
	for _, m := range ms {
		w.start(n, m)
	}
	t.Cleanup(w.stop)
	return w
}

// start adds n callers on a member that was just started.
func (w *writers) start(n int, m *member) {
	on := m.Node // the member may be stopped meanwhile
	for range n {
		w.count++
		name := fmt.Sprintf("writer %d on %d", w.count, m.cfg.ID)
		w.wg.Go(func() { w.run(on, name) })
	}
}

func (w *writers) run(on *node.Node, name string) {
	for i := 0; ; i++ {
		select {
		case <-w.quit:
			return
		default:
		}
		command := fmt.Sprintf("%s: %d", name, i)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := on.Propose(ctx, []byte(command))
		cancel()
		if errors.Is(err, node.ErrClosed) && errors.Is(err, node.ErrNotCommitted) {
			return // its member stops, and did not take it any more
		}
		if err != nil {
			w.t.Errorf("write %s: %v", command, err)
			return
		}
		w.mu.Lock()
		w.wrote = append(w.wrote, command)
		w.began[on]++
		w.mu.Unlock()
	}
}

// busy waits until every writer of these members has gone on for a while.
func (w *writers) busy(ms ...*member) {
	w.t.Helper()
	count := func(m *member) int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.began[m.Node]
	}
	before := map[*member]int{}
	for _, m := range ms {
		before[m] = count(m)
	}
	eventually(w.t, "the writers go on", func() bool {
		for _, m := range ms {
			if count(m) < before[m]+20 {
				return false
			}
		}
		return true
	})
}

func (w *writers) stop() {
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.wg.Wait()
}

// once checks that what was written is there once, and nothing else is.
func (w *writers) once(ms ...*member) {
	w.t.Helper()
	w.stop()
	converged(w.t, ms...)
	count := map[string]int{}
	for _, c := range ms[0].sm.all() {
		count[c]++
	}
	for _, c := range w.wrote {
		if count[c] != 1 {
			w.t.Errorf("%q was acknowledged, and is there %d times", c, count[c])
		}
		delete(count, c)
	}
	for c, n := range count {
		w.t.Errorf("%q is there %d times, and was not acknowledged", c, n)
	}
}

func others(of *member, ms []*member) []*member {
	var list []*member
	for _, m := range ms {
		if m != of {
			list = append(list, m)
		}
	}
	return list
}

func TestTransferFailsNoWrite(t *testing.T) {
	_, ms := quietCluster(t)
	w := write(t, 6, ms...)
	for i := range 20 {
		w.busy(ms...)
		l := leader(t, ms...)
		if err := ms[i%3].TransferLeadership(timeout(t), others(l, ms)[i%2].cfg.ID); err != nil {
			t.Fatalf("transfer %d: %v", i, err)
		}
	}
	w.busy(ms...)
	w.once(ms...)
}

// A member that is stopped answers what it took, and takes no more.
func TestStopFailsNoWrite(t *testing.T) {
	_, ms := quietCluster(t)
	w := write(t, 6, ms...)
	w.busy(ms...)
	for range 6 {
		l := leader(t, ms...)
		before := l.Node
		l.close()
		if _, err := before.Propose(timeout(t), nil); !errors.Is(err, node.ErrClosed) || !errors.Is(err, node.ErrNotCommitted) {
			t.Errorf("a proposal on a member that stopped: %v, want ErrClosed and ErrNotCommitted", err)
		}
		w.busy(others(l, ms)...)
		w.start(6, l.start())
		leader(t, ms...)
	}
	w.once(ms...)
}

// The writers on the members that are left do not notice that their leader is killed.
func TestKillFailsNoWrite(t *testing.T) {
	ms := cluster(t, 3)
	l := leader(t, ms...)
	left := others(l, ms)
	w := write(t, 8, left...)
	w.busy(left...)
	l.kill()
	w.busy(left...)
	w.stop()
	l.start()
	w.once(ms...)
}

// Connections to the leader break while it goes on: what may not have arrived is sent
// again, and counts once.
func TestLostMessagesFailNoWrite(t *testing.T) {
	network, ms := quietCluster(t)
	w := write(t, 6, ms...)
	w.busy(ms...)
	for range 10 {
		l := leader(t, ms...)
		for _, m := range others(l, ms) {
			network.Break(l.addr, m.addr)
		}
		w.busy(ms...)
	}
	w.busy(ms...)
	w.once(ms...)
}
