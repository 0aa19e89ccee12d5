package kv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// image commits and returns what is on disk then. It may run beside Apply.
func image(t testing.TB, s *Store) []byte {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		t.Error(err)
		return nil
	}
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		t.Error(err)
	}
	if err := snap.Close(); err != nil {
		t.Error(err)
	}
	return b.Bytes()
}

func TestRestore(t *testing.T) {
	from := openTest(t, t.TempDir(), limits{})
	if _, err := from.Apply(history(t)); err != nil {
		t.Fatal(err)
	}
	last := from.db.applied.index
	dir := t.TempDir()
	to := openTest(t, dir, limits{})
	apply(t, to, putCommand(t, "old", "1"))
	// raft's own entries stand behind the last one that the state machine saw.
	if err := to.Restore(last+2, bytes.NewReader(image(t, from))); err != nil {
		t.Fatal(err)
	}
	check := func(s *Store) {
		t.Helper()
		if a, b := stateOf(t, from), stateOf(t, s); a != b {
			t.Fatalf("restored %+v; want %+v", b, a)
		}
		if index, _ := s.Durable(); index != last+2 {
			t.Fatalf("Durable = %d; want %d", index, last+2)
		}
	}
	check(to)
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	to = openTest(t, dir, limits{})
	check(to)
	apply(t, to, putCommand(t, "new", "1"))
	if get(t, to, "new") != "1" || get(t, to, "old") != "" {
		t.Fatal("a restored store holds old data, or takes no new")
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	from := openTest(t, t.TempDir(), limits{})
	if _, err := from.Apply(history(t)); err != nil {
		t.Fatal(err)
	}
	whole, last := image(t, from), from.db.applied.index
	for name, c := range map[string]struct {
		index uint64
		r     io.Reader
		want  string
	}{
		"empty":            {last, strings.NewReader(""), "damaged"},
		"garbage":          {last, strings.NewReader(strings.Repeat("garbage", 5000)), "damaged"},
		"cut off":          {last, bytes.NewReader(whole[:len(whole)-1]), "cut off"},
		"broken stream":    {last, io.MultiReader(bytes.NewReader(whole[:8192]), failingReader{}), "broken"},
		"an earlier index": {last - 1, bytes.NewReader(whole), "holds entries up to"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			to := openTest(t, dir, limits{})
			apply(t, to, putCommand(t, "old", "1"))
			err := to.Restore(c.index, c.r)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Restore: %v; want an error with %q", err, c.want)
			}
			if get(t, to, "old") != "1" {
				t.Fatal("the old database is gone")
			}
			if left, _ := filepath.Glob(filepath.Join(dir, tempPattern)); len(left) != 0 {
				t.Fatalf("a temporary file is left: %v", left)
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, fmt.Errorf("broken") }

// A crash in the middle of Restore leaves a temporary file and the old database.
func TestOpenRemovesInterruptedRestore(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, limits{})
	apply(t, s, putCommand(t, "old", "1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "db.restore.123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, limits{})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the temporary file is still there: %v", err)
	}
	if get(t, s, "old") != "1" {
		t.Error("the old database is gone")
	}
}

// A snapshot stays readable while the store behind it is replaced, and holds up
// neither Restore nor reads.
func TestSnapshotOutlivesRestore(t *testing.T) {
	from, to := openTest(t, t.TempDir(), limits{}), openTest(t, t.TempDir(), limits{})
	apply(t, from, putCommand(t, "a", "new"))
	apply(t, to, putCommand(t, "a", "old"))
	snap, err := to.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { readUntil(t, to, stop) })
	}
	if err := to.Restore(5, bytes.NewReader(image(t, from))); err != nil {
		t.Fatal(err)
	}
	close(stop)
	readers.Wait()
	var old bytes.Buffer
	if _, err := snap.WriteTo(&old); err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	third := openTest(t, t.TempDir(), limits{})
	if err := third.Restore(1, &old); err != nil {
		t.Fatal(err)
	}
	if a, b := get(t, to, "a"), get(t, third, "a"); a != "new" || b != "old" {
		t.Fatalf("restored %q, snapshot of before %q; want new and old", a, b)
	}
}

func readUntil(t *testing.T, s *Store, stop <-chan struct{}) {
	for {
		resp, err := s.Range(context.Background(), &pb.RangeRequest{Key: []byte("a")}, nil)
		if err != nil || len(resp.Kvs) != 1 {
			t.Errorf("range during a restore: %v, %v", resp, err)
			return
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func TestOpenDamagedFile(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	if _, err := s.Apply(history(t)); err != nil {
		t.Fatal(err)
	}
	whole := image(t, s)
	for name, bytes := range map[string][]byte{
		"empty":   {},
		"garbage": []byte(strings.Repeat("x", 20_000)),
		"cut off": whole[:len(whole)/2],
		"zeroed":  make([]byte, len(whole)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			if err := os.WriteFile(path, bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dir, nil)
			if err == nil {
				s.Close()
				t.Fatal("a damaged file was opened")
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%v; want an error that names %s", err, path)
			}
			if after, _ := os.ReadFile(path); string(after) != string(bytes) {
				t.Error("the damaged file was changed")
			}
		})
	}
}

// Whatever page is lost, opening answers, and never ends the process.
func TestOpenSurvivesAnyLostPage(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 200 {
		apply(t, s, putCommand(t, fmt.Sprint(i), strings.Repeat("v", 100)))
	}
	whole := image(t, s)
	page := os.Getpagesize()
	for at := 0; at < len(whole); at += page {
		damaged := bytes.Clone(whole)
		clear(damaged[at:min(at+page, len(whole))])
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir, nil); err == nil {
			if err := s.Close(); err != nil {
				t.Errorf("page at %d: close: %v", at, err)
			}
		}
	}
}

func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir, limits{})
	if s, err := Open(dir, nil); err == nil {
		s.Close()
		t.Fatal("the same directory was opened twice")
	} else if !strings.Contains(err.Error(), "another process") {
		t.Fatalf("%v; want an error that says that it is in use", err)
	}
}

// Whatever bytes are wrong, verifyFile answers, and most often says so.
func TestVerifySurvivesAnyByte(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	for i := range 300 {
		apply(t, s, putCommand(t, fmt.Sprint(i%50), strings.Repeat("v", i%90)))
	}
	whole, refused := image(t, s), 0
	const files = 300
	for seed := range files {
		r := rand.New(rand.NewPCG(uint64(seed), 0))
		damaged := bytes.Clone(whole)
		for range 1 + r.IntN(20) {
			// The beginning of a page says what it is.
			at := r.IntN(len(damaged)/os.Getpagesize())*os.Getpagesize() + r.IntN(64)
			damaged[at] = byte(r.UintN(256))
		}
		path := filepath.Join(t.TempDir(), fileName)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if verifyFile(path) != nil {
			refused++
		}
	}
	if refused < files/2 {
		t.Errorf("%d of %d damaged files were refused; want most of them", refused, files)
	}
}
