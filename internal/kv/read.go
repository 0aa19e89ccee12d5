package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/txn"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// Grant says whether a read may bring so many bytes more into memory; bytes that it needs
// no more are negative. It is called again and again while the read goes on, must not
// wait, and keeps count itself. nil: it may have all that it needs.
type Grant func(bytes int64) bool

// Range reads keys. The error is a Rejection, ErrClosed, ErrOverBudget if the grant
// was refused, that of ctx, or why the database failed (see Failed): what does not match
// its checksum is never returned.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest, grant Grant) (resp *pb.RangeResponse, err error) {
	if err := CheckRange(r); err != nil {
		return nil, err
	}
	err = s.view(ctx, grant, func(tx mvcc.TxnRead, m *meter, _ *database) error {
		resp, err = readRange(tx, r, m)
		return err
	})
	return resp, err
}

// ReadTxn executes a transaction of ranges only (see ReadOnly) without a log
// entry. The error is as with Range.
func (s *Store) ReadTxn(ctx context.Context, r *pb.TxnRequest, grant Grant) (resp *pb.TxnResponse, err error) {
	if err := CheckTxn(r); err != nil {
		return nil, err
	}
	if !ReadOnly(r) {
		return nil, fmt.Errorf("kv: read transaction: it writes")
	}
	err = s.view(ctx, grant, func(tx mvcc.TxnRead, m *meter, db *database) error {
		p := &plan{view: tx, lessor: db.lessor, m: m}
		if err := p.txn(r); err != nil {
			return err
		}
		x := &execution{tx: mvcc.NewReadOnlyTxnWrite(tx), path: p.path, answered: true, m: m}
		resp, err = x.whole(r)
		return err
	})
	return resp, err
}

// view gives read the present state.
func (c *current) view(ctx context.Context, grant Grant, read func(mvcc.TxnRead, *meter, *database) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.db == nil {
		return ErrClosed
	}
	_, err := guarded(c.db, func() (struct{}, error) { return struct{}{}, c.db.metering(ctx, grant, read) })
	return err
}

// metering runs read, and charges what it reads to grant.
func (db *database) metering(ctx context.Context, grant Grant, read func(mvcc.TxnRead, *meter, *database) error) error {
	m := &meter{Context: ctx, take: grant}
	tx := db.metered.read(db.kv, m)
	defer tx.End()
	err := read(tx, m, db)
	if m.over {
		return ErrOverBudget
	}
	switch {
	case errors.Is(err, mvcc.ErrCompacted):
		return Compacted
	case errors.Is(err, mvcc.ErrFutureRev):
		return FutureRev
	}
	return err
}

// ReadOnly says whether every operation of r is a range.
func ReadOnly(r *pb.TxnRequest) bool { return txn.IsTxnReadonly(r) }

// Serializable says whether every operation of r is a range that allows a stale
// answer.
func Serializable(r *pb.TxnRequest) bool { return txn.IsTxnSerializable(r) }

// Revision is that of the last write; 0 after Close.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return 0
	}
	return s.db.kv.Rev()
}

// Hash is a checksum over all keys with all their revisions.
type Hash struct {
	Sum uint32
	// Revision is the last one in it, CompactRevision the one before the first;
	// -1 while nothing was compacted.
	Revision, CompactRevision int64
}

// Hash returns the checksum of the present state, which is the same on every
// member that applied the same entries.
func (s *Store) Hash() (Hash, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return Hash{}, ErrClosed
	}
	h, err := guarded(s.db, func() (mvcc.KeyValueHash, error) {
		h, _, err := s.db.kv.HashStorage().HashByRev(0)
		return h, err
	})
	if err != nil {
		return Hash{}, fmt.Errorf("kv: hash: %w", err)
	}
	return Hash{Sum: h.Hash, Revision: h.Revision, CompactRevision: h.CompactRevision}, nil
}

// WaitCompacted returns when the compactions that were applied have removed
// everything from this member's disk that they should.
func (s *Store) WaitCompacted(ctx context.Context) error {
	s.mu.RLock()
	db := s.db
	s.mu.RUnlock()
	if db == nil {
		return ErrClosed
	}
	select {
	case <-db.compaction.done():
	case <-db.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.commitOf(db)
}

// commitOf commits db unless it was replaced meanwhile.
func (c *current) commitOf(db *database) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.db != db {
		return ErrClosed
	}
	// What is not committed would be compacted once more after a crash.
	db.be.ForceCommit()
	return db.be.failure()
}

// compactionState hands the end of the last compaction from the goroutine that
// applies to those that wait for it.
type compactionState struct {
	mu   sync.Mutex
	last <-chan struct{}
}

func (c *compactionState) set(done <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = done
}

// done is closed when there is nothing to wait for.
func (c *compactionState) done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	return c.last
}
