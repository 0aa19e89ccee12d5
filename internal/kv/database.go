package kv

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
)

// database is one file and what etcd builds upon it.
type database struct {
	lg *zap.Logger
	progress
	be *checkedBackend
	// metered is be as etcd's store sees it.
	metered *meteredBackend
	// origin is that of the Store.
	origin uint64
	lessor lease.Lessor
	kv     mvcc.KV

	// room keeps space for commits.
	room *room

	compaction  compactionState
	comparisons *comparisons
	// closed is closed by close: a compaction that it interrupted never ends.
	closed chan struct{}
}

// openDatabase opens or creates the database at path, which verifyFile found
// good or missing.
func openDatabase(path string, lg *zap.Logger, l limits, origin uint64) (db *database, err error) {
	r, err := openRoom(path, l.reserveBytes, lg)
	if err != nil {
		return nil, err
	}
	be, err := openBackend(path, lg, l)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.start(func() (total, inUse int64) { return be.Size(), be.SizeInUse() })
	db = &database{lg: lg, be: be, room: r, origin: origin, closed: make(chan struct{})}
	// etcd's parts panic when they cannot recover.
	defer func() {
		if cause := recover(); cause != nil {
			err = errors.Join(be.failure(), fmt.Errorf("etcd's store cannot use it: %v", cause), db.close())
			db = nil
		}
	}()
	be.batch.load()
	be.onCommit(func(tx backend.UnsafeReadWriter) {
		db.save(tx)
		r.commits()
	}, db.saved)
	// The lessor goes first: the keys attach themselves to their leases.
	db.lessor = lease.NewLessor(lg, be, nil, lease.LessorConfig{})
	db.metered = &meteredBackend{Backend: be}
	db.kv = mvcc.New(lg, db.metered, db.lessor, mvcc.StoreConfig{})
	db.load(be.BatchTx())
	// The hook goes last: recovery itself writes, and that is no log entry.
	be.SetTxPostLockInsideApplyHook(db.begin)
	if err := be.failure(); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

// durable returns the index of the last entry that is on disk.
func (db *database) durable() uint64 {
	tx := db.be.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	return db.committed
}

// position returns what durable does, and the term of the entry there.
func (db *database) position() (index, term uint64) {
	tx := db.be.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	return db.committed, db.committedTerm
}

// close works on a half-opened database, too.
func (db *database) close() error {
	close(db.closed)
	db.room.stop()
	var err error
	if db.kv != nil {
		err = db.kv.Close()
	}
	if db.lessor != nil {
		db.lessor.Stop()
	}
	return errors.Join(err, db.be.Close(), db.room.close())
}

// moveTo says that there is nothing between the last entry in db and index that
// a state machine would have seen: raft writes entries of its own.
func (db *database) moveTo(index uint64) {
	tx := db.be.BatchTx()
	tx.LockOutsideApply()
	db.applied.index = index
	db.applying = db.applied
	db.store(tx)
	tx.Unlock()
	db.be.ForceCommit()
}

// recoverFailed turns a panic of etcd's store into err if the database failed: then
// it is because of what was not there to read. Any other panic goes on.
func (db *database) recoverFailed(err *error) {
	failed := db.be.failure()
	if failed == nil {
		return
	}
	if cause := recover(); cause != nil {
		*err = failed
	}
}

// guarded runs f, which reads, and returns why the database failed instead of what f
// found, if it did.
func guarded[T any](db *database, f func() (T, error)) (result T, err error) {
	// The values that f reads lie in the memory that the file is mapped to, and so
	// f may fault.
	db.be.protect("read", func() { result, err = f() })
	if failed := db.be.failure(); failed != nil {
		return *new(T), fmt.Errorf("kv: %w", failed)
	}
	return result, err
}
