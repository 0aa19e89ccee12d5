package etcdapi

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Of those that wait the connection goes on that had the least, and who gives up takes no
// place with it.
func TestScansTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(scans)
		glutton, modest := newConnection(), newConnection()
		scan := func(ctx context.Context, c *connection, d time.Duration, then func()) {
			go func() {
				err := s.inTurn(context.WithValue(ctx, connectionKey{}, c), true, func() error {
					time.Sleep(d)
					return nil
				})
				if err == nil {
					then()
				} else if !errors.Is(err, errAnswersFull) {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		var scans, others atomic.Int64
		for range 100 * scansMax() {
			scan(t.Context(), glutton, time.Second, func() { scans.Add(1) })
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 10 {
			scan(ctx, newConnection(), time.Second, func() { others.Add(1) })
		}
		cancel()
		synctest.Wait()
		began := time.Now()
		for range 3 {
			scan(t.Context(), modest, 10*time.Millisecond, func() {
				if waited := time.Since(began); waited > 2*time.Second {
					t.Errorf("a client that scans seldom waited for %v", waited)
				}
				others.Add(100)
			})
		}
		time.Sleep(10 * time.Second)
		if n := int64(10 * scansMax()); scans.Load() < n-int64(2*scansMax()) || scans.Load() > n || others.Load() != 300 {
			t.Errorf("%d and %d scans in ten seconds; want about %d, and 300", scans.Load(), others.Load(), n)
		}
		time.Sleep(time.Hour)
		if scans.Load() != int64(100*scansMax()) || s.running != 0 || len(s.waiting) != 0 {
			t.Errorf("%d scans, and %d run and %d wait", scans.Load(), s.running, len(s.waiting))
		}
	})
}

// A range, a compare or a removal of many keys is found wherever it is.
func TestManyKeys(t *testing.T) {
	end := []byte("b")
	wrap := func(op *pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Failure: []*pb.RequestOp{op}} }
	many := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{RangeEnd: end}}}
	one := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{}}}
	for name, c := range map[string]struct {
		r    *pb.TxnRequest
		want bool
	}{
		"one key":   {wrap(one), false},
		"range":     {wrap(many), true},
		"below":     {wrap(&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: wrap(many)}}), true},
		"one below": {wrap(&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: wrap(one)}}), false},
		"compare":   {&pb.TxnRequest{Compare: []*pb.Compare{{RangeEnd: end}}}, true},
		"removal":   {wrap(&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{RangeEnd: end}}}), true},
	} {
		if got := manyKeys(c.r); got != c.want {
			t.Errorf("%s: %t; want %t", name, got, c.want)
		}
	}
}
