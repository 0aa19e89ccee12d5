package kv

import (
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// denseTxn makes a transaction over a few keys, with ranges of all kinds, and others
// inside it.
func denseTxn(r *rand.Rand, depth int) *pb.TxnRequest {
	txn := new(pb.TxnRequest)
	if r.IntN(2) == 0 {
		txn.Compare = append(txn.Compare, &pb.Compare{Key: denseKey(r), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER,
			TargetUnion: &pb.Compare_Version{Version: int64(r.IntN(2))}})
	}
	for _, branch := range []*[]*pb.RequestOp{&txn.Success, &txn.Failure} {
		for range r.IntN(4) {
			*branch = append(*branch, denseOp(r, depth))
		}
	}
	return txn
}

func denseKey(r *rand.Rand) []byte { return fmt.Append(nil, "k", r.IntN(3)) }

// denseEnd is that of one key, of some, or of all that follow.
func denseEnd(r *rand.Rand) []byte { return [][]byte{nil, []byte("k2"), {0}}[r.IntN(3)] }

func denseOp(r *rand.Rand, depth int) *pb.RequestOp {
	kind := r.IntN(8)
	switch {
	case kind < 3:
		put := &pb.PutRequest{Key: denseKey(r), PrevKv: r.IntN(4) == 0, IgnoreValue: r.IntN(2) == 0}
		if !put.IgnoreValue {
			put.Value = make([]byte, r.IntN(2)*500)
		}
		return putOp(put)
	case kind < 5:
		return rangeOp(&pb.RangeRequest{Key: denseKey(r), RangeEnd: denseEnd(r)})
	case kind < 6 || depth == 0:
		return deleteOp(string(denseKey(r)), string(denseEnd(r)))
	}
	return txnOp(denseTxn(r, depth-1))
}

// answerOverheadBytes bounds what an operation adds to a response beside keys and
// values, which are charged.
const answerOverheadBytes = 64

func operations(all []*pb.RequestOp) (n int) {
	for _, op := range all {
		n++
		if t := op.GetRequestTxn(); t != nil {
			n += operations(t.Success) + operations(t.Failure)
		}
	}
	return n
}

// What passes the checks and the plan is executed to its end, on all members alike, and
// its response is not larger than what it was allowed to read.
func TestWhatIsPlannedIsExecuted(t *testing.T) {
	var all [3]*Store
	for i, batchOps := range []int{0, 1, 7} {
		// A panic leaves the store locked, so that closing it would never end.
		all[i] = must(open(t.TempDir(), nil, limits{batchOps: batchOps}))
	}
	const readBytesMax = 4000
	executed := 0
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 0))
		txn := denseTxn(r, 3)
		if CheckTxn(txn) != nil {
			continue
		}
		command := must(all[0].RequestCommand(&pb.InternalRaftRequest{Txn: txn}, readBytesMax))
		result := applyAll(t, all, command)
		if DecodeResult(result, nil) != nil {
			continue
		}
		executed++
		if n, most := len(result), readBytesMax+answerOverheadBytes*(1+operations(txn.Success)+operations(txn.Failure)); n > most {
			t.Fatalf("seed %d: a response of %d bytes; want %d at most, as it may read %d: %v", seed, n, most, readBytesMax, txn)
		}
	}
	if executed < 500 {
		t.Errorf("%d transactions were executed; want many more", executed)
	}
	for _, s := range all {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
