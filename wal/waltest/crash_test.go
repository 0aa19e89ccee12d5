package waltest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

// A log is stopped before every operation that changes something on the disk,
// in several ways, and must then hold all that was acknowledged.

// crashSegmentBytes makes a log cut segments often.
const crashSegmentBytes = 32 << 10

func crashBackend(fsys vfs.FS) wal.Backend { return nativeOf(fsys, crashSegmentBytes) }

// life is everything that befalls a log.
func life(s *subject) error {
	return sequence(
		func() error { return contents(s) },
		func() error { return lastAppend(s) },
		s.reopen,
		func() error { return s.add(5000) },
		s.commit,
		s.idle,
		s.idle,
		s.reserve,
		func() error { return s.replace(2, 9000, 9000) },
		func() error { return s.add(20000) },
		func() error { return s.setMark(s.done.last() - 1) },
		s.release,
		func() error { return s.add(20000) },
		s.commit,
		s.close,
		s.open,
		func() error { return s.add(40000) },
		s.close,
	)
}

// point is a moment before an operation.
type point struct {
	op  vfstest.Op
	mem *vfstest.Mem
	now moment
}

func (p *point) String() string { return "before " + p.op.String() }

// disks are what may be left of a disk that stops. A kill of the process leaves
// everything to be seen, some of which a later crash may take.
func (p *point) disks(seeds int) map[string]*vfstest.Mem {
	disks := map[string]*vfstest.Mem{
		"all unsynced lost": p.mem.CrashLosingAll(),
		"all unsynced kept": p.mem.CrashBy(func(n int) int { return n - 1 }),
		"killed":            p.mem.CrashKeepingAll(),
	}
	for seed := range uint64(seeds) {
		disks[fmt.Sprintf("crash of seed %d", seed)] = p.mem.Crash(rand.New(rand.NewPCG(seed, 1)))
	}
	return disks
}

// points runs a log and stops it everywhere.
func points(t *testing.T, do func(s *subject) error) []point {
	mem := newMem(t)
	var all []point
	s := &subject{dir: dir}
	note := func(op vfstest.Op) error {
		if op.Changes() && op.Kind != vfstest.Lock {
			all = append(all, point{op: op, mem: mem.Clone(), now: s.now()})
		}
		return nil
	}
	s.backend = crashBackend(vfstest.NewFaulty(mem, note))
	check(t, do(s))
	return append(all, point{mem: mem.Clone(), now: s.now()})
}

