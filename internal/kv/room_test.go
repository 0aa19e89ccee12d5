package kv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

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
	if !s.NoSpace() {
		t.Error("it does not know from the first moment that the volume is full")
	}
}

// Room is what the store can certainly apply: what it names has room on a full volume, with
// as much again for what the leader before did not tell of.
func TestRoomIsThere(t *testing.T) {
	s, free := onFullVolume(t)
	defer free()
	index := uint64(0)
	for {
		s.db.room.lookAtVolume()
		room := s.Room()
		if room == 0 {
			break
		}
		if left, _ := s.db.room.left(); room > left/4+1 {
			t.Fatalf("%d bytes of commands have room, and the file has %d left, on a full volume", room, left)
		}
		index++
		need := commandBytes(putCommand(t, "k", strings.Repeat("v", 512<<10)))
		if left, commit := s.db.room.left(); left-need < commit {
			t.Fatalf("entry %d has no room: %d bytes are left, and it needs %d beside the %d of a commit; the store says that it has room for %d",
				index, left, need, commit, room)
		}
		if _, err := s.Apply([]node.Entry{putEntry(t, index, 512<<10)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		s.db.room.extend()
	}
	if index == 0 || !s.NoSpace() {
		t.Errorf("%d entries had room, and there is space: %v", index, !s.NoSpace())
	}
	// It can still take as much, and what makes room.
	if left, commit := s.db.room.left(); left-commit < 2*(1<<20) {
		t.Errorf("when growth is refused, %d bytes are left, of which a commit needs %d", left, commit)
	}
	s.mu.Lock() // as while a database is replaced
	defer s.mu.Unlock()
	if got := s.Room(); got != 0 {
		t.Errorf("while the database is replaced there is room for %d bytes, and was for none", got)
	}
}

// Free pages are no room where nothing is left to grow into.
func TestFreePagesAreNoRoomAlone(t *testing.T) {
	for _, c := range []struct {
		allocated, total, inUse int64
		low                     bool
	}{
		{allocated: 100 << 20, total: 80 << 20, inUse: 70 << 20, low: true},
		{allocated: 100 << 20, total: 80 << 20, inUse: 10 << 20},
		{allocated: 100 << 20, total: 99 << 20, inUse: 10 << 20, low: true},
		// A small volume, of which the log has half: all keys are deleted, or some.
		{allocated: 30 << 20, total: 16 << 20, inUse: 1 << 20},
		{allocated: 30 << 20, total: 16 << 20, inUse: 8 << 20, low: true},
		{allocated: 30 << 20, total: 24 << 20, inUse: 1 << 20, low: true},
	} {
		r := &room{lg: zap.NewNop(), reserve: 16 << 20, extent: extent{allocated: c.allocated}}
		r.size = func() (total, inUse int64) { return c.total, c.inUse }
		if got := r.isLow(errNoRoom); got != c.low {
			t.Errorf("%d of %d bytes in use, and %d allocated: low %v, want %v", c.inUse, c.total, r.allocated, got, c.low)
		}
		if r.isLow(nil) {
			t.Error("it is low with its whole reserve")
		}
	}
}

// What a compaction made free counts when it is committed: on a full volume nothing else may
// ever be, as writes are refused for want of free pages.
func TestCompactionEndsFullVolume(t *testing.T) {
	dir := smallVolume(t, 96)
	s, err := OpenWith(dir, nil, Options{ReserveBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	index := uint64(1)
	isFull := func() bool { // it stays so when all is committed
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		r := s.db.room
		total, _ := r.size()
		_, free, err := vfs.Space(r.file)
		if err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.allocated+free-total < r.reserve
	}
	for ; !isFull(); index++ {
		if _, err := s.Apply([]node.Entry{putEntry(t, index, 512<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(r *pb.InternalRaftRequest) {
		if _, err := s.Apply([]node.Entry{{Index: index, Term: 1, Data: mustCommand(t, r)}}); err != nil {
			t.Fatal(err)
		}
		index++
	}
	apply(&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}})
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	s.db.room.extend()
	if !s.NoSpace() {
		t.Fatal("the volume is not full, and the test shows nothing")
	}
	apply(&pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: s.db.kv.Rev()}})
	if err := s.WaitCompacted(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "there is room", func() bool { return !s.NoSpace() })
}

// The records of deleted keys need room, too. A request that has none for them is not to be
// proposed: it would wait in the log, with all that comes later.
func TestDeletesNeedRoom(t *testing.T) {
	s, free := onFullVolume(t)
	const keys = 30_000
	var entries []node.Entry
	for index := uint64(1); index <= keys; index++ {
		if entries = append(entries, putEntry(t, index, 60)); len(entries) == 1000 {
			if _, err := s.Apply(entries); err != nil {
				t.Fatal(err)
			}
			entries = nil
		}
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	s.db.room.lookAtVolume()
	remove := func(from, to string) *pb.InternalRaftRequest {
		return &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte(from), RangeEnd: []byte(to)}}
	}
	all, some := remove("k", "l"), remove("k000001", "k000999")
	if s.FitsDeletes(all, false) || s.FitsDeletes(&pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: all.DeleteRange}},
	}}}, false) {
		t.Error("on a full volume all keys may be deleted at once")
	}
	if !s.FitsDeletes(some, true) || !s.FitsDeletes(remove("k000001", ""), true) {
		t.Error("on a full volume not even some keys may be deleted")
	}
	if _, err := s.Apply([]node.Entry{{Index: keys + 1, Term: 1, Data: mustCommand(t, some)}}); err != nil {
		t.Error(err)
	}
	free()
	s.db.room.extend()
	if s.FitsDeletes(all, true) {
		t.Error("all keys may be deleted at once, and others have little room")
	}
	if !s.FitsDeletes(all, false) {
		t.Error("with space on the volume not all keys may be deleted at once")
	}
}

