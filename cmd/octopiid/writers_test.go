package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// writersAt are 16 writers at some members, which write until they are stopped. No
// write may fail.
type writersAt struct {
	t      *testing.T
	wg     sync.WaitGroup
	stop   chan struct{}
	writes atomic.Int64
}

func startWriters(t *testing.T, endpoints ...string) *writersAt {
	t.Helper()
	w := &writersAt{t: t, stop: make(chan struct{})}
	for i := range 16 {
		// Each at one member: a client that knows several would try another one.
		c := client(t, nil, endpoints[i%len(endpoints)])
		w.wg.Go(func() { w.write(c, i) })
	}
	w.until(50)
	return w
}

func (w *writersAt) write(c *clientv3.Client, number int) {
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return
		default:
		}
		if _, err := c.Put(w.t.Context(), fmt.Sprint("writer ", number), fmt.Sprint(n)); err != nil {
			w.t.Errorf("write %d of writer %d: %v", n, number, err)
			return
		}
		w.writes.Add(1)
	}
}

// until waits for so many more writes.
func (w *writersAt) until(more int64) {
	w.t.Helper()
	want := w.writes.Load() + more
	until(w.t, func(context.Context) error {
		if got := w.writes.Load(); got < want {
			return fmt.Errorf("%d writes of %d", got, want)
		}
		return nil
	})
}

func (w *writersAt) end() {
	close(w.stop)
	w.wg.Wait()
}

// Leadership is handed around, and then the leader is stopped and killed, under 16
// writers: those at the members that go on notice nothing but a pause.
func TestLeadersGoUnderWriters(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	w := startWriters(t, cl.endpoints...)
	for range 5 {
		from := cl.leader(c)
		if _, err := client(t, nil, cl.endpoints[from]).MoveLeader(t.Context(), cl.id(from, memberName((from+1)%3))); err != nil {
			t.Fatal(err)
		}
		w.until(100)
	}
	w.end()
	for _, how := range []struct {
		what string
		end  func(*process)
	}{{"SIGTERM", (*process).stop}, {"SIGKILL", (*process).kill}} {
		leader := cl.leader(c)
		w := startWriters(t, cl.endpoints[(leader+1)%3], cl.endpoints[(leader+2)%3])
		how.end(cl.processes[leader])
		w.until(200)
		w.end()
		if t.Failed() {
			t.Fatalf("after %s of the leader", how.what)
		}
		cl.start(leader)
		cl.processes[leader].waitReady()
	}
}
