package raftstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// writeMark writes the mark of an external snapshot.
func writeMark(fs vfs.FS, index uint64) error {
	w, err := createSnapshot(fs, "/snap", externalAt(index))
	if err != nil {
		return err
	}
	_, err = w.Commit()
	return err
}

func externalAt(index uint64) SnapshotHeader {
	h := headerAt(2, index)
	h.External = true
	return h
}

// A volume without a byte of room takes a newer mark, and another one once the older went, and
// so for ever. A crash in between leaves each mark whole, or none of its name.
func TestMarkOnAFullVolume(t *testing.T) {
	mem := vfstest.NewMem()
	if err := errors.Join(mem.MkdirAll("/snap"), mem.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if err := writeMark(mem, 1); err != nil {
		t.Fatal(err)
	}
	mem.SetCapacity(mem.Used())
	for index := uint64(2); index < 6; index++ {
		if err := writeMark(mem, index); err != nil {
			t.Fatalf("the mark at %d: %v", index, err)
		}
		for crashed := range mem.Crashes() {
			names, err := listSnapshots(crashed, "/snap")
			if err != nil || len(names) == 0 || names[0].Index != index {
				t.Fatalf("after a crash behind the mark at %d: %v, %v", index, names, err)
			}
			wholeMarks(t, crashed, names)
		}
		if err := writeMark(mem, index+100); !vfs.Full(err) {
			t.Fatalf("a second mark before the first went: %v, want that there is no room", err)
		}
		f := files{fs: mem, dir: "/"}
		if err := f.removeSnapshots(index); err != nil {
			t.Fatal(err)
		}
	}
}

func wholeMarks(t *testing.T, fs vfs.FS, names []snapshotName) {
	t.Helper()
	for _, n := range names {
		r, err := openSnapshot(fs, fmt.Sprint("/snap/", n))
		if err != nil {
			t.Fatalf("the mark %v: %v", n, err)
		}
		if r.Header.Metadata.Index != n.Index {
			t.Fatalf("the mark %v is of index %d", n, r.Header.Metadata.Index)
		}
		_ = r.Close()
	}
}
