package kv

import (
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"github.com/octopii/octopii/node"
)

// Apply executes commands in order. What is wrong with a command is in its
// result (see DecodeResult) and changes nothing. While the volume has no room for
// their effects Apply waits: see StopWaiting. The error is for entries that are not
// behind what was applied, for a closed store, and for a database that failed (see
// Failed).
func (s *Store) Apply(entries []node.Entry) ([][]byte, error) {
	if s.db == nil {
		return nil, ErrClosed
	}
	results, err := s.db.applyEntries(entries)
	// What a failed database answered is made up, and none of it will be committed.
	if failed := s.db.be.failure(); failed != nil {
		return nil, fmt.Errorf("kv: apply entries from %d: %w", entries[0].Index, failed)
	}
	return results, err
}

// applyEntries has the name that etcd's backend looks for when it is told to
// verify that writes come from here (ETCD_VERIFY=all).
func (db *database) applyEntries(entries []node.Entry) (results [][]byte, err error) {
	results = make([][]byte, len(entries))
	// etcd's store panics when it gets nothing from a database that failed.
	defer db.recoverFailed(&err)
	for i, e := range entries {
		if e.Index <= db.applied.index {
			return nil, fmt.Errorf("kv: apply entry %d: entry %d is already applied", e.Index, db.applied.index)
		}
		if err := db.makeRoom(commandBytes(e.Data)); err != nil {
			return nil, fmt.Errorf("kv: apply entry %d: %w", e.Index, err)
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
func (db *database) execute(entry []byte) ([]byte, error) {
	c, err := decodeCommand(entry)
	var resp message
	if err == nil {
		resp, err = db.dispatch(c)
	}
	var rejected Rejection
	switch {
	case errors.As(err, &rejected):
		return []byte{byte(rejected)}, nil
	case err != nil:
		return nil, err
	case resp == nil:
		return []byte{resultOK}, nil
	case !db.answers(c):
		return []byte{resultElsewhere}, nil
	}
	return encode([]byte{resultOK}, resp)
}

// answers says whether somebody may wait here for the result of c.
func (db *database) answers(c command) bool { return c.origin == 0 || c.origin == db.origin }

func (db *database) dispatch(c command) (message, error) {
	r := c.request
	switch {
	case c.member != nil:
		return nil, db.putMember(c.member)
	case c.compare:
		db.compare()
		return nil, nil
	case c.content != nil:
		return nil, db.said(c.content)
	case r.Put != nil:
		var resp *pb.PutResponse
		err := db.change(c, func(p *plan) error { return p.put(r.Put) }, func(x *execution) (err error) {
			resp, err = x.put(r.Put)
			return err
		})
		return resp, err
	case r.DeleteRange != nil:
		var resp *pb.DeleteRangeResponse
		err := db.change(c, func(p *plan) error { return p.remove(r.DeleteRange) }, func(x *execution) (err error) {
			resp, err = x.remove(r.DeleteRange)
			return err
		})
		return resp, err
	case r.Txn != nil:
		var resp *pb.TxnResponse
		err := db.change(c, func(p *plan) error { return p.txn(r.Txn) }, func(x *execution) (err error) {
			resp, err = x.whole(r.Txn)
			return err
		})
		return resp, err
	}
	return db.compact(r.Compaction)
}

// change plans a command by the state before it, and executes it if nothing speaks
// against it: a Rejection leaves everything as it was. Every other error stops the
// node.
//
// No panic is recovered here: it may come from a damaged page, and the command
// would be rejected on this member only.
func (db *database) change(c command, plans func(*plan) error, execute func(*execution) error) error {
	p := &plan{lessor: db.lessor, m: allowance(c.readBytesMax), measured: true}
	if err := db.consult(p, plans); err != nil {
		return rejection(err)
	}
	if err := db.makeRoom(db.tombstones(c.request)); err != nil {
		return err
	}
	tx := db.kv.Write(traceutil.TODO())
	done := false
	defer func() {
		if !done && db.be.failure() != nil {
			tx.End() // a failed database commits nothing
		}
	}()
	x := &execution{tx: tx, path: p.path, answered: db.answers(c), m: unmetered()}
	db.metered.apply = x.m
	defer func() { db.metered.apply = nil }()
	if err := execute(x); err != nil {
		// The lock of tx is held, so that half of a change is never committed.
		panic(fmt.Sprintf("kv: entry %d at term %d can be applied, and failed half-way: %v", db.applying.index, db.applying.term, err))
	}
	done = true
	tx.End()
	return nil
}

// consult plans by the state as it is. What is read counts against p.m.
func (db *database) consult(p *plan, plans func(*plan) error) error {
	db.metered.apply = p.m
	defer func() { db.metered.apply = nil }()
	view := db.kv.Read(mvcc.SharedBufReadTxMode, traceutil.TODO())
	defer view.End()
	p.view = view
	if err := plans(p); err != nil {
		return err
	}
	return p.m.Err()
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

// rejection turns an error of etcd's parts or of a meter into a Rejection, and leaves
// those alone that do not depend on the command and the state only.
func rejection(err error) error {
	switch {
	case errors.Is(err, mvcc.ErrCompacted):
		return Compacted
	case errors.Is(err, mvcc.ErrFutureRev):
		return FutureRev
	case errors.Is(err, ErrOverBudget):
		return TooMuchRead
	}
	return err
}
