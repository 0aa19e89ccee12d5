package kv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/octopii/octopii/node"
)

// A scrub finds what nobody reads, and from then on nothing is served.
func TestScrubFindsDamage(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, damageFile(t))
	s := openTest(t, dir, limits{})
	if err := s.Scrub(t.Context(), 1<<30); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The newest copy is the last one in the file or not: all are changed.
	for at := 0; ; at++ {
		i := strings.Index(string(data[at:]), damageKey(7))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte("K"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Scrub(t.Context(), 1<<30); !errors.Is(err, ErrDamaged) {
		t.Fatalf("scrub: %v; want %v", err, ErrDamaged)
	}
	failed, why := s.Failed()
	<-failed
	if err := why(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("failed: %v; want %v, and the file", err, ErrDamaged)
	}
	if _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte(damageKey(8))}, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("range: %v; want %v", err, ErrDamaged)
	}
}

// A scrub keeps its pace, and ends with its context.
func TestScrubEnds(t *testing.T) {
	dir := t.TempDir()
	place(t, dir, damageFile(t))
	s := openTest(t, dir, limits{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Scrub(ctx, 1) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("scrub: %v; want %v", err, context.Canceled)
	}
}

// Members that applied the same have the same content, however they came to it; one
// that has something else learns it from a majority, and from nobody else.
func TestComparison(t *testing.T) {
	entries := history(t)
	a, b, c := openTest(t, t.TempDir(), limits{}), openTest(t, t.TempDir(), limits{batchOps: 1}), openTest(t, t.TempDir(), limits{})
	for _, s := range []*Store{a, b} {
		if _, err := s.Apply(entries); err != nil {
			t.Fatal(err)
		}
		if err := s.WaitCompacted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	last := entries[len(entries)-1].Index
	if err := c.Restore(last, strings.NewReader(string(image(t, a)))); err != nil {
		t.Fatal(err)
	}
	stores := []*Store{a, b, c}
	compare := func(index uint64) {
		t.Helper()
		for _, s := range stores {
			if _, err := s.Apply([]node.Entry{{Index: index, Term: 1, Data: CompareCommand()}}); err != nil {
				t.Fatal(err)
			}
		}
		for i, of := range stores {
			own := of.Comparison()
			if !own.Noted || own.Index != index {
				t.Fatalf("member %d noted %+v at index %d", i, own, index)
			}
			for _, s := range stores {
				command := ContentCommand(uint64(i+1), index, own.Own)
				if _, err := s.Apply([]node.Entry{{Index: index + uint64(i) + 1, Term: 1, Data: command}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	voters := []uint64{1, 2, 3}
	compare(last + 1)
	for i, s := range stores {
		v := s.Comparison()
		if alarm, err := v.Verdict(voters); alarm != "" || err != nil {
			t.Fatalf("member %d: %q, %v; want them to be equal", i, alarm, err)
		}
	}
	// One goes another way.
	if _, err := c.Apply([]node.Entry{{Index: last + 10, Term: 1, Data: putCommand(t, "only", "here")}}); err != nil {
		t.Fatal(err)
	}
	compare(last + 11)
	for i, s := range stores {
		v := s.Comparison()
		alarm, err := v.Verdict(voters)
		if (i == 2) != errors.Is(err, ErrDamaged) || (i != 2) != (alarm != "") {
			t.Errorf("member %d: %q, %v", i, alarm, err)
		}
		// Two of five that agree are no majority.
		if _, err := v.Verdict([]uint64{1, 2, 3, 4, 5}); err != nil {
			t.Errorf("member %d among five: %v", i, err)
		}
	}
}
