package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// smallDisks mounts a small volume for each member's data directory. It skips the test
// where that is not possible.
func smallDisks(t *testing.T, sizeMiB int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := range 3 {
		at := filepath.Join(dir, memberName(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		mountSmall(t, at, sizeMiB)
	}
	return dir
}

// mountSmall mounts a small volume. It skips the test where that is not possible.
func mountSmall(t *testing.T, at string, sizeMiB int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", sizeMiB), "tmpfs", at).CombinedOutput(); err != nil {
		t.Skipf("a small disk cannot be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", at).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", at, err, out)
		}
	})
}

// fill lets somebody else take all that is left of a member's disk, and what becomes
// free, until it is told to stop; then the disk is free again.
func (c *cluster) fill(i int) (free func()) {
	c.t.Helper()
	path := filepath.Join(c.dataDir(i), "somebody else's")
	f, err := os.Create(path)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	taken, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer f.Close()
		full := false
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; {
			for size := 1 << 20; size >= 1<<12; {
				if _, err := f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
			if !full {
				full = true
				close(taken)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
			}
		}
	}()
	<-taken
	free = func() {
		cancel()
		<-done
		os.Remove(path)
	}
	c.t.Cleanup(free)
	return free
}

// logSpace says what the members have, and how far they are.
func (c *cluster) logSpace() {
	for i, endpoint := range c.endpoints {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		st, err := client(c.t, nil, endpoint).Status(ctx, endpoint)
		_, putErr := client(c.t, nil, endpoint).Put(ctx, "logSpace", "")
		cancel()
		if err == nil {
			c.t.Logf("%s: leader %x, term %d, log %d, applied %d, database %d of which %d in use, errors %q", memberName(i), st.Leader, st.RaftTerm, st.RaftIndex, st.RaftAppliedIndex, st.DbSize, st.DbSizeInUse, st.Errors)
		}
		out, _ := exec.Command("sh", "-c", "df -k "+c.dataDir(i)+"; find "+c.dataDir(i)+" -type f | xargs ls -ls").CombinedOutput()
		c.t.Logf("%s: status %v, put %v\n%s", memberName(i), err, putErr, out)
	}
}

// writer puts keys, and remembers which of them were acknowledged.
type writer struct {
	c     *clientv3.Client
	n     int
	acked []string
	value string
}

// put makes one attempt.
func (w *writer) put(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	w.n++
	key := fmt.Sprintf("w%06d", w.n)
	_, err := w.c.Put(ctx, key, w.value)
	if err == nil {
		w.acked = append(w.acked, key)
	}
	return err
}

// check fails the test when a member lacks something that was acknowledged.
func (w *writer) check(t *testing.T, endpoint string) {
	t.Helper()
	resp, err := client(t, nil, endpoint).Get(t.Context(), "w", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatalf("read from %s: %v", endpoint, err)
	}
	there := make(map[string]bool)
	for _, kv := range resp.Kvs {
		there[string(kv.Key)] = true
	}
	for _, key := range w.acked {
		if !there[key] {
			t.Fatalf("%s lacks %s, one of %d acknowledged keys", endpoint, key, len(w.acked))
		}
	}
}

// waitServed waits until a member answers a linearizable read.
func waitServed(t *testing.T, endpoint, key string) {
	t.Helper()
	until(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := client(t, nil, endpoint).Get(ctx, key)
		return err
	})
}

func (c *cluster) mustLive() {
	c.t.Helper()
	for i, p := range c.processes {
		select {
		case <-p.ended:
			c.t.Fatalf("%s ended with status %d", memberName(i), p.status)
		default:
		}
		if _, err := os.Stat(filepath.Join(c.dataDir(i), "quarantine")); err == nil {
			c.t.Errorf("%s put its files aside", memberName(i))
		}
	}
}

