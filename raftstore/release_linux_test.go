package raftstore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// A file whose space goes while it is read gives all of its data, takes next to nothing
// in the end, and is found damaged by whoever reads it after.
func TestReleaseWhileReading(t *testing.T) {
	dir := t.TempDir()
	data := randomBytes(8 << 20)
	path := writeSnapshot(t, dir, headerAt(3, 40), data)
	r, err := openSnapshot(vfs.OS, path)
	noError(t, err)
	defer r.Close()
	if err := r.Release(); errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skipf("this file system cannot: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	noError(t, err)
	if !bytes.Equal(got, data) {
		t.Error("other data was read than was written")
	}
	f, err := os.Open(path)
	noError(t, err)
	defer f.Close()
	if left, err := vfs.Allocated(f); err != nil || left > 2*releaseBytes {
		t.Errorf("%d bytes are left of %d (%v)", left, len(data), err)
	}
	if _, err := openSnapshot(vfs.OS, path); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("opened once more: %v; want %v", err, wal.ErrCorrupt)
	}
}
