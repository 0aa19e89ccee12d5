package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cluster is three processes.
type cluster struct {
	t         *testing.T
	dir       string
	args      [][]string
	processes []*process
	endpoints []string
}

func startCluster(t *testing.T, extra ...string) *cluster {
	t.Helper()
	return startClusterIn(t, t.TempDir(), extra...)
}

// startClusterIn has the members' data directories in dir, by their names.
func startClusterIn(t *testing.T, dir string, extra ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: dir, processes: make([]*process, 3)}
	founder := ""
	for i := range c.processes {
		client, peer := freeAddr(t), freeAddr(t)
		args := []string{"start", "--name", memberName(i), "--data-dir", filepath.Join(c.dir, memberName(i)),
			"--client-addr", client, "--peer-addr", peer}
		if i == 0 {
			founder = peer
			args = append(args, "--bootstrap", "--found-after", "1500ms")
		} else {
			args = append(args, "--join", founder)
		}
		c.args = append(c.args, append(args, extra...))
		c.endpoints = append(c.endpoints, client)
		c.start(i)
	}
	c.waitReady()
	return c
}

func (c *cluster) start(i int) { c.processes[i] = spawn(c.t, nil, c.args[i]...) }

// at is what the command of member i says behind a flag.
func (c *cluster) at(i int, flag string) string { return c.args[i][slices.Index(c.args[i], flag)+1] }

func (c *cluster) waitReady() {
	c.t.Helper()
	for _, p := range c.processes {
		p.waitReady()
	}
}

func client(t *testing.T, tls *tls.Config, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: tls, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// until calls try until it returns nil: for what a cluster brings about by
// itself, soon, but nobody says when.
func until(t *testing.T, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not after %v: %v", startTimeout, err)
		}
	}
}

func get(t *testing.T, c *clientv3.Client, key string) string {
	t.Helper()
	resp, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s from %v: %v", key, c.Endpoints(), err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// etcd's client does on a cluster what it does on etcd.
func TestClusterServesEtcdClients(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for i := range 6 {
		if _, err := c.Put(t.Context(), fmt.Sprintf("k%d", i), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, endpoint := range cl.endpoints {
		if v := get(t, client(t, nil, endpoint), "k5"); v != "5" {
			t.Errorf("member %s reads %q after the write was acknowledged; want 5", endpoint, v)
		}
	}
	ranged, err := c.Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil || len(ranged.Kvs) != 2 || string(ranged.Kvs[0].Key) != "k5" || !ranged.More || ranged.Count != 6 {
		t.Errorf("range returned %v, %v", ranged, err)
	}
	txn, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.Version("k0"), "=", 1)).
		Then(clientv3.OpPut("k0", "again"), clientv3.OpDelete("k1")).Commit()
	if err != nil || !txn.Succeeded {
		t.Fatalf("transaction returned %v, %v", txn, err)
	}
	deleted, err := c.Delete(t.Context(), "k2", clientv3.WithRange("k4"), clientv3.WithPrevKV())
	if err != nil || deleted.Deleted != 2 || len(deleted.PrevKvs) != 2 {
		t.Errorf("delete returned %v, %v", deleted, err)
	}
	if _, err := c.Compact(t.Context(), txn.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Error(err)
	}
	for _, endpoint := range cl.endpoints {
		_, err := client(t, nil, endpoint).Get(t.Context(), "k0", clientv3.WithRev(2))
		if !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("member %s reads a compacted revision: %v; want %v", endpoint, err, rpctypes.ErrCompacted)
		}
	}
	watched := <-c.Watch(t.Context(), "k0")
	if watched.Err() == nil || !strings.Contains(watched.Err().Error(), codes.Unimplemented.String()) {
		t.Errorf("watch: %v; want Unimplemented", watched.Err())
	}
	checkMembers(t, cl, c)
}

