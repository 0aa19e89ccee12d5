package kv

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

const (
	// batchInterval is the longest time between two commits, and batchOps how many
	// writes bring the next one at once. Both are etcd's.
	batchIntervalDefault = 100 * time.Millisecond
	batchOpsDefault      = 10_000
)

// mmapBytes is how much address space is reserved, so that a file that grows is
// not mapped anew, which waits for all readers.
var mmapBytes = int(backend.InitialMmapSize)

// checkedBackend is the backend.Backend on which etcd's store runs: one bbolt file
// whose records are verified when they are read (see checksum.go).
//
// etcd's own backend ends the process when a page cannot be read or written, and
// leaves its locks behind when bbolt panics. This one fails instead: the first
// damage, or error of writing, is kept, and from then on nothing is read, written
// or committed any more. What etcd's code above gets then is empty, and whoever
// called it asks failure before anything of it is used.
//
// Writes go to the open write transaction of bbolt, which readers do not see, and
// to pending, which they do: a reader gets the last commit and what was pending
// when it began. Neither changes afterwards, so that readers take no lock.
type checkedBackend struct {
	lg *zap.Logger
	db *bbolt.DB
	// file is the same one, for verifying it: it may get another name.
	file   *os.File
	limits limits
	// beforeCommit is called with the lock of the batch held before every commit.
	beforeCommit func(backend.UnsafeReadWriter)
	// afterCommit is called likewise after every commit that succeeded.
	afterCommit func()
	batch       batch

	// mu guards what follows.
	mu sync.Mutex
	// visible is what readers see.
	visible visible
	// err is why this backend failed. failed is closed with it.
	err    error
	failed chan struct{}
	size   sizes
	// changed wakes up readers that came while the view was retired.
	changed sync.Cond
	retired bool

	stop chan struct{}
	wg   sync.WaitGroup
}

// sizes are in bytes, as of the last commit.
type sizes struct{ total, inUse int64 }

// visible is a state of the database: a commit and what was written since.
type visible struct {
	view    *view
	pending pending
}

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

// view is a read transaction that many readers share. It ends when it has been
// replaced and the last of them is done.
type view struct {
	tx      *bbolt.Tx
	buckets map[string]*bbolt.Bucket
	// users are readers, and visible itself. Guarded by checkedBackend.mu.
	users int
}

// openBackend opens the file at path, which verifyFile found good, or empty.
func openBackend(path string, lg *zap.Logger, l limits) (b *checkedBackend, err error) {
	if l.batchInterval == 0 {
		l.batchInterval = batchIntervalDefault
	}
	if l.batchOps == 0 {
		l.batchOps = batchOpsDefault
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		InitialMmapSize: mmapBytes,
		FreelistType:    bbolt.FreelistMapType,
		// The list of free pages is what the buckets do not use: it is computed when
		// the file is opened, so that no page of it can be damaged.
		NoFreelistSync: true,
		Timeout:        time.Millisecond,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, errInUse
	}
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b = &checkedBackend{lg: lg, db: db, file: file, limits: l, failed: make(chan struct{}), stop: make(chan struct{})}
	b.batch.b, b.changed.L = b, &b.mu
	b.batch.begin()
	if err := b.failure(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.wg.Go(b.commitInTime)
	return b, nil
}

// commitInTime commits what is pending at intervals, until Close.
func (b *checkedBackend) commitInTime() {
	ticker := time.NewTicker(b.limits.batchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			b.ForceCommit()
		case <-b.stop:
			return
		}
	}
}

// failure is why this backend does nothing any more; nil: it works. Whatever was
// read since it failed is worth nothing.
func (b *checkedBackend) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// fail keeps the first error, and says that there is one.
func (b *checkedBackend) fail(err error) {
	if b.suspend(err) {
		b.settle(err)
	}
}

// suspend stops everything because of err. It returns false if there was an error
// before. Whoever gets true calls settle.
func (b *checkedBackend) suspend(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return false
	}
	b.err = err
	b.changed.Broadcast()
	return true
}

// settle says finally why this backend failed.
func (b *checkedBackend) settle(err error) {
	b.lg.Error("the database failed: it is neither read nor written any more", zap.Error(err))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	close(b.failed)
}

