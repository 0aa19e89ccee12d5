package kv

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// volume mounts a file system of so many bytes, and returns where, and a function that
// gives it another size.
func volume(t *testing.T, bytes int64) (dir string, resize func(bytes int64)) {
	t.Helper()
	dir = t.TempDir()
	option := func(n int64) string { return "size=" + strconv.FormatInt(n, 10) }
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, option(bytes)); err != nil {
		t.Skipf("no file system of a given size can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir, func(n int64) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, option(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// A volume has room for one and a half databases: the old one makes room for the new
// one, which is whole. Where not even that is enough, Restore succeeds once there is
// room, and nothing is read before.
func TestRestoreWithLittleRoom(t *testing.T) {
	whole := damageFile(t)
	for name, c := range map[string]struct {
		old         []byte
		part, grown float64
	}{
		"1.6 times":             {whole, 1.6, 0},
		"too small, then grown": {nil, 0.8, 1.6},
	} {
		t.Run(name, func(t *testing.T) {
			size := float64(len(whole))
			dir, resize := volume(t, int64(c.part*size))
			kvDir := filepath.Join(dir, "kv")
			if err := os.Mkdir(kvDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if c.old != nil {
				place(t, kvDir, c.old)
			}
			s := openTest(t, kvDir, limits{})
			const index = damageKeys + 10
			restore := func() error { return s.Restore(index, bytes.NewReader(whole)) }
			err := restore()
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "enlarge the volume") {
				t.Fatalf("the first try: %v; want ENOSPC, and what to do", err)
			}
			err = restore()
			if c.grown != 0 {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("the second try: %v; want ENOSPC", err)
				}
				if _, err := s.Apply(nil); !errors.Is(err, ErrClosed) {
					t.Errorf("apply without a database: %v; want %v", err, ErrClosed)
				}
				if _, err := s.Hash(); !errors.Is(err, ErrClosed) {
					t.Errorf("read without a database: %v; want %v", err, ErrClosed)
				}
				resize(int64(c.grown * size))
				err = restore()
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := mistakes(s); err != nil {
				t.Error(err)
			}
			if got, _ := s.Durable(); got != index {
				t.Errorf("Durable = %d; want %d", got, index)
			}
		})
	}
}

// Only a store that found no room a moment ago removes its database before the next one
// comes: where there is room, a stream that breaks leaves the old one as it is.
func TestRestoreThatBreaksKeepsTheDatabase(t *testing.T) {
	whole := damageFile(t)
	size := float64(len(whole))
	dir, resize := volume(t, int64(1.6*size))
	kvDir := filepath.Join(dir, "kv")
	if err := os.Mkdir(kvDir, 0o700); err != nil {
		t.Fatal(err)
	}
	place(t, kvDir, whole)
	s := openTest(t, kvDir, limits{})
	const index = damageKeys + 10
	if err := s.Restore(index, bytes.NewReader(whole)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the first try: %v; want ENOSPC", err)
	}
	if err := s.Restore(index, bytes.NewReader(whole)); err != nil {
		t.Fatalf("the second try: %v", err)
	}
	resize(int64(4 * size))
	if err := s.Restore(index+1, io.MultiReader(bytes.NewReader(whole[:1000]), failingReader{})); err == nil {
		t.Fatal("a stream that breaks was restored")
	}
	if _, err := mistakes(s); err != nil {
		t.Errorf("after a stream that broke: %v", err)
	}
}
