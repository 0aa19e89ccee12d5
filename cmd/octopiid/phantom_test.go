package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func (c *cluster) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.processes[i].cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// phantom has the others killed, and the founder wiped and started again with its own
// command, until it serves a second cluster, which it returns with the first one.
func (c *cluster) phantom() (first, second uint64) {
	c.t.Helper()
	first = c.clusterOf(1)
	for _, p := range c.processes {
		p.kill()
	}
	c.wipe(0)
	c.start(0)
	c.processes[0].waitReady()
	second = c.clusterOf(0)
	if second == 0 || second == first {
		c.t.Fatalf("it serves cluster %x, and the first one was %x", second, first)
	}
	return first, second
}

// servesNothing waits until member i refuses linearizable and serializable reads, and
// writes, and names both clusters.
func (c *cluster) servesNothing(i int, clusters ...uint64) {
	c.t.Helper()
	// A client that tries again hides the answer.
	by, err := clientv3.New(clientv3.Config{Endpoints: c.endpoints[i : i+1], MaxUnaryRetries: 1, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer by.Close()
	for name, call := range map[string]func(context.Context) error{
		"a read":              func(ctx context.Context) error { _, err := by.Get(ctx, "k"); return err },
		"a serializable read": func(ctx context.Context) error { _, err := by.Get(ctx, "k", clientv3.WithSerializable()); return err },
		"a write":             func(ctx context.Context) error { _, err := by.Put(ctx, "k", "phantom"); return err },
	} {
		until(c.t, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			err := call(ctx)
			if err == nil {
				return fmt.Errorf("%s is served", name)
			}
			for _, id := range clusters {
				if !strings.Contains(err.Error(), fmt.Sprintf("%x", id)) {
					return fmt.Errorf("%s fails without the name of cluster %x: %w", name, id, err)
				}
			}
			return nil
		})
	}
	st, err := by.Status(c.t.Context(), c.endpoints[i])
	if err != nil || !strings.Contains(strings.Join(st.Errors, " "), fmt.Sprintf("%x", clusters[0])) {
		c.t.Errorf("its status says %v, %v; want the name of cluster %x", st, err, clusters[0])
	}
}

// The founder is wiped while the others stand still for longer than an election: it has
// heard of them before it founds.
func TestFounderHearsOfThoseThatStandStill(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints[1:]...)
	cl.put(c, "kept")
	old := cl.id(1, memberName(0))
	cl.processes[0].kill()
	cl.args[0] = append(cl.args[0], "--found-after", "5s")
	cl.signal(1, syscall.SIGSTOP)
	cl.signal(2, syscall.SIGSTOP)
	cl.wipe(0)
	cl.start(0)
	pause(4 * time.Second)
	cl.signal(1, syscall.SIGCONT)
	cl.signal(2, syscall.SIGCONT)
	cl.waitReplaced(0, old, "kept")
	if strings.Contains(cl.processes[0].text(), "founded a cluster") {
		t.Error("it founded a second cluster")
	}
}

// A second cluster serves nothing as soon as a single member of the first one is back, nor
// after a restart; when a majority is back it gives way.
func TestPhantomServesNothingBesideOneMember(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "kept")
	old := cl.id(1, memberName(0))
	metrics := freeAddr(t)
	cl.args[0] = append(cl.args[0], "--metrics-addr", metrics)
	first, second := cl.phantom()
	cl.put(client(t, nil, cl.endpoints[0]), "phantom")
	cl.start(1)
	began := time.Now()
	cl.servesNothing(0, first, second)
	t.Logf("it serves nothing %v after one member was back", time.Since(began))
	if code, body := fetch(t.Context(), "http://"+metrics+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, fmt.Sprintf("%x", first)) {
		t.Errorf("/readyz answers %d %s; want the name of cluster %x", code, body, first)
	}
	cl.processes[0].kill()
	cl.processes[1].kill()
	cl.start(0)
	cl.servesNothing(0, first, second)
	cl.start(1)
	cl.start(2)
	cl.waitReplaced(0, old, "kept")
}

// A newcomer has joined the second cluster when one member of the first one is back: it
// serves nothing either. An operator ends it and empties the founder, which comes back.
func TestPhantomThatWasJoinedServesNothing(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "kept")
	old := cl.id(1, memberName(0))
	first, second := cl.phantom()
	newcomer := freeAddr(t)
	fourth := spawn(t, nil, "start", "--name", "n4", "--data-dir", filepath.Join(cl.dir, "n4"), "--client-addr", newcomer,
		"--peer-addr", freeAddr(t), "--join", cl.at(0, "--peer-addr"))
	fourth.waitReady()
	cl.put(client(t, nil, newcomer), "phantom")
	cl.start(1)
	cl.servesNothing(0, first, second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client(t, nil, newcomer).Put(ctx, "k", "more"); err == nil {
		t.Error("a write is served at the newcomer")
	}
	cl.start(2)
	cl.waitLog(0, "an operator decides")
	fourth.kill() // it would seek its founder
	cl.processes[0].stop()
	cl.wipe(0)
	cl.start(0)
	cl.waitReplaced(0, old, "kept")
}

// An operator says which of the two clusters is right.
func TestNotOf(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "kept")
	first, second := cl.phantom()
	cl.start(1)
	cl.servesNothing(0, first, second)
	cl.processes[0].stop()
	plain := cl.args[0]
	cl.args[0] = append(plain[:len(plain):len(plain)], "--not-of", fmt.Sprintf("%x", first))
	cl.start(0)
	cl.processes[0].waitReady()
	cl.put(client(t, nil, cl.endpoints[0]), "right")
	cl.processes[0].stop()
	cl.args[0] = plain
	cl.start(0)
	cl.processes[0].waitReady()
	cl.noneSuspends(0, second, 2*time.Second)
}

// noneSuspends fails if member i does not serve its cluster all the time.
func (c *cluster) noneSuspends(i int, cluster uint64, d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); pause(50 * time.Millisecond) {
		if now := c.clusterOf(i); now != cluster {
			c.t.Fatalf("member %s serves cluster %x; want %x", memberName(i), now, cluster)
		}
	}
}

// A founder that is told of addresses asks them, and joins the cluster that is there.
func TestBootstrapWithJoinAsks(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cluster := cl.clusterOf(0)
	client4 := freeAddr(t)
	p := spawn(t, nil, "start", "--name", "n4", "--data-dir", t.TempDir(), "--client-addr", client4, "--peer-addr", freeAddr(t),
		"--bootstrap", "--found-after", "0", "--join", cl.at(1, "--peer-addr")+","+cl.at(2, "--peer-addr"))
	p.waitReady()
	resp, err := client(t, nil, client4).Get(t.Context(), "k")
	if err != nil || resp.Header.ClusterId != cluster {
		t.Errorf("it serves %v, %v; want cluster %x", resp, err, cluster)
	}
}

// A joiner that is told of members of two clusters joins neither.
func TestJoinerOfTwoClustersWaits(t *testing.T) {
	t.Parallel()
	found := func() (peer string, p *process) {
		p = spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--bootstrap", "--found-after", "0")
		return p.waitReady().Peer, p
	}
	a, _ := found()
	b, wrong := found()
	joiner := spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", "127.0.0.1:0", "--peer-addr", freeAddr(t), "--join", a+","+b)
	until(t, func(context.Context) error {
		if text := joiner.text(); !strings.Contains(text, "are of different clusters") {
			return errors.New("it does not say that there are two clusters")
		}
		return nil
	})
	if strings.Contains(joiner.text(), "brought to life") {
		t.Error("it joined one of them")
	}
	wrong.stop()
	joiner.waitReady()
}
