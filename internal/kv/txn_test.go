package kv

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/etcdserver/txn"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/octopii/octopii/node"
)

// oracle is etcd's own way to execute a transaction.
type oracle struct{ s *Store }

// applyEntries has the name that etcd's backend looks for: see database.
func (o oracle) applyEntries(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	o.s.db.applying.index++
	resp, _, err := txn.Txn(context.Background(), o.s.lg, r, true, o.s.db.kv, o.s.db.lessor)
	return resp, err
}

// Transactions do what they do in etcd: results and state are the same.
func TestTxnIsEtcds(t *testing.T) {
	ours, theirs := openTest(t, t.TempDir(), limits{}), oracle{openTest(t, t.TempDir(), limits{})}
	rapid.Check(t, func(t *rapid.T) {
		r := txnRequest(t, 3)
		if CheckTxn(r) != nil {
			return // etcd panics on some of these
		}
		want, wantErr := theirs.applyEntries(r)
		index := ours.db.applied.index + 1
		results, err := ours.Apply([]node.Entry{{Index: index, Term: 1, Data: must(requestCommand(&pb.InternalRaftRequest{Txn: r}, 0, ReadBytesMax))}})
		if err != nil {
			t.Fatal(err)
		}
		got := new(pb.TxnResponse)
		gotErr := DecodeResult(results[0], got)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%v: error %v; etcd's: %v", r, gotErr, wantErr)
		}
		if wantErr == nil {
			if diff := cmp.Diff(must(want.Marshal()), must(got.Marshal())); diff != "" {
				t.Fatalf("%v:\ngot  %v\nwant %v", r, got, want)
			}
		}
		if a, b := must(ours.Hash()), must(theirs.s.Hash()); a != b {
			t.Fatalf("%v: the state is %+v; etcd's: %+v", r, a, b)
		}
	})
}

// Ranges do what they do in etcd. Of records that are equal in the order that is asked
// for, etcd returns any before another; here the lower key comes first where there is a
// limit.
func TestRangeIsEtcds(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 60 {
		apply(t, s, putCommand(t, fmt.Sprint("k", i*7%20), fmt.Sprint(i*13%17)))
	}
	apply(t, s, mustCommand(t, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 20}}))
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			rangeIsEtcds(t, s, rangeRequest(t))
		}
	})
}

func rangeIsEtcds(t *rapid.T, s *Store, r *pb.RangeRequest) {
	if CheckRange(r) != nil {
		return
	}
	want, _, wantErr := txn.Range(context.Background(), s.lg, s.db.kv, r)
	got, gotErr := s.Range(context.Background(), r, func(int64) bool { return true })
	if (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("%v: error %v; etcd's: %v", r, gotErr, wantErr)
	}
	if wantErr != nil {
		return
	}
	if by := orderOf(r); by != nil && r.Limit > 0 && !r.CountOnly {
		for i := range min(len(want.Kvs), len(got.Kvs)) {
			if !r.KeysOnly && by(want.Kvs[i], got.Kvs[i]) != 0 {
				t.Fatalf("%v: at %d is %v; etcd has %v", r, i, got.Kvs[i], want.Kvs[i])
			}
		}
		want.Kvs = firstInOrder(t, s, r, len(want.Kvs))
	}
	if !bytes.Equal(must(want.Marshal()), must(got.Marshal())) {
		t.Fatalf("%v:\ngot  %v\nwant %v", r, got, want)
	}
}

// firstInOrder sorts all that etcd returns for r without an order and a limit, and cuts it.
func firstInOrder(t *rapid.T, s *Store, r *pb.RangeRequest, n int) []*mvccpb.KeyValue {
	all := *r
	all.Limit, all.KeysOnly = fetchLimit(r), false
	all.SortOrder, all.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	resp, _, err := txn.Range(context.Background(), s.lg, s.db.kv, &all)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(resp.Kvs, orderOf(r))
	for _, kv := range resp.Kvs {
		if r.KeysOnly {
			kv.Value = nil
		}
	}
	return resp.Kvs[:n]
}

