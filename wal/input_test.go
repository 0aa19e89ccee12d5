package wal

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// What a log is given must go on where it ends. What does not is written nowhere, and the log
// takes nothing after it: who gave it has lost count.
func TestInputThatDoesNotFit(t *testing.T) {
	entry := func(index uint64) raftpb.Entry { return raftpb.Entry{Index: index, Term: 1} }
	megabyte := make([]byte, 1<<20)
	var huge []raftpb.Entry // of one megabyte in memory
	for index := range uint64(frameBytesMax >> 20) {
		huge = append(huge, raftpb.Entry{Index: 7 + index, Term: 1, Data: megabyte})
	}
	appends := func(commit uint64, ents ...raftpb.Entry) func(*segmentedLog) error {
		return func(l *segmentedLog) error {
			return l.Append([]Batch{{Entries: ents, HardState: raftpb.HardState{Term: 1, Commit: commit}}})
		}
	}
	marks := func(index uint64) func(*segmentedLog) error {
		return func(l *segmentedLog) error { return l.SetMark(Mark{Index: index, Term: 1}) }
	}
	for name, do := range map[string]func(*segmentedLog) error{
		"a gap behind the log":             appends(3, entry(8)),
		"a gap within a batch":             appends(3, entry(7), entry(9)),
		"an entry twice":                   appends(3, entry(7), entry(7)),
		"what is before the mark":          appends(3, entry(3)),
		"a commit index behind the end":    appends(7),
		"one behind the end that it makes": appends(8, entry(7)),
		"more than a frame can hold":       appends(3, huge...),
		"a mark behind the end":            marks(7),
		"a mark before the newest":         marks(2),
	} {
		mem := vfstest.NewMem()
		check(t, mem.MkdirAll("/d"))
		check(t, mem.SyncDir("/"))
		l := founded(t, mem)
		l.put(t, 5)
		check(t, l.SetMark(Mark{Index: 3, Term: 1}))
		before := mem.CrashLosingAll()
		if err := do(l); !errors.Is(err, errInput) {
			t.Errorf("%s: %v, want errInput", name, err)
		}
		if err := l.Append([]Batch{{Entries: []raftpb.Entry{entry(7)}}}); !errors.Is(err, errInput) {
			t.Errorf("%s, and then what fits: %v, want the first error", name, err)
		}
		_ = l.Close()
		holds(t, mem, 6)
		holds(t, before, 6)
	}
	// The same in order.
	l := founded(t, newHooked(t))
	l.put(t, 5)
	check(t, l.SetMark(Mark{Index: 3, Term: 1}))
	check(t, l.SetMark(Mark{Index: 3, Term: 1}))
	check(t, l.SetMark(Mark{Index: 6, Term: 1}))
	check(t, appends(7, entry(7))(l))
	check(t, l.Close())
}

// A new log needs a salt that is its own, and a name that nobody has: where it cannot know, it
// makes none.
func TestNewLogNeedsASalt(t *testing.T) {
	h := newHooked(t)
	odd := errors.New("no chance")
	b := New(Options{FS: h, SegmentBytes: 64 << 10, Rand: iotest.ErrReader(odd)})
	if _, err := b.Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}); !errors.Is(err, odd) {
		t.Errorf("without a source of chance: %v", err)
	}
	h.at(syscall.EIO, vfstest.Stat, "")
	if _, err := backendOn(h).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}); !errors.Is(err, syscall.EIO) {
		t.Errorf("where nobody knows whether the name is taken: %v", err)
	}
	h.fail = nil
	if list := must[[]string](t)(h.ReadDir("/d")); len(list) > 0 {
		t.Errorf("%q is left", list)
	}
}

// A directory with spare files alone had a log, and lost it. Files that are not named as a log
// names them are nobody's.
func TestFilesOfALog(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 5)
	check(t, l.Reserve())
	check(t, l.Close())
	for _, name := range []string{"1.seg", "zzzzzzzzzzzzzzzz.seg", "00000000000000009.seg", "x.spare", "notes"} {
		h.mem.WriteFile(filepath.Join(hookedDir, name), []byte("of somebody"))
	}
	holds(t, h, 6)
	for _, name := range names(t, h, segmentSuffix) {
		if len(name) == 16+len(segmentSuffix) && !strings.HasPrefix(name, "z") {
			check(t, h.Remove(filepath.Join(hookedDir, name)))
		}
	}
	_, err := backendOn(h).Marks(hookedDir)
	var damage *CorruptError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "all segments are missing") {
		t.Errorf("only spare files are left: %v, want damage", err)
	}
	if sum, err := Inspect(h, hookedDir, nil, nil); err != nil || sum.Damage == nil || sum.Spares == 0 {
		t.Errorf("inspected: %+v, %v; want damage", sum, err)
	}
	for _, name := range names(t, h, spareSuffix) {
		check(t, h.Remove(filepath.Join(hookedDir, name)))
	}
	if _, err := backendOn(h).Marks(hookedDir); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing is left: %v, want ErrNotFound", err)
	}
	if _, err := Inspect(h, "/d/none", nil, nil); !errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrExist) {
		t.Errorf("inspected where there is none: %v, want ErrNotFound", err)
	}
}

// Whoever inspects a log ends that with an error of its own, at whichever frame, and is told
// that error and no damage that comes later.
func TestInspectEndsWhenTold(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 9)
	check(t, l.Close())
	harmed := h.mem.Clone()
	check(t, harmed.Remove(segmentPath(hookedDir, 1))) // then the second begins the log
	f, err := harmed.OpenReadWrite(segmentPath(hookedDir, 3))
	check(t, err)
	_, err = f.WriteAt([]byte("damage"), 0)
	check(t, errors.Join(err, f.Close()))
	enough := errors.New("enough")
	for name, mem := range map[string]*vfstest.Mem{"whole": h.mem, "damaged": harmed} {
		frames := 0
		sum, err := Inspect(mem, hookedDir, func(*Record) error { frames++; return nil }, nil)
		if err != nil || (sum.Damage != nil) != (name == "damaged") || frames == 0 {
			t.Fatalf("%s: %d frames, %+v, %v", name, frames, sum, err)
		}
		for n := 1; n <= frames; n++ {
			seen := 0
			sum, err := Inspect(mem, hookedDir, func(*Record) error {
				if seen++; seen == n {
					return enough
				}
				return nil
			}, nil)
			if !errors.Is(err, enough) || sum.Damage != nil || seen != n {
				t.Errorf("%s, ended at frame %d of %d: %v, damage %v, after %d", name, n, frames, err, sum.Damage, seen)
			}
		}
	}
}
