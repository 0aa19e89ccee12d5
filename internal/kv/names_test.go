package kv

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// names watches how a store names its files.
type names struct {
	mu sync.Mutex
	// unsynced are the operations on names that a loss of power may undo.
	unsynced []vfstest.Op
	// mistakes are files that got the name of the database without being one.
	mistakes []error
}

func (n *names) fs() vfs.FS {
	return vfstest.NewFaulty(vfs.OS, func(op vfstest.Op) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		switch op.Kind {
		case vfstest.Rename:
			if err := verifyFile(op.Path); err != nil && filepath.Base(op.To) == fileName {
				n.mistakes = append(n.mistakes, err)
			}
			n.unsynced = append(n.unsynced, op)
		case vfstest.Remove:
			n.unsynced = append(n.unsynced, op)
		case vfstest.SyncDir:
			n.unsynced = nil
		}
		return nil
	})
}

// A database has its name when it is whole and durable, and the name is durable when
// Open or Restore returns: what comes next is built upon it.
func TestNamesAreDurable(t *testing.T) {
	whole := damageFile(t)
	n := new(names)
	check := func(what string) {
		t.Helper()
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.unsynced) > 0 {
			t.Errorf("%s: a loss of power may undo %v", what, n.unsynced)
		}
		if err := errors.Join(n.mistakes...); err != nil {
			t.Errorf("%s: what got the name is no whole database: %v", what, err)
		}
	}
	s := openTest(t, t.TempDir(), limits{fs: n.fs()})
	check("a new store")
	const index = damageKeys + 10
	if err := s.Restore(index, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	check("a restored one")
	s.noRoom = true // the next Restore removes the old one first
	if err := s.Restore(index+1, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	check("one that was restored in the place of the old one")
}