// A range is charged for what its answer has, and not for all that it looks at.
func TestRangeIsChargedForItsAnswer(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	const keys, valueBytes, granted = 64, 100 << 10, 1 << 20
	for i := range keys {
		apply(t, s, putCommand(t, fmt.Sprintf("k%02d", i*37%keys), fmt.Sprintf("%02d", i*29%keys)+strings.Repeat("v", valueBytes)))
	}
	everything := pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	ask := func(change func(r *pb.RangeRequest)) *pb.RangeRequest {
		r := everything
		change(&r)
		return &r
	}
	sorted := func(by pb.RangeRequest_SortTarget, order pb.RangeRequest_SortOrder) *pb.RangeRequest {
		return ask(func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder, r.Limit = by, order, 3 })
	}
	for name, c := range map[string]struct {
		r    *pb.RangeRequest
		kvs  int
		more bool
	}{
		"count only":           {ask(func(r *pb.RangeRequest) { r.CountOnly = true }), 0, false},
		"count, with a limit":  {ask(func(r *pb.RangeRequest) { r.CountOnly, r.Limit = true, 1<<40 }), 0, false},
		"keys only":            {ask(func(r *pb.RangeRequest) { r.KeysOnly = true }), keys, false},
		"keys, downwards":      {ask(func(r *pb.RangeRequest) { r.KeysOnly, r.SortOrder = true, pb.RangeRequest_DESCEND }), keys, false},
		"filtered":             {ask(func(r *pb.RangeRequest) { r.MinModRevision = keys }), 2, false},
		"filtered with limit":  {ask(func(r *pb.RangeRequest) { r.MinModRevision, r.Limit = 4, 5 }), 5, true},
		"the first by key":     {sorted(pb.RangeRequest_KEY, pb.RangeRequest_ASCEND), 3, true},
		"the last by key":      {sorted(pb.RangeRequest_KEY, pb.RangeRequest_DESCEND), 3, true},
		"by value":             {sorted(pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND), 3, true},
		"by value, downwards":  {sorted(pb.RangeRequest_VALUE, pb.RangeRequest_DESCEND), 3, true},
		"the newest":           {sorted(pb.RangeRequest_MOD, pb.RangeRequest_DESCEND), 3, true},
		"the oldest":           {sorted(pb.RangeRequest_CREATE, pb.RangeRequest_ASCEND), 3, true},
		"the most often":       {sorted(pb.RangeRequest_VERSION, pb.RangeRequest_DESCEND), 3, true},
		"in a past revision":   {ask(func(r *pb.RangeRequest) { r.Revision, r.KeysOnly = keys, true }), keys - 1, false},
		"of one key, its name": {&pb.RangeRequest{Key: []byte("k03"), KeysOnly: true}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, read := range []func(Grant) (*pb.RangeResponse, error){
				func(g Grant) (*pb.RangeResponse, error) { return s.Range(t.Context(), c.r, g) },
				func(g Grant) (*pb.RangeResponse, error) {
					op := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: c.r}}
					resp, err := s.ReadTxn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{op}}, g)
					return resp.GetResponses()[0].GetResponseRange(), err
				},
			} {
				held, most := int64(0), int64(0)
				got, err := read(func(bytes int64) bool {
					held += bytes
					most = max(most, held)
					return held <= granted
				})
				if err != nil {
					t.Fatalf("after %d bytes: %v", held, err)
				}
				want, _, err := txn.Range(t.Context(), s.lg, s.db.kv, c.r)
				if err != nil {
					t.Fatal(err)
				}
				want.Header = got.Header // in a transaction only its own one has one
				if len(got.Kvs) != c.kvs || got.More != c.more || !bytes.Equal(must(want.Marshal()), must(got.Marshal())) {
					t.Errorf("%d keys, more: %t; want %d, %t, and what etcd answers", len(got.Kvs), got.More, c.kvs, c.more)
				}
				if held < 0 || most < int64(len(got.Kvs))*keyBytes {
					t.Errorf("%d bytes were charged at most, and %d at the end, for %d keys", most, held, len(got.Kvs))
				}
			}
		})
	}
	if _, err := s.Range(t.Context(), &everything, func(bytes int64) bool { return bytes < valueBytes }); err != ErrOverBudget {
		t.Errorf("all values: %v; want %v", err, ErrOverBudget)
	}
}

