package kv

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/backend"
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
// whose records are verified when they are read.
//
// etcd's own backend ends the process when a page cannot be read or written, and
// leaves its locks behind when bbolt panics. This one fails instead, see fault.
// What etcd's code above gets then is empty, and whoever called it asks failure
// before anything of it is used.
//
// Writes go to the open write transaction of bbolt, the batch, which readers do not
// see, and to pending, which they do: a reader gets the last commit and what was
// pending when it began, see views. Neither changes afterwards, so that readers take
// no lock.
type checkedBackend struct {
	*fault
	db    *bbolt.DB
	views views
	batch batch

	stop chan struct{}
	wg   sync.WaitGroup
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
	f := newFault(lg, file)
	b = &checkedBackend{fault: f, db: db, views: views{fault: f, db: db}, stop: make(chan struct{})}
	b.batch = batch{fault: f, db: db, views: &b.views, opsMax: l.batchOps}
	b.batch.begin()
	if err := b.failure(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.wg.Go(func() { b.commitInTime(l.batchInterval) })
	return b, nil
}

// commitInTime commits what is pending at intervals, until Close.
func (b *checkedBackend) commitInTime(interval time.Duration) {
	ticker := time.NewTicker(interval)
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

// ReadTx returns a reader for one use: it sees the state as of its RLock.
func (b *checkedBackend) ReadTx() backend.ReadTx { return &reader{views: &b.views} }

// ConcurrentReadTx returns a reader that sees the state as of now.
func (b *checkedBackend) ConcurrentReadTx() backend.ReadTx {
	return &reader{views: &b.views, visible: b.views.acquire(), acquired: true}
}

func (b *checkedBackend) BatchTx() backend.BatchTx { return &b.batch }

// ForceCommit commits what is pending. Whether that worked is in failure.
func (b *checkedBackend) ForceCommit() { b.batch.Commit() }

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
	b.batch.beforeCommit, b.batch.afterCommit = before, after
}

// Close commits, unless this backend failed, and waits for the readers.
func (b *checkedBackend) Close() error {
	close(b.stop)
	b.wg.Wait()
	b.batch.mu.Lock()
	defer b.batch.mu.Unlock()
	b.batch.commit()
	stuck := b.batch.end()
	b.views.publish(nil)
	if stuck != nil {
		// Its write transaction cannot be ended, and bbolt would wait for that.
		return fmt.Errorf("the file stays open until this process ends: %w", stuck)
	}
	// Snapshots, for which it waits, read the other one.
	err := b.db.Close()
	return errors.Join(err, b.file.Close())
}

func (b *checkedBackend) Size() int64      { return b.views.sizes().total }
func (b *checkedBackend) SizeInUse() int64 { return b.views.sizes().inUse }

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
	v := b.views.newView()
	if err := b.failure(); err != nil {
		b.views.release(v)
		return nil, err
	}
	return &snapshot{views: &b.views, view: v}, nil
}
