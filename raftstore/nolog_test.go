package raftstore

import (
	"errors"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// Who writes before there is a log, or names no directory, gets an error and no panic.
func TestWriteWithoutALog(t *testing.T) {
	if _, _, _, err := Open(Options{FS: vfstest.NewMem()}); err == nil {
		t.Error("a store without a directory opens")
	}
	s, view, w, err := Open(Options{Dir: "/d", FS: vfstest.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := w.Append(nil); !errors.Is(err, errNoLog) {
		t.Errorf("append: %v", err)
	}
	if err := w.Mark(headerAt(1, 1)); !errors.Is(err, errNoLog) {
		t.Errorf("mark: %v", err)
	}
	if view.Initialized() || w.Initialized() {
		t.Error("it is initialized")
	}
}
