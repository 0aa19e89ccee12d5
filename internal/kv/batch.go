package kv

import (
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// batch is the one write transaction of a checkedBackend. mu guards all of it, and
// is held while an entry is applied: a commit has all of an entry, or nothing.
type batch struct {
	*fault
	db    *bbolt.DB
	views *views
	// opsMax is how many writes bring the next commit at once.
	opsMax int

	mu sync.Mutex
	// afterLock is called by LockInsideApply.
	afterLock func()
	// beforeCommit is called before every commit, and afterCommit after every one that
	// succeeded. The lock is held.
	beforeCommit func(backend.UnsafeReadWriter)
	afterCommit  func()
	// tx is nil when it could not begin, and after end.
	tx *bbolt.Tx
	// ops counts writes since the last commit. deleted: there was one that removes
	// a record, which readers see only after the commit.
	ops     int
	bytes   int64
	deleted bool
	pending pending
	// content is that of the key bucket in tx, and stored what tx has of it.
	content, stored content
}

// LockInsideApply is for whoever applies an entry.
func (t *batch) LockInsideApply() {
	t.mu.Lock()
	if t.afterLock != nil {
		backend.ValidateCalledInsideApply(t.lg)
		t.afterLock()
	}
}

func (t *batch) LockOutsideApply() {
	backend.ValidateCalledOutSideApply(t.lg)
	t.mu.Lock()
}

// Lock is in the interface for etcd's own tests.
func (t *batch) Lock() { t.mu.Lock() }

// Unlock shows what was written to readers.
func (t *batch) Unlock() {
	defer t.mu.Unlock()
	switch {
	case t.deleted || t.ops >= t.opsMax:
		t.commit()
	case t.ops > 0 && t.failure() == nil:
		t.views.wrote(t.pending)
	}
}

// Commit commits what is pending. Whether that worked is in failure.
func (t *batch) Commit() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.commit()
}

// CommitAndStop is in the interface, and nobody's business but Close's.
func (t *batch) CommitAndStop() { panic("kv: only Close ends the batch") }

// commit makes what is pending durable, and visible. mu is held.
func (t *batch) commit() {
	if t.failure() != nil {
		return
	}
	// An entry that wrote nothing moves the applied position all the same.
	if t.beforeCommit != nil {
		t.beforeCommit(t)
	}
	t.storeContent()
	if t.ops == 0 || t.failure() != nil {
		return
	}
	if t.mayRemap() {
		t.views.retire()
	}
	var err error
	t.protect("commit", func() {
		err = t.tx.Commit()
		t.tx = nil // bbolt ended it, whatever became of it
	})
	if err != nil {
		t.fail(fmt.Errorf("commit: %w", err))
	}
	if t.failure() == nil {
		if t.afterCommit != nil {
			t.afterCommit()
		}
		t.begin()
	}
}

// remapMargin is how much a commit is taken to add to the file at most, beside
// four times what it writes.
const remapMargin = 64 << 20

// mayRemap says whether the file may outgrow the memory that it is mapped to by the
// next commit: bbolt waits then until nobody reads.
func (t *batch) mayRemap() bool {
	return t.views.sizes().total+4*t.bytes+remapMargin > int64(mmapBytes)
}

// storeContent writes what the key bucket holds into the open transaction.
func (t *batch) storeContent() {
	if t.content != t.stored {
		t.UnsafePut(schema.Meta, contentKey, t.content.bytes())
		t.stored = t.content
	}
}

// begin opens the next transaction, and shows the last commit to readers.
func (t *batch) begin() {
	t.ops, t.bytes, t.deleted, t.pending = 0, 0, false, pending{}
	var err error
	t.protect("begin to write", func() { t.tx, err = t.db.Begin(true) })
	if err != nil {
		t.fail(fmt.Errorf("begin to write: %w", err))
		return
	}
	t.views.committed()
}

// load reads the content of the key bucket, once, after opening.
func (t *batch) load() {
	t.LockOutsideApply()
	defer t.Unlock()
	var stored []byte
	if _, values := t.UnsafeRange(schema.Meta, contentKey, nil, 1); len(values) > 0 {
		stored = values[0]
	}
	c, err := contentFrom(stored)
	if err != nil {
		t.fail(err)
	}
	t.content, t.stored = c, c
}

