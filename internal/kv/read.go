package kv

import (
	"context"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/txn"
)

// Range reads keys. The error is a Rejection, ErrClosed, or that of ctx.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := CheckRange(r); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return nil, ErrClosed
	}
	resp, _, err := txn.Range(ctx, s.lg, s.db.kv, r)
	return resp, rejection(err)
}

// ReadTxn executes a transaction of ranges only (see ReadOnly) without a log
// entry. The error is as with Range.
func (s *Store) ReadTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := CheckTxn(r); err != nil {
		return nil, err
	}
	if !ReadOnly(r) {
		return nil, fmt.Errorf("kv: read transaction: it writes")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return nil, ErrClosed
	}
	resp, _, err := txn.Txn(ctx, s.lg, r, sharedBuffer, s.db.kv, s.db.lessor)
	return resp, rejection(err)
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
	h, _, err := s.db.kv.HashStorage().HashByRev(0)
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
func (s *Store) commitOf(db *database) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db != db {
		return ErrClosed
	}
	// What is not committed would be compacted once more after a crash.
	db.be.ForceCommit()
	return nil
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