// Only what puts something makes the store grow.
func TestGrows(t *testing.T) {
	var s Store
	for name, c := range map[string]struct {
		command []byte
		grows   bool
	}{
		"put":                {putCommand(t, "k", "v"), true},
		"delete":             {mustCommand(t, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}), false},
		"transaction":        {mustCommand(t, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Failure: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte("k")})}}}), true},
		"only reads":         {mustCommand(t, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte("k")})}}}), false},
		"nothing":            {nil, false},
		"what is no command": {[]byte{kindRequest, 1, 2, 3}, false},
	} {
		if got := s.Grows(c.command); got != c.grows {
			t.Errorf("%s: %v, want %v", name, got, c.grows)
		}
	}
}

// Where an entry waits, and there is room for it and for its commit, it is applied, though
// there is not half of a reserve.
func TestApplyWithRoomForOneCommit(t *testing.T) {
	s, _ := onFullVolume(t)
	applied, done := applyUntil(t, s, 100)
	r := s.db.room
	until(t, "an entry waits", func() bool { return r.wanted.Load() > 0 })
	before, wanted := applied.Load(), r.wanted.Load()
	left, commit := r.left()
	need := wanted + commit - left + 2*spareBytesMin
	if need >= wanted+r.reserve/2-left {
		t.Fatalf("%d bytes are half of a reserve, and the test shows nothing", need)
	}
	path := filepath.Join(s.dir, "somebody else's")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-need); err != nil {
		t.Fatal(err)
	}
	until(t, "the entry is applied", func() bool { return applied.Load() > before })
	s.StopWaiting()
	<-done
}

// The reserve leaves some space to the small files beside it, such as the marks of a log,
// without which the log gives nothing back.
func TestReserveLeavesSpace(t *testing.T) {
	dir := smallVolume(t, 96)
	if err := os.WriteFile(filepath.Join(dir, "somebody else's"), make([]byte, (96-18)<<20+512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenWith(dir, nil, Options{ReserveBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	until(t, "the volume is looked at", func() bool { return s.db.room.free.Load() != 0 })
	s.db.room.extend()
	if _, free, err := vfs.Space(s.db.room.file); err != nil || free < spareBytes {
		t.Errorf("%d bytes are left on the volume (%v), want %d", free, err, spareBytes)
	}
}
