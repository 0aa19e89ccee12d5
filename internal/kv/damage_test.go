package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/octopii/octopii/node"
)

const damageKeys = 2000

func damageKey(i int) string { return fmt.Sprintf("key%05d", i) }
func damageValue(i int) string {
	return fmt.Sprintf("value %d %s", i, bytes.Repeat([]byte{'v'}, i%100))
}

// damageFile returns a database of some thousand keys, several pages deep.
func damageFile(t testing.TB) []byte {
	t.Helper()
	s := openTest(t, t.TempDir(), limits{})
	for i := range damageKeys {
		apply(t, s, putCommand(t, damageKey(i), damageValue(i)))
	}
	return image(t, s)
}

// place writes a file where a store expects it, with the rights of a running store.
func place(t testing.TB, dir string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, fileName)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mistakes returns what is wrong with what a store serves: nothing is, if it answers
// rightly or says that it is damaged. damaged: it says so.
func mistakes(s *Store) (damaged bool, mistakes error) {
	resp, err := s.Range(context.Background(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}, nil)
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			return false, fmt.Errorf("range: %w; want %w", err, ErrDamaged)
		}
		return true, nil
	}
	if len(resp.Kvs) != damageKeys {
		return false, fmt.Errorf("it has %d keys; want %d", len(resp.Kvs), damageKeys)
	}
	for i, kv := range resp.Kvs {
		if string(kv.Key) != damageKey(i) || string(kv.Value) != damageValue(i) || kv.Version != 1 || kv.ModRevision != int64(i+2) || kv.CreateRevision != int64(i+2) || kv.Lease != 0 {
			return false, fmt.Errorf("it served %v for key %d", kv, i)
		}
	}
	return false, nil
}

// damages are the ways in which a file changes.
func damages(whole []byte) map[string]func(r *rand.Rand, b []byte) []byte {
	page := os.Getpagesize()
	pageOf := func(r *rand.Rand, b []byte) []byte {
		at := r.IntN(len(b)/page) * page
		return b[at : at+page]
	}
	flip := func(r *rand.Rand, b []byte) { b[r.IntN(len(b))] ^= 1 << r.IntN(8) }
	find := func(r *rand.Rand, b []byte, text string) []byte {
		for {
			at := r.IntN(len(b))
			if i := bytes.Index(b[at:], []byte(text)); i >= 0 {
				return b[at+i : at+i+len(text)]
			}
		}
	}
	return map[string]func(r *rand.Rand, b []byte) []byte{
		"a bit anywhere":      func(r *rand.Rand, b []byte) []byte { flip(r, b); return b },
		"a bit of a value":    func(r *rand.Rand, b []byte) []byte { flip(r, find(r, b, "value 1")); return b },
		"a bit of a key":      func(r *rand.Rand, b []byte) []byte { flip(r, find(r, b, "key0")); return b },
		"a bit of a header":   func(r *rand.Rand, b []byte) []byte { flip(r, pageOf(r, b)[:16]); return b },
		"a bit of an element": func(r *rand.Rand, b []byte) []byte { flip(r, pageOf(r, b)[16:320]); return b },
		"a bit of a meta":     func(r *rand.Rand, b []byte) []byte { flip(r, b[r.IntN(2)*page:][:80]); return b },
		"both metas":          func(r *rand.Rand, b []byte) []byte { flip(r, b[16:80]); flip(r, b[page+16:page+80]); return b },
		"a page of zeros":     func(r *rand.Rand, b []byte) []byte { clear(pageOf(r, b)); return b },
		"cut off":             func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
		"two pages swapped": func(r *rand.Rand, b []byte) []byte {
			x, y := pageOf(r, b), pageOf(r, b)
			saved := bytes.Clone(x)
			copy(x, y)
			copy(y, saved)
			return b
		},
		"a page in another's place": func(r *rand.Rand, b []byte) []byte {
			x, y := pageOf(r, b), pageOf(r, b)
			copy(x[8:], y[8:]) // but for its number
			return b
		},
	}
}

// Whatever changed in a stopped member's file, it is not opened, or serves what was
// written.
func TestDamageBeforeOpen(t *testing.T) {
	whole := damageFile(t)
	for name, damage := range damages(whole) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(15) {
				dir := t.TempDir()
				place(t, dir, damage(rand.New(rand.NewPCG(seed, 1)), bytes.Clone(whole)))
				s, err := Open(dir, nil)
				if err != nil {
					if !errors.Is(err, ErrDamaged) {
						t.Errorf("seed %d: open: %v; want %v", seed, err, ErrDamaged)
					}
					continue
				}
				if _, err := mistakes(s); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
				if err := s.Close(); err != nil {
					t.Errorf("seed %d: close: %v", seed, err)
				}
			}
		})
	}
}

