package kv

import (
	"encoding/binary"

	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// appliedKey holds the applied position in the meta bucket: index and term,
// eight bytes each, big endian.
var appliedKey = []byte("octopii.applied")

// position is a place in the log.
type position struct{ index, term uint64 }

func (p position) bytes() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), p.index)
	return binary.BigEndian.AppendUint64(b, p.term)
}

// positionFrom returns what bytes made; ok is false for anything else.
func positionFrom(b []byte) (p position, ok bool) {
	if len(b) != 16 {
		return position{}, false
	}
	return position{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, true
}

// progress keeps the applied position in step with the data.
//
// The backend may commit whenever nobody holds the lock of its transaction,
// and every entry makes all its changes under one hold of that lock. The
// position moves at the start of that hold (begin) and is written by whoever
// commits, still under the lock (save): so a commit has the effects of an entry
// and its index, or neither.
//
// All fields but applying are guarded by that lock. applied is written only by
// the goroutine that applies, which may therefore read it without.
type progress struct {
	// applying is the entry that is being applied. Owned by the goroutine that
	// applies.
	applying position
	// applied is the last entry whose effects are in the open transaction.
	applied position
	// stored is what the open transaction has under appliedKey.
	stored position
	// committed is the index in the last commit that succeeded.
	committed uint64
	// committedTerm is the term of the entry there.
	committedTerm uint64
}

// begin is called with the lock held when an entry begins to write.
func (p *progress) begin() { p.applied = p.applying }

// save is called with the lock held before every commit.
func (p *progress) save(tx backend.UnsafeReadWriter) {
	p.store(tx)
}

// saved is called with the lock held after every commit that succeeded.
func (p *progress) saved() { p.committed, p.committedTerm = p.stored.index, p.stored.term }

// store writes the applied position into the open transaction. The lock is held.
func (p *progress) store(tx backend.UnsafeWriter) {
	if p.stored == p.applied {
		return
	}
	tx.UnsafePut(schema.Meta, appliedKey, p.applied.bytes())
	p.stored = p.applied
}

// load reads the position from a database that was just opened.
func (p *progress) load(tx backend.BatchTx) {
	tx.LockOutsideApply()
	defer tx.Unlock()
	_, values := tx.UnsafeRange(schema.Meta, appliedKey, nil, 1)
	if len(values) == 0 {
		return
	}
	at, _ := positionFrom(values[0])
	p.applying, p.applied, p.stored, p.committed, p.committedTerm = at, at, at, at.index, at.term
}
