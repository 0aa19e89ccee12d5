package kv

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// bucket is one bucket of a state of the database, whose records are verified when they are
// read (see checksum.go). It is used by one goroutine.
type bucket struct {
	*fault
	// in is nil if there is no such bucket, or nothing can be read.
	in *bbolt.Bucket
	of backend.Bucket
}

// read reads one record if endKey is empty, and otherwise those of [key, endKey), at most
// limit if that is above 0.
func (b bucket) read(key, endKey []byte, limit int64) (keys, values [][]byte) {
	if len(endKey) == 0 {
		return b.readOne(key)
	}
	if limit <= 0 {
		limit = math.MaxInt64
	}
	return b.readRange(key, endKey, limit)
}

// readOne reads and verifies one record. Where the key bucket has none it is lost,
// for etcd's store asks only for revisions of its index. What it gets then is an
// empty record: it ends the process if there is none at all.
func (b bucket) readOne(key []byte) (keys, values [][]byte) {
	var value []byte
	var err error
	b.protect("read a record", func() { value, err = b.record(key) })
	if err != nil {
		b.fail(err)
	}
	if value == nil && b.of.ID() == schema.Key.ID() {
		return [][]byte{key}, [][]byte{{}}
	}
	if value == nil {
		return nil, nil
	}
	return [][]byte{key}, [][]byte{value}
}

// record returns nil if there is no record, which is an error in the key bucket.
func (b bucket) record(key []byte) ([]byte, error) {
	if b.in == nil {
		return nil, nil
	}
	value := b.in.Get(key)
	if b.of.ID() == schema.Meta.ID() {
		return value, checkMeta(key, value, b.in.Get(sumKey(key)))
	}
	if value == nil {
		if b.of.ID() == schema.Key.ID() {
			return nil, fmt.Errorf("%w: the record % x of bucket %q is missing", ErrDamaged, key, b.of.Name())
		}
		return nil, nil
	}
	value, _, err := unseal(b.of.Name(), key, value)
	return value, err
}

// readRange reads and verifies records. After a failure there are none.
func (b bucket) readRange(key, endKey []byte, limit int64) (keys, values [][]byte) {
	if b.in == nil || b.failure() != nil {
		return nil, nil
	}
	b.protect("read records", func() {
		c := b.in.Cursor()
		for k, v := c.Seek(key); k != nil && bytes.Compare(k, endKey) < 0 && int64(len(keys)) < limit; k, v = c.Next() {
			value, _, err := unseal(b.of.Name(), k, v)
			if err != nil {
				b.fail(err)
				return
			}
			keys, values = append(keys, k), append(values, value)
		}
	})
	if b.failure() != nil {
		return nil, nil
	}
	return keys, values
}

// forEach visits the verified records of a bucket. The error is that of visit, or
// of the database.
func (b bucket) forEach(visit func(key, value []byte) error) error {
	if b.in == nil {
		return b.failure()
	}
	var err error
	b.protect("read a bucket", func() {
		err = b.in.ForEach(func(key, value []byte) error {
			switch {
			case b.of.ID() != schema.Meta.ID():
				unsealed, _, err := unseal(b.of.Name(), key, value)
				if err != nil {
					b.fail(err)
					return err
				}
				value = unsealed
			case bytes.HasPrefix(key, sumPrefix):
				return nil
			default:
				if err := checkMeta(key, value, b.in.Get(sumKey(key))); err != nil {
					b.fail(err)
					return err
				}
			}
			return visit(key, value)
		})
	})
	return errors.Join(err, b.failure())
}
