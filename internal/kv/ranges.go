package kv

import (
	"bytes"
	"cmp"
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// countedLimit is up to how many keys a range that asks for so few is read without
// counting first what there is.
const countedLimit = 1024

// rangeEnd turns the end of a range as etcd's API has it into what its store takes:
// nil for one key, and an empty one for all keys that follow. A request that has an
// end without bytes means one key, and not all of them, as the check of writes
// against each other takes it, too.
func rangeEnd(end []byte) []byte {
	switch {
	case len(end) == 0:
		return nil
	case len(end) == 1 && end[0] == 0:
		return []byte{}
	}
	return end
}

// fetch reads what r is about, before it is filtered, sorted and cut. Of many keys m
// is charged before they are read, as etcd's store makes room for all of them at once.
func fetch(view mvcc.ReadView, r *pb.RangeRequest, m *meter) (*mvcc.RangeResult, error) {
	end, limit := rangeEnd(r.RangeEnd), fetchLimit(r)
	options := mvcc.RangeOptions{Limit: limit, Rev: r.Revision, Count: r.CountOnly}
	if end == nil || m.take == nil {
		return fetched(view, r.Key, end, m, options)
	}
	if limit > 0 && limit <= countedLimit {
		m.charge(limit * keyBytes)
	} else {
		all, err := view.Range(m, r.Key, end, mvcc.RangeOptions{Rev: r.Revision, Count: true})
		if err != nil || r.CountOnly {
			return all, err
		}
		keys := int64(all.Count)
		if limit > 0 {
			keys = min(keys, limit)
		}
		m.charge(keys * keyBytes)
	}
	if m.over {
		return nil, ErrOverBudget
	}
	return fetched(view, r.Key, end, m, options)
}

// fetched reads keys. Once m is over, what etcd's store returned is not what there is.
func fetched(view mvcc.ReadView, key, end []byte, m *meter, options mvcc.RangeOptions) (*mvcc.RangeResult, error) {
	found, err := view.Range(m, key, end, options)
	if err == nil && m.over {
		return nil, ErrOverBudget
	}
	return found, err
}

// fetchLimit is how many keys to read; 0: all.
func fetchLimit(r *pb.RangeRequest) int64 {
	if r.Limit <= 0 || r.Limit == math.MaxInt64 || r.SortOrder != pb.RangeRequest_NONE || filters(r) {
		return 0
	}
	return r.Limit + 1 // one more tells whether there are more
}

func filters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

// readRange answers r, which passed CheckRange, as etcd does.
func readRange(view mvcc.ReadView, r *pb.RangeRequest, m *meter) (*pb.RangeResponse, error) {
	k := newKeeper(r, m)
	found, err := k.read(view)
	if err != nil {
		return nil, err
	}
	return &pb.RangeResponse{
		Header: &pb.ResponseHeader{Revision: found.Rev},
		Count:  int64(found.Count),
		More:   r.Limit > 0 && k.matched > r.Limit,
		Kvs:    k.answer(),
	}, nil
}

// filtered: r does not want kv.
func filtered(r *pb.RangeRequest, kv *mvccpb.KeyValue) bool {
	return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
		r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
		r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
		r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
}

// order compares two records by what an answer is sorted by.
type order func(a, b *mvccpb.KeyValue) int

var orders = map[pb.RangeRequest_SortTarget]order{
	pb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) },
	pb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) },
	pb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) },
	pb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) },
	pb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) },
}

// orderOf returns nil for the order of keys, in which records are read. Without an
// order the other targets are sorted upwards, as etcd does.
func orderOf(r *pb.RangeRequest) order {
	by := orders[r.SortTarget]
	switch {
	case r.SortOrder == pb.RangeRequest_DESCEND:
		return func(a, b *mvccpb.KeyValue) int { return by(b, a) }
	case r.SortTarget != pb.RangeRequest_KEY:
		return by
	}
	return nil
}

// unmetered is the meter of a read whose cost was counted before.
func unmetered() *meter { return &meter{Context: context.Background()} }