// A range in several steps returns what one step does.
func TestRangeInSteps(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	const keys = stepKeysMin*2 + 100
	for i := 0; i < keys; i += TxnOpsMax {
		r := &pb.TxnRequest{}
		for j := i; j < min(i+TxnOpsMax, keys); j++ {
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "k%05d", j*7919%keys), Value: fmt.Append(nil, j)}
			r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		apply(t, s, mustCommand(t, &pb.InternalRaftRequest{Txn: r}))
	}
	for _, r := range []*pb.RangeRequest{
		{KeysOnly: true},
		{KeysOnly: true, Limit: stepKeysMin + 1},
		{KeysOnly: true, Limit: stepKeysMin - 1},
		{KeysOnly: true, Limit: keys},
		{SortOrder: pb.RangeRequest_DESCEND, Limit: 5},
		{MinModRevision: 50, Limit: stepKeysMin},
		{MaxModRevision: 3},
	} {
		r.Key, r.RangeEnd = []byte("k"), []byte("l")
		want, _, err := txn.Range(t.Context(), s.lg, s.db.kv, r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Range(t.Context(), r, nil)
		if err != nil || !bytes.Equal(must(want.Marshal()), must(got.Marshal())) {
			t.Errorf("%v: %d keys of %d, more: %t, %v; etcd has %d of %d, more: %t", r, len(got.GetKvs()), got.GetCount(), got.GetMore(), err, len(want.Kvs), want.Count, want.More)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func someKey(t *rapid.T) []byte {
	return []byte(rapid.SampledFrom([]string{"k1", "k2", "k5", "k9", "k", "l", "\x00", ""}).Draw(t, "key"))
}

func someEnd(t *rapid.T) []byte {
	return rapid.SampledFrom([][]byte{nil, nil, []byte("k6"), []byte("z"), {0}}).Draw(t, "end")
}

func rangeRequest(t *rapid.T) *pb.RangeRequest {
	small := rapid.Int64Range(-1, 70)
	r := &pb.RangeRequest{Key: someKey(t), RangeEnd: someEnd(t)}
	if rapid.Bool().Draw(t, "plain") {
		return r
	}
	r.Limit = rapid.Int64Range(-1, 5).Draw(t, "limit")
	r.SortOrder = pb.RangeRequest_SortOrder(rapid.Int32Range(0, 3).Draw(t, "order"))
	r.SortTarget = pb.RangeRequest_SortTarget(rapid.Int32Range(0, 5).Draw(t, "target"))
	r.KeysOnly, r.CountOnly = rapid.Bool().Draw(t, "keys"), rapid.Bool().Draw(t, "count")
	r.Revision = max(0, small.Draw(t, "revision")-40)
	// Each filter alone, none of them, or several.
	for i, filter := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if only := rapid.IntRange(-1, 4).Draw(t, "filter"); only == i || only == 4 {
			*filter = max(0, small.Draw(t, "filter's revision"))
		}
	}
	return r
}

func txnRequest(t *rapid.T, depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		c := &pb.Compare{
			Key: someKey(t), RangeEnd: someEnd(t),
			Result: pb.Compare_CompareResult(rapid.Int32Range(0, 4).Draw(t, "result")),
			Target: pb.Compare_CompareTarget(rapid.Int32Range(0, 5).Draw(t, "target")),
		}
		switch rapid.IntRange(0, 3).Draw(t, "union") {
		case 0:
			c.TargetUnion = &pb.Compare_Version{Version: rapid.Int64Range(0, 3).Draw(t, "version")}
		case 1:
			c.TargetUnion = &pb.Compare_Value{Value: []byte("v")}
		case 2:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: rapid.Int64Range(0, 9).Draw(t, "mod")}
		}
		r.Compare = append(r.Compare, c)
	}
	for range rapid.IntRange(0, 3).Draw(t, "success") {
		r.Success = append(r.Success, requestOp(t, depth))
	}
	for range rapid.IntRange(0, 3).Draw(t, "failure") {
		r.Failure = append(r.Failure, requestOp(t, depth))
	}
	return r
}