// protect runs f, which reads pages, and turns a panic of bbolt, or a fault in the
// memory that the file is mapped to, into the failure of this backend. A panic
// alone is no proof of damage: the file is read to find out.
func (b *checkedBackend) protect(what string, f func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		err := fmt.Errorf("%s: %v", what, cause)
		if !b.suspend(err) {
			return
		}
		if damage := verifyStopped(b.file); damage != nil {
			err = fmt.Errorf("%w (%w)", damage, err)
		}
		b.settle(err)
	}()
	f()
}

// newView begins a read transaction of the last commit. It has one user.
func (b *checkedBackend) newView() *view {
	tx, err := b.db.Begin(false)
	if err != nil {
		b.fail(fmt.Errorf("begin to read: %w", err))
		return nil
	}
	v := &view{tx: tx, buckets: make(map[string]*bbolt.Bucket), users: 1}
	b.protect("open the buckets", func() {
		err = tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			v.buckets[string(name)] = bucket
			return nil
		})
	})
	if err != nil {
		b.fail(fmt.Errorf("open the buckets: %w", err))
	}
	return v
}

// publish shows readers a state.
func (b *checkedBackend) publish(v *view, p pending) {
	b.mu.Lock()
	old := b.visible.view
	b.visible, b.retired = visible{v, p}, false
	b.changed.Broadcast()
	b.mu.Unlock()
	if old != nil && old != v {
		b.release(old)
	}
}

// acquire returns what is visible now. Its view must be released.
func (b *checkedBackend) acquire() visible {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.retired && b.err == nil {
		b.changed.Wait()
	}
	if b.visible.view != nil {
		b.visible.view.users++
	}
	return b.visible
}

// retire lets nobody begin to read until the next publish, or failure.
func (b *checkedBackend) retire() {
	b.mu.Lock()
	old := b.visible.view
	b.visible, b.retired = visible{}, true
	b.mu.Unlock()
	b.release(old)
}

func (b *checkedBackend) release(v *view) {
	if v == nil {
		return
	}
	b.mu.Lock()
	v.users--
	last := v.users == 0
	b.mu.Unlock()
	if last {
		_ = v.tx.Rollback() // it was open
	}
}

// ReadTx returns a reader for one use: it sees the state as of its RLock.
func (b *checkedBackend) ReadTx() backend.ReadTx { return &reader{b: b} }

// ConcurrentReadTx returns a reader that sees the state as of now.
func (b *checkedBackend) ConcurrentReadTx() backend.ReadTx {
	return &reader{b: b, visible: b.acquire(), acquired: true}
}

func (b *checkedBackend) BatchTx() backend.BatchTx { return &b.batch }

// ForceCommit commits what is pending. Whether that worked is in failure.
func (b *checkedBackend) ForceCommit() {
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	b.batch.commit()
}

// SetTxPostLockInsideApplyHook: hook is called whenever an entry locks the batch.
func (b *checkedBackend) SetTxPostLockInsideApplyHook(hook func()) {
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	b.batch.afterLock = hook
}

// onCommit: before is called before every commit, and after behind every one that
// succeeded, with the lock of the batch held.
func (b *checkedBackend) onCommit(before func(backend.UnsafeReadWriter), after func()) {
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	b.beforeCommit, b.afterCommit = before, after
}

// Close commits, unless this backend failed, and waits for the readers.
func (b *checkedBackend) Close() error {
	close(b.stop)
	b.wg.Wait()
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	b.batch.commit()
	stuck := b.batch.end()
	b.publish(nil, pending{})
	if stuck != nil {
		// Its write transaction cannot be ended, and bbolt would wait for that.
		return fmt.Errorf("the file stays open until this process ends: %w", stuck)
	}
	// Snapshots, for which it waits, read the other one.
	err := b.db.Close()
	return errors.Join(err, b.file.Close())
}

func (b *checkedBackend) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size.total
}

func (b *checkedBackend) SizeInUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size.inUse
}

func (b *checkedBackend) OpenReadTxN() int64 { return int64(b.db.Stats().OpenTxN) }

// Hash and Defrag are of no use here: see Scrub and Store.Hash.
func (b *checkedBackend) Hash(func(bucketName, keyName []byte) bool) (uint32, error) {
	return 0, errors.ErrUnsupported
}
func (b *checkedBackend) Defrag() error { return errors.ErrUnsupported }

