package waltest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// entryBytes is the data of an entry in benchmarks.
const entryBytes = 256

// benchDir is on the disk to measure: OCTOPII_BENCH_DIR, or beside the sources
// and not where temporary files go, which may be memory, whose fsync costs
// nothing.
func benchDir(t testing.TB) string {
	parent := os.Getenv("OCTOPII_BENCH_DIR")
	if parent == "" {
		parent = "."
	}
	dir, err := os.MkdirTemp(parent, "bench-*.tmp")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return dir
}

// productionSegments are those of etcd, 64 MB; the native log's are its own
// default.
func productionSegments(b *testing.B) {
	before := etcd.SegmentSizeBytes
	etcd.SegmentSizeBytes = 64 * 1000 * 1000
	b.Cleanup(func() { etcd.SegmentSizeBytes = before })
}

// BenchmarkFsync is what the disk costs: 4 KiB written over blocks that were
// written before, and fdatasync.
func BenchmarkFsync(b *testing.B) {
	const size = 16 << 20
	f, err := vfs.OS.OpenReadWrite(writtenFile(b, size))
	check(b, err)
	block := vfs.Aligned(2 * blockBytes)[8:][:blockBytes] // not aligned: through the page cache
	off := int64(0)
	for b.Loop() {
		block[0]++
		_, err := f.WriteAt(block, off)
		check(b, err)
		check(b, f.Sync())
		off = (off + blockBytes) % size
	}
	check(b, f.Close())
}

// writtenFile has all its blocks.
func writtenFile(b *testing.B, size int64) string {
	path := filepath.Join(benchDir(b), "file")
	f, err := vfs.OS.Create(path)
	check(b, err)
	for off := int64(0); off < size; off += 1 << 20 {
		_, err := f.WriteAt(make([]byte, 1<<20), off)
		check(b, err)
	}
	check(b, f.Sync())
	check(b, f.Close())
	return path
}

// floor writes what a frame of n entries takes, and does nothing else: no log on
// this disk can be faster with the same writes.
type floor struct {
	wal.Log // of which nothing is called
	file    vfs.File
	frame   []byte
	at      int64
	size    int64
}

func newFloor(b *testing.B, n int) *floor {
	const size = 16 << 20
	f, err := vfs.OS.OpenReadWrite(writtenFile(b, size))
	check(b, err)
	sectors := (72 + n*(16+entryBytes) + 495) / 496
	return &floor{file: f, frame: vfs.Aligned((sectors + 7) / 8 * blockBytes), size: size}
}

func (l *floor) Append([]wal.Batch) error {
	if l.at+int64(len(l.frame)) > l.size {
		l.at = 0
	}
	l.frame[0]++
	if _, err := l.file.WriteAt(l.frame, l.at); err != nil {
		return err
	}
	l.at += int64(len(l.frame))
	return l.file.Sync()
}

func (l *floor) SetMark(wal.Mark) error { return nil }
func (l *floor) Release(uint64) error   { return nil }
func (l *floor) Reserved() bool         { return true }
func (l *floor) Close() error           { return l.file.Close() }

// logs are what is compared. "etcd" is wal/etcdwal; "etcd-itself" is etcd's log
// without it, so that nobody has to ask what the adapter costs.
var logs = []string{"native", "etcd", "etcd-itself"}

func createFor(b *testing.B, name string) wal.Log {
	dir := filepath.Join(benchDir(b), "wal")
	var l wal.Log
	var err error
	switch name {
	case "native":
		l, err = wal.New(wal.Options{}).Create(dir, markAt(1, 1), hard(1, 1, 1))
	case "etcd":
		l, err = etcdBackend().Create(dir, markAt(1, 1), hard(1, 1, 1))
	default:
		l, err = createItself(dir)
	}
	check(b, err)
	return l
}

// appender appends entries of 256 bytes as a member does: marks, releases, and a
// next file that is made ready beside.
type appender struct {
	log       wal.Log
	entries   []raftpb.Entry
	batches   []wal.Batch
	next      uint64
	marked    uint64
	reserving sync.WaitGroup
	reserve   chan error
}

func newAppender(l wal.Log, n int) *appender {
	a := &appender{log: l, entries: make([]raftpb.Entry, n), next: 2, marked: 1, reserve: make(chan error, 1)}
	for i := range a.entries {
		a.entries[i] = raftpb.Entry{Term: 1, Data: dataOf(uint64(i), 1, entryBytes)}
	}
	a.batches = []wal.Batch{{Entries: a.entries, HardState: hard(1, 1, 1)}}
	a.reserve <- nil
	return a
}

