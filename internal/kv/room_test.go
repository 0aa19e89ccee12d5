package kv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
)

// smallVolume mounts one. It skips the test where that is not possible.
func smallVolume(t *testing.T, sizeMiB int) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small volume")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", sizeMiB), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small volume cannot be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

func putEntry(t *testing.T, index uint64, size int) node.Entry {
	t.Helper()
	command := putCommand(t, fmt.Sprintf("k%06d", index), strings.Repeat("v", size))
	return node.Entry{Index: index, Term: 1, Data: command}
}

// until waits for a condition that comes about by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not after 30 s: %s", what)
		}
	}
}

// onFullVolume opens a store that has its reserve, on a volume that is full beside it.
func onFullVolume(t *testing.T) (s *Store, free func()) {
	t.Helper()
	dir := smallVolume(t, 96)
	s, err := OpenWith(dir, nil, Options{ReserveBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := s.db.room
	until(t, "the reserve is made", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.allocated >= r.reserve
	})
	f, err := os.Create(dir + "/somebody else's")
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 4<<10; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !vfs.Full(err) {
		t.Fatalf("fill the volume: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return s, func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// applyUntil applies large entries, of which the reserve has room for some, up to an
// index or an error, which comes last.
func applyUntil(t *testing.T, s *Store, last uint64) (applied *atomic.Uint64, done <-chan error) {
	applied = new(atomic.Uint64)
	ended := make(chan error, 1)
	go func() {
		for index := uint64(1); index <= last; index++ {
			if _, err := s.Apply([]node.Entry{putEntry(t, index, 512<<10)}); err != nil {
				ended <- err
				return
			}
			applied.Store(index)
		}
		ended <- nil
	}()
	return applied, ended
}

// What is in the log must be applied although the volume is full: it goes into the
// reserve, and when that is used up Apply waits, and goes on when there is space.
func TestApplyOnAFullVolume(t *testing.T) {
	s, free := onFullVolume(t)
	applied, done := applyUntil(t, s, 40)
	until(t, "an entry waits for space", func() bool { return s.db.room.wanted.Load() > 0 && s.NoSpace() })
	some := applied.Load()
	if some == 0 {
		t.Error("nothing was applied on the full volume, and there was a reserve")
	}
	t.Logf("%d entries of 512 KiB had room", some)
	if resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("k000001")}, nil); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("a read while an entry waits: %v, %v", resp, err)
	}
	free()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err != nil {
		t.Error(err)
	}
	if index, _ := s.Durable(); index != 40 {
		t.Errorf("durable up to %d; want 40", index)
	}
	until(t, "there is space", func() bool { return !s.NoSpace() })
}

// A store that is closed while an entry waits for space does not wait, and one that is
// opened on a full volume has what it had.
func TestStopWaitingForSpace(t *testing.T) {
	s, free := onFullVolume(t)
	defer free()
	applied, done := applyUntil(t, s, 1000)
	until(t, "an entry waits for space", func() bool { return s.db.room.wanted.Load() > 0 && s.NoSpace() })
	s.StopWaiting()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("apply when the store stops waiting: %v; want ErrClosed", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenWith(s.dir, nil, Options{ReserveBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if index, _ := s.Durable(); index != applied.Load() {
		t.Errorf("durable up to %d after it was opened on a full volume; want %d", index, applied.Load())
	}
	until(t, "it sees that the volume is full", s.NoSpace)
}
