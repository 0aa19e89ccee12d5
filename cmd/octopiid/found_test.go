package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// startExpecting starts three processes with one command, but for where they are.
func startExpecting(t *testing.T, late time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), processes: make([]*process, 3)}
	var peers []string
	for range c.processes {
		peers = append(peers, freeAddr(t))
	}
	for i := range c.processes {
		client := freeAddr(t)
		c.args = append(c.args, []string{"start", "--name", memberName(i), "--data-dir", filepath.Join(c.dir, memberName(i)),
			"--client-addr", client, "--peer-addr", peers[i], "--join", strings.Join(peers, ","), "--expect", "3"})
		c.endpoints = append(c.endpoints, client)
		if i == 2 {
			pause(late)
		}
		c.start(i)
	}
	c.waitReady()
	return c
}

// pause lets real time pass, for processes whose behavior over time is what is tested.
func pause(d time.Duration) { <-time.After(d) }

// clusterOf is the cluster that a member serves, 0 if it serves none.
func (c *cluster) clusterOf(i int) uint64 {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	resp, err := client(c.t, nil, c.endpoints[i]).Get(ctx, "k", clientv3.WithSerializable())
	if err != nil {
		return 0
	}
	return resp.Header.ClusterId
}

// noOther fails if member i serves anything but the cluster, for so long.
func (c *cluster) noOther(i int, cluster uint64, d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); pause(50 * time.Millisecond) {
		if now := c.clusterOf(i); now != 0 && now != cluster {
			c.t.Fatalf("member %s serves the second cluster %x beside %x", memberName(i), now, cluster)
		}
	}
}

func (c *cluster) wipe(i int) {
	c.t.Helper()
	if err := os.RemoveAll(c.dataDir(i)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) waitLog(i int, text string) {
	c.t.Helper()
	until(c.t, func(context.Context) error {
		if !strings.Contains(c.processes[i].text(), text) {
			return fmt.Errorf("the log of %s does not say %q", memberName(i), text)
		}
		return nil
	})
}

// The founder's disk is wiped, and while it comes back it is killed again and again; one
// other member is down all that time, so that it cannot come in.
func TestWipedFounderKilledWhileItComesBack(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints[1:]...)
	cl.put(c, "kept")
	cluster := cl.clusterOf(1)
	old := cl.id(1, memberName(0))
	cl.processes[0].kill()
	cl.processes[2].kill()
	cl.wipe(0)
	cl.start(0)
	cl.waitLog(0, "a cluster seeks a member at this address")
	for range 4 {
		cl.processes[0].kill()
		cl.start(0)
		cl.noOther(0, cluster, time.Duration(rand.IntN(700))*time.Millisecond)
	}
	cl.processes[1].kill() // alone, it knows what it was
	cl.processes[0].kill()
	cl.start(0)
	cl.noOther(0, cluster, 2500*time.Millisecond)
	cl.start(1)
	cl.start(2)
	cl.waitReplaced(0, old, "kept")
}

