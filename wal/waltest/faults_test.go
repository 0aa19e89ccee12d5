package waltest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

func newMem(t testing.TB) *vfstest.Mem {
	mem := vfstest.NewMem()
	check(t, mem.MkdirAll(filepath.Dir(dir)))
	check(t, mem.SyncDir("/"))
	return mem
}

// short is a life with everything that writes, without Create.
func short(s *subject) error {
	return sequence(
		func() error { return s.add(100) },
		func() error { return s.addCommitted(9000, 3000) },
		func() error { return s.replace(1, 5000) },
		s.reserve,
		func() error { return s.add(12000) },
		s.commit,
		s.idle,
		func() error { return s.setMark(s.done.last()) },
		func() error { return s.add(20000) },
		s.release,
		func() error { return s.add(20000) },
		func() error { return s.add(40000) },
		s.commit,
		func() error { return s.setMark(s.done.last()) },
		s.release,
		func() error { return s.add(100) },
		s.commit,
		s.close,
	)
}

// poisoned says whether every call returns the same error and changes nothing.
func poisoned(s *subject, changes func() int) error {
	first := s.log.Append([]wal.Batch{{HardState: s.done.hard, Entries: entriesFrom(s.done.last()+1, s.done.hard.Term, 10)}})
	if first == nil || errors.Is(first, wal.ErrNoSpace) {
		return fmt.Errorf("Append after an error returned %v", first)
	}
	before := changes()
	for name, call := range map[string]func() error{
		"Append": func() error {
			return s.log.Append([]wal.Batch{{Entries: entriesFrom(s.done.last()+1, s.done.hard.Term, 10)}})
		},
		"Append of a commit": func() error { return s.log.Append([]wal.Batch{{HardState: s.done.hard}}) },
		"SetMark":            func() error { return s.log.SetMark(s.done.newest()) },
		"Release":            func() error { return s.log.Release(s.done.newest().Index) },
		"Idle":               s.log.Idle,
	} {
		if err := call(); err == nil || err.Error() != first.Error() {
			return fmt.Errorf("%s after an error returned %v, and Append %v", name, err, first)
		}
	}
	if n := changes() - before; n > 0 {
		return fmt.Errorf("%d operations on the disk after an error", n)
	}
	if err := s.log.Close(); err == nil || err.Error() != first.Error() {
		return fmt.Errorf("Close after an error returned %v, and Append %v", err, first)
	}
	return nil
}

// Every write, sync, rename and the like fails once. That is final, and nothing
// that was acknowledged is lost, whatever became of what was being written.
func TestFailedOperations(t *testing.T) {
	kinds := []vfstest.Kind{vfstest.Write, vfstest.Sync, vfstest.Rename, vfstest.SyncDir, vfstest.Create, vfstest.Remove, vfstest.OpenReadWrite}
	for _, kind := range kinds {
		hows := []string{"kept"}
		switch kind {
		case vfstest.Sync:
			hows = []string{"kept", "partly", "dropped", "evicted"}
		case vfstest.Write:
			hows = []string{"kept", "partly"}
		}
		for _, how := range hows {
			for n := 1; failOne(t, kind, n, how); n++ {
				if n == 1000 {
					t.Fatalf("%s never ends", kind)
				}
			}
		}
	}
}

