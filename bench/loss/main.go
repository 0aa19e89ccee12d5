// Command loss writes to a cluster without a pause, one write after the other, and says how
// the cluster did: for scripts/packet-loss, which makes the network lose packets
// meanwhile.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// callTimeout is how long the client waits before it tries the next member.
const callTimeout = 5 * time.Second

func main() {
	endpoints := flag.String("endpoints", "", "client addresses of the members, with commas between them")
	duration := flag.Duration("duration", time.Minute, "for how long to write")
	valueBytes := flag.Int("value-bytes", 64, "bytes of each value")
	gapMax := flag.Duration("gap-max", 0, "fail if no write was acknowledged for longer; 0: no limit")
	termsMax := flag.Uint64("terms-max", 0, "fail if the term grows by more; 0: no limit")
	flag.Parse()
	if err := run(strings.Split(*endpoints, ","), *duration, *valueBytes, *gapMax, *termsMax); err != nil {
		fmt.Fprintln(os.Stderr, "loss:", err)
		os.Exit(1)
	}
}

func run(endpoints []string, duration time.Duration, valueBytes int, gapMax time.Duration, termsMax uint64) error {
	conns := make([]*grpc.ClientConn, len(endpoints))
	for i, e := range endpoints {
		c, err := grpc.NewClient(e, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		conns[i] = c
	}
	before, err := term(conns)
	if err != nil {
		return err
	}
	r := write(conns, duration, valueBytes)
	after, err := term(conns)
	if err != nil {
		return err
	}
	fmt.Printf("terms %d to %d; %d writes, %d errors; write p50 %v, p99 %v; longest time without a write %v\n",
		before, after, len(r.times), r.errors, r.quantile(0.5), r.quantile(0.99), r.gap.Round(time.Millisecond))
	if gapMax > 0 && r.gap > gapMax {
		return fmt.Errorf("no write was acknowledged for %v, the limit is %v", r.gap, gapMax)
	}
	if termsMax > 0 && after-before > termsMax {
		return fmt.Errorf("the term grew by %d, the limit is %d", after-before, termsMax)
	}
	return nil
}

// result is what became of the writes.
type result struct {
	times  []time.Duration
	errors int
	// gap is the longest time between two acknowledged writes.
	gap time.Duration
}

func (r *result) quantile(q float64) time.Duration {
	if len(r.times) == 0 {
		return 0
	}
	slices.Sort(r.times)
	return r.times[int(q*float64(len(r.times)-1))].Round(100 * time.Microsecond)
}

func write(conns []*grpc.ClientConn, duration time.Duration, valueBytes int) result {
	var r result
	value := make([]byte, valueBytes)
	begin := time.Now()
	last, at := begin, 0
	for n := 0; time.Since(begin) < duration; n++ {
		started := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, err := pb.NewKVClient(conns[at]).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "loss/%d", n%1000), Value: value})
		cancel()
		if err != nil {
			r.errors++
			at = (at + 1) % len(conns)
			continue
		}
		r.times = append(r.times, time.Since(started))
		r.gap = max(r.gap, time.Since(last))
		last = time.Now()
	}
	r.gap = max(r.gap, time.Since(last))
	return r
}

// term is the highest term that a member knows.
func term(conns []*grpc.ClientConn) (uint64, error) {
	var highest uint64
	var last error
	for _, c := range conns {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		st, err := pb.NewMaintenanceClient(c).Status(ctx, &pb.StatusRequest{})
		cancel()
		if err != nil {
			last = err
			continue
		}
		highest = max(highest, st.RaftTerm)
	}
	if highest == 0 {
		return 0, fmt.Errorf("no member tells its term: %w", last)
	}
	return highest, nil
}
