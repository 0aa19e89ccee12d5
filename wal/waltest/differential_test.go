package waltest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

var (
	firstSeed = flag.Uint64("seed", 1, "the first seed of TestDifferential")
	seedCount = flag.Int("seeds", 40, "how many seeds TestDifferential runs")
)

// TestDifferential does the same random things to a log of either format, with
// crashes, and finds the same in both.
func TestDifferential(t *testing.T) {
	seeds := *seedCount
	if quick() {
		seeds = min(seeds, 8)
	}
	total := map[string]int{}
	for seed := *firstSeed; seed < *firstSeed+uint64(seeds); seed++ {
		p := &pair{rnd: rand.New(rand.NewPCG(seed, 11)), mem: newMem(t), parent: tempDir(t), did: total}
		if err := p.run(80); err != nil {
			t.Fatalf("%v\nrepeat with: go test ./wal/waltest -run TestDifferential -seed=%d -seeds=1 -v", err, seed)
		}
	}
	t.Logf("%d seeds: %v", seeds, total)
}

// pair is a log in both formats. Their models are always equal.
type pair struct {
	rnd          *rand.Rand
	native, etcd *subject
	mem          *vfstest.Mem
	// parent holds the directory of etcd's log, and of its copies.
	parent  string
	copies  int
	crashes uint64
	did     map[string]int
	// hook, if set, is called before the native log's operations.
	hook func(vfstest.Op)
}

func (p *pair) nativeBackend() wal.Backend {
	mem := p.mem
	var fsys vfs.FS = vfstest.NewFaulty(mem, func(op vfstest.Op) error {
		if p.hook != nil && op.Changes() {
			p.hook(op)
		}
		return nil
	})
	return crashBackend(fsys)
}

func (p *pair) model() *model { return &p.native.done }

// both does the same to both.
func (p *pair) both(do func(s *subject) error) error {
	for _, s := range []*subject{p.native, p.etcd} {
		if err := do(s); err != nil {
			return fmt.Errorf("%T: %w", s.log, err)
		}
	}
	return nil
}

func (p *pair) run(steps int) error {
	p.native = &subject{backend: p.nativeBackend(), dir: dir}
	p.etcd = &subject{backend: etcdBackend(), dir: filepath.Join(p.parent, "wal")}
	if err := p.both(func(s *subject) error { return s.create(5) }); err != nil {
		return err
	}
	for i := range steps {
		name, step := p.draw()
		p.did[name]++
		if err := step(); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, name, err)
		}
	}
	return p.both((*subject).close)
}

func (p *pair) draw() (string, func() error) {
	switch n := p.rnd.IntN(100); {
	case n < 50:
		batches := p.batches(true)
		return "append", func() error {
			return p.both(func(s *subject) error { return s.append(batches...) })
		}
	case n < 60:
		return "commit", func() error { return p.both((*subject).commit) }
	case n < 68:
		newest := p.model().newest().Index
		index := newest + p.rnd.Uint64N(p.model().hard.Commit-newest+1)
		return "mark", func() error { return p.both(func(s *subject) error { return s.setMark(index) }) }
	case n < 74:
		return "release", func() error { return p.both((*subject).release) }
	case n < 78:
		return "reserve", func() error { return p.both((*subject).reserve) }
	case n < 82:
		return "idle", func() error { return p.both((*subject).idle) }
	case n < 87:
		return "reopen", p.reopen
	case n < 94:
		return "crash", func() error { return p.crash(p.mem, p.etcd.dir, nil) }
	}
	return "crash within an append", p.crashWithin
}

// batches are up to three, with entries from anywhere behind the commit index.
func (p *pair) batches(commit bool) []wal.Batch {
	m := *p.model()
	var batches []wal.Batch
	for range 1 + p.rnd.IntN(3) {
		var b wal.Batch
		hs := m.hard
		if n := p.rnd.IntN(9); n > 0 {
			first := hs.Commit + 1 + p.rnd.Uint64N(m.last()-hs.Commit+1)
			if p.rnd.IntN(3) > 0 {
				first = m.last() + 1
			}
			if first <= m.last() {
				hs.Term++
				hs.Vote = p.rnd.Uint64N(4)
			}
			sizes := make([]int, n)
			for i := range sizes {
				sizes[i] = p.rnd.IntN([]int{50, 500, 5000, 15000}[p.rnd.IntN(4)])
			}
			b.Entries = entriesFrom(first, hs.Term, sizes...)
		}
		if len(b.Entries) == 0 && p.rnd.IntN(2) == 0 {
			hs.Term++
			hs.Vote = 0
		}
		// Not before the entries are there.
		if after := m.after(b.Entries, hs); commit && p.rnd.IntN(2) == 0 {
			hs.Commit += p.rnd.Uint64N(after.last() - hs.Commit + 1)
		}
		if hs != m.hard || p.rnd.IntN(2) == 0 {
			b.HardState = hs
		}
		m = m.after(b.Entries, b.HardState)
		batches = append(batches, b)
	}
	return batches
}

func (p *pair) reopen() error {
	if err := p.both((*subject).close); err != nil {
		return err
	}
	return p.recover(nil, true)
}

