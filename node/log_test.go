package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
)

// image returns every file below a directory, by its path.
func image(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// segmentWith returns a file of a native log that holds text, and where in it.
func segmentWith(t *testing.T, dir, text string) (path string, offset int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "wal", "*", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(data, []byte(text)); i >= 0 {
			return name, int64(i)
		}
	}
	return "", 0
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedLog: a member whose log was damaged in the middle says where, and
// what that takes away; it does not start, changes nothing, and the others go on
// without it.
func TestDamagedLog(t *testing.T) {
	ms := cluster(t, 3)
	var results []node.Result
	for i := range 40 {
		results = append(results, propose(t, ms[0], fmt.Sprintf("command %d.", i)))
	}
	converged(t, ms...)
	damaged := ms[2]
	damaged.close()
	var path string
	var offset int64
	var index uint64
	for i := 10; path == ""; i++ { // one that no boundary between two sectors cuts
		path, offset = segmentWith(t, damaged.cfg.Dir, fmt.Sprintf("command %d.", i))
		index = results[i].Index
	}
	flip(t, path, offset)
	before := image(t, damaged.cfg.Dir)

	for range 2 { // it is as damaged the next time
		err := damaged.tryStart()
		var where *wal.CorruptError
		if !errors.Is(err, node.ErrCorrupt) || !errors.As(err, &where) {
			t.Fatalf("got %v, want ErrCorrupt that says where", err)
		}
		if where.Segment != path || where.Offset > offset || where.Offset < offset-4096 || where.Intact >= index {
			t.Errorf("entry %d at offset %d of %s is damaged, and the error says %+v", index, offset, path, where)
		}
		for _, want := range []string{path, fmt.Sprintf("offset %d", where.Offset), fmt.Sprint(where.Intact + 1)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not name %q: %v", want, err)
			}
		}
		if diff := cmp.Diff(before, image(t, damaged.cfg.Dir)); diff != "" {
			t.Fatalf("files were changed: %.500s", diff)
		}
	}
	leader(t, ms[:2]...)
	propose(t, ms[1], "without it")
	readable(t, ms[:2]...)
}

// TestLogInAnotherFormat: a directory keeps the format in which it was made, and
// whoever names the other one is told what to do.
func TestLogInAnotherFormat(t *testing.T) {
	for made, log := range bothLogs {
		t.Run(made, func(t *testing.T) {
			m := newMember(t, 1)
			m.cfg.Bootstrap, m.cfg.WAL = true, log
			m.start()
			propose(t, m, "something")
			m.close()
			before := image(t, m.cfg.Dir)
			for asked, other := range bothLogs {
				if asked == made {
					continue
				}
				m.cfg.WAL = other
				err := m.tryStart()
				if !errors.Is(err, wal.ErrFormat) || !strings.Contains(err.Error(), "Config.WAL") || !strings.Contains(err.Error(), "octopiictl log convert") {
					t.Errorf("%s asked for: %v, want ErrFormat with both ways out", asked, err)
				}
			}
			if diff := cmp.Diff(before, image(t, m.cfg.Dir)); diff != "" {
				t.Errorf("files were changed: %.500s", diff)
			}
			m.cfg.WAL = log
			m.start()
			readable(t, m)
			if got := m.sm.all(); len(got) != 1 {
				t.Errorf("it has %q afterwards", got)
			}
		})
	}
}

// rotting is a backend whose logs can be read until they rot.
type rotting struct {
	wal.Backend
	rotten atomic.Bool
}

func (b *rotting) Open(dir string, m wal.Mark) (wal.Log, wal.State, error) {
	log, state, err := b.Backend.Open(dir, m)
	return rottingLog{log, b}, state, err
}

type rottingLog struct {
	wal.Log
	backend *rotting
}

func (l rottingLog) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	if l.backend.rotten.Load() {
		return nil, &wal.CorruptError{Segment: "rotten.seg", Offset: 4096, Intact: lo - 1, Reason: "it rotted"}
	}
	return l.Log.Entries(lo, hi, maxBytes)
}