// The founder's log has a damaged sector and its peers file is there; it is killed when it
// has put its files aside, and the others stand still.
func TestDamagedFounderKilledWhileItComesBack(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for n := range 30 {
		cl.put(c, fmt.Sprint(n))
	}
	cluster := cl.clusterOf(1)
	old := cl.id(1, memberName(0))
	cl.processes[0].stop()
	damage(t, filepath.Join(cl.dataDir(0), "node/wal/*/*.seg"))
	cl.start(0)
	cl.waitLog(0, "put aside")
	cl.processes[0].kill()
	for _, i := range []int{1, 2} {
		if err := cl.processes[i].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	cl.start(0)
	cl.noOther(0, cluster, 3*time.Second)
	for _, i := range []int{1, 2} {
		if err := cl.processes[i].cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	cl.waitReplaced(0, old, "29")
}

// One command for every member founds one cluster, also if the last one is 3 s late; a
// wiped one comes back with it, two wiped ones wait, and three begin anew.
func TestExpect(t *testing.T) {
	t.Parallel()
	cl := startExpecting(t, 3*time.Second)
	c := client(t, nil, cl.endpoints...)
	cl.put(c, "kept")
	cluster := cl.clusterOf(0)
	for i := range 3 {
		if now := cl.clusterOf(i); now != cluster {
			t.Fatalf("%s is of cluster %x, not of %x", memberName(i), now, cluster)
		}
		if strings.Contains(cl.processes[i].text(), "process is dead") {
			t.Errorf("%s says that a process is dead, and all run", memberName(i))
		}
	}
	old := cl.id(0, memberName(1))
	cl.processes[1].kill()
	cl.processes[2].kill()
	cl.wipe(1)
	for range 3 {
		cl.start(1)
		cl.noOther(1, cluster, time.Duration(rand.IntN(900))*time.Millisecond)
		cl.processes[1].kill()
	}
	cl.start(1)
	cl.start(2)
	cl.waitReplaced(1, old, "kept")

	for _, i := range []int{0, 1} {
		cl.processes[i].kill()
		cl.wipe(i)
		cl.start(i)
	}
	cl.noOther(0, cluster, 2*time.Second)
	for i := range 3 {
		cl.processes[i].kill()
		cl.wipe(i)
	}
	for i := range 3 {
		cl.start(i)
	}
	cl.waitReady()
	if now := cl.clusterOf(0); now == cluster || now == 0 {
		t.Errorf("after all three were wiped the cluster is %x; want a new one", now)
	}
}

// The founder is removed, and its operator follows the advice of its last line.
func TestRemovedFounderComesBackAsAdvised(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cluster := cl.clusterOf(1)
	id := cl.id(1, memberName(0))
	until(t, func(ctx context.Context) error {
		_, err := client(t, nil, cl.endpoints[1]).MemberRemove(ctx, id)
		return err
	})
	cl.processes[0].waitEnd()
	_, advice, ok := strings.Cut(cl.processes[0].text(), "start it with --join ")
	if !ok {
		t.Fatal("it does not say how to start it again")
	}
	join, _, _ := strings.Cut(advice, " ")
	cl.wipe(0)
	at := slices.Index(cl.args[0], "--bootstrap")
	cl.args[0] = slices.Replace(slices.Clone(cl.args[0]), at, at+1, "--join", join)
	cl.start(0)
	cl.processes[0].waitReady()
	if now := cl.clusterOf(0); now != cluster {
		t.Errorf("it is of cluster %x, not of %x", now, cluster)
	}
}

// The others stand still while a wiped founder starts with nothing that could tell it of
// them. When they go on, the cluster that it founded stops serving, and it joins them.
func TestPhantomGivesWay(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints[1:]...)
	cl.put(c, "kept")
	cluster, old := cl.clusterOf(1), cl.id(1, memberName(0))
	cl.processes[0].kill()
	for _, i := range []int{1, 2} {
		if err := cl.processes[i].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	cl.wipe(0)
	cl.start(0)
	until(t, func(context.Context) error {
		if now := cl.clusterOf(0); now == 0 || now == cluster {
			return errors.New("it has not founded")
		}
		return nil
	})
	for _, i := range []int{1, 2} {
		if err := cl.processes[i].cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	cl.waitReplaced(0, old, "kept")
	if !strings.Contains(cl.processes[0].text(), fmt.Sprintf("cluster %x", cluster)) {
		t.Error("it does not name the other cluster")
	}
}

// Three logs are damaged at once: nothing is moved while no majority answers.
func TestThreeDamagedAtOnceKeepTheirFiles(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for n := range 30 {
		cl.put(c, fmt.Sprint(n))
	}
	for i, p := range cl.processes {
		p.stop()
		damage(t, filepath.Join(cl.dataDir(i), "node/wal/*/*.seg"))
	}
	for i := range cl.processes {
		cl.start(i)
	}
	for i := range cl.processes {
		cl.waitLog(i, "while no majority of its cluster answers")
		if kept, _ := filepath.Glob(filepath.Join(cl.dataDir(i), "quarantine", "*")); len(kept) > 0 {
			t.Errorf("%s put its files aside: %v", memberName(i), kept)
		}
	}
}

// A founder that was told of addresses does not found while none of them answers, and says
// so. Once one does, and is of no cluster, it founds.
func TestBootstrapWithJoinWaitsForAnswers(t *testing.T) {
	t.Parallel()
	peer, other := freeAddr(t), freeAddr(t)
	p := spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", freeAddr(t), "--peer-addr", peer,
		"--bootstrap", "--found-after", "0", "--join", other)
	until(t, func(context.Context) error {
		if text := p.text(); !strings.Contains(text, other+" does not answer") || !strings.Contains(text, "leave --join out") {
			return errors.New("it does not say who does not answer, and what to do")
		}
		return nil
	})
	if strings.Contains(p.text(), "founded a cluster") {
		t.Error("it founded")
	}
	spawn(t, nil, "start", "--data-dir", t.TempDir(), "--client-addr", freeAddr(t), "--peer-addr", other, "--join", peer).waitReady()
	p.waitReady()
}