func checkMembers(t *testing.T, cl *cluster, c *clientv3.Client) {
	t.Helper()
	list, err := c.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	urls := make(map[string]bool)
	for _, m := range list.Members {
		for _, u := range m.ClientURLs {
			urls[m.Name+" "+u] = true
		}
	}
	leaders := make(map[uint64]bool)
	for i, endpoint := range cl.endpoints {
		if !urls[memberName(i)+" http://"+endpoint] {
			t.Errorf("the list of members lacks %s at %s: %v", memberName(i), endpoint, list.Members)
		}
		st, err := c.Status(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		leaders[st.Leader] = true
	}
	if len(list.Members) != 3 || len(leaders) != 1 || leaders[0] {
		t.Errorf("%d members, leaders %v; want 3 members that agree on one leader", len(list.Members), leaders)
	}
}

// The leader can be stopped and come back with the same command, and all
// processes can crash at once: no acknowledged write is lost.
func TestClusterSurvivesRestarts(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	if _, err := c.Put(t.Context(), "a", "before"); err != nil {
		t.Fatal(err)
	}
	leader := cl.leader(c)
	cl.processes[leader].stop()
	rest := client(t, nil, cl.endpoints[(leader+1)%3], cl.endpoints[(leader+2)%3])
	until(t, func(ctx context.Context) error {
		_, err := rest.Put(ctx, "a", "meanwhile")
		return err
	})
	cl.start(leader)
	cl.processes[leader].waitReady()
	if v := get(t, client(t, nil, cl.endpoints[leader]), "a"); v != "meanwhile" {
		t.Errorf("the restarted member reads %q; want meanwhile", v)
	}
	cl.killAll()
	for _, endpoint := range cl.endpoints {
		if v := get(t, client(t, nil, endpoint), "a"); v != "meanwhile" {
			t.Errorf("after a crash of all, member %s reads %q; want meanwhile", endpoint, v)
		}
	}
}

// The leader's process is killed, three times, while somebody writes through a survivor:
// another one leads, and the writes go on. How soon is measured by scripts/failover-bench
// and asserted nowhere.
func TestFailover(t *testing.T) {
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for trial := range 3 {
		leader := cl.leader(c)
		survivor := client(t, nil, cl.endpoints[(leader+1)%3])
		if _, err := survivor.Put(t.Context(), "trial", fmt.Sprint(trial)); err != nil {
			t.Fatal(err)
		}
		cl.processes[leader].kill()
		until(t, func(ctx context.Context) error {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := survivor.Put(try, "after", fmt.Sprint(trial))
			return err
		})
		cl.start(leader)
		cl.processes[leader].waitReady()
		if v := get(t, client(t, nil, cl.endpoints[leader]), "after"); v != fmt.Sprint(trial) {
			t.Errorf("trial %d: the member that came back reads %q", trial, v)
		}
	}
}

// leader returns which process leads.
func (c *cluster) leader(cl *clientv3.Client) int {
	c.t.Helper()
	leader := -1
	until(c.t, func(ctx context.Context) error {
		for i, endpoint := range c.endpoints {
			st, err := cl.Status(ctx, endpoint)
			if err == nil && st.Leader == st.Header.MemberId {
				leader = i
				return nil
			}
		}
		return errors.New("no member says that it leads")
	})
	return leader
}

// A member that waits to join lives, but is not ready and serves nothing.
func TestHealth(t *testing.T) {
	t.Parallel()
	nobody := freeAddr(t)
	for name, c := range map[string]struct {
		how   []string
		ready int
	}{
		"founder": {[]string{"--bootstrap", "--found-after", "0"}, http.StatusOK},
		"waiting": {[]string{"--join", nobody}, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			metrics, clients := freeAddr(t), freeAddr(t)
			p := spawn(t, nil, append([]string{"start", "--data-dir", t.TempDir(), "--client-addr", clients,
				"--peer-addr", "127.0.0.1:0", "--metrics-addr", metrics}, c.how...)...)
			if c.ready == http.StatusOK {
				p.waitReady()
			}
			until(t, func(ctx context.Context) error {
				code, _ := fetch(ctx, "http://"+metrics+"/livez")
				return expectCode(code, http.StatusOK)
			})
			if code, body := fetch(t.Context(), "http://"+metrics+"/readyz"); code != c.ready {
				t.Errorf("/readyz answers %d %s; want %d", code, body, c.ready)
			}
			if code, body := fetch(t.Context(), "http://"+metrics+"/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
				t.Errorf("/metrics answers %d %s", code, body)
			}
			if c.ready != http.StatusOK {
				_, err := client(t, nil, clients).Put(t.Context(), "a", "1")
				if status.Code(err) != codes.Unavailable {
					t.Errorf("a put on a member without a cluster: %v; want Unavailable", err)
				}
			}
			p.stop()
		})
	}
}

func expectCode(got, want int) error {
	if got != want {
		return fmt.Errorf("status %d; want %d", got, want)
	}
	return nil
}

// fetch returns code 0 and the error's text if there is no answer.
func fetch(ctx context.Context, url string) (code int, body string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// Who is left of a cluster says in its log, at /readyz and to etcdctl who is missing.
func TestNoMajorityIsExplained(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "kept")
	metrics := freeAddr(t)
	cl.processes[0].stop()
	cl.args[0] = append(cl.args[0], "--metrics-addr", metrics)
	cl.start(0)
	cl.processes[0].waitReady()
	cl.processes[1].kill()
	cl.processes[2].kill()
	want := "missing: n"
	waitText(t, cl.processes[0], want)
	if code, body := fetch(t.Context(), "http://"+metrics+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, want) {
		t.Errorf("/readyz answers %d %s; want it to say %q", code, body, want)
	}
	st, err := client(t, nil, cl.endpoints[0]).Status(t.Context(), cl.endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(st.Errors, " "), want) {
		t.Errorf("status with the errors %q; want some that say %q", st.Errors, want)
	}
	// What docs/STATUS.md says of a majority that never comes back.
	resp, err := client(t, nil, cl.endpoints[0]).Get(t.Context(), "k", clientv3.WithSerializable())
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "kept" {
		t.Errorf("a stale read of who is left: %v, %v; want kept", resp, err)
	}
}
