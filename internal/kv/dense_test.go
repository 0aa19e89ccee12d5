package kv

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
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
			put.Value = make([]byte, r.IntN(2)*2000)
		}
		return putOp(put)
	case kind < 5:
		return rangeOp(&pb.RangeRequest{Key: denseKey(r), RangeEnd: denseEnd(r)})
	case kind < 6 || depth == 0:
		return deleteOp(string(denseKey(r)), string(denseEnd(r)))
	}
	return txnOp(denseTxn(r, depth-1))
}

// paths returns what a branch puts and deletes, in its order, for each way in which the
// compares of the transactions inside it may turn out.
func paths(branch []*pb.RequestOp) [][]*pb.RequestOp {
	all := [][]*pb.RequestOp{nil}
	for _, op := range branch {
		ways := [][]*pb.RequestOp{{op}}
		if inner := op.GetRequestTxn(); inner != nil {
			ways = append(paths(inner.Success), paths(inner.Failure)...)
		}
		var longer [][]*pb.RequestOp
		for _, path := range all {
			for _, way := range ways {
				longer = append(longer, slices.Concat(path, way))
			}
		}
		all = longer
	}
	return all
}

// conflict returns a key that is put twice, or put behind a delete of it.
func conflict(path []*pb.RequestOp) (key []byte, found bool) {
	for i, op := range path {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		for _, before := range path[:i] {
			if p := before.GetRequestPut(); p != nil && bytes.Equal(p.Key, put.Key) {
				return put.Key, true
			}
			if d := before.GetRequestDeleteRange(); d != nil && within(put.Key, d.Key, rangeEnd(d.RangeEnd)) {
				return put.Key, true
			}
		}
	}
	return nil, false
}

// A transaction that passes the check puts no key that it has put or deleted before, as
// it would find it gone, whatever its compares say.
func TestCheckTxnLooksAtEveryPath(t *testing.T) {
	passed := 0
	for seed := range uint64(20000) {
		txn := denseTxn(rand.New(rand.NewPCG(seed, 1)), 2)
		if CheckTxn(txn) != nil {
			continue
		}
		passed++
		for _, path := range append(paths(txn.Success), paths(txn.Failure)...) {
			if key, found := conflict(path); found {
				t.Fatalf("seed %d: %s is put again on one of the ways through %v", seed, key, txn)
			}
		}
	}
	if passed < 1000 {
		t.Errorf("%d transactions passed; want many more", passed)
	}
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
	for i, batchOps := range []int{0, 5, 70} {
		// A panic leaves the store locked, so that closing it would never end.
		all[i] = must(open(t.TempDir(), nil, limits{batchOps: batchOps}))
	}
	const readBytesMax = 4000
	executed := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 0))
		txn := denseTxn(r, 3)
		applyAll(t, all, mustCommand(t, &pb.InternalRaftRequest{Txn: success(put("k0"), put("k1"), put("k2"))})) // all are there, and small
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
	if executed < 100 {
		t.Errorf("%d transactions were executed; want 100 at least", executed)
	}
	for _, s := range all {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
