package kv

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/octopii/octopii/node"
)

func put(key string) *pb.RequestOp { return putOp(&pb.PutRequest{Key: []byte(key)}) }

func success(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }

func failure(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Failure: ops} }

func nested(depth int) *pb.TxnRequest {
	r := success(put("deep"))
	for range depth {
		r = success(txnOp(r))
	}
	return r
}

func TestCheckTxn(t *testing.T) {
	many := success()
	for i := range TxnOpsMax + 1 {
		many.Success = append(many.Success, put(fmt.Sprint(i)))
	}
	either := &pb.TxnRequest{Success: []*pb.RequestOp{put("a")}, Failure: []*pb.RequestOp{put("a")}}
	for name, c := range map[string]struct {
		r    *pb.TxnRequest
		want error
	}{
		"empty":                          {success(), nil},
		"two keys":                       {success(put("a"), put("b")), nil},
		"same key twice":                 {success(put("a"), put("a")), DuplicateKey},
		"same key in either branch":      {either, nil},
		"either branch below":            {success(txnOp(either)), nil},
		"either branch below, and above": {success(txnOp(either), put("a")), DuplicateKey},
		"twice below":                    {success(txnOp(success(put("a"))), txnOp(success(put("a")))), DuplicateKey},
		"delete what is put":             {success(put("b"), deleteOp("a", "c")), DuplicateKey},
		"delete from a key on":           {success(deleteOp("a", "\x00"), put("b")), DuplicateKey},
		"delete from a later key on":     {success(deleteOp("c", "\x00"), put("b")), nil},
		"delete an empty range":          {success(deleteOp("c", "a"), put("b")), nil},
		"delete up to the key":           {success(deleteOp("a", "b"), put("b")), nil},
		"delete below, put above":        {success(txnOp(success(deleteOp("a", ""))), put("a")), DuplicateKey},
		"delete below, put below":        {success(txnOp(success(deleteOp("a", ""))), txnOp(success(put("a")))), DuplicateKey},
		"no operation":                   {success(&pb.RequestOp{}), KeyNotFound},
		"empty key below":                {failure(txnOp(failure(put("")))), EmptyKey},
		"compare without a key":          {&pb.TxnRequest{Compare: []*pb.Compare{{}}}, EmptyKey},
		"too many":                       {many, TooManyOps},
		"deep":                           {nested(TxnOpsMax - 1), nil},
		"too deep":                       {nested(TxnOpsMax), TooManyOps},
		"unknown sort target":            {success(rangeOp(&pb.RangeRequest{Key: []byte("a"), SortTarget: 77})), InvalidSortOption},
		"value to be ignored":            {success(putOp(&pb.PutRequest{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true})), ValueProvided},
		"lease to be ignored":            {success(putOp(&pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreLease: true})), LeaseProvided},
	} {
		t.Run(name, func(t *testing.T) {
			if err := CheckTxn(c.r); err != c.want {
				t.Errorf("CheckTxn = %v; want %v", err, c.want)
			}
		})
	}
}

// What nobody's server should have proposed is rejected and moves the index; it
// stops no member.
func TestApplySurvivesAnyCommand(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	apply(t, s, putCommand(t, "a", "1"))
	ignoring := putOp(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true})
	for name, r := range map[string]*pb.InternalRaftRequest{
		"nothing":                      {},
		"lease":                        {LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 1}},
		"no key":                       {Put: &pb.PutRequest{}},
		"delete all, keep the value":   {Txn: success(deleteOp("\x00", "\x00"), ignoring)},
		"keep the value, delete all":   {Txn: success(ignoring, deleteOp("\x00", "\x00"))},
		"range at the future":          {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 99}))},
		"range at its own revision":    {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 3}))},
		"unknown lease":                {Txn: success(putOp(&pb.PutRequest{Key: []byte("b"), Lease: 9}))},
		"unknown key":                  {Txn: success(putOp(&pb.PutRequest{Key: []byte("b"), IgnoreLease: true}))},
		"unknown sort target":          {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), SortTarget: 7}))},
		"empty operation":              {Txn: success(put("b"), &pb.RequestOp{})},
		"far too deep":                 {Txn: nested(1_000)},
		"compaction before everything": {Compaction: &pb.CompactionRequest{Revision: math.MinInt64}},
		"compaction of nothing":        {Compaction: &pb.CompactionRequest{}},
		"compaction behind everything": {Compaction: &pb.CompactionRequest{Revision: math.MaxInt64}},
	} {
		t.Run(name, func(t *testing.T) {
			before := stateOf(t, s)
			err := DecodeResult(apply(t, s, mustCommand(t, r)), nil)
			if _, ok := err.(Rejection); !ok {
				t.Errorf("result: %v; want a Rejection", err)
			}
			if after := stateOf(t, s); after != before {
				t.Errorf("a rejected command changed %+v to %+v", before, after)
			}
		})
	}
}

