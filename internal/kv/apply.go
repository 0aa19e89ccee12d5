package kv

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
	"go.etcd.io/etcd/server/v3/etcdserver/txn"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"github.com/octopii/octopii/node"
)

// sharedBuffer: a transaction that writes reads from the buffer of the backend
// and makes no copy of it.
const sharedBuffer = true

// Apply executes commands in order. What is wrong with a command is in its
// result (see DecodeResult) and changes nothing. The error is for entries that
// are not behind what was applied, and for a closed store.
func (s *Store) Apply(entries []node.Entry) ([][]byte, error) {
	if s.db == nil {
		return nil, ErrClosed
	}
	return s.db.applyEntries(entries)
}

// applyEntries has the name that etcd's backend looks for when it is told to
// verify that writes come from here (ETCD_VERIFY=all).
func (db *database) applyEntries(entries []node.Entry) ([][]byte, error) {
	results := make([][]byte, len(entries))
	for i, e := range entries {
		if e.Index <= db.applied.index {
			return nil, fmt.Errorf("kv: apply entry %d: entry %d is already applied", e.Index, db.applied.index)
		}
		db.applying = position{e.Index, e.Term}
		result, err := db.execute(e.Data)
		if err != nil {
			return nil, fmt.Errorf("kv: apply entry %d: %w", e.Index, err)
		}
		if db.applied != db.applying {
			db.pass()
		}
		results[i] = result
	}
	return results, nil
}

// pass moves past an entry that wrote nothing.
func (db *database) pass() {
	tx := db.be.BatchTx()
	tx.LockInsideApply() // calls begin
	defer tx.Unlock()
	// Without a write the backend would see nothing to commit.
	db.store(tx)
}

// execute returns the result of a command. The error is one that stops the node.
func (db *database) execute(command []byte) ([]byte, error) {
	resp, err := db.dispatch(command)
	var rejected Rejection
	switch {
	case errors.As(err, &rejected):
		return []byte{byte(rejected)}, nil
	case err != nil:
		return nil, err
	case resp == nil:
		return []byte{resultOK}, nil
	}
	return encode(resultOK, resp)
}

func (db *database) dispatch(command []byte) (message, error) {
	if len(command) == 0 {
		return nil, Malformed
	}
	switch command[0] {
	case kindRequest:
		var r pb.InternalRaftRequest
		if r.Unmarshal(command[1:]) != nil {
			return nil, Malformed
		}
		return db.request(&r)
	case kindMember:
		var m pb.Member
		if m.Unmarshal(command[1:]) != nil {
			return nil, Malformed
		}
		return nil, db.putMember(&m)
	}
	return nil, Unsupported
}

func (db *database) request(r *pb.InternalRaftRequest) (message, error) {
	ctx := context.Background()
	switch {
	case r.Put != nil:
		if err := CheckPut(r.Put); err != nil {
			return nil, err
		}
		resp, _, err := txn.Put(ctx, db.lg, db.lessor, db.kv, r.Put)
		return resp, rejection(err)
	case r.DeleteRange != nil:
		if err := CheckDeleteRange(r.DeleteRange); err != nil {
			return nil, err
		}
		resp, _, err := txn.DeleteRange(ctx, db.lg, db.kv, r.DeleteRange)
		return resp, rejection(err)
	case r.Txn != nil:
		if err := CheckTxn(r.Txn); err != nil {
			return nil, err
		}
		resp, _, err := txn.Txn(ctx, db.lg, r.Txn, sharedBuffer, db.kv, db.lessor)
		return resp, rejection(err)
	case r.Compaction != nil:
		return db.compact(r.Compaction)
	}
	return nil, Unsupported
}

// compact forgets all revisions before r.Revision at once, and begins to remove
// them from the file.
func (db *database) compact(r *pb.CompactionRequest) (message, error) {
	if r.Revision <= 0 {
		return nil, Compacted
	}
	done, err := db.kv.Compact(traceutil.TODO(), r.Revision)
	if err != nil {
		return nil, rejection(err)
	}
	db.compaction.set(done)
	return &pb.CompactionResponse{Header: &pb.ResponseHeader{Revision: db.kv.Rev()}}, nil
}

// rejection turns an error of etcd's parts into a Rejection, and leaves those
// alone that do not depend on the command and the state only.
func rejection(err error) error {
	switch {
	case errors.Is(err, mvcc.ErrCompacted):
		return Compacted
	case errors.Is(err, mvcc.ErrFutureRev):
		return FutureRev
	case errors.Is(err, lease.ErrLeaseNotFound):
		return LeaseNotFound
	case errors.Is(err, etcderrors.ErrKeyNotFound):
		return KeyNotFound
	}
	return err
}