// The disks of all members get full, of the log and the database, by others and by what
// they write: writes are refused, reads go on, and no process ends; also one that is
// started then. When there is space again writes go on, and nothing is lost.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	cl := startClusterIn(t, smallDisks(t, 160), "--disk-reserve", "16")
	c := client(t, nil, cl.endpoints...)
	w := &writer{c: c, value: strings.Repeat("v", 32<<10)}
	for range 20 {
		if err := w.put(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var freed []func()
	for i := range cl.processes {
		freed = append(freed, cl.fill(i))
	}
	until(t, func(ctx context.Context) error {
		if err := w.put(ctx); !errors.Is(err, rpctypes.ErrNoSpace) {
			return fmt.Errorf("a put on full disks: %v", err)
		}
		return nil
	})
	t.Logf("%d puts were acknowledged when the disks were full", len(w.acked))
	cl.mustLive()
	until(t, func(ctx context.Context) error {
		var said []string
		for _, endpoint := range cl.endpoints {
			st, err := c.Status(ctx, endpoint)
			if err != nil {
				return err
			}
			said = append(said, st.Errors...)
		}
		if !strings.Contains(strings.Join(said, ";"), "volume is full") {
			return fmt.Errorf("no member's status says that its volume is full: %q", said)
		}
		return nil
	})
	for _, endpoint := range cl.endpoints {
		w.check(t, endpoint)
	}
	// One is started while its disk is full, then all.
	cl.processes[1].kill()
	cl.start(1)
	until(t, func(ctx context.Context) error {
		_, err := client(t, nil, cl.endpoints[1]).Get(ctx, "w000001")
		return err
	})
	for _, p := range cl.processes {
		p.kill()
	}
	for i := range cl.processes {
		cl.start(i)
	}
	for _, endpoint := range cl.endpoints {
		waitServed(t, endpoint, "w000001")
		w.check(t, endpoint)
	}
	cl.mustLive()
	for _, free := range freed {
		free()
	}
	until(t, w.put)
	until(t, w.put)
	cl.mustLive()
	for _, endpoint := range cl.endpoints {
		w.check(t, endpoint)
	}
}

// What clients write fills the disks of all members: it is refused then, and deletes
// and a compaction make room for it again, also after all members were killed while they
// were full.
func TestDisksFilledByClients(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int
		kill  bool
	}{
		"512 KiB":        {bytes: 512 << 10},
		"1.4 MB, killed": {bytes: 1_400_000, kill: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fillByClients(t, c.bytes, c.kill)
		})
	}
}

func fillByClients(t *testing.T, bytes int, kill bool) {
	cl := startClusterIn(t, smallDisks(t, 160), "--disk-reserve", "16")
	c := client(t, nil, cl.endpoints...)
	w := &writer{c: c, value: strings.Repeat("v", bytes)}
	defer func() {
		if t.Failed() {
			cl.logSpace()
		}
	}()
	for range 2 { // the room that a compaction made is filled as well
		until(t, w.put)
		until(t, func(ctx context.Context) error {
			err := w.put(ctx)
			for err == nil {
				err = w.put(ctx)
			}
			if !errors.Is(err, rpctypes.ErrNoSpace) {
				return fmt.Errorf("after %d puts: %w", len(w.acked), err)
			}
			return nil
		})
		t.Logf("%d puts of %d bytes had room", len(w.acked), bytes)
		cl.mustLive()
		if kill {
			for _, p := range cl.processes {
				p.kill()
			}
			for i := range cl.processes {
				cl.start(i)
			}
		}
		for _, endpoint := range cl.endpoints {
			waitServed(t, endpoint, w.acked[0])
			w.check(t, endpoint)
		}
		var revision int64
		until(t, func(ctx context.Context) error {
			deleted, err := c.Delete(ctx, "w", clientv3.WithPrefix())
			if err == nil {
				revision = deleted.Header.Revision
			}
			return err
		})
		w.acked = nil
		until(t, func(ctx context.Context) error {
			_, err := c.Compact(ctx, revision)
			if errors.Is(err, rpctypes.ErrCompacted) {
				err = nil
			}
			return err
		})
	}
	for range 20 {
		until(t, w.put)
	}
	cl.mustLive()
	for _, endpoint := range cl.endpoints {
		w.check(t, endpoint)
	}
}

