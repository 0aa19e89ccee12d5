package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	durabilityClients = 16
	// acksPerPhase is how many writes must be acknowledged while a member is
	// down, and again once it is back.
	acksPerPhase = 100
)

// Every member is killed in turn with SIGKILL while clients write, and now and
// then all of them at once. Afterwards every acknowledged write is there on every
// member, and all members are equal.
// OCTOPII_KILL_ROUNDS sets another number of kills than 30.
func TestDurability(t *testing.T) {
	t.Parallel()
	rounds := 30
	if v, err := strconv.Atoi(os.Getenv("OCTOPII_KILL_ROUNDS")); err == nil {
		rounds = v
	} else if testing.Short() {
		rounds = 3
	}
	cl := startCluster(t)
	w := newWriters(t, cl.endpoints)
	for round := range rounds {
		if round%10 == 9 {
			cl.killAll()
			w.waitAcks(t, acksPerPhase, "after all members were killed, in round %d", round)
			continue
		}
		victim := round % 3
		cl.processes[victim].kill()
		w.waitAcks(t, acksPerPhase, "while member %d is down, in round %d", victim, round)
		cl.start(victim)
		cl.processes[victim].waitReady()
		w.waitAcks(t, acksPerPhase, "with member %d back, in round %d", victim, round)
	}
	acked := w.stop()
	t.Logf("%d writes were acknowledged over %d rounds", len(acked), rounds)

	c := client(t, nil, cl.endpoints...)
	latest, err := c.Get(t.Context(), "end")
	if err != nil {
		t.Fatal(err)
	}
	hashes := make(map[uint64][]string)
	for _, endpoint := range cl.endpoints {
		state := stateAt(t, endpoint, latest.Header.Revision)
		lost := 0
		for key, value := range acked {
			if state.values[key] != value {
				lost++
				if lost <= 5 {
					t.Errorf("member %s has %q for %s, but %q was acknowledged", endpoint, state.values[key], key, value)
				}
			}
		}
		if lost > 0 {
			t.Errorf("member %s lost %d of %d acknowledged writes", endpoint, lost, len(acked))
		}
		hashes[state.hash] = append(hashes[state.hash], endpoint)
	}
	if len(hashes) != 1 {
		t.Errorf("the members' states differ at revision %d: %v", latest.Header.Revision, hashes)
	}
}

// killAll kills all members at once and starts them again.
func (c *cluster) killAll() {
	c.t.Helper()
	for _, p := range c.processes {
		p.kill()
	}
	for i := range c.processes {
		c.start(i)
	}
	c.waitReady()
}

// writers are clients that write without a pause and remember what was
// acknowledged.
type writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  map[string]string
	// progress is closed, and replaced, with every acknowledgement.
	progress chan struct{}
}

func newWriters(t *testing.T, endpoints []string) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{cancel: cancel, acked: make(map[string]string), progress: make(chan struct{})}
	t.Cleanup(func() { w.stop() })
	for i := range durabilityClients {
		c := client(t, nil, endpoints...)
		w.wg.Go(func() { w.write(ctx, c, i) })
	}
	return w
}

func (w *writers) write(ctx context.Context, c *clientv3.Client, id int) {
	for n := 0; ctx.Err() == nil; n++ {
		key, value := fmt.Sprintf("client%02d/%06d", id, n), fmt.Sprintf("value %d of client %d", n, id)
		// A write that fails may have happened or not: it is not counted on.
		op, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := c.Put(op, key, value)
		cancel()
		if err == nil {
			w.ack(key, value)
		}
	}
}

func (w *writers) ack(key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[key] = value
	close(w.progress)
	w.progress = make(chan struct{})
}

func (w *writers) state() (int, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked), w.progress
}

// waitAcks waits until n more writes were acknowledged.
func (w *writers) waitAcks(t *testing.T, n int, format string, args ...any) {
	t.Helper()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	start, progress := w.state()
	for now := start; now < start+n; now, progress = w.state() {
		select {
		case <-progress:
		case <-timeout.C:
			t.Fatalf("only %d of %d writes were acknowledged %s", now-start, n, fmt.Sprintf(format, args...))
		}
	}
}

// stop ends the writers and returns what was acknowledged.
func (w *writers) stop() map[string]string {
	w.cancel()
	w.wg.Wait()
	return w.acked
}

// state is all that one member holds at a revision.
type state struct {
	values map[string]string
	hash   uint64
}

// stateAt reads a member's own state, as soon as it has that revision.
func stateAt(t *testing.T, endpoint string, revision int64) state {
	t.Helper()
	c := client(t, nil, endpoint)
	var resp *clientv3.GetResponse
	until(t, func(ctx context.Context) (err error) {
		resp, err = c.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithSerializable())
		return err
	})
	s := state{values: make(map[string]string, len(resp.Kvs))}
	h := fnv.New64a()
	for _, kv := range resp.Kvs {
		s.values[string(kv.Key)] = string(kv.Value)
		fmt.Fprintf(h, "%q %q %d %d %d %d\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	s.hash = h.Sum64()
	return s
}