func requestOp(t *rapid.T, depth int) *pb.RequestOp {
	kinds := 4
	if depth == 0 {
		kinds = 3
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rangeOp(rangeRequest(t))
	case 1:
		put := &pb.PutRequest{
			Key: someKey(t), PrevKv: rapid.Bool().Draw(t, "prev"),
			IgnoreValue: rapid.IntRange(0, 5).Draw(t, "ignore") == 0,
			IgnoreLease: rapid.IntRange(0, 5).Draw(t, "ignore lease") == 0,
			Lease:       int64(rapid.IntRange(0, 9).Draw(t, "lease") / 9),
		}
		if !put.IgnoreValue {
			put.Value = []byte(rapid.SampledFrom([]string{"", "v", "w"}).Draw(t, "value"))
		}
		return putOp(put)
	case 2:
		r := &pb.DeleteRangeRequest{Key: someKey(t), RangeEnd: someEnd(t), PrevKv: rapid.Bool().Draw(t, "prev")}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	}
	return txnOp(txnRequest(t, depth-1))
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// everything is a range over all keys.
func everything() *pb.RequestOp {
	return rangeOp(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
}

// members opens three stores, of which the first one proposes.
func members(t *testing.T) (all [3]*Store) {
	for i := range all {
		all[i] = openTest(t, t.TempDir(), limits{})
	}
	return all
}

// applyAll applies a command of the first store on all, and expects that they agree
// on whether it is rejected and on the state. It returns the result of the first.
func applyAll(t testing.TB, all [3]*Store, command []byte) []byte {
	t.Helper()
	var results [3][]byte
	for i, s := range all {
		results[i] = apply(t, s, command)
	}
	for i, s := range all[1:] {
		rejected := DecodeResult(results[0], nil)
		if results[i+1][0] != resultElsewhere && DecodeResult(results[i+1], nil) != rejected {
			t.Fatalf("member %d: result %v; the proposer's: %v", i+1, results[i+1][:1], rejected)
		}
		if a, b := stateOf(t, all[0]), stateOf(t, s); a != b {
			t.Fatalf("member %d has the state %+v; the proposer: %+v", i+1, b, a)
		}
	}
	return results[0]
}

// What a command of a few bytes may read, and so keep in memory, is bounded, and all
// members reject it alike: it is in their logs, and would end them at each start.
func TestPoisonIsRejectedAlike(t *testing.T) {
	all := members(t)
	for i := range 10 {
		applyAll(t, all, putCommand(t, fmt.Sprint("big", i), strings.Repeat("v", 1<<20)))
	}
	many := func(op *pb.RequestOp) *pb.TxnRequest {
		r := success(put("a"))
		for range TxnOpsMax - 1 {
			r.Success = append(r.Success, op)
		}
		return r
	}
	// after puts a large value, and reads it often.
	after := func(end string) *pb.TxnRequest {
		r := success(putOp(&pb.PutRequest{Key: []byte("own"), Value: make([]byte, 1<<20)}))
		for range TxnOpsMax - 1 {
			r.Success = append(r.Success, rangeOp(&pb.RangeRequest{Key: []byte("own"), RangeEnd: []byte(end)}))
		}
		return r
	}
	compare := &pb.TxnRequest{Success: []*pb.RequestOp{put("a")}}
	for range TxnOpsMax - 1 {
		compare.Compare = append(compare.Compare, &pb.Compare{
			Key: []byte{0}, RangeEnd: []byte{0}, Target: pb.Compare_LEASE})
	}
	below := many(everything())
	below.Success = below.Success[:TxnOpsMax-1]
	below = success(txnOp(below))
	one := &pb.RangeRequest{Key: []byte("big1")}
	filtered := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, MinModRevision: 1 << 40}
	sorted := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: 1, SortOrder: pb.RangeRequest_DESCEND}
	for name, r := range map[string]*pb.TxnRequest{
		"ranges":                   many(everything()),
		"ranges over one key":      many(rangeOp(one)),
		"ranges that return none":  many(rangeOp(filtered)),
		"ranges that return one":   many(rangeOp(sorted)),
		"ranges over its own put":  after(""),
		"ranges up to a key":       after("own1"),
		"ranges from its own put":  after("\x00"),
		"ranges that are below":    below,
		"compares":                 compare,
		"previous values of a txn": success(everything(), &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}}}),
	} {
		t.Run(name, func(t *testing.T) {
			command := must(all[0].RequestCommand(&pb.InternalRaftRequest{Txn: r}, ReadBytesMax))
			before := stateOf(t, all[0])
			var result []byte
			bytes := allocated(func() { result = applyAll(t, all, command) })
			if err := DecodeResult(result, nil); err != TooMuchRead {
				t.Errorf("result: %v; want TooMuchRead", err)
			}
			if before.Revision != stateOf(t, all[0]).Revision {
				t.Error("a rejected command wrote")
			}
			if limit := uint64(3 * 4 * ReadBytesMax); bytes > limit {
				t.Errorf("three members allocated %d bytes; want %d at most", bytes, limit)
			}
		})
	}
}

