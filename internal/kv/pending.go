package kv

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// pending are writes since the last commit. Both lists only grow: a reader keeps
// the length that they had.
type pending struct {
	// keys are of the key bucket, in ascending order, as every revision is new.
	keys []record
	// rest are of other buckets, in the order in which they were written.
	rest []bucketRecord
}

type record struct{ key, value []byte }

type bucketRecord struct {
	bucket backend.BucketID
	record
}

func (r record) compare(key []byte) int { return bytes.Compare(r.key, key) }

// find returns the newest value under a key, or nil.
func (p *pending) find(of backend.Bucket, key []byte) []byte {
	if of.ID() == schema.Key.ID() {
		if i, ok := slices.BinarySearchFunc(p.keys, key, record.compare); ok {
			return p.keys[i].value
		}
		return nil
	}
	for _, w := range slices.Backward(p.rest) {
		if w.bucket == of.ID() && bytes.Equal(w.key, key) {
			return w.value
		}
	}
	return nil
}

func (p *pending) each(of backend.Bucket, visit func(key, value []byte)) {
	if of.ID() == schema.Key.ID() {
		for _, w := range p.keys {
			visit(w.key, w.value)
		}
		return
	}
	for _, w := range p.rest {
		if w.bucket == of.ID() {
			visit(w.key, w.value)
		}
	}
}

// add remembers a write, value being kept. Nothing that a reader holds changes.
func (p *pending) add(of backend.Bucket, key, value []byte) {
	r := record{bytes.Clone(key), value}
	if of.ID() != schema.Key.ID() {
		p.rest = append(p.rest, bucketRecord{of.ID(), r})
		return
	}
	if n := len(p.keys); n > 0 && bytes.Compare(p.keys[n-1].key, key) >= 0 {
		panic(fmt.Sprintf("kv: revision % x is written after % x", key, p.keys[n-1].key))
	}
	p.keys = append(p.keys, r)
}