// Snapshot is capture for etcd's code, which never calls it.
func (b *checkedBackend) Snapshot() backend.Snapshot {
	panic("kv: a snapshot is taken with capture, which returns an error")
}

// capture commits and captures the file.
func (b *checkedBackend) capture() (*snapshot, error) {
	b.ForceCommit()
	if err := b.failure(); err != nil {
		return nil, err
	}
	v := b.newView()
	if err := b.failure(); err != nil {
		b.release(v)
		return nil, err
	}
	return &snapshot{b: b, view: v}, nil
}

// reader reads one state. It is for one use: RLock, reads, RUnlock.
type reader struct {
	b *checkedBackend
	visible
	acquired bool
}

func (r *reader) RLock() {
	if !r.acquired {
		r.visible, r.acquired = r.b.acquire(), true
	}
}

func (r *reader) RUnlock() { r.b.release(r.view) }

// bucket returns nil if there is no such bucket, or nothing can be read.
func (r *reader) bucket(of backend.Bucket) *bbolt.Bucket {
	if r.view == nil {
		return nil
	}
	return r.view.buckets[string(of.Name())]
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
		return r.b.readOne(r.bucket(of), of, key)
	}
	if limit <= 0 {
		limit = math.MaxInt64
	}
	keys, values = r.b.readRange(r.bucket(of), of, key, endKey, limit)
	begin, _ := slices.BinarySearchFunc(r.pending.keys, key, record.compare)
	for _, p := range r.pending.keys[begin:] {
		if bytes.Compare(p.key, endKey) >= 0 || int64(len(keys)) == limit {
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
	err := r.b.forEach(r.bucket(of), of, func(key, value []byte) error {
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

// readOne reads and verifies one record. Where the key bucket has none it is lost,
// for etcd's store asks only for revisions of its index. What it gets then is an
// empty record: it ends the process if there is none at all.
func (b *checkedBackend) readOne(from *bbolt.Bucket, of backend.Bucket, key []byte) (keys, values [][]byte) {
	var value []byte
	var err error
	b.protect("read a record", func() { value, err = readRecord(from, of, key) })
	if err != nil {
		b.fail(err)
	}
	if value == nil && of.ID() == schema.Key.ID() {
		return [][]byte{key}, [][]byte{{}}
	}
	if value == nil {
		return nil, nil
	}
	return [][]byte{key}, [][]byte{value}
}

// readRecord returns nil if there is no record, which is an error in the key bucket.
func readRecord(from *bbolt.Bucket, of backend.Bucket, key []byte) ([]byte, error) {
	if from == nil {
		return nil, nil
	}
	value := from.Get(key)
	if of.ID() == schema.Meta.ID() {
		return value, checkMeta(key, value, from.Get(sumKey(key)))
	}
	if value == nil {
		if of.ID() == schema.Key.ID() {
			return nil, fmt.Errorf("%w: the record % x of bucket %q is missing", ErrDamaged, key, of.Name())
		}
		return nil, nil
	}
	value, _, err := unseal(of.Name(), key, value)
	return value, err
}

// readRange reads and verifies records. After a failure there are none.
func (b *checkedBackend) readRange(from *bbolt.Bucket, of backend.Bucket, key, endKey []byte, limit int64) (keys, values [][]byte) {
	if from == nil || b.failure() != nil {
		return nil, nil
	}
	b.protect("read records", func() {
		c := from.Cursor()
		for k, v := c.Seek(key); k != nil && bytes.Compare(k, endKey) < 0 && int64(len(keys)) < limit; k, v = c.Next() {
			value, _, err := unseal(of.Name(), k, v)
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
// of this backend.
func (b *checkedBackend) forEach(from *bbolt.Bucket, of backend.Bucket, visit func(key, value []byte) error) error {
	if from == nil {
		return b.failure()
	}
	var err error
	b.protect("read a bucket", func() {
		err = from.ForEach(func(key, value []byte) error {
			switch {
			case of.ID() != schema.Meta.ID():
				unsealed, _, err := unseal(of.Name(), key, value)
				if err != nil {
					b.fail(err)
					return err
				}
				value = unsealed
			case bytes.HasPrefix(key, sumPrefix):
				return nil
			default:
				if err := checkMeta(key, value, from.Get(sumKey(key))); err != nil {
					b.fail(err)
					return err
				}
			}
			return visit(key, value)
		})
	})
	return errors.Join(err, b.failure())
}