// Counting takes time and no memory, and all members spend it one command after the other:
// what a command may look at is bounded, too.
func TestCountingIsBounded(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	const keys = 20000
	for i := 0; i < keys; i += TxnOpsMax {
		r := success()
		for n := i; n < min(i+TxnOpsMax, keys); n++ {
			r.Success = append(r.Success, put(fmt.Sprint("k", n)))
		}
		apply(t, s, mustCommand(t, &pb.InternalRaftRequest{Txn: r}))
	}
	counts := func(n int) []byte {
		r := success(put("a"))
		for range n {
			r.Success = append(r.Success, rangeOp(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}))
		}
		return apply(t, s, must(s.RequestCommand(&pb.InternalRaftRequest{Txn: r}, ReadBytesMax)))
	}
	if err := DecodeResult(counts(5), new(pb.TxnResponse)); err != nil {
		t.Errorf("five counts: %v", err)
	}
	if err := DecodeResult(counts(TxnOpsMax-1), nil); err != TooMuchRead {
		t.Errorf("%d counts of %d keys: %v; want %v", TxnOpsMax-1, keys, err, TooMuchRead)
	}
}

// A command may not read more than its server has memory for.
func TestReadBytesMaxOfACommand(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	apply(t, s, putCommand(t, "a", strings.Repeat("v", 1000)))
	r := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), PrevKv: true}}
	if err := DecodeResult(apply(t, s, must(s.RequestCommand(r, 999))), nil); err != TooMuchRead {
		t.Errorf("with 999 bytes: %v; want TooMuchRead", err)
	}
	resp := new(pb.PutResponse)
	if err := DecodeResult(apply(t, s, must(s.RequestCommand(r, 2000))), resp); err != nil || resp.PrevKv.Size() < 1000 {
		t.Errorf("with 2000 bytes: %v, %d bytes", err, resp.PrevKv.Size())
	}
}

// Where nobody waits for the response, nothing is made for it.
func TestResponsesAreMadeWhereSomebodyWaits(t *testing.T) {
	all := members(t)
	for i := range 8 {
		applyAll(t, all, putCommand(t, fmt.Sprint("big", i), strings.Repeat("v", 1<<20)))
	}
	command := must(all[0].RequestCommand(&pb.InternalRaftRequest{Txn: success(put("a"), everything())}, ReadBytesMax))
	resp := new(pb.TxnResponse)
	if err := DecodeResult(applyAll(t, all, command), resp); err != nil || len(resp.Responses[1].GetResponseRange().Kvs) != 9 {
		t.Errorf("the proposer's result: %v with %d keys; want 9", err, len(resp.Responses[1].GetResponseRange().GetKvs()))
	}
	if result := apply(t, all[1], command); !bytes.Equal(result, []byte{resultElsewhere}) {
		t.Errorf("elsewhere: %d bytes", len(result))
	}
	dir := all[0].dir
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, dir, limits{})
	if result := apply(t, again, command); !bytes.Equal(result, []byte{resultElsewhere}) {
		t.Errorf("after a restart: %d bytes", len(result))
	}
}

// deepTxn encodes a transaction that is nested so deep.
func deepTxn(depth int) []byte {
	// From the inside: each level is a field around what is there. Lengths grow, so
	// the levels are collected from the end.
	var reversed []byte
	prepend := func(b []byte) {
		for i := range b {
			reversed = append(reversed, b[len(b)-1-i])
		}
	}
	for range depth {
		prepend(protowire.AppendVarint(protowire.AppendTag(nil, fieldRequestTxn, protowire.BytesType), uint64(len(reversed))))
		prepend(protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.BytesType), uint64(len(reversed))))
	}
	for i, j := 0, len(reversed)-1; i < j; i, j = i+1, j-1 {
		reversed[i], reversed[j] = reversed[j], reversed[i]
	}
	return reversed
}