// TestLogRotsWhileRunning: a leader that cannot read back what a follower is to
// get stops with the reason, and gives nothing in its place.
func TestLogRotsWhileRunning(t *testing.T) {
	ms := cluster(t, 3)
	ms[2].kill()
	for i := range 30 {
		propose(t, ms[0], fmt.Sprint("missed ", i))
	}
	converged(t, ms[:2]...)
	logs := []*rotting{{Backend: smallLog}, {Backend: smallLog}}
	for i, m := range ms[:2] {
		m.close()
		m.cfg.WAL = logs[i]
	}
	for _, m := range ms[:2] {
		m.start() // what was appended before is on disk only
	}
	first := leader(t, ms[:2]...)
	converged(t, ms[:2]...)
	if got := len(first.sm.all()); got != 30 {
		eventually(t, "the log was read back", func() bool { return len(first.sm.all()) == 30 })
	}
	other := 0
	if first == ms[0] {
		other = 1
	}
	logs[1-other].rotten.Store(true)
	ms[2].start()
	<-first.Done()
	if err := first.Err(); !errors.Is(err, node.ErrCorrupt) || !strings.Contains(err.Error(), "rotten.seg") {
		t.Errorf("it stopped with %v, want ErrCorrupt that names the segment", err)
	}
	leader(t, ms[other], ms[2])
	converged(t, ms[other], ms[2])
	propose(t, ms[2], "without it")
}

// TestFailedFsync: an fsync of the leader's log that fails once, and loses what it
// should have written, stops the leader for good, though the next one would work;
// the others go on, and when it starts again nothing that was acknowledged is lost.
func TestFailedFsync(t *testing.T) {
	ms, disks := memCluster(t)
	acknowledged := []string{"one", "two"}
	for _, command := range acknowledged {
		propose(t, ms[0], command)
	}
	converged(t, ms...)
	ms[0].close() // hands leadership over
	var armed, failed atomic.Bool
	node.OnFS(&ms[0].cfg, vfstest.NewFaulty(disks[0], func(op vfstest.Op) error {
		if op.Kind != vfstest.Sync || filepath.Ext(op.Path) != ".seg" || !armed.Load() || failed.Swap(true) {
			return nil
		}
		disks[0].DropUnsynced(op.Path, nil)
		return syscall.EIO
	}), smallSegment)
	ms[0].start()
	converged(t, ms...)
	if err := ms[1].TransferLeadership(timeout(t), 1); err != nil {
		t.Fatal(err)
	}
	propose(t, ms[0], "three")
	armed.Store(true)
	if _, err := ms[0].Propose(timeout(t), []byte("perhaps")); err == nil {
		acknowledged = append(acknowledged, "perhaps") // the others had it on disk
	}
	<-ms[0].Done()
	if err := ms[0].Err(); !errors.Is(err, syscall.EIO) {
		t.Errorf("it stopped with %v, want the error of the disk", err)
	}
	leader(t, ms[1:]...)
	propose(t, ms[1], "without it")
	if err := ms[0].Node.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Close returned %v, want the error of the disk", err)
	}
	node.OnFS(&ms[0].cfg, disks[0], smallSegment)
	ms[0].start()
	acknowledged = append(acknowledged, "three", "without it")
	converged(t, ms...)
	for _, m := range ms {
		for _, command := range acknowledged {
			if !slices.Contains(m.sm.all(), command) {
				t.Errorf("member %d lost %q", m.cfg.ID, command)
			}
		}
	}
}

// TestNoEtcdServer: etcd's server packages of 3.6 do not compile beside etcd's
// client of 3.7, which programs on node may want (scripts/clientv3-beside builds
// one). No package of etcd's but raft is reached, so that any version will do.
func TestNoEtcdServer(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", ".", "../transport/tcp")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	if !bytes.Contains(out, []byte("go.etcd.io/raft/v3\n")) {
		t.Fatalf("go list -deps names no raft: the test does not test\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "go.etcd.io/etcd/") {
			t.Errorf("node reaches %s", strings.TrimSpace(line))
		}
	}
}
