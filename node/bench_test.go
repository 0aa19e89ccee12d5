package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// The benchmarks start three members in this process, over TCP on the loopback
// interface, with every fsync on the real disk under OCTOPII_BENCH_DIR or the
// system's directory for temporary files. Beside the rate they report p50 and
// p99, and what one operation costs in CPU time and allocations of all three
// members together.

// inFlight are the numbers of callers that each wait for their own operation.
var inFlight = []int{1, 16, 128, 1024}

func BenchmarkPropose(b *testing.B) {
	ms := benchCluster(b)
	data := make([]byte, 16)
	for _, n := range inFlight {
		b.Run(fmt.Sprintf("inflight=%d", n), func(b *testing.B) {
			measure(b, n, func(ctx context.Context) error {
				_, err := ms[0].Propose(ctx, data)
				return err
			})
		})
	}
}

// BenchmarkProposeFollower has every proposal forwarded.
func BenchmarkProposeFollower(b *testing.B) {
	ms := benchCluster(b)
	data := make([]byte, 16)
	for _, n := range inFlight {
		b.Run(fmt.Sprintf("inflight=%d", n), func(b *testing.B) {
			measure(b, n, func(ctx context.Context) error {
				_, err := ms[1].Propose(ctx, data)
				return err
			})
		})
	}
}

func BenchmarkReadBarrier(b *testing.B) {
	ms := benchCluster(b)
	for _, n := range inFlight {
		b.Run(fmt.Sprintf("inflight=%d", n), func(b *testing.B) {
			measure(b, n, func(ctx context.Context) error {
				_, err := ms[0].ReadBarrier(ctx, node.Linearizable)
				return err
			})
		})
	}
}

// BenchmarkReadBarrierPairs has two reads come to a follower one right after the other,
// and then nothing until both are answered: the round of the first is under way when the
// second comes, and no third one gives the member a turn.
func BenchmarkReadBarrierPairs(b *testing.B) {
	ms := benchCluster(b)
	measure(b, 1, func(ctx context.Context) error {
		first, second := make(chan error, 1), make(chan error, 1)
		for _, done := range []chan error{first, second} {
			go func() {
				_, err := ms[1].ReadBarrier(ctx, node.Linearizable)
				done <- err
			}()
		}
		return errors.Join(<-first, <-second)
	})
}

func benchDir(b *testing.B) string {
	b.Helper()
	base := os.Getenv("OCTOPII_BENCH_DIR")
	if base == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(base, "octopii-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// benchLog is the backend that OCTOPII_BENCH_WAL names: native, or etcd.
func benchLog(b *testing.B) wal.Backend {
	switch format := os.Getenv("OCTOPII_BENCH_WAL"); format {
	case "", "native":
		return nil
	case "etcd":
		return etcdwal.New(nil)
	default:
		b.Fatalf("OCTOPII_BENCH_WAL=%s: use native or etcd", format)
		return nil
	}
}

func benchCluster(b *testing.B) []*member {
	b.Helper()
	ms := make([]*member, 3)
	for i := range ms {
		ms[i] = newMember(b, uint64(i+1))
		ms[i].cfg.TickInterval = 100 * time.Millisecond
		ms[i].cfg.Dir = benchDir(b)
		ms[i].cfg.WAL = benchLog(b)
		ms[i].silent = true
		ms[i].cfg.Bootstrap = i == 0
		ms[i].start()
		if i > 0 {
			add(b, ms[0], ms[i])
		}
	}
	return ms
}

// measure runs b.N operations with n callers at once.
func measure(b *testing.B, n int, op func(context.Context) error) {
	b.ReportAllocs()
	latencies := make([][]time.Duration, n)
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	runtime.GC()
	cpu := cpuTime()
	b.ResetTimer()
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				t := time.Now()
				if err := op(context.Background()); err != nil {
					b.Error(err)
					return
				}
				latencies[i] = append(latencies[i], time.Since(t))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	b.StopTimer()
	all := slices.Concat(latencies...)
	slices.Sort(all)
	if len(all) == 0 {
		return
	}
	b.ReportMetric(float64(len(all))/elapsed.Seconds(), "op/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(len(all)), "cpu-ns/op")
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