func (a *appender) append() error {
	for i := range a.entries {
		a.entries[i].Index = a.next
		a.next++
	}
	a.batches[0].HardState.Commit = a.next - 1
	return a.log.Append(a.batches)
}

// ready has the next file made ready, beside everything else.
func (a *appender) ready() error {
	if a.log.Reserved() {
		return nil
	}
	select {
	case err := <-a.reserve:
		if err == nil {
			a.reserving.Go(func() { a.reserve <- a.log.Reserve() })
		}
		return err
	default:
		return nil
	}
}

// mark frees what was appended.
func (a *appender) mark() error {
	a.marked = a.next - 1
	if err := a.log.SetMark(markAt(a.marked, 1)); err != nil {
		return err
	}
	return a.log.Release(a.marked)
}

// markEvery is how many entries, of some 16 MiB together, a mark frees.
const markEvery = 60000

func BenchmarkAppend(b *testing.B) {
	productionSegments(b)
	for _, name := range logs {
		b.Run(name, func(b *testing.B) {
			for _, n := range []int{1, 16, 128, 1024} {
				b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) { benchmarkAppend(b, createFor(b, name), n) })
			}
		})
	}
}

// warm fills a few files, after which files are used again, and returns an
// appender of n entries that goes on.
func warm(b *testing.B, l wal.Log, n int) *appender {
	w := newAppender(l, 1024)
	for range 4 {
		for w.next-w.marked < markEvery {
			check(b, w.append())
			check(b, w.ready())
		}
		check(b, w.mark())
	}
	w.reserving.Wait()
	a := newAppender(l, n)
	a.next, a.marked = w.next, w.marked
	return a
}

func benchmarkAppend(b *testing.B, l wal.Log, n int) {
	a := warm(b, l, n)
	b.SetBytes(int64(n) * entryBytes)
	b.ReportAllocs()
	for b.Loop() {
		check(b, a.append())
		check(b, a.ready())
		if a.next-a.marked > markEvery {
			b.StopTimer()
			check(b, a.mark())
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	a.reserving.Wait()
	check(b, l.Close())
}

// BenchmarkInTurn appends to all logs in turn, a few times each, so that all see
// the same moods of the disk: what it reports can be compared, where two
// runs of BenchmarkAppend cannot. "disk" is the floor: a write of the same size as
// the native log's, and nothing else. ns/op means nothing here.
func BenchmarkInTurn(b *testing.B) {
	productionSegments(b)
	for _, n := range []int{1, 16, 128, 1024} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) { benchmarkInTurn(b, n) })
	}
}

func benchmarkInTurn(b *testing.B, n int) {
	const each = 10
	names := append([]string{"disk"}, logs...)
	appenders := []*appender{newAppender(newFloor(b, n), n)}
	for _, name := range logs {
		appenders = append(appenders, warm(b, createFor(b, name), n))
	}
	took := make([]time.Duration, len(names))
	rounds := 0
	for b.Loop() {
		rounds++
		for i, a := range appenders {
			began := time.Now()
			for range each {
				check(b, a.append())
				check(b, a.ready())
			}
			took[i] += time.Since(began)
			if a.next-a.marked > markEvery {
				check(b, a.mark())
			}
		}
	}
	for i, a := range appenders {
		b.ReportMetric(float64(rounds*each*n)/took[i].Seconds(), names[i]+"/s")
		a.reserving.Wait()
		check(b, a.log.Close())
	}
}

// itself is etcd's log as a wal.Log, as far as appending goes.
type itself struct {
	wal.Log // of which nothing is called
	w       *etcd.WAL
	dir     string
}

func createItself(dir string) (wal.Log, error) {
	w, err := etcd.Create(zap.NewNop(), dir, nil)
	if err != nil {
		return nil, err
	}
	l := itself{w: w, dir: dir}
	return l, l.SetMark(markAt(1, 1))
}

func (l itself) Append(batches []wal.Batch) error {
	return l.w.Save(batches[0].HardState, batches[0].Entries)
}

func (l itself) SetMark(m wal.Mark) error {
	return l.w.SaveSnapshot(walpb.Snapshot{Index: m.Index, Term: m.Term, ConfState: &m.ConfState})
}

func (l itself) Release(index uint64) error { return l.w.ReleaseLockTo(index) }
func (l itself) Reserved() bool             { return true }
func (l itself) Close() error               { return l.w.Close() }

// openEntries is how many entries BenchmarkOpen opens a log with.
const openEntries = 1_000_000

