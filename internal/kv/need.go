package kv

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

const (
	// recordBytes is what a record has beside its key and its value.
	recordBytes = 512
	// pageBytes is what a value that is larger than half of a page may waste.
	pageBytes = 4096
)

// makeRoom returns when a commit that adds need bytes has room, after a commit of what
// is pending if that helps. The error says that the store is closing.
func (db *database) makeRoom(need int64) error {
	for !db.room.tryTake(need) {
		// Pages that this needed less of than it might have count again, and so do
		// those that a compaction made free.
		db.be.ForceCommit()
		db.be.ForceCommit()
		if db.room.tryTake(need) {
			break
		}
		if !db.room.wait(need) {
			return fmt.Errorf("%w: %w", ErrClosed, errNoRoom)
		}
	}
	db.room.wanted.Store(0)
	return nil
}

// commandBytes bounds how many bytes executing a command adds to the file, but for
// keys that it deletes and does not name. Pages are written half full at worst.
func commandBytes(command []byte) int64 {
	need := 2*int64(len(command)) + recordBytes
	if len(command) > pageBytes/2 {
		need += 2 * pageBytes
	}
	return need
}

// tombstones bounds what a request writes for keys that it deletes and does not name.
func (db *database) tombstones(r *pb.InternalRaftRequest) int64 {
	var keys int64
	switch {
	case r.DeleteRange != nil:
		keys = db.deletedBy(r.DeleteRange)
	case r.Txn != nil:
		keys = max(db.deletedIn(r.Txn.Success), db.deletedIn(r.Txn.Failure))
	}
	if keys == 0 {
		return 0
	}
	return keys * db.tombstoneBytes()
}

func (db *database) deletedIn(ops []*pb.RequestOp) (keys int64) {
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestDeleteRange:
			keys += db.deletedBy(o.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			if o.RequestTxn != nil {
				keys += max(db.deletedIn(o.RequestTxn.Success), db.deletedIn(o.RequestTxn.Failure))
			}
		}
	}
	return keys
}

func (db *database) deletedBy(r *pb.DeleteRangeRequest) int64 {
	if r == nil || len(r.RangeEnd) == 0 {
		return 0
	}
	end := r.RangeEnd
	if len(end) == 1 && end[0] == 0 { // all keys from the first on
		end = []byte{}
	}
	return db.count(r.Key, end)
}

// tombstoneBytes is about what the record of a deleted key takes, which has the key in
// it: no more than records take on average, values included.
func (db *database) tombstoneBytes() int64 {
	return min(recordBytes, 128+2*db.be.SizeInUse()/max(1, db.count([]byte{0}, []byte{})))
}

func (db *database) count(key, end []byte) int64 {
	found, err := db.kv.Range(context.Background(), key, end, mvcc.RangeOptions{Count: true})
	if err != nil {
		return 0
	}
	return int64(found.Count)
}
