package kv

import (
	"container/heap"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

const (
	// stepKeysMin and stepsMax: a range of which much may be dropped is read in steps of
	// so many keys at least, but in no more steps than that, as etcd's store looks at
	// all that is left of the range in each.
	stepKeysMin = 4096
	stepsMax    = 8
	// stepKeyBytes is what a key of a step costs in etcd's store, beside its record.
	stepKeyBytes = 128
)

// keeper reads a range, and keeps of its records what the answer needs: those that the
// filters let pass, without values where only keys are wanted, and of a sorted range with
// a limit those that come first as far as it was read. What it keeps is charged.
type keeper struct {
	r *pb.RangeRequest
	m *meter
	// by is the order of the answer, and nil for that of the keys.
	by order

	// kept is a heap with the last one in the order on top, where there is an order and
	// a limit.
	kept []*mvccpb.KeyValue
	// matched counts the records that the filters let pass.
	matched int64
	// last is the key that was read last.
	last []byte
	// err: a record cannot be decoded.
	err error
}

func newKeeper(r *pb.RangeRequest, m *meter) *keeper {
	return &keeper{r: r, m: m, by: orderOf(r)}
}

// read reads the range. The result has its number of keys and its revision only.
func (k *keeper) read(view mvcc.ReadView) (*mvcc.RangeResult, error) {
	if k.keepsAll() {
		found, err := fetch(view, k.r, k.m)
		if err != nil {
			return nil, err
		}
		for i := range found.KVs {
			k.kept = append(k.kept, &found.KVs[i])
		}
		k.matched = int64(len(k.kept))
		return found, nil
	}
	k.m.keep = k.add
	defer func() { k.m.keep = nil }()
	return k.readSteps(view)
}

// keepsAll: whatever is read is returned, but for the one that says that there are more.
func (k *keeper) keepsAll() bool {
	r := k.r
	return r.CountOnly || !r.KeysOnly && (r.Limit <= 0 || k.by == nil && fetchLimit(r) > 0) && !filters(r)
}

func (k *keeper) readSteps(view mvcc.ReadView) (*mvcc.RangeResult, error) {
	end, first := rangeEnd(k.r.RangeEnd), k.r.Key
	left, err := k.keysToRead(view)
	if err != nil {
		return nil, err
	}
	step := max(left/stepsMax+1, stepKeysMin)
	var whole *mvcc.RangeResult
	for {
		n := min(left, step)
		k.m.charge(n * stepKeyBytes)
		found, err := view.Range(k.m, first, end, mvcc.RangeOptions{Limit: n, Rev: k.r.Revision})
		k.m.charge(-n * stepKeyBytes)
		if err == nil {
			err = k.err
		}
		if err != nil {
			return nil, err
		}
		if whole == nil {
			whole = found
		}
		left -= n
		if left <= 0 || int64(len(found.KVs)) < n || k.full() {
			return whole, nil
		}
		first = append(slices.Clip(k.last), 0)
	}
}

// keysToRead is how many keys at most the answer depends on.
func (k *keeper) keysToRead(view mvcc.ReadView) (int64, error) {
	limit, end := fetchLimit(k.r), rangeEnd(k.r.RangeEnd)
	switch {
	case end == nil:
		return 1, nil
	case limit > 0 && limit <= countedLimit:
		return limit, nil
	}
	all, err := view.Range(k.m, k.r.Key, end, mvcc.RangeOptions{Rev: k.r.Revision, Count: true})
	if err != nil {
		return 0, err
	}
	if keys := max(int64(all.Count), 1); limit <= 0 || keys < limit {
		return keys, nil
	}
	return limit, nil
}

// full: no record that comes later can be in the answer.
func (k *keeper) full() bool { return k.by == nil && k.r.Limit > 0 && k.matched > k.r.Limit }

// add is told of each record in the order of the keys.
func (k *keeper) add(record []byte) {
	kv := new(mvccpb.KeyValue)
	if err := kv.Unmarshal(record); err != nil {
		k.err = fmt.Errorf("kv: a record after key %q cannot be decoded: %w", k.last, err)
		return
	}
	k.last = kv.Key
	if filtered(k.r, kv) {
		return
	}
	k.matched++
	if k.r.KeysOnly && k.r.SortTarget != pb.RangeRequest_VALUE {
		kv.Value = nil
	}
	switch {
	case k.r.Limit <= 0 || int64(len(k.kept)) < k.r.Limit:
		k.m.charge(costs(kv))
		if k.heaped() {
			heap.Push(k, kv)
		} else {
			k.kept = append(k.kept, kv)
		}
	case k.heaped() && k.by(kv, k.kept[0]) < 0: // of equal ones the lower keys stay
		k.m.charge(costs(kv) - costs(k.kept[0]))
		k.kept[0] = kv
		heap.Fix(k, 0)
	}
}

func costs(kv *mvccpb.KeyValue) int64 { return int64(len(kv.Key)+len(kv.Value)) + keyBytes }

func (k *keeper) heaped() bool { return k.by != nil && k.r.Limit > 0 }

// answer returns what was kept, in its order.
func (k *keeper) answer() []*mvccpb.KeyValue {
	switch {
	case k.heaped():
		slices.SortFunc(k.kept, k.compare)
	case k.by != nil:
		slices.SortFunc(k.kept, k.by)
	}
	if k.r.Limit > 0 && int64(len(k.kept)) > k.r.Limit {
		k.kept = k.kept[:k.r.Limit]
	}
	if k.r.KeysOnly {
		for _, kv := range k.kept {
			kv.Value = nil
		}
	}
	return k.kept
}

// compare is the order with that of the keys among equal ones.
func (k *keeper) compare(a, b *mvccpb.KeyValue) int {
	if c := k.by(a, b); c != 0 {
		return c
	}
	return orders[pb.RangeRequest_KEY](a, b)
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (k *keeper) Len() int           { return len(k.kept) }
func (k *keeper) Less(i, j int) bool { return k.compare(k.kept[i], k.kept[j]) > 0 }
func (k *keeper) Swap(i, j int)      { k.kept[i], k.kept[j] = k.kept[j], k.kept[i] }
func (k *keeper) Push(kv any)        { k.kept = append(k.kept, kv.(*mvccpb.KeyValue)) }
func (k *keeper) Pop() any           { panic("kv: a keeper takes nothing away") }
