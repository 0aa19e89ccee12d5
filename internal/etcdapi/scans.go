package etcdapi

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// scans lets requests that look at many keys go on a few at a time. etcd's store looks at
// every key of a range in its index, however little of it is answered, cannot be stopped
// while it does so, and keeps writes waiting. So a few clients could take all processors,
// and the lock that every write needs.
//
// The connection that has had the least of this time is the next one. So a client that
// scans seldom does not wait behind those that do nothing else.
type scans struct {
	mu      sync.Mutex
	running int
	waiting []*waitingScan
}

type waitingScan struct {
	conn *connection
	// admitted is closed when it may go on.
	admitted chan struct{}
}

// scansMax is how many scan at a time: a half of the processors are left to the log and to
// everything else.
func scansMax() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// inTurn runs f: at once, or if it is about many keys when it is its turn.
func (s *scans) inTurn(ctx context.Context, many bool, f func() error) error {
	if !many {
		return f()
	}
	conn := connectionOf(ctx)
	if err := s.begin(ctx, conn); err != nil {
		return err
	}
	began := time.Now()
	defer func() { s.end(conn, time.Since(began)) }()
	return f()
}

func (s *scans) begin(ctx context.Context, conn *connection) error {
	w := &waitingScan{conn, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.admit()
	s.mu.Unlock()
	return s.wait(ctx, w)
}

// wait returns when w may go on, or cannot any more.
func (s *scans) wait(ctx context.Context, w *waitingScan) error {
	select {
	case <-w.admitted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return errAnswersFull
	}
	return nil // it came at the same moment
}

func (s *scans) end(conn *connection, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn.scanned += took
	s.running--
	s.admit()
}

// admit lets the next ones go on, as far as there are places. s.mu is held.
func (s *scans) admit() {
	for len(s.waiting) > 0 && s.running < scansMax() {
		next := 0
		for i, w := range s.waiting {
			if w.conn.scanned < s.waiting[next].conn.scanned {
				next = i
			}
		}
		s.running++
		close(s.waiting[next].admitted)
		s.waiting = slices.Delete(s.waiting, next, next+1)
	}
}

// manyKeys says whether a transaction, or one inside it, is about more than single keys.
func manyKeys(r *pb.TxnRequest) bool {
	if slices.ContainsFunc(r.Compare, func(c *pb.Compare) bool { return len(c.RangeEnd) > 0 }) {
		return true
	}
	many := func(op *pb.RequestOp) bool {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			return len(o.RequestRange.RangeEnd) > 0
		case *pb.RequestOp_RequestDeleteRange:
			return len(o.RequestDeleteRange.RangeEnd) > 0
		case *pb.RequestOp_RequestTxn:
			return manyKeys(o.RequestTxn)
		}
		return false
	}
	return slices.ContainsFunc(r.Success, many) || slices.ContainsFunc(r.Failure, many)
}

// scansMany says whether a write is about more than single keys.
func scansMany(r *pb.InternalRaftRequest) bool {
	return r.DeleteRange != nil && len(r.DeleteRange.RangeEnd) > 0 || r.Txn != nil && manyKeys(r.Txn)
}