// end rolls the open transaction back. The error says that this is impossible.
func (t *batch) end() error {
	if t.tx == nil {
		return nil
	}
	var err error
	done := false
	t.protect("roll back", func() {
		err = t.tx.Rollback()
		done = true
	})
	t.tx = nil
	if !done {
		err = errors.Join(err, t.failure())
	}
	return err
}

// write runs f on a bucket of the open transaction, if there still is one.
func (t *batch) write(of backend.Bucket, f func(*bbolt.Bucket) error) {
	if t.tx == nil || t.failure() != nil {
		return
	}
	var err error
	t.protect("write", func() {
		bucket := t.tx.Bucket(of.Name())
		if bucket == nil {
			err = fmt.Errorf("%w: there is no bucket %q", ErrDamaged, of.Name())
			return
		}
		err = f(bucket)
	})
	if err != nil {
		t.fail(fmt.Errorf("write to bucket %q: %w", of.Name(), err))
	}
	t.ops++
}

func (t *batch) UnsafeCreateBucket(of backend.Bucket) {
	if t.tx == nil || t.failure() != nil {
		return
	}
	var err error
	t.protect("make a bucket", func() { _, err = t.tx.CreateBucketIfNotExists(of.Name()) })
	if err != nil {
		t.fail(fmt.Errorf("make bucket %q: %w", of.Name(), err))
	}
	t.ops++
}

// UnsafeDeleteBucket is used by nobody here.
func (t *batch) UnsafeDeleteBucket(of backend.Bucket) {
	panic(fmt.Sprintf("kv: the bucket %s is not to be removed", of))
}

func (t *batch) UnsafePut(of backend.Bucket, key, value []byte) { t.put(of, key, value, false) }

// UnsafeSeqPut is for keys that come in ascending order: pages get fuller.
func (t *batch) UnsafeSeqPut(of backend.Bucket, key, value []byte) { t.put(of, key, value, true) }

func (t *batch) put(of backend.Bucket, key, value []byte, ascending bool) {
	t.bytes += int64(len(key) + len(value))
	t.write(of, func(bucket *bbolt.Bucket) error {
		if ascending {
			bucket.FillPercent = 0.9
		}
		if of.ID() == schema.Meta.ID() {
			value = append(make([]byte, 0, len(value)), value...)
			t.pending.add(of, key, value)
			return errors.Join(bucket.Put(key, value), bucket.Put(sumKey(key), metaSum(key, value)))
		}
		sealed, sum := seal(of.Name(), key, value)
		t.pending.add(of, key, sealed[:len(value):len(value)])
		if of.ID() == schema.Key.ID() {
			t.content.add(sum)
		}
		return bucket.Put(key, sealed)
	})
}

func (t *batch) UnsafeDelete(of backend.Bucket, key []byte) {
	t.deleted = true
	t.write(of, func(bucket *bbolt.Bucket) error {
		if of.ID() == schema.Meta.ID() {
			return errors.Join(bucket.Delete(key), bucket.Delete(sumKey(key)))
		}
		if value := bucket.Get(key); value != nil && of.ID() == schema.Key.ID() {
			_, sum, err := unseal(of.Name(), key, value)
			if err != nil {
				return err
			}
			t.content.remove(sum)
		}
		return bucket.Delete(key)
	})
}

func (t *batch) bucket(of backend.Bucket) bucket {
	b := bucket{fault: t.fault, of: of}
	if t.tx != nil && t.failure() == nil {
		t.protect("open a bucket", func() { b.in = t.tx.Bucket(of.Name()) })
	}
	return b
}

func (t *batch) UnsafeRange(of backend.Bucket, key, endKey []byte, limit int64) (keys, values [][]byte) {
	return t.bucket(of).read(key, endKey, limit)
}

func (t *batch) UnsafeForEach(of backend.Bucket, visit func(key, value []byte) error) error {
	return t.bucket(of).forEach(visit)
}
