package kv

import (
	"errors"
	"fmt"
	"runtime/debug"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
)

// database is one file and what etcd builds upon it.
type database struct {
	lg *zap.Logger
	progress
	be backend.Backend
	// metered is be as etcd's store sees it.
	metered *meteredBackend
	// origin is that of the Store.
	origin uint64
	lessor lease.Lessor
	kv     mvcc.KV

	compaction compactionState
	// closed is closed by close: a compaction that it interrupted never ends.
	closed chan struct{}
}

// openDatabase opens or creates the database at path, which verifyFile found
// good or missing.
func openDatabase(path string, lg *zap.Logger, l limits, origin uint64) (db *database, err error) {
	db = &database{lg: lg, origin: origin, closed: make(chan struct{})}
	// etcd's parts panic when they cannot open or recover, and fault on a damaged
	// page.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = errors.Join(fmt.Errorf("%w: %v", ErrDamaged, cause), db.close())
			db = nil
		}
	}()
	cfg := backend.DefaultBackendConfig(lg)
	cfg.Path = path
	cfg.Hooks = backend.NewHooks(db.save)
	if l.batchInterval != 0 {
		cfg.BatchInterval = l.batchInterval
	}
	if l.batchOps != 0 {
		cfg.BatchLimit = l.batchOps
	}
	db.be = backend.New(cfg)
	// The lessor goes first: the keys attach themselves to their leases.
	db.lessor = lease.NewLessor(lg, db.be, nil, lease.LessorConfig{})
	db.metered = &meteredBackend{Backend: db.be}
	db.kv = mvcc.New(lg, db.metered, db.lessor, mvcc.StoreConfig{})
	db.load(db.be.BatchTx())
	// The hook goes last: recovery itself writes, and that is no log entry.
	db.be.SetTxPostLockInsideApplyHook(db.begin)
	return db, nil
}

// durable returns the index of the last entry that is on disk.
func (db *database) durable() uint64 {
	tx := db.be.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	return db.committed
}

// close works on a half-opened database, too.
func (db *database) close() error {
	close(db.closed)
	var err error
	if db.kv != nil {
		err = db.kv.Close()
	}
	if db.lessor != nil {
		db.lessor.Stop()
	}
	if db.be != nil {
		err = errors.Join(err, db.be.Close())
	}
	return err
}
