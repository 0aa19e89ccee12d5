package kv

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// ErrOverBudget: a read was ended because it needs more memory than its caller
// granted. Nothing of it is left in memory.
var ErrOverBudget = errors.New("kv: the read needs more memory than it may have")

const (
	// keyBytes is what a key costs beside itself and its value, as a struct, a
	// pointer and a revision.
	keyBytes = 160
	// visitBytes stands for the time to look at a key in the index.
	visitBytes = 64
)

// meter is the context of a read. It counts the bytes that the read brings into
// memory while it does so, and ends the read when it is too much: etcd's store
// looks at the context before each key.
type meter struct {
	context.Context
	// take says whether the read may have so many bytes more. nil: it may.
	take func(bytes int64) bool
	over bool
	// keep, if it is set, gets each record that is read, and charges what it keeps.
	// etcd's store then gets empty records, and so holds no values.
	keep func(record []byte)
}

// ended is closed.
var ended = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// charge counts bytes, which are negative when they are given back. It returns false when
// it is too much, now or earlier.
func (m *meter) charge(bytes int64) bool {
	if !m.over && m.take != nil && !m.take(bytes) {
		m.over = true
	}
	return !m.over
}

func (m *meter) Done() <-chan struct{} {
	if m.over {
		return ended
	}
	return m.Context.Done()
}

func (m *meter) Err() error {
	if m.over {
		return ErrOverBudget
	}
	return m.Context.Err()
}

// allowance returns a meter that lets up to bytes pass.
func allowance(bytes int64) *meter {
	return &meter{Context: context.Background(), take: func(n int64) bool {
		bytes -= n
		return bytes >= 0
	}}
}

// meteredBackend tells meters what etcd's store reads of the key bucket. Only that
// store reads through it.
type meteredBackend struct {
	backend.Backend
	// apply is charged for what the goroutine that applies reads. It is nil while
	// nothing is to be counted. Owned by that goroutine.
	apply *meter

	// next is the meter of the read that begins now, under mu.
	mu   sync.Mutex
	next atomic.Pointer[meter]
}

// read begins a read of the state as it is now, which charges m. The caller ends it.
func (b *meteredBackend) read(kv mvcc.KV, m *meter) mvcc.TxnRead {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next.Store(m)
	defer b.next.Store(nil)
	return kv.Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
}

// ConcurrentReadTx is called in read. Etcd's store calls it also for looking at its
// revision, where nothing is charged to whatever meter it meets.
func (b *meteredBackend) ConcurrentReadTx() backend.ReadTx {
	m := b.next.Load()
	return &meteredReadTx{b.Backend.ConcurrentReadTx(), func() *meter { return m }}
}

func (b *meteredBackend) ReadTx() backend.ReadTx {
	return &meteredReadTx{b.Backend.ReadTx(), func() *meter { return b.apply }}
}

func (b *meteredBackend) BatchTx() backend.BatchTx {
	return &meteredBatchTx{b.Backend.BatchTx(), b}
}

type meteredReadTx struct {
	backend.ReadTx
	meter func() *meter
}

func (tx *meteredReadTx) UnsafeRange(bucket backend.Bucket, key, end []byte, limit int64) (keys, values [][]byte) {
	keys, values = tx.ReadTx.UnsafeRange(bucket, key, end, limit)
	return keys, count(tx.meter(), bucket, values)
}

type meteredBatchTx struct {
	backend.BatchTx
	b *meteredBackend
}

func (tx *meteredBatchTx) UnsafeRange(bucket backend.Bucket, key, end []byte, limit int64) (keys, values [][]byte) {
	keys, values = tx.BatchTx.UnsafeRange(bucket, key, end, limit)
	// One key is read by the goroutine that applies, and a range of them by
	// compactions, which run beside it.
	if end == nil {
		values = count(tx.b.apply, bucket, values)
	}
	return keys, values
}

// noRecord is what etcd's store gets in the place of a record that it is not to copy.
var noRecord = []byte{}

// count tells m of records that were read. It returns those that etcd's store gets.
func count(m *meter, bucket backend.Bucket, values [][]byte) [][]byte {
	if m == nil || bucket.ID() != schema.Key.ID() {
		return values
	}
	for i, v := range values {
		if m.keep != nil {
			m.keep(v)
			values[i] = noRecord
		} else if !m.charge(int64(len(v))) {
			values[i] = noRecord // the read ends, and a copy would be for nothing
		}
	}
	return values
}