// A decoder never sees what would take many times its size in memory.
func TestScanBeforeDecoding(t *testing.T) {
	empties := func(field protowire.Number) (b []byte) {
		for range 500_000 {
			b = protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), nil)
		}
		return b
	}
	success := func(op []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), op)
	}
	for name, c := range map[string]struct {
		txn  []byte
		want error
	}{
		"deep":                               {deepTxn(262_000), TooManyOps},
		"a level too many":                   {deepTxn(TxnOpsMax + 1), TooManyOps},
		"as deep as may":                     {deepTxn(TxnOpsMax), nil},
		"empty compares":                     {empties(1), TooManyOps},
		"empty operations":                   {empties(2), TooManyOps},
		"one operation, set again and again": {success(empties(2)), TooManyOps},
		"fields of a later version":          {empties(99), TooManyOps},
		"a group":                            {[]byte{1<<3 | 3, 1<<3 | 4}, Malformed},
		"cut off":                            {[]byte{2<<3 | 2, 9, 0}, Malformed},
		"numbers":                            {[]byte{2 << 3, 9}, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			if err := ScanTxn(c.txn); err != c.want {
				t.Fatalf("ScanTxn = %v; want %v", err, c.want)
			}
			if c.want == nil {
				return
			}
			s := openTest(t, t.TempDir(), limits{})
			body := protowire.AppendBytes(protowire.AppendTag(nil, fieldTxn, protowire.BytesType), c.txn)
			entry := append(append([]byte{kindRequest}, make([]byte, requestHeaderBytes-1)...), body...)
			var result []byte
			bytes := allocated(func() { result = apply(t, s, entry) })
			if err := DecodeResult(result, nil); err != c.want {
				t.Errorf("Apply: %v; want %v", err, c.want)
			}
			if bytes > 1<<20 {
				t.Errorf("Apply allocated %d bytes", bytes)
			}
		})
	}
}

// Whatever an entry holds, all members agree on what comes of it.
func TestMembersAgreeOnAnyEntry(t *testing.T) {
	all := members(t)
	rapid.Check(t, func(t *rapid.T) {
		command := must(all[0].RequestCommand(&pb.InternalRaftRequest{Txn: txnRequest(t, 2)}, rapid.Int64Range(0, 4000).Draw(t, "read bytes")))
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, len(command)-1).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "change") {
			case 0:
				command[at] = rapid.Byte().Draw(t, "byte")
			case 1:
				command = command[:at+1]
			default:
				command = append(command, command[at:]...)
			}
		}
		var results [3][]byte
		for i, s := range all {
			var err error
			var batch [][]byte
			if batch, err = s.Apply([]node.Entry{{Index: s.db.applied.index + 1, Term: 1, Data: command}}); err != nil {
				t.Fatal(err)
			}
			results[i] = batch[0]
		}
		for i, s := range all[1:] {
			first, other := results[0][0], results[i+1][0]
			if other != resultElsewhere && first != other || other == resultElsewhere && first != resultOK && first != resultElsewhere {
				t.Fatalf("member %d: result %d; the proposer's: %d", i+1, other, first)
			}
			if a, b := must(all[0].Hash()), must(s.Hash()); a != b {
				t.Fatalf("member %d has the state %+v; the proposer: %+v", i+1, b, a)
			}
		}
	})
}

// A read takes what it was granted and no more.
func TestReadsAreGranted(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 10 {
		apply(t, s, putCommand(t, fmt.Sprint(i), strings.Repeat("v", 1<<20)))
	}
	for limit, want := range map[int64]error{9 << 20: ErrOverBudget, 11 << 20: nil} {
		left := limit
		grant := func(n int64) bool { left -= n; return left >= 0 }
		all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
		resp, err := s.Range(t.Context(), all, grant)
		if err != want || err != nil && resp != nil {
			t.Errorf("Range with %d bytes: %v; want %v", limit, err, want)
		}
		left = limit
		if _, err := s.ReadTxn(t.Context(), success(rangeOp(all)), grant); err != want {
			t.Errorf("ReadTxn with %d bytes: %v; want %v", limit, err, want)
		}
	}
}

// A range end that is there and empty means one key to the checks and to the store,
// which would take it for all keys from there on.
func TestEmptyRangeEndIsOneKey(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	apply(t, s, putCommand(t, "a", "1"))
	apply(t, s, putCommand(t, "b", "2"))
	message := func(field protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	remove := message(2, message(3, append(message(1, []byte("a")), message(2, nil)...)))
	keep := must((&pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte("b"), IgnoreValue: true})}}).Marshal())
	entry := must(requestCommand(&pb.InternalRaftRequest{}, 0, ReadBytesMax))
	entry = append(entry, message(fieldTxn, append(remove, keep...))...)
	if err := DecodeResult(apply(t, s, entry), nil); err != nil {
		t.Errorf("result: %v", err)
	}
	if a, b := get(t, s, "a"), get(t, s, "b"); a != "" || b != "2" {
		t.Errorf("a is %q and b %q; want it gone, and 2", a, b)
	}
}
