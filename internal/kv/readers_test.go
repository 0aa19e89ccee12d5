package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

// Readers that wait while the file is mapped anew go on when the database fails: there
// will be no next commit, and Close waits for them.
func TestReadersDoNotWaitForAFailedCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &views{fault: newFault(zap.NewNop(), nil)}
		v.retire()
		var read atomic.Int64
		for range 3 {
			go func() {
				v.release(v.acquire().view)
				read.Add(1)
			}()
		}
		synctest.Wait()
		early := read.Load()
		v.fail(errors.New("commit: the disk is gone"))
		synctest.Wait()
		if read := read.Load(); early != 0 || read != 3 {
			t.Errorf("%d of 3 readers went on before the database failed, and %d then; want 0 and 3", early, read)
		}
		v.publish(nil) // so that none is left if this test failed
	})
}

// A reader sees of each record what was written last, whether it is committed or not.
func TestReadersSeeTheLastWrite(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{batchInterval: time.Hour})
	be := s.db.be
	prefix := []byte("test/")
	r := rand.New(rand.NewPCG(1, 0))
	want := make(map[string]string)
	for i := range 200 {
		key, value := fmt.Sprintf("test/%d", r.IntN(5)), fmt.Sprint(i)
		be.batch.LockOutsideApply()
		be.batch.UnsafePut(schema.Meta, []byte(key), []byte(value))
		be.batch.Unlock()
		want[key] = value
		if r.IntN(6) == 0 {
			be.ForceCommit()
		}
		got := make(map[string]string)
		tx := be.ConcurrentReadTx()
		tx.RLock()
		err := tx.UnsafeForEach(schema.Meta, func(key, value []byte) error {
			if !bytes.HasPrefix(key, prefix) {
				return nil
			}
			if _, twice := got[string(key)]; twice {
				t.Errorf("write %d: %s is visited twice", i, key)
			}
			got[string(key)] = string(value)
			return nil
		})
		tx.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("write %d: a reader sees %v; want %v", i, got, want)
		}
	}
}

// A scrub takes as long as it does, and holds up nothing: a snapshot is restored beside
// it, and the new database is read.
func TestRestoreBesideAScrub(t *testing.T) {
	whole := damageFile(t)
	s := openTest(t, t.TempDir(), limits{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	readers := s.db.be.OpenReadTxN()
	be := s.db.be
	scrubbed := make(chan error, 1)
	go func() { scrubbed <- s.Scrub(ctx, 1) }()
	until(t, "the scrub has begun", func() bool { return be.OpenReadTxN() > readers })
	restored := make(chan error, 1)
	go func() { restored <- s.Restore(damageKeys+10, bytes.NewReader(whole)) }()
	select {
	case err := <-restored:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		cancel()
		t.Fatalf("the restore waits for the scrub: %v", errors.Join(<-scrubbed, <-restored))
	}
	if got := get(t, s, damageKey(1)); !strings.HasPrefix(got, "value 1") {
		t.Errorf("the restored database has %q", got)
	}
	select {
	case err := <-scrubbed:
		t.Errorf("the scrub ended meanwhile: %v", err)
	default:
	}
	cancel()
	if err := <-scrubbed; !errors.Is(err, context.Canceled) {
		t.Errorf("scrub: %v; want %v", err, context.Canceled)
	}
}
