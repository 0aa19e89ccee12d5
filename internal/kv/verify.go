package kv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// revisionBytes is the length of a key in the key bucket: the main and the sub
// revision, and an underscore between them. A tombstone has one byte more.
const revisionBytes = 8 + 1 + 8

// ErrDamaged: the file holds what this package did not write.
var ErrDamaged = errors.New("the database is damaged")

// verifyFile reads the whole database at path, because etcd's parts end the
// process when they meet a record that they cannot read. A file that does not
// exist is fs.ErrNotExist.
func verifyFile(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // nothing was written
	// The file is mapped: a damaged page may point anywhere.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, cause)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Millisecond})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return errors.New("another process uses the database; stop it first")
	case err != nil:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer db.Close() // nothing was written
	return db.View(func(tx *bbolt.Tx) error { return verifyTx(tx, file) })
}

func verifyTx(tx *bbolt.Tx, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if tx.Size() > info.Size() {
		return fmt.Errorf("%w: it is cut off and has %d of %d bytes", ErrDamaged, info.Size(), tx.Size())
	}
	if err := verifyPages(tx, file); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if err := verifyBucket(name, b); err != nil {
			return fmt.Errorf("%w: bucket %q: %w", ErrDamaged, name, err)
		}
		return nil
	})
}

func verifyBucket(name []byte, b *bbolt.Bucket) error {
	var last []byte
	return b.ForEach(func(key, value []byte) error {
		// A page that is not what its parent takes it for has other keys.
		if last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("key % x comes after % x", key, last)
		}
		last = key
		switch {
		case bytes.Equal(name, schema.Key.Name()):
			return verifyRevision(key, value)
		case bytes.Equal(name, schema.Lease.Name()):
			return new(leasepb.Lease).Unmarshal(value)
		case bytes.Equal(name, schema.Meta.Name()):
			return verifyMeta(key, value)
		}
		return nil
	})
}

// verifyRevision checks one record of the key bucket.
func verifyRevision(key, value []byte) error {
	if len(key) != revisionBytes && len(key) != revisionBytes+1 || key[8] != '_' {
		return fmt.Errorf("% x is no revision", key)
	}
	if key[0]&0x80 != 0 || key[9]&0x80 != 0 {
		return fmt.Errorf("revision % x is negative", key)
	}
	if err := new(mvccpb.KeyValue).Unmarshal(value); err != nil {
		return fmt.Errorf("revision % x: %w", key, err)
	}
	return nil
}

// verifyMeta checks one record of the meta bucket.
func verifyMeta(key, value []byte) error {
	switch {
	case bytes.Equal(key, appliedKey):
		if _, ok := positionFrom(value); !ok {
			return fmt.Errorf("% x is no applied index", value)
		}
	case bytes.Equal(key, schema.ScheduledCompactKeyName), bytes.Equal(key, schema.FinishedCompactKeyName):
		if len(value) != revisionBytes || value[8] != '_' || value[0]&0x80 != 0 {
			return fmt.Errorf("% x is no compacted revision", value)
		}
	case bytes.HasPrefix(key, memberPrefix):
		return new(pb.Member).Unmarshal(value)
	}
	return nil
}