// Odd requests that are allowed do what they do on etcd.
func TestApplyOddRequests(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	apply(t, s, putCommand(t, "a", "1"))
	for name, r := range map[string]*pb.InternalRaftRequest{
		"negative limit":    {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Limit: -1}))},
		"largest limit":     {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Limit: math.MaxInt64}))},
		"negative revision": {Txn: success(put("b"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: -1}))},
		"inverted range":    {DeleteRange: &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte("a")}},
		"put, then delete in another txn": {Txn: success(
			txnOp(success(putOp(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true}))),
			txnOp(success(deleteOp("a", ""))))},
	} {
		t.Run(name, func(t *testing.T) {
			if err := DecodeResult(apply(t, s, mustCommand(t, r)), nil); err != nil {
				t.Errorf("result: %v; want success", err)
			}
			apply(t, s, putCommand(t, "a", "1"))
		})
	}
}

// Two members given the same random transactions agree on every result.
func TestApplyRandomTransactions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, other := openTest(t, t.TempDir(), limits{}), openTest(t, t.TempDir(), limits{batchOps: 1})
		for i := range rapid.IntRange(1, 20).Draw(rt, "entries") {
			command := drawCommand(rt)
			e := []node.Entry{{Index: uint64(i + 1), Term: 1, Data: command}}
			a, err := one.Apply(e)
			if err != nil {
				rt.Fatal(err)
			}
			b, err := other.Apply(e)
			if err != nil {
				rt.Fatal(err)
			}
			if !bytes.Equal(a[0], b[0]) {
				rt.Fatalf("results differ: %x and %x", a[0], b[0])
			}
		}
		if a, b := stateOf(t, one), stateOf(t, other); a != b {
			rt.Fatalf("states differ: %+v and %+v", a, b)
		}
		if err := one.Close(); err != nil {
			rt.Fatal(err)
		}
		if err := other.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func drawCommand(rt *rapid.T) []byte {
	r := &pb.InternalRaftRequest{}
	switch rapid.IntRange(0, 9).Draw(rt, "kind") {
	case 0:
		return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "garbage")
	case 1:
		r.Compaction = &pb.CompactionRequest{Revision: rapid.Int64Range(-1, 20).Draw(rt, "revision")}
	case 2, 3:
		r.Put = drawPut(rt)
	default:
		r.Txn = drawTxn(rt, 2)
	}
	b, err := requestCommand(r, 0, ReadBytesMax)
	if err != nil {
		rt.Fatal(err)
	}
	return b
}

func drawKey(rt *rapid.T) []byte {
	return []byte(rapid.SampledFrom([]string{"", "\x00", "a", "b", "c", "d"}).Draw(rt, "key"))
}

func drawPut(rt *rapid.T) *pb.PutRequest {
	return &pb.PutRequest{
		Key: drawKey(rt), PrevKv: rapid.Bool().Draw(rt, "prevKv"),
		IgnoreValue: rapid.Bool().Draw(rt, "ignoreValue"), IgnoreLease: rapid.Bool().Draw(rt, "ignoreLease"),
		Lease: rapid.Int64Range(0, 1).Draw(rt, "lease"),
	}
}

func drawTxn(rt *rapid.T, depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range rapid.IntRange(0, 1).Draw(rt, "compares") {
		r.Compare = append(r.Compare, &pb.Compare{
			Key: drawKey(rt), RangeEnd: drawKey(rt),
			Target: pb.Compare_CompareTarget(rapid.IntRange(0, 5).Draw(rt, "target")),
			Result: pb.Compare_CompareResult(rapid.IntRange(0, 4).Draw(rt, "result")),
		})
	}
	for range rapid.IntRange(0, 3).Draw(rt, "success") {
		r.Success = append(r.Success, drawOp(rt, depth))
	}
	for range rapid.IntRange(0, 3).Draw(rt, "failure") {
		r.Failure = append(r.Failure, drawOp(rt, depth))
	}
	return r
}

func drawOp(rt *rapid.T, depth int) *pb.RequestOp {
	switch rapid.IntRange(0, 4).Draw(rt, "op") {
	case 0:
		return putOp(drawPut(rt))
	case 1:
		return deleteOp(string(drawKey(rt)), string(drawKey(rt)))
	case 2:
		return rangeOp(&pb.RangeRequest{
			Key: drawKey(rt), RangeEnd: drawKey(rt),
			Limit: rapid.Int64Range(-1, 2).Draw(rt, "limit"), Revision: rapid.Int64Range(-1, 20).Draw(rt, "revision"),
			SortOrder:  pb.RangeRequest_SortOrder(rapid.IntRange(0, 3).Draw(rt, "order")),
			SortTarget: pb.RangeRequest_SortTarget(rapid.IntRange(0, 5).Draw(rt, "target")),
		})
	case 3:
		if depth > 0 {
			return txnOp(drawTxn(rt, depth-1))
		}
	}
	return &pb.RequestOp{}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{kindRequest})
	f.Add([]byte{kindMember, 1, 2, 3})
	f.Add(putCommand(f, "a", "1"))
	f.Add(mustCommand(f, &pb.InternalRaftRequest{Txn: success(deleteOp("a", "\x00"), put("b"))}))
	f.Fuzz(func(t *testing.T, command []byte) {
		s := openTest(t, t.TempDir(), limits{})
		if result := apply(t, s, command); len(result) == 0 {
			t.Errorf("command %x has an empty result", command)
		}
		if s.db.applied.index != 1 {
			t.Errorf("command %x did not move the applied index", command)
		}
	})
}
