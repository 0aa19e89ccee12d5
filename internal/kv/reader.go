package kv

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/server/v3/storage/backend"
)

// reader reads one state. It is for one use: RLock, reads, RUnlock.
type reader struct {
	views *views
	visible
	acquired bool
}

func (r *reader) RLock() {
	if !r.acquired {
		r.visible, r.acquired = r.views.acquire(), true
	}
}

func (r *reader) RUnlock() { r.views.release(r.view) }

func (r *reader) bucket(of backend.Bucket) bucket {
	b := bucket{fault: r.views.fault, of: of}
	if r.view != nil {
		b.in = r.view.buckets[string(of.Name())]
	}
	return b
}

// UnsafeRange reads one record if endKey is empty, and otherwise those of
// [key, endKey) in the key bucket, at most limit if that is above 0.
func (r *reader) UnsafeRange(of backend.Bucket, key, endKey []byte, limit int64) (keys, values [][]byte) {
	if len(endKey) > 0 && !of.IsSafeRangeBucket() {
		panic(fmt.Sprintf("kv: a range of bucket %s, whose records may be overwritten", of))
	}
	if len(endKey) == 0 {
		if value := r.pending.find(of, key); value != nil {
			return [][]byte{key}, [][]byte{value}
		}
	}
	keys, values = r.bucket(of).read(key, endKey, limit)
	if len(endKey) == 0 {
		return keys, values
	}
	begin, _ := slices.BinarySearchFunc(r.pending.keys, key, record.compare)
	for _, p := range r.pending.keys[begin:] {
		if bytes.Compare(p.key, endKey) >= 0 || limit > 0 && int64(len(keys)) == limit {
			break
		}
		keys, values = append(keys, p.key), append(values, p.value)
	}
	return keys, values
}

// UnsafeForEach visits what is committed first, in order, and then what is pending.
func (r *reader) UnsafeForEach(of backend.Bucket, visit func(key, value []byte) error) error {
	written := make(map[string][]byte)
	var order []string
	r.pending.each(of, func(key, value []byte) {
		if _, again := written[string(key)]; !again {
			order = append(order, string(key))
		}
		written[string(key)] = value
	})
	err := r.bucket(of).forEach(func(key, value []byte) error {
		if _, newer := written[string(key)]; newer {
			return nil
		}
		return visit(key, value)
	})
	for _, key := range order {
		if err != nil {
			return err
		}
		err = visit([]byte(key), written[key])
	}
	return err
}