// Whatever changes in the file of a running member, every read is right or says that
// the database is damaged; so do writes, snapshots and scrubs; and the process goes on.
func TestDamageWhileOpen(t *testing.T) {
	seeds := uint64(4)
	if os.Getenv("OCTOPII_LONG_TESTS") != "" {
		seeds = 15
	}
	whole := damageFile(t)
	for name, damage := range damages(whole) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds {
				damageWhileOpen(t, seed, whole, damage)
			}
		})
	}
}

func damageWhileOpen(t *testing.T, seed uint64, whole []byte, damage func(*rand.Rand, []byte) []byte) {
	t.Helper()
	dir := t.TempDir()
	path := place(t, dir, whole)
	s, err := open(dir, nil, limits{batchInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		// A file that bbolt cannot let go is left to the end of the process.
		if err := s.Close(); err != nil {
			t.Logf("seed %d: close: %v", seed, err)
		}
	}()
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := damage(rand.New(rand.NewPCG(seed, 2)), bytes.Clone(now))
	if leadsBack(changed) {
		t.Logf("seed %d: a page leads back to one above it: bbolt would descend until the stack is full", seed)
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(changed, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(int64(len(changed))), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := mistakes(s); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	index := s.db.applied.index
	command := mustCommand(t, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{
		rangeOp(&pb.RangeRequest{Key: []byte(damageKey(int(seed)))}),
		putOp(&pb.PutRequest{Key: []byte("another"), Value: []byte("1")}),
	}}})
	if _, err := s.Apply([]node.Entry{{Index: index + 1, Term: 1, Data: command}}); err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("seed %d: apply: %v; want %v", seed, err, ErrDamaged)
	}
	if err := s.Commit(); err != nil && !errors.Is(err, ErrDamaged) {
		t.Errorf("seed %d: commit: %v; want %v", seed, err, ErrDamaged)
	}
	snapshotIsGood(t, seed, s)
	if _, err := mistakes(s); err != nil {
		t.Errorf("seed %d: after a write: %v", seed, err)
	}
}

// leadsBack says whether a branch page leads to itself or to a page above it. Nothing
// but the order of pages is looked at, since bbolt looks at nothing else.
func leadsBack(file []byte) bool {
	pageBytes := uint64(os.Getpagesize())
	pages := uint64(len(file)) / pageBytes
	above, done := make([]bool, pages), make([]bool, pages)
	var descend func(number uint64) bool
	descend = func(number uint64) bool {
		if number >= pages || done[number] {
			return false
		}
		page := file[number*pageBytes:][:pageBytes]
		if binary.NativeEndian.Uint16(page[8:])&branchPage == 0 {
			return false
		}
		if above[number] {
			return true
		}
		above[number] = true
		count := int(binary.NativeEndian.Uint16(page[10:]))
		for i := range min(count, (len(page)-pageHeaderBytes)/elementBytes) {
			if descend(binary.NativeEndian.Uint64(page[pageHeaderBytes+i*elementBytes+8:])) {
				return true
			}
		}
		above[number], done[number] = false, true
		return false
	}
	for number := range pages {
		if descend(number) {
			return true
		}
	}
	return false
}

// snapshotIsGood checks that a snapshot is not sent, or is right.
func snapshotIsGood(t *testing.T, seed uint64, s *Store) {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("seed %d: snapshot: %v; want %v", seed, err, ErrDamaged)
		}
		return
	}
	defer snap.Close()
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("seed %d: send: %v; want %v", seed, err, ErrDamaged)
		}
		return
	}
	dir := t.TempDir()
	place(t, dir, b.Bytes())
	to, err := Open(dir, nil)
	if err != nil {
		t.Errorf("seed %d: the snapshot that was sent is damaged: %v", seed, err)
		return
	}
	if _, err := mistakes(to); err != nil {
		t.Errorf("seed %d: the snapshot: %v", seed, err)
	}
	if err := to.Close(); err != nil {
		t.Error(err)
	}
}

// A page that is of an earlier commit as a whole has only records with good
// checksums: their number and sum tell.
func TestLostWriteIsFound(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 50 {
		apply(t, s, putCommand(t, damageKey(i), damageValue(i)))
	}
	lost := s.db.be
	// What a lost write would leave: a revision less, and everything else as it is.
	lost.batch.mu.Lock()
	lost.batch.write(schema.Key, func(b *bbolt.Bucket) error {
		key, _ := b.Cursor().Last()
		return b.Delete(bytes.Clone(key))
	})
	lost.batch.mu.Unlock()
	data := rawImage(t, s)
	dir := t.TempDir()
	place(t, dir, data)
	if _, err := Open(dir, nil); !errors.Is(err, ErrDamaged) {
		t.Fatalf("open: %v; want %v", err, ErrDamaged)
	}
}

// rawImage is image without the verification.
func rawImage(t *testing.T, s *Store) []byte {
	t.Helper()
	snap, err := s.db.be.capture()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	var b bytes.Buffer
	if _, err := snap.view.tx.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
