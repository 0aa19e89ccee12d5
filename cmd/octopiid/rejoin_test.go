package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func (c *cluster) dataDir(i int) string { return filepath.Join(c.dir, memberName(i)) }

// id is the ID of the member that a process is, as the others know it.
func (c *cluster) id(by int, name string) uint64 {
	c.t.Helper()
	list, err := client(c.t, nil, c.endpoints[by]).MemberList(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.Name == name {
			return m.ID
		}
	}
	return 0
}

// waitReplaced waits until the cluster is of three voters, among which one of that name
// is not old any more, and that one serves what was written.
func (c *cluster) waitReplaced(i int, old uint64, want string) {
	c.t.Helper()
	by := client(c.t, nil, c.endpoints[(i+1)%3], c.endpoints[(i+2)%3])
	until(c.t, func(ctx context.Context) error {
		list, err := by.MemberList(ctx)
		if err != nil {
			return err
		}
		voters, there := 0, false
		for _, m := range list.Members {
			if m.ID == old {
				return errors.New("its old self is still a member")
			}
			there = there || m.Name == memberName(i)
			if !m.IsLearner {
				voters++
			}
		}
		if !there || voters != 3 || len(list.Members) != 3 {
			return fmt.Errorf("it is not in its place: %v", list.Members)
		}
		return nil
	})
	c.processes[i].waitReady()
	until(c.t, func(ctx context.Context) error {
		resp, err := client(c.t, nil, c.endpoints[i]).Get(ctx, "k")
		if err == nil && (len(resp.Kvs) == 0 || string(resp.Kvs[0].Value) != want) {
			err = fmt.Errorf("it reads %v; want %s", resp.Kvs, want)
		}
		return err
	})
}

func (c *cluster) put(by *clientv3.Client, value string) {
	c.t.Helper()
	until(c.t, func(ctx context.Context) error {
		_, err := by.Put(ctx, "k", value)
		return err
	})
}

// Each of three loses its disk in turn, the founder too, and comes back with the same
// command: as a new member, in its old place, while the others serve.
func TestWipedMembersRejoin(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	for i := range cl.processes {
		rest := client(t, nil, cl.endpoints[(i+1)%3], cl.endpoints[(i+2)%3])
		cl.put(rest, fmt.Sprint("before ", i))
		old := cl.id(i, memberName(i))
		cl.processes[i].kill()
		if err := os.RemoveAll(cl.dataDir(i)); err != nil {
			t.Fatal(err)
		}
		cl.start(i)
		cl.put(rest, fmt.Sprint("while ", i, " was away"))
		cl.waitReplaced(i, old, fmt.Sprint("while ", i, " was away"))
	}
}

// A member whose command names only one that is dead, and which lost its disk, is sought
// by the others, and asks them.
func TestWipedMemberWithNobodyToAsk(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	// A fourth one, so that two may fail: one for good.
	client4, peer4 := freeAddr(t), freeAddr(t)
	fourth := spawn(t, nil, "start", "--name", "n4", "--data-dir", filepath.Join(cl.dir, "n4"), "--client-addr", client4,
		"--peer-addr", peer4, "--join", cl.args[0][slices.Index(cl.args[0], "--peer-addr")+1])
	fourth.waitReady()
	fifth := spawn(t, nil, "start", "--name", "n5", "--data-dir", filepath.Join(cl.dir, "n5"), "--client-addr", freeAddr(t),
		"--peer-addr", freeAddr(t), "--join", peer4)
	fifth.waitReady()
	rest := client(t, nil, cl.endpoints[2], client4)
	cl.processes[0].kill()
	cl.put(rest, "without the founder")
	old := cl.id(2, memberName(1))
	cl.processes[1].kill()
	if err := os.RemoveAll(cl.dataDir(1)); err != nil {
		t.Fatal(err)
	}
	cl.start(1) // its --join is the founder
	cl.processes[1].waitReady()
	until(t, func(context.Context) error {
		if now := cl.id(2, memberName(1)); now == 0 || now == old {
			return fmt.Errorf("its member is %x, and was %x", now, old)
		}
		return nil
	})
	cl.put(client(t, nil, cl.endpoints[1]), "by itself")
}

