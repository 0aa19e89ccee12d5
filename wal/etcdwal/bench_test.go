package etcdwal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// BenchmarkAppend writes beside the sources and not where temporary files go:
// that may be memory, whose fsync costs nothing.
func BenchmarkAppend(b *testing.B) {
	etcd.SegmentSizeBytes = 64 * 1000 * 1000
	b.Cleanup(func() { etcd.SegmentSizeBytes = segmentBytes })
	for _, n := range []int{1, 16, 128, 1024} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) { benchmarkAppend(b, n) })
	}
}

func benchmarkAppend(b *testing.B, n int) {
	parent, err := os.MkdirTemp(".", "bench-*.tmp")
	check(b, err)
	b.Cleanup(func() { check(b, os.RemoveAll(parent)) })
	l, err := New(nil).Create(filepath.Join(parent, "wal"), markAt(1, 1), hard(1, 1))
	check(b, err)
	entries := make([]raftpb.Entry, n)
	for i := range entries {
		entries[i] = raftpb.Entry{Term: 1, Data: make([]byte, 256)}
	}
	batches := []wal.Batch{{Entries: entries, HardState: hard(1, 1)}}
	next, marked := uint64(2), uint64(1)
	b.SetBytes(int64(n) * 256)
	b.ReportAllocs()
	for b.Loop() {
		for i := range entries {
			entries[i].Index = next
			next++
		}
		batches[0].HardState.Commit = next - 1
		check(b, l.Append(batches))
		if next-marked > 1<<20 {
			// So that a long run does not fill the disk.
			b.StopTimer()
			marked = next - 1
			check(b, l.SetMark(markAt(marked, 1)))
			check(b, l.Release(marked))
			b.StartTimer()
		}
	}
	check(b, l.Close())
}