// BenchmarkOpen opens a log of a million entries, all behind its mark, that was
// closed. ns/op is what a member waits for: the marks are listed, and the log is
// opened at the newest. heap-MB is what is held then, and peak-MB the most that
// was on the heap meanwhile; open-ms is Open alone.
func BenchmarkOpen(b *testing.B) {
	productionSegments(b)
	for _, name := range logs {
		b.Run(name, func(b *testing.B) { benchmarkOpen(b, name) })
	}
}

// million makes the log to open, once in a run.
var million = map[string]string{}

func buildMillion(b *testing.B, name string) string {
	if dir := million[name]; dir != "" {
		return dir
	}
	parent := os.Getenv("OCTOPII_BENCH_DIR")
	if parent == "" {
		parent = "."
	}
	parent, err := os.MkdirTemp(parent, "bench-*.tmp")
	check(b, err)
	builtDirs = append(builtDirs, parent)
	dir := filepath.Join(parent, "wal")
	var l wal.Log
	if name == "native" {
		l, err = wal.New(wal.Options{}).Create(dir, markAt(1, 1), hard(1, 1, 1))
	} else {
		l, err = etcdBackend().Create(dir, markAt(1, 1), hard(1, 1, 1))
	}
	check(b, err)
	a := newAppender(l, 128)
	for a.next < openEntries {
		check(b, a.append())
		check(b, a.ready())
	}
	a.reserving.Wait()
	check(b, l.Close())
	million[name] = dir
	return dir
}

// builtDirs are removed when all is over.
var builtDirs []string

func benchmarkOpen(b *testing.B, name string) {
	built := name
	if name == "etcd-itself" {
		built = "etcd"
	}
	dir := buildMillion(b, built)
	var openTime time.Duration
	open := func() (held any, closeIt func() error, err error) {
		if name == "etcd-itself" {
			began := time.Now()
			w, entries, err := openItself(dir)
			openTime += time.Since(began)
			return entries, w.Close, err
		}
		backend := etcdBackend()
		if name == "native" {
			backend = wal.New(wal.Options{})
		}
		marks, err := backend.Marks(dir)
		if err != nil {
			return nil, nil, err
		}
		began := time.Now()
		l, state, err := backend.Open(dir, marks[len(marks)-1])
		openTime += time.Since(began)
		if err == nil && state.Last < openEntries {
			err = fmt.Errorf("the log ends at %d", state.Last)
		}
		return l, l.Close, err
	}
	held, peak := heapOf(b, open)
	openTime = 0
	for b.Loop() {
		_, closeIt, err := open()
		check(b, err)
		b.StopTimer()
		check(b, closeIt())
		b.StartTimer()
	}
	b.ReportMetric(held, "heap-MB")
	b.ReportMetric(peak, "peak-MB")
	b.ReportMetric(float64(openTime.Milliseconds())/float64(b.N), "open-ms")
}

func openItself(dir string) (*etcd.WAL, []raftpb.Entry, error) {
	w, err := etcd.Open(zap.NewNop(), dir, walpb.Snapshot{Index: 1, Term: 1})
	if err != nil {
		return nil, nil, err
	}
	_, _, entries, err := w.ReadAll()
	return w, entries, err
}

// heapOf measures one opening apart from the others, for looking takes time.
func heapOf(b *testing.B, open func() (any, func() error, error)) (held, peak float64) {
	before := heapNow()
	var looking sync.WaitGroup
	done := make(chan struct{})
	most := before
	looking.Go(func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				metrics.Read(sample)
				most = max(most, sample[0].Value.Uint64())
			}
		}
	})
	kept, closeIt, err := open()
	check(b, err)
	close(done)
	looking.Wait()
	after := heapNow()
	runtime.KeepAlive(kept)
	check(b, closeIt())
	return float64(int64(after)-int64(before)) / 1e6, float64(most-before) / 1e6
}

// heapNow is what is alive.
func heapNow() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// In steady state an append allocates nothing, however many entries it has.
func TestAppendAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, n := range []int{1, 16, 128} {
		l, err := wal.New(wal.Options{SegmentBytes: 32 << 20}).Create(filepath.Join(tempDir(t), "wal"), markAt(1, 1), hard(1, 1, 1))
		check(t, err)
		a := newAppender(l, n)
		if allocs := testing.AllocsPerRun(200, func() { check(t, a.append()) }); allocs > 0 {
			t.Errorf("an append of %d entries allocates %v times", n, allocs)
		}
		check(t, l.Close())
	}
}