// Two of three volumes are small, and are filled with small keys. To delete all of them at
// once needs more room than those two have, and the member that is asked has plenty: it is
// refused, and some at a time, with a compaction, make room again.
func TestDeletesOnSmallerVolumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, mib := range []int{110, 110, 360} {
		at := filepath.Join(dir, memberName(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		mountSmall(t, at, mib)
	}
	cl := startClusterIn(t, dir, "--disk-reserve", "16")
	big := client(t, nil, cl.endpoints[2])
	keys := 0
	for {
		ops := make([]clientv3.Op, 100)
		for i := range ops {
			ops[i] = clientv3.OpPut(fmt.Sprintf("k%06d", keys+i), strings.Repeat("v", 400))
		}
		if _, err := big.Txn(t.Context()).Then(ops...).Commit(); errors.Is(err, rpctypes.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		keys += len(ops)
	}
	t.Logf("%d keys had room", keys)
	if _, err := big.Delete(t.Context(), "k", clientv3.WithPrefix()); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("all keys at once: %v, want %v", err, rpctypes.ErrNoSpace)
	}
	var revision int64
	for from := 0; from < keys; from += 1000 {
		until(t, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			deleted, err := big.Delete(ctx, fmt.Sprintf("k%06d", from), clientv3.WithRange(fmt.Sprintf("k%06d", from+1000)))
			if err == nil {
				revision = deleted.Header.Revision
			}
			return err
		})
		if from%5000 == 0 {
			if _, err := big.Compact(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, endpoint := range cl.endpoints {
		w := &writer{c: client(t, nil, endpoint), value: strings.Repeat("v", 400)}
		until(t, w.put)
	}
	cl.mustLive()
}

// The disk of one member gets full, a follower's or the leader's: it does not end, it
// serves what it has, the others go on, and it catches up when there is space again.
func TestFullDiskOfOne(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			cl := startClusterIn(t, smallDisks(t, 160), "--disk-reserve", "16")
			c := client(t, nil, cl.endpoints...)
			full := cl.leader(c)
			if who == "follower" {
				full = (full + 1) % 3
			}
			w := &writer{c: client(t, nil, cl.endpoints[(full+1)%3], cl.endpoints[(full+2)%3]), value: strings.Repeat("v", 64<<10)}
			until(t, w.put)
			free := cl.fill(full)
			for before := len(w.acked); len(w.acked) < before+400; {
				until(t, w.put)
			}
			cl.mustLive()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := client(t, nil, cl.endpoints[full]).Get(ctx, "w000001", clientv3.WithSerializable()); err != nil {
				t.Errorf("a read of what the member with the full disk has: %v", err)
			}
			free()
			until(t, w.put)
			until(t, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				_, err := client(t, nil, cl.endpoints[full]).Put(ctx, "again", "1")
				return err
			})
			cl.mustLive()
			for _, endpoint := range cl.endpoints {
				w.check(t, endpoint)
			}
		})
	}
}

// The volume of the leader gets full, and those of the others have room: it hands over, and writes
// through the others are refused for no longer than that takes.
func TestFullLeaderHandsOverSoon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, memberName(0)), 0o700); err != nil {
		t.Fatal(err)
	}
	mountSmall(t, filepath.Join(dir, memberName(0)), 400)
	cl := startClusterIn(t, dir, "--disk-reserve", "16")
	if leader := cl.leader(client(t, nil, cl.endpoints...)); leader != 0 {
		t.Fatalf("%s leads; want the founder", memberName(leader))
	}
	w := &writer{c: client(t, nil, cl.endpoints[1]), value: strings.Repeat("v", 256<<10)}
	until(t, w.put)
	cl.fill(0)
	var first, last time.Time
	refused := 0
	for goOn := 0; goOn < 20; {
		err := w.put(t.Context())
		switch now := time.Now(); {
		case errors.Is(err, rpctypes.ErrNoSpace):
			if refused++; first.IsZero() {
				first = now
			}
			last, goOn = now, 0
		case err != nil:
			t.Logf("a put: %v", err)
		default:
			goOn++
		}
		if w.n == 2000 {
			t.Fatalf("%d puts, and the member with the full volume leads", w.n)
		}
		if goOn == 20 && cl.leader(w.c) == 0 {
			goOn = 0
		}
	}
	t.Logf("%d of %d puts were refused, for %v", refused, w.n, last.Sub(first))
	if took := last.Sub(first); took > refusedMax {
		t.Errorf("writes through another member were refused for %v; want %v at most", took, refusedMax)
	}
}

// refusedMax is for how long, at most, a leader whose volume is full has writes refused, also on
// a machine with other work.
const refusedMax = time.Second

// A volume has room for the log and for hardly more than one database. A member that lost its
// disk comes back on it: the received snapshot goes while the database is written.
func TestRebuildOnSmallVolume(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints[:2]...)
	const mib = 60
	value := strings.Repeat("v", 1<<20)
	for i := range mib {
		if _, err := c.Put(t.Context(), fmt.Sprintf("k%02d", i), value); err != nil {
			t.Fatal(err)
		}
	}
	old := cl.id(0, memberName(2))
	cl.processes[2].kill()
	cl.wipe(2)
	if err := os.Mkdir(cl.dataDir(2), 0o700); err != nil {
		t.Fatal(err)
	}
	mountSmall(t, cl.dataDir(2), 64+mib+24) // a segment of the log, and one database
	cl.start(2)
	until(t, func(context.Context) error {
		if now := cl.id(0, memberName(2)); now == old || now == 0 {
			return fmt.Errorf("%s is member %x still", memberName(2), now)
		}
		return nil
	})
	cl.processes[2].waitReady()
	resp, err := client(t, nil, cl.endpoints[2]).Get(t.Context(), "k", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	if err != nil || resp.Count != mib {
		t.Errorf("%d of %d keys are there (%v)", resp.Count, mib, err)
	}
	if !strings.Contains(cl.processes[2].text(), "giving the space of the received snapshot back") {
		t.Error("there was room for two, and the test shows nothing")
	}
	cl.processes[2].kill()
	cl.start(2)
	cl.processes[2].waitReady()
	cl.mustLive()
}