// crash goes on with what a crash leaves of either disk. batches were under way.
func (p *pair) crash(mem *vfstest.Mem, etcdDir string, batches []wal.Batch) error {
	files, err := readDir(etcdDir)
	if err != nil {
		return err
	}
	p.crashes++
	return p.goOn(mem.Crash(rand.New(rand.NewPCG(p.crashes, p.rnd.Uint64()))), files, batches)
}

func (p *pair) goOn(mem *vfstest.Mem, files image, batches []wal.Batch) error {
	// The old logs are given up; what they do now is not seen.
	_ = p.native.log.Close()
	if err := p.etcd.log.Close(); err != nil {
		return err
	}
	p.mem = mem
	p.native.backend = p.nativeBackend()
	p.copies++
	p.etcd.dir = filepath.Join(p.parent, fmt.Sprint(p.copies))
	if err := writeDir(p.etcd.dir, files); err != nil {
		return err
	}
	return p.recover(batches, false)
}

// crashWithin stops both logs in the middle of an append: the native one before
// some operation on its disk, etcd's with a part of what it writes.
func (p *pair) crashWithin() error {
	batches := p.batches(false)
	before, err := readDir(p.etcd.dir)
	if err != nil {
		return err
	}
	stops := []*vfstest.Mem{}
	p.hook = func(vfstest.Op) { stops = append(stops, p.mem.Clone()) }
	acknowledged := p.native.done
	err = p.both(func(s *subject) error { return s.append(batches...) })
	p.hook = nil
	if err != nil {
		return err
	}
	p.native.done, p.etcd.done = acknowledged, acknowledged
	after, err := readDir(p.etcd.dir)
	if err != nil {
		return err
	}
	mem := p.mem
	if len(stops) > 0 {
		mem = stops[p.rnd.IntN(len(stops))]
	}
	p.crashes++
	return p.goOn(mem.Crash(rand.New(rand.NewPCG(p.crashes, p.rnd.Uint64()))), p.tornEtcd(before, after), batches)
}

// tornEtcd is etcd's log in the middle of an append: its newest file holds the
// new bytes up to some place.
func (p *pair) tornEtcd(before, after image) image {
	newest := newestOf(after, ".wal")
	if before[newest] == nil {
		return after // it began a file: take it as it is
	}
	from, to := differing(before[newest], after[newest])
	if from < 0 {
		return after
	}
	for from < min(to, int64(len(before[newest]))) && before[newest][from] == after[newest][from] {
		from++
	}
	after[newest] = after[newest][:from+p.rnd.Int64N(to-from+1)]
	return after
}

// recover opens both logs, compares them with the model and with each other, and
// makes them equal where a torn append left one of them with more than the other.
func (p *pair) recover(batches []wal.Batch, clean bool) error {
	var found [2]recovered
	for i, s := range []*subject{p.native, p.etcd} {
		got, l, err := recoverLog(s.backend, s.dir)
		if err != nil {
			return fmt.Errorf("%T: %w", s.backend, err)
		}
		s.log, s.batches = l, nil
		now := s.now()
		now.batches = batches
		if err := now.judge(&got); err != nil {
			return fmt.Errorf("%T: %w", s.backend, err)
		}
		found[i] = got
	}
	a, b := &found[0], &found[1]
	if len(batches) == 0 {
		if err := sameRecovered(a, b, clean); err != nil {
			return err
		}
	}
	if len(batches) == 0 {
		return p.both(func(s *subject) error { return s.append(wal.Batch{HardState: s.done.hard}) })
	}
	// A new term replaces all that may be of the torn append.
	first, hs := p.model().last()+1, p.model().hard
	for _, batch := range batches {
		if len(batch.Entries) > 0 {
			first = min(first, batch.Entries[0].Index)
		}
		hs.Term = max(hs.Term, batch.HardState.Term)
	}
	hs.Term++
	return p.both(func(s *subject) error {
		return s.append(wal.Batch{Entries: entriesFrom(first, hs.Term, 20, 20), HardState: hs})
	})
}

func sameRecovered(a, b *recovered, clean bool) error {
	switch {
	case a.mark.Index != b.mark.Index || a.mark.Term != b.mark.Term:
		return fmt.Errorf("marks %d and %d", a.mark.Index, b.mark.Index)
	case a.state.Last != b.state.Last:
		return fmt.Errorf("last entries %d and %d", a.state.Last, b.state.Last)
	case !slices.Equal(a.state.Terms, b.state.Terms):
		return fmt.Errorf("terms %v and %v", a.state.Terms, b.state.Terms)
	case a.state.HardState.Term != b.state.HardState.Term || a.state.HardState.Vote != b.state.HardState.Vote,
		clean && a.state.HardState.Commit != b.state.HardState.Commit:
		return fmt.Errorf("hard states %+v and %+v", a.state.HardState, b.state.HardState)
	case !slices.EqualFunc(a.entries, b.entries, func(a, b raftpb.Entry) bool { return sameEntry(&a, &b) }):
		return fmt.Errorf("other entries from %d to %d", a.mark.Index+1, a.state.Last)
	}
	return nil
}
