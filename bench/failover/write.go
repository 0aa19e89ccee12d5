package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// warmWrites must be acknowledged to each writer before the leader is killed.
const warmWrites = 20

// writers write through the members that survive, one each, as fast as they can. One
// that fails tries again after a millisecond.
type writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan write
	begun  []int // acknowledged writes of each, while the leader lived

	dead time.Time // zero while the leader lives
}

// write is one that ended.
type write struct {
	writer     int
	began, end time.Time
	err        error
}

func newWriters(c *cluster, leader int, timeout time.Duration) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{cancel: cancel, done: make(chan write, 1<<16)}
	for i, m := range c.members {
		if i == leader {
			continue
		}
		n := len(w.begun)
		w.begun = append(w.begun, 0)
		w.wg.Go(func() { w.run(ctx, n, pb.NewKVClient(m.conn), timeout) })
	}
	return w
}

func (w *writers) run(ctx context.Context, n int, kv pb.KVClient, timeout time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		one := write{writer: n, began: time.Now()}
		try, cancel := context.WithTimeout(ctx, timeout)
		_, one.err = kv.Put(try, &pb.PutRequest{Key: fmt.Appendf(nil, "writer%d", n), Value: fmt.Append(nil, i)}, grpc.WaitForReady(true))
		cancel()
		one.end = time.Now()
		select {
		case w.done <- one:
		case <-ctx.Done():
			return
		}
		if one.err != nil {
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// warm waits until every writer had some writes acknowledged.
func (w *writers) warm(ctx context.Context) error {
	for {
		least := w.begun[0]
		for _, n := range w.begun {
			least = min(least, n)
		}
		if least >= warmWrites {
			return nil
		}
		select {
		case one := <-w.done:
			if one.err == nil {
				w.begun[one.writer]++
			}
		case <-ctx.Done():
			return fmt.Errorf("the writers do not get going: %w", ctx.Err())
		}
	}
}

// gone says since when the leader's process is certainly no more.
func (w *writers) gone(at time.Time) { w.dead = at }

// first waits for the first write that was acknowledged and began when the process was
// gone, so that only another leader can have done it. failed are those that failed by
// then.
func (w *writers) first(ctx context.Context) (end time.Time, failed int, err error) {
	last := error(nil)
	for {
		select {
		case one := <-w.done:
			switch {
			case one.err != nil:
				failed, last = failed+1, one.err
			case !one.began.Before(w.dead):
				return one.end, failed, nil
			}
		case <-ctx.Done():
			return time.Time{}, failed, fmt.Errorf("nothing was written after the leader was killed: %w", last)
		}
	}
}

func (w *writers) stop() {
	w.cancel()
	w.wg.Wait()
}
