package node_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/octopii/octopii/node"
)

// releasing is a durable state machine that asks for the space of what it restores.
type releasing struct {
	*keeper
	dir string
	// files is where its member has the files of snapshots.
	files string
	mu    sync.Mutex
	asked int
	bytes int64
	err   error
	// gone: a file has no beginning any more.
	gone bool
}

func (r *releasing) Restore(index uint64, data io.Reader) error {
	if file, ok := data.(node.Releaser); ok {
		err := file.Release(r.dir)
		r.mu.Lock()
		r.asked, r.bytes, r.err = r.asked+1, file.Bytes(), err
		names, _ := filepath.Glob(filepath.Join(r.files, "*.snap"))
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && data[0] == 0 {
				r.gone = true
			}
		}
		r.mu.Unlock()
	}
	return r.keeper.Restore(index, data)
}

func (r *releasing) answer() (asked int, bytes int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, r.bytes, r.err
}

// The space of a received snapshot is given back while it is read where that helps, and harms
// nobody: on the volume of the state machine, and of a member without a vote. A voter has
// acknowledged it, and keeps the file.
func TestSpaceOfASnapshotWhileItIsRestored(t *testing.T) {
	leads := founder(t)
	propose(t, leads, strings.Repeat("x", 100<<10))
	bring := func(id uint64, dir string) (int, int64, error) {
		t.Helper()
		m := newMember(t, id)
		sm := &releasing{keeper: newKeeper(), dir: dir, files: filepath.Join(m.cfg.Dir, "snap")}
		m.around = func(h *history) node.StateMachine { sm.keeper.history = h; return sm }
		m.start()
		if _, err := leads.AddLearner(timeout(t), node.Member{ID: id, Address: m.addr}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it has what it was sent", func() bool { return len(m.sm.all()) == 1 })
		asked, bytes, err := sm.answer()
		if sm.gone != (err == nil) {
			t.Errorf("member %d: its space is given back: %v, after %v", id, sm.gone, err)
		}
		return asked, bytes, err
	}
	asked, bytes, err := bring(2, t.TempDir())
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skipf("this file system cannot: %v", err)
	}
	if asked != 1 || bytes < 100<<10 || err != nil {
		t.Errorf("on its own volume: asked %d times, %d bytes, %v", asked, bytes, err)
	}
	if asked, _, err := bring(3, filepath.Join(t.TempDir(), "none")); asked != 1 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("for a directory that is not there: asked %d times, %v", asked, err)
	}
	if asked, _, err := bring(4, "/proc"); asked != 1 || err == nil || !strings.Contains(err.Error(), "another volume") {
		t.Errorf("for another volume: asked %d times, %v", asked, err)
	}

	// A voter that fell behind the log of the others.
	v := newMember(t, 5)
	sm := &releasing{keeper: newKeeper(), dir: t.TempDir()}
	v.around = func(h *history) node.StateMachine { sm.keeper.history = h; return sm }
	ms := []*member{founder(t), newMember(t, 6).start(), v.start()}
	for _, m := range ms[1:] {
		add(t, ms[0], m)
	}
	before, _, _ := sm.answer()
	v.kill()
	for i := range 50 {
		propose(t, ms[0], fmt.Sprint("missed ", i))
	}
	for _, m := range ms[:2] {
		m.close()
		m.cfg.TrailingEntries = 1
		m.start()
	}
	l := leader(t, ms[:2]...)
	if _, err := l.TakeSnapshot(timeout(t)); err != nil {
		t.Fatal(err)
	}
	v.start()
	eventually(t, "it has what it missed", func() bool { return v.Status().Applied >= l.Status().Commit && len(v.sm.all()) == 50 })
	if asked, _, err := sm.answer(); asked <= before || err == nil || !strings.Contains(err.Error(), "of a voter stays") {
		t.Errorf("of a voter: asked %d times, before that %d, %v", asked, before, err)
	}
}