// waiting is a fourth member that waits to be added.
type waiting struct {
	cl           *cluster
	c            *clientv3.Client
	dir          string
	client, peer string
	process      *process
}

func startWaiting(t *testing.T) *waiting {
	cl := startCluster(t)
	w := &waiting{cl: cl, c: client(t, nil, cl.endpoints...), dir: filepath.Join(cl.dir, "n4"), client: freeAddr(t), peer: freeAddr(t)}
	w.start()
	return w
}

func (w *waiting) start() {
	w.process = spawn(w.cl.t, nil, "start", "--name", "n4", "--data-dir", w.dir, "--client-addr", w.client, "--peer-addr", w.peer, "--wait")
}

// lose kills it, removes a part of its directory, and starts it again.
func (w *waiting) lose(part string) {
	w.process.kill()
	if err := os.RemoveAll(filepath.Join(w.dir, part)); err != nil {
		w.cl.t.Fatal(err)
	}
	w.start()
}

// member waits until it is a member, with a vote or without, and its old self is none.
func (w *waiting) member(learner bool, old uint64) (id uint64) {
	until(w.cl.t, func(ctx context.Context) error {
		list, err := w.c.MemberList(ctx)
		if err != nil {
			return err
		}
		id = 0
		for _, m := range list.Members {
			switch {
			case m.ID == old:
				return errors.New("its old self is still a member")
			case m.PeerURLs[0] == "http://"+w.peer && m.IsLearner == learner:
				id = m.ID
			}
		}
		if id == 0 {
			return fmt.Errorf("it is not there, or learner=%v is wrong: %v", learner, list.Members)
		}
		return nil
	})
	return id
}

// A member that waits to be added, and was, takes its place again by the same command when
// its disk was wiped.
func TestWipedMemberThatWasAdded(t *testing.T) {
	t.Parallel()
	w := startWaiting(t)
	until(t, func(ctx context.Context) error {
		_, err := w.c.MemberAdd(ctx, []string{"http://" + w.peer})
		return err
	})
	w.process.waitReady()
	old := w.member(false, 0)
	w.lose(".")
	w.member(false, old)
	w.process.waitReady()
	w.cl.put(client(t, nil, w.client), "by itself")
}

// A learner that waits to be added, and was, comes back as a learner when its disk was
// wiped, and so does one that lost its log alone.
func TestWipedLearnerStaysOne(t *testing.T) {
	t.Parallel()
	w := startWaiting(t)
	until(t, func(ctx context.Context) error {
		_, err := w.c.MemberAddAsLearner(ctx, []string{"http://" + w.peer})
		return err
	})
	w.process.waitReady()
	id := w.member(true, 0)
	for _, lost := range []string{".", filepath.Join("node", "wal")} {
		w.lose(lost)
		id = w.member(true, id)
		w.process.waitReady()
		w.cl.put(w.c, "behind "+lost)
	}
	w.member(true, 0)
}

// An older copy of a member's directory is put back, of a follower and then of the
// leader: it is noticed, put aside, and the member takes its own place.
func TestRolledBackMembersRejoin(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for round, leads := range []bool{false, true} {
		i := (cl.leader(c) + 1) % 3
		cl.put(c, "early")
		cl.processes[i].stop()
		saved := filepath.Join(t.TempDir(), "saved")
		if err := os.CopyFS(saved, os.DirFS(cl.dataDir(i))); err != nil {
			t.Fatal(err)
		}
		cl.start(i)
		cl.processes[i].waitReady()
		old := cl.id(i, memberName(i))
		if leads {
			until(t, func(ctx context.Context) error {
				_, err := client(t, nil, cl.endpoints[cl.leader(c)]).MoveLeader(ctx, old)
				return err
			})
		}
		last := ""
		for n := range 20 {
			last = fmt.Sprintf("later %d of %d", n, round)
			cl.put(c, last)
		}
		heartbeats := time.NewTimer(time.Second) // they say how far its disk is
		<-heartbeats.C
		cl.processes[i].kill()
		if err := errors.Join(os.RemoveAll(cl.dataDir(i)), os.Rename(saved, cl.dataDir(i))); err != nil {
			t.Fatal(err)
		}
		cl.start(i)
		cl.waitReplaced(i, old, last)
		if kept, _ := filepath.Glob(filepath.Join(cl.dataDir(i), "quarantine", "*", "node", "identity")); len(kept) == 0 {
			t.Error("nothing was put aside")
		}
	}
}