// survives recovers a disk and goes on with it; far: into further segments.
func (m moment) survives(mem *vfstest.Mem, far bool) error {
	b := crashBackend(mem)
	got, l, err := recoverLog(b, dir)
	if errors.Is(err, wal.ErrNotFound) && !m.created {
		s := &subject{backend: b, dir: dir}
		return sequence(func() error { return s.create(1) }, func() error { return s.add(10, 10) }, s.reopen, s.close)
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := m.judge(&got); err != nil {
		return err
	}
	// What was recovered is acknowledged from now on, and so is what follows.
	s := &subject{backend: b, dir: dir, log: l, created: true, done: got.model()}
	// All but a commit index that came alone.
	s.done.durable = m.done.durable
	lost := func() error {
		after := mem.CrashLosingAll()
		b := crashBackend(after)
		got, l, err := recoverLog(b, dir)
		if err != nil {
			return fmt.Errorf("recover after a second crash: %w", err)
		}
		if err := s.now().judge(&got); err != nil {
			return fmt.Errorf("after a second crash: %w", err)
		}
		return l.Close()
	}
	return sequence(
		lost,
		func() error { return s.add(3000, 3000) },
		lost,
		func() error {
			if !far {
				return nil
			}
			// Into the files that lay ready at the crash: each is a segment of its own now.
			return sequence(func() error { return s.add(20000, 20000, 20000) }, lost)
		},
		func() error {
			return usable(b, dir, l, recovered{mark: s.done.base, state: wal.State{HardState: s.done.hard, Last: s.done.last()}, entries: s.done.entries})
		},
	)
}

func TestCrashPoints(t *testing.T) {
	seeds := 2
	switch {
	case quick():
		seeds = 1
	case thorough():
		seeds = 5
	}
	failures := 0
	all := points(t, life)
	if len(all) < 300 {
		t.Errorf("only %d points: did the log stop to sync?", len(all))
	}
	for i := range all {
		p := &all[i]
		n, names := seeds, p.op.Kind == vfstest.SyncDir
		if names {
			n += 8 // of a rename the old name may stay, the new one come, or both
		}
		for how, mem := range p.disks(n) {
			if err := p.now.survives(mem, names); err != nil {
				failures++
				t.Errorf("point %d, %s, %s: %v", i, p, how, err)
			}
		}
		if failures > 20 {
			t.Fatal("and so on")
		}
	}
	t.Logf("%d points, %d disks each", len(all), seeds+3)
}

// Recovery of a torn log is stopped before each of its operations, and what is
// left then must still recover.
func TestCrashPointsOfRecovery(t *testing.T) {
	every := 29
	switch {
	case quick():
		every = 41
	case thorough():
		every = 13
	}
	failures, count := 0, 0
	for i, p := range points(t, life) {
		if i%every > 0 || !p.now.created {
			continue
		}
		for seed := range uint64(3) {
			// Killed first, so that what was not synced is seen, and may still be lost.
			torn := p.mem.CrashKeepingAll()
			if seed > 0 {
				torn = p.mem.Crash(rand.New(rand.NewPCG(seed, 2)))
			}
			var again []point
			note := func(op vfstest.Op) error {
				if op.Changes() && op.Kind != vfstest.Lock {
					again = append(again, point{op: op, mem: torn.Clone(), now: p.now})
				}
				return nil
			}
			_, l, err := recoverLog(crashBackend(vfstest.NewFaulty(torn, note)), dir)
			if err != nil {
				t.Fatalf("point %d, %s, seed %d: recover: %v", i, &p, seed, err)
			}
			check(t, l.Close())
			for j := range again {
				for how, mem := range again[j].disks(3) {
					count++
					if err := p.now.survives(mem, false); err != nil {
						failures++
						t.Errorf("point %d, %s, seed %d, then recovery stopped %s (operation %d), %s: %v", i, &p, seed, &again[j], j, how, err)
					}
				}
			}
			if failures > 20 {
				t.Fatal("and so on")
			}
		}
	}
	t.Logf("%d recoveries of stopped recoveries", count)
}

// segments are the names of a log's files.
func segments(mem *vfstest.Mem) []string {
	var names []string
	for _, n := range mem.Names(dir) {
		if filepath.Ext(n) == ".seg" {
			names = append(names, n)
		}
	}
	return names
}

// A crash in the middle of a cut must not take away what tells later that the
// newest file is missing.
func TestMissingFileAfterInterruptedCut(t *testing.T) {
	all := points(t, func(s *subject) error {
		return sequence(func() error { return s.create(1) },
			func() error { return s.add(20000) },
			func() error { return s.add(20000) },
			func() error { return s.add(100) })
	})
	cuts := 0
	for i := range all {
		p := &all[i]
		mem := p.mem.CrashLosingAll()
		if len(segments(mem)) < 2 {
			continue
		}
		cuts++
		b := crashBackend(mem)
		got, l, err := recoverLog(b, dir)
		check(t, err)
		s := &subject{backend: b, dir: dir, log: l, done: got.model()}
		check(t, s.add(10))
		check(t, s.close())
		names := segments(mem)
		check(t, mem.Remove(filepath.Join(dir, names[len(names)-1])))
		if got, _, err := recoverLog(b, dir); !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("point %d, %s: without the newest file the log opens, ends at %d of %d, and says %v", i, p, got.state.Last, s.done.last(), err)
		}
	}
	if cuts == 0 {
		t.Error("no segment was cut")
	}
}

// What lay before the mark when the log was opened is freed with the rest.
func TestReleaseAfterOpen(t *testing.T) {
	mem := newMem(t)
	s := &subject{backend: crashBackend(mem), dir: dir}
	check(t, s.create(1))
	for range 5 {
		check(t, s.addCommitted(20000))
	}
	check(t, sequence(s.commit, func() error { return s.setMark(s.done.last()) }, s.reopen))
	for range 5 {
		check(t, s.addCommitted(20000))
	}
	check(t, sequence(s.commit, func() error { return s.setMark(s.done.last()) }, s.release))
	if names := segments(mem); len(names) != 1 {
		t.Errorf("after Release to the last entry there are %q", names)
	}
	check(t, s.reopen())
	check(t, s.close())
}

// A new term that replaces a suffix makes a later segment begin at a lower index
// than the one before it, which may be what is left of a Release.
func TestMarksBehindReplacedSuffix(t *testing.T) {
	mem := newMem(t)
	s := &subject{backend: native(mem), dir: dir}
	check(t, s.create(1))
	check(t, s.add(10, 10, 10, 10, 10, 10, 10, 10, 10, 30000))
	check(t, s.add(20000)) // begins segment 2 behind entry 11
	check(t, s.replace(8, 10))
	check(t, s.add(30000)) // begins segment 3 behind entry 5
	check(t, s.commit())
	check(t, s.setMark(6))
	if names := segments(mem); len(names) != 3 {
		t.Fatalf("segments %q: change the sizes to make them three", names)
	}
	check(t, s.close())
	check(t, mem.Remove(filepath.Join(dir, segments(mem)[0])))
	check(t, s.open())
	check(t, s.close())
}