// failOne lets the nth operation of a kind fail; false: there are not so many.
func failOne(t *testing.T, kind vfstest.Kind, n int, how string) bool {
	mem := newMem(t)
	rnd := rand.New(rand.NewPCG(uint64(n), 5))
	armed, seen := false, 0
	renamed := renames{}
	var struck vfstest.Op
	faulty := vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		path := renamed.now(op)
		if !armed || op.Kind != kind {
			return nil
		}
		if seen++; seen != n {
			return nil
		}
		struck = op
		switch {
		case kind == vfstest.Write && how == "partly":
			return &vfstest.ShortWrite{N: int(op.Length / 2), Err: syscall.EIO}
		case kind == vfstest.Sync && how == "dropped":
			mem.DropUnsynced(path, nil)
		case kind == vfstest.Sync && how == "partly":
			mem.DropUnsynced(path, rnd)
		case kind == vfstest.Sync && how == "evicted":
			mem.DropUnsynced(path, nil)
			mem.Evict(path)
		}
		return syscall.EIO
	})
	s := &subject{backend: crashBackend(faulty), dir: dir}
	check(t, s.create(1))
	armed = true
	err := short(s)
	if seen < n {
		check(t, err)
		return false
	}
	name := fmt.Sprintf("%s %d (%s), pages %s", kind, n, struck.String(), how)
	if err == nil {
		t.Errorf("%s failed, and nobody said so", name)
		return true
	}
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%s: %v does not tell the cause", name, err)
	}
	switch {
	case errors.Is(err, wal.ErrNoSpace):
		t.Errorf("%s: %v", name, err)
	case s.log == nil: // Close said it
	case s.batches == nil && s.mark == nil && reserving(struck):
		// Reserve said it; for good it is when Append needs the file. Or Release did,
		// and then it is for good.
		if closeErr := s.log.Close(); closeErr != nil && !errors.Is(closeErr, syscall.EIO) {
			t.Errorf("%s: Close returned %v after %v", name, closeErr, err)
		}
	default:
		if err := poisoned(s, faulty.Changes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, after := range map[string]*vfstest.Mem{"opened again": mem.Clone(), "after a crash": mem.Crash(rnd), "all unsynced lost": mem.CrashLosingAll()} {
		if err := s.now().survives(after, false); err != nil {
			t.Errorf("%s, %s: %v", name, what, err)
		}
	}
	return true
}

// reserving: the operation makes a file ready for later.
func reserving(op vfstest.Op) bool {
	ext := filepath.Ext(op.Path)
	return ext == ".tmp" && op.Kind != vfstest.Mkdir || ext == ".spare" && op.Kind == vfstest.OpenReadWrite
}

// A full disk is foreseen: nothing is written, reading goes on, and the same
// batches succeed when there is space.
func TestNoSpace(t *testing.T) {
	mem := newMem(t)
	s := &subject{backend: crashBackend(mem), dir: dir}
	check(t, s.create(1))
	check(t, s.add(1000, 2000))
	for round := range 6 {
		mem.SetCapacity(mem.Used())
		var err error
		var before image
		for n := 0; err == nil; n++ {
			if n > 20 {
				t.Fatal("a full disk took 20 appends")
			}
			before = imageOf(mem)
			if round%2 == 0 {
				err = s.add(6000)
			} else {
				err = s.add(50000) // larger than a segment
			}
		}
		refusedBatches := s.batches
		wantNoSpace := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, wal.ErrNoSpace) {
				t.Fatalf("round %d: %s on a full disk returned %v, want wal.ErrNoSpace", round, what, err)
			}
		}
		wantNoSpace("Append", err)
		wantNoSpace("Append again", s.log.Append(refusedBatches))
		wantSame(t, before, imageOf(mem))
		if s.log.Reserved() && round%2 == 0 {
			t.Error("Reserved on a full disk")
		}
		if !s.log.Reserved() {
			wantNoSpace("Reserve", s.log.Reserve())
		}
		wantSame(t, before, imageOf(mem))
		if _, err := readAll(s.log, s.done.newest().Index+1, s.done.last()+1); err != nil {
			t.Errorf("read on a full disk: %v", err)
		}
		// What fits is taken, and a member that starts on a full disk starts.
		got, l, err := recoverLog(crashBackend(mem.CrashLosingAll()), dir)
		check(t, err)
		moment := s.now()
		moment.batches = nil
		check(t, moment.judge(&got))
		check(t, l.Close())

		mem.SetCapacity(mem.Used() + 300<<10)
		s.batches = nil
		check(t, s.append(refusedBatches...))
		if round == 3 {
			check(t, s.commit())
			check(t, s.setMark(s.done.last()))
			check(t, s.release())
		}
	}
	check(t, s.reopen())
	check(t, s.close())
}

func wantSame(t *testing.T, before, after image) {
	t.Helper()
	for path, data := range after {
		if string(before[path]) != string(data) {
			t.Errorf("%s changed", path)
		}
	}
	for path := range before {
		if after[path] == nil {
			t.Errorf("%s is gone", path)
		}
	}
}

// A mark may find the disk full, too.
func TestNoSpaceForMark(t *testing.T) {
	mem := newMem(t)
	s := &subject{backend: crashBackend(mem), dir: dir}
	check(t, s.create(1))
	check(t, s.add(10, 10))
	check(t, s.commit())
	mem.SetCapacity(mem.Used())
	var err error
	for n := 0; err == nil && n < 20; n++ {
		err = s.setMark(s.done.last())
	}
	if !errors.Is(err, wal.ErrNoSpace) {
		t.Fatalf("SetMark on a full disk returned %v, want wal.ErrNoSpace", err)
	}
	mem.SetCapacity(0)
	check(t, s.setMark(s.done.last()))
	check(t, s.reopen())
	check(t, s.close())
}

func TestEntriesBounds(t *testing.T) {
	for name, b := range map[string]struct {
		backend wal.Backend
		dir     string
	}{"native": {native(newMem(t)), dir}, "etcd": {etcdBackend(), filepath.Join(tempDir(t), "wal")}} {
		t.Run(name, func(t *testing.T) {
			s := &subject{backend: b.backend, dir: b.dir}
			check(t, s.create(7))
			check(t, s.add(100, 100, 100, 100))
			check(t, s.add(3000))
			for _, c := range []struct {
				lo, hi, maxBytes uint64
				count            int
				err              error
			}{
				{7, 8, noLimit, 0, raft.ErrCompacted},
				{1, 9, noLimit, 0, raft.ErrCompacted},
				{8, 14, noLimit, 0, raft.ErrUnavailable},
				{8, 13, noLimit, 5, nil},
				{8, 13, 0, 1, nil},
				{12, 13, 1, 1, nil},
				{9, 11, noLimit, 2, nil},
				{8, 13, 250, 2, nil},
			} {
				got, err := s.log.Entries(c.lo, c.hi, c.maxBytes)
				if !errors.Is(err, c.err) || len(got) != c.count {
					t.Errorf("Entries(%d, %d, %d) returned %d entries and %v, want %d and %v", c.lo, c.hi, c.maxBytes, len(got), err, c.count, c.err)
				}
			}
			check(t, s.commit())
			check(t, s.setMark(10))
			check(t, s.log.Release(10))
			if _, err := s.log.Entries(10, 11, noLimit); !errors.Is(err, raft.ErrCompacted) {
				t.Errorf("Entries of what was released returned %v, want raft.ErrCompacted", err)
			}
			check(t, s.reopen())
			check(t, s.close())
		})
	}
}