// A member is wiped and comes back under a new ID, and then an image of its directory from
// before is put back. Nobody removed it by hand: it comes back once more, and no voter is
// left that nobody is.
func TestImageFromBeforeTheRebuild(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	for i := range 2 { // the founder, too
		rest := client(t, nil, cl.endpoints[(i+1)%3], cl.endpoints[(i+2)%3])
		cl.put(rest, fmt.Sprint("before ", i))
		first := cl.id(2, memberName(i))
		cl.processes[i].kill()
		image := cl.dataDir(i) + ".image"
		if err := os.Rename(cl.dataDir(i), image); err != nil {
			t.Fatal(err)
		}
		cl.start(i)
		cl.waitReplaced(i, first, fmt.Sprint("before ", i))
		second := cl.id(2, memberName(i))
		cl.processes[i].kill()
		if err := errors.Join(os.RemoveAll(cl.dataDir(i)), os.Rename(image, cl.dataDir(i))); err != nil {
			t.Fatal(err)
		}
		cl.put(rest, fmt.Sprint("after ", i))
		cl.start(i)
		cl.waitReplaced(i, second, fmt.Sprint("after ", i))
		if text := cl.processes[i].text(); !strings.Contains(text, "these files are an older image of it") {
			t.Errorf("it does not say why its files were put aside:\n%s", text)
		}
		if kept, _ := filepath.Glob(filepath.Join(cl.dataDir(i), "quarantine", "*", "node", "identity")); len(kept) != 1 {
			t.Errorf("put aside: %v; want the image", kept)
		}
	}
}

// A damaged log, identity or database is put aside as it is, and named; the member is
// rebuilt from the others. The founder has no addresses but those that it kept.
func TestDamagedMembersRejoin(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for i, what := range []string{"node/wal/*/*.seg", "node/identity", "kv/db"} {
		for n := range 50 {
			cl.put(c, fmt.Sprintf("value %d of %d", n, i))
		}
		old := cl.id((i+1)%3, memberName(i))
		cl.processes[i].stop()
		file, data := damage(t, filepath.Join(cl.dataDir(i), what))
		cl.start(i)
		cl.waitReplaced(i, old, fmt.Sprintf("value 49 of %d", i))
		rest, _ := filepath.Rel(cl.dataDir(i), file)
		kept, _ := filepath.Glob(filepath.Join(cl.dataDir(i), "quarantine", "*", rest))
		if len(kept) != 1 {
			t.Fatalf("put aside: %v; want %s", kept, rest)
		}
		now, err := os.ReadFile(kept[0])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, now) {
			t.Errorf("%s was changed", file)
		}
		if !strings.Contains(cl.processes[i].text(), file) {
			t.Errorf("the log does not name %s", file)
		}
	}
}

// damage changes many bytes of the first file of a pattern, and returns what it holds
// then.
func damage(t *testing.T, pattern string) (string, []byte) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 20; at < min(len(data), 40<<10); at += 100 {
		data[at] ^= 0x55
	}
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	return files[0], data
}

// A member that stopped for damage, and waits for a majority to say so, keeps its directory:
// another process that is started on it waits, so that its files are not moved away below it.
func TestDirectoryIsKeptWhileAMemberAsks(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "value")
	for _, p := range cl.processes {
		p.stop()
	}
	damage(t, filepath.Join(cl.dataDir(2), "node/wal/*/*.seg"))
	cl.start(2)
	waitText(t, cl.processes[2], "this member stopped, serves nothing and waits")
	second := spawn(t, nil, append(slices.Clone(cl.args[2]), "--lock-timeout", "50ms", "--log-level", "error")...)
	expectEnd(t, second, exitFailure, "is in use by another process")
	for i := range 2 {
		cl.start(i)
	}
	waitText(t, cl.processes[2], "joins again as a new member")
	cl.processes[2].waitReady()
}
