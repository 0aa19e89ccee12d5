package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
)

// hooked is a disk in memory whose operations fail as fail says, while it is set.
type hooked struct {
	*vfstest.Faulty
	mem  *vfstest.Mem
	fail func(op vfstest.Op) error
}

func newHooked(t *testing.T) *hooked {
	t.Helper()
	h := &hooked{mem: vfstest.NewMem()}
	check(t, h.mem.MkdirAll("/d"))
	check(t, h.mem.SyncDir("/"))
	h.Faulty = vfstest.NewFaulty(h.mem, func(op vfstest.Op) error {
		if h.fail == nil {
			return nil
		}
		return h.fail(op)
	})
	return h
}

// at fails operations of a kind on files with a suffix.
func (h *hooked) at(err error, kind vfstest.Kind, suffix string) {
	h.fail = func(op vfstest.Op) error {
		if op.Kind == kind && filepath.Ext(op.Path) == suffix {
			return err
		}
		return nil
	}
}

const hookedDir = "/d/log"

func backendOn(fs vfs.FS) *Segmented { return backendOf(fs, 64<<10) }

func backendOf(fs vfs.FS, segmentBytes int64) *Segmented {
	return New(Options{FS: fs, SegmentBytes: segmentBytes})
}

func founded(t *testing.T, fs vfs.FS) *segmentedLog {
	t.Helper()
	l := must[Log](t)(backendOn(fs).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
	return l.(*segmentedLog)
}

// put appends so many entries, of which three fill a segment.
func (l *segmentedLog) put(t *testing.T, n int) {
	t.Helper()
	for range n {
		index := l.last + 1
		check(t, l.Append([]Batch{{Entries: []raftpb.Entry{{Index: index, Term: 1, Data: make([]byte, 18<<10)}}, HardState: raftpb.HardState{Term: 1, Commit: index}}}))
	}
}

func names(t *testing.T, fs vfs.FS, suffix string) (list []string) {
	t.Helper()
	for _, name := range must[[]string](t)(fs.ReadDir(hookedDir)) {
		if filepath.Ext(name) == suffix {
			list = append(list, name)
		}
	}
	return list
}

// holds opens a log at its newest mark, and expects entries up to last.
func holds(t *testing.T, fs vfs.FS, last uint64) {
	t.Helper()
	b := backendOn(fs)
	marks := must[[]Mark](t)(b.Marks(hookedDir))
	l, state, err := b.Open(hookedDir, marks[len(marks)-1])
	check(t, err)
	if state.Last != last {
		t.Errorf("the log ends at %d, want %d", state.Last, last)
	}
	check(t, l.Close())
}

// A system that takes no file now refuses a new log, wherever it does so, and leaves none: the
// same may come again.
func TestCreateRefused(t *testing.T) {
	create := func(fs vfs.FS) (Log, error) {
		return backendOn(fs).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1})
	}
	for _, why := range []error{syscall.EMFILE, syscall.EACCES, syscall.EIO} {
		for n := 1; ; n++ {
			h := newHooked(t)
			seen, renamed := 0, false
			var struck vfstest.Op
			h.fail = func(op vfstest.Op) error {
				renamed = renamed || op.Kind == vfstest.Rename && op.To == hookedDir
				switch op.Kind {
				case vfstest.Create, vfstest.Open, vfstest.OpenReadWrite, vfstest.Mkdir, vfstest.Lock, vfstest.ReadDir:
					if seen++; seen == n {
						struck = op
						return why
					}
				}
				return nil
			}
			l, err := create(h)
			if seen < n {
				check(t, err)
				check(t, l.Close())
				break
			}
			if err == nil || !errors.Is(err, why) || errors.Is(err, ErrNoSpace) != (why != syscall.EIO) {
				t.Errorf("%v at %v: %v", why, struck, err)
				continue
			}
			h.fail = nil
			if _, err := h.Stat(hookedDir); !errors.Is(err, fs.ErrNotExist) && why != syscall.EIO {
				t.Errorf("%v at %v: there is a log, after %v (renamed: %v)", why, struck, err, renamed)
				continue
			}
			// Nor is there one after a crash, which keeps what was made durable.
			if _, err := h.mem.CrashLosingAll().Stat(hookedDir); !errors.Is(err, fs.ErrNotExist) && why != syscall.EIO {
				t.Errorf("%v at %v: there is a log after a crash", why, struck)
			}
			if why == syscall.EIO {
				continue
			}
			l, err = create(h)
			if err != nil {
				t.Errorf("%v at %v: once more: %v", why, struck, err)
				continue
			}
			check(t, l.Close())
		}
	}
}

// Where a log cannot be taken back, because the disk fails then, it is not called a want of
// space: the next start may find it, and nothing may be founded beside it.
func TestCreateThatCannotBeTakenBack(t *testing.T) {
	for _, second := range []vfstest.Kind{vfstest.Rename, vfstest.SyncDir} {
		h := newHooked(t)
		refused, failed := false, false
		h.fail = func(op vfstest.Op) error {
			switch {
			case op.Kind == vfstest.Lock:
				refused = true
				return syscall.EMFILE
			case refused && op.Kind == second:
				failed = true
				return syscall.EIO
			}
			return nil
		}
		_, err := backendOn(h).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1})
		if !failed || !errors.Is(err, syscall.EIO) || !errors.Is(err, syscall.EMFILE) || errors.Is(err, ErrNoSpace) {
			t.Errorf("%s fails (%v): %v; want an error that is final", second, failed, err)
		}
	}
}

// Create takes no log for a new one that is there, and none whose state is not of where it
// begins.
func TestCreateRefuses(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 2)
	check(t, l.Close())
	if _, err := backendOn(h).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a log in place of one that is there: %v, want fs.ErrExist", err)
	}
	holds(t, h, 3)
	for _, commit := range []uint64{0, 6, 8} {
		if _, err := backendOn(h).Create("/d/other", Mark{Index: 7, Term: 1}, raftpb.HardState{Term: 1, Commit: commit}); !errors.Is(err, errInput) {
			t.Errorf("a log that begins at 7 with commit index %d: %v, want errInput", commit, err)
		}
	}
}

// A log is opened by one at a time, and at a mark that was set.
func TestOpenRefuses(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 2)
	b := backendOn(h)
	if _, _, err := b.Open(hookedDir, Mark{Index: 1, Term: 1}); !errors.Is(err, ErrLocked) {
		t.Errorf("a log that is open: %v, want ErrLocked", err)
	}
	check(t, l.Close())
	for _, m := range []Mark{{Index: 2, Term: 1}, {Index: 1, Term: 2}} {
		if _, _, err := b.Open(hookedDir, m); !errors.Is(err, errInput) {
			t.Errorf("at %d of term %d: %v, want errInput", m.Index, m.Term, err)
		}
	}
	holds(t, h, 3)
	if _, err := l.Entries(2, 3, 1<<20); !errors.Is(err, os.ErrClosed) {
		t.Errorf("entries of a log that is closed: %v, want os.ErrClosed", err)
	}
}

// A system that has no descriptor for the next file says so as a full disk does: nothing was
// written, and the same append succeeds when there is one.
func TestSpareRefused(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 3)
	h.at(syscall.EMFILE, vfstest.OpenReadWrite, spareSuffix)
	if err := l.Reserve(); !errors.Is(err, ErrNoSpace) || l.Reserved() {
		t.Fatalf("reserve: %v, reserved: %v; want ErrNoSpace", err, l.Reserved())
	}
	last, err := l.last, error(nil)
	for range 4 { // what still fits is appended
		e := raftpb.Entry{Index: l.last + 1, Term: 1, Data: make([]byte, 18<<10)}
		if err = l.Append([]Batch{{Entries: []raftpb.Entry{e}}}); err != nil {
			break
		}
		last++
	}
	if !errors.Is(err, ErrNoSpace) || l.last != last {
		t.Fatalf("append to a segment that is full: %v, want ErrNoSpace", err)
	}
	h.fail = nil
	l.put(t, 1)
	check(t, l.Close())
	holds(t, h, last+1)
}

// released is a log of several segments whose first entries are covered by a mark, not released.
func released(t *testing.T, h vfs.FS) *segmentedLog {
	t.Helper()
	l := founded(t, h)
	l.put(t, 12)
	check(t, l.SetMark(Mark{Index: l.last, Term: 1}))
	l.put(t, 1)
	return l
}

// Segments that the system does not let go stay, and the log goes on: space is all that it
// costs. Released they are all the same.
func TestReleaseRefused(t *testing.T) {
	type refusal struct {
		kind   vfstest.Kind
		suffix string
	}
	for name, r := range map[string]refusal{
		"no new name for a segment":    {vfstest.Rename, segmentSuffix},
		"no descriptor for a spare":    {vfstest.OpenReadWrite, spareSuffix},
		"a segment cannot be removed":  {vfstest.Remove, segmentSuffix},
		"nothing is refused after all": {"", ""},
	} {
		for _, reopened := range []bool{false, true} {
			h := newHooked(t)
			l := released(t, h)
			last := l.last
			if reopened { // then they are of an earlier run, and not open
				check(t, l.Close())
				log, _, err := backendOn(h).Open(hookedDir, l.marks[len(l.marks)-1])
				check(t, err)
				l = log.(*segmentedLog)
			}
			h.at(syscall.EACCES, r.kind, r.suffix)
			check(t, l.Release(l.marks[len(l.marks)-1].Index))
			if _, err := l.Entries(2, 3, 1<<20); err != raft.ErrCompacted {
				t.Errorf("%s (opened again: %v): entry 2 after Release: %v, want ErrCompacted", name, reopened, err)
			}
			h.fail = nil
			l.put(t, 9)
			check(t, l.SetMark(Mark{Index: l.last, Term: 1}))
			check(t, l.Release(l.last))
			check(t, l.Close())
			holds(t, h, last+9)
			if n := len(names(t, h, segmentSuffix)); n > 4 && (reopened || r.kind == "") {
				t.Errorf("%s (opened again: %v): %d segments are left", name, reopened, n)
			}
		}
	}
	// Any other error is final.
	for _, kind := range []vfstest.Kind{vfstest.Rename, vfstest.Remove} {
		h := newHooked(t)
		l := released(t, h)
		check(t, l.Close())
		log, _, err := backendOn(h).Open(hookedDir, l.marks[len(l.marks)-1])
		check(t, err)
		h.at(syscall.EIO, kind, segmentSuffix)
		if err := log.Release(l.last); kind == vfstest.Remove && !errors.Is(err, syscall.EIO) {
			t.Errorf("%s fails with EIO: %v", kind, err)
		}
		h.fail = nil
		_ = log.Close()
	}
}

// tight is a volume of which nobody knows how much is free, or that has nothing free.
type tight struct {
	*hooked
	err error
}

func (f tight) Free(string) (int64, error) { return 0, f.err }

// Files that are kept ready for later are given back where the volume needs the space, unless
// the system does not let them go; and where it does not say how much there is, all stay.
func TestTrimRefused(t *testing.T) {
	for name, c := range map[string]struct {
		free, remove, want error
		left               int
	}{
		"there is none":                     {nil, nil, nil, 1},
		"nobody knows":                      {syscall.EIO, nil, nil, 0},
		"there is none, and they stay":      {nil, syscall.EACCES, nil, 0},
		"there is none, and the disk fails": {nil, syscall.EIO, syscall.EIO, 0},
	} {
		h := newHooked(t)
		l := released(t, h)
		check(t, l.Release(l.marks[len(l.marks)-1].Index))
		all := len(names(t, h, spareSuffix))
		if all < 4 {
			t.Fatalf("%s: %d files are kept", name, all)
		}
		if c.left == 0 {
			c.left = all
		}
		l.spares.fs = tight{h, c.free}
		h.at(c.remove, vfstest.Remove, spareSuffix)
		if err := l.Idle(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if n := len(names(t, h, spareSuffix)); n != c.left {
			t.Errorf("%s: %d files are kept, want %d", name, n, c.left)
		}
		h.fail, l.spares.fs = nil, h // there is room again
		if c.want == nil {
			l.put(t, 4)
			last := l.last
			check(t, l.Close())
			holds(t, h.mem, last)
		} else {
			_ = l.Close()
		}
	}
}

// A Release or a Close beside a read takes nothing from it: what was read is right, and a
// segment is closed when its last reader is done.
func TestReleaseBesideARead(t *testing.T) {
	h := newHooked(t)
	l := released(t, h)
	closed := 0
	meanwhile := func(do func()) {
		closed = 0
		h.fail = func(op vfstest.Op) error {
			if op.Kind == vfstest.Read && do != nil {
				f := do
				do = nil
				f()
			}
			if op.Kind == vfstest.Close {
				closed++
			}
			return nil
		}
	}
	meanwhile(func() { check(t, l.Release(l.marks[len(l.marks)-1].Index)) })
	got, err := l.Entries(2, 12, 1<<30)
	if err != nil || len(got) == 0 || len(got) > 4 || got[0].Index != 2 {
		t.Errorf("entries from 2 on, and a Release after the first read: %d entries, %v; want those of one segment", len(got), err)
	}
	h.fail = nil
	last := l.last
	l.put(t, 3)
	meanwhile(func() {
		check(t, l.Close())
		if closed == 0 {
			t.Error("nothing was closed")
		}
		closed = 0
	})
	if got, err = l.Entries(last, last+1, 1<<30); err != nil || len(got) != 1 || got[0].Index != last {
		t.Errorf("entry %d, and a Close after the first read: %v, %v", last, got, err)
	}
	if closed != 1 {
		t.Errorf("%d files were closed behind the last reader, want 1", closed)
	}
	h.fail = nil
	holds(t, h, last+3)
}

// What the system says of its own state while a log is opened, read and inspected is returned
// as it is. It is no damage, for which a member would be rebuilt, and the log is what it was.
func TestErrorsOfTheSystemWhileOpening(t *testing.T) {
	type disk struct {
		mem          *vfstest.Mem
		segmentBytes int64
		last         uint64
	}
	of := func(segmentBytes int64, entryBytes, entries int, mark bool) disk {
		h := newHooked(t)
		log := must[Log](t)(backendOf(h, segmentBytes).Create(hookedDir, Mark{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1}))
		put := func(last uint64) {
			check(t, log.Append([]Batch{{Entries: []raftpb.Entry{{Index: last, Term: 1, Data: make([]byte, entryBytes)}}, HardState: raftpb.HardState{Term: 1, Commit: last}}}))
		}
		last := uint64(1)
		for range entries {
			last++
			put(last)
		}
		if mark {
			check(t, log.SetMark(Mark{Index: last, Term: 1}))
			last++
			put(last)
		}
		check(t, log.Reserve())
		return disk{h.mem, segmentBytes, last} // as a process that is killed leaves it
	}
	for name, d := range map[string]disk{
		"all segments are needed":           of(64<<10, 18<<10, 6, false),
		"older segments are there":          of(64<<10, 18<<10, 7, true),
		"a segment is read in many windows": of(3*readBytes, readBytes/3, 10, false),
	} {
		for _, kind := range []vfstest.Kind{vfstest.ReadDir, vfstest.Stat, vfstest.Lock, vfstest.Open, vfstest.OpenReadWrite, vfstest.Size, vfstest.Read, vfstest.Write, vfstest.Sync, vfstest.Remove, vfstest.Close} {
			for n := 1; ; n++ {
				mem := d.mem.Clone()
				var struck *vfstest.Op
				seen := 0
				err := openAndRead(backendOf(vfstest.NewFaulty(mem, func(op vfstest.Op) error {
					if op.Kind != kind {
						return nil
					}
					if seen++; seen != n {
						return nil
					}
					struck = &op
					return syscall.EIO
				}), d.segmentBytes), d.last)
				if struck == nil {
					check(t, err)
					break
				}
				what := fmt.Sprintf("%s: %v fails", name, struck)
				// What is not needed need not be read: a spare file, or the segments before the mark.
				changes := kind == vfstest.Write || kind == vfstest.Sync
				if err == nil && changes || err != nil && !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
					t.Errorf("%s: %v", what, err)
				}
				if err := openAndRead(backendOf(mem.Clone(), d.segmentBytes), d.last); err != nil {
					t.Errorf("%s, and then: %v", what, err)
				}
			}
		}
	}
}

// openAndRead does all that reads a log: it lists its marks, inspects it, opens it at the newest
// mark, and reads it to its end.
func openAndRead(b *Segmented, last uint64) (err error) {
	marks, err := b.Marks(hookedDir)
	if err != nil {
		return err
	}
	sum, err := Inspect(b.opts.FS, hookedDir, func(*Record) error { return nil }, nil)
	if err == nil && sum.Damage != nil {
		err = sum.Damage
	}
	if err != nil {
		return err
	}
	mark := marks[len(marks)-1]
	l, state, err := b.Open(hookedDir, mark)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if state.Last != last {
		return fmt.Errorf("the log ends at %d, want %d", state.Last, last)
	}
	entries, err := l.Entries(mark.Index+1, last+1, 1<<30)
	if err == nil && uint64(len(entries)) != last-mark.Index {
		err = fmt.Errorf("%d entries behind %d of a log up to %d", len(entries), mark.Index, last)
	}
	return err
}

// A read that fails for a reason that the system does not give is damage: the bytes are not there,
// and will not be.
func TestBytesThatCannotBeRead(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 5)
	check(t, l.Close())
	odd := errors.New("the drive says nothing")
	h.at(odd, vfstest.Read, segmentSuffix)
	if _, err := backendOn(h).Marks(hookedDir); !errors.Is(err, ErrCorrupt) || !errors.Is(err, odd) {
		t.Errorf("%v, want ErrCorrupt and the cause", err)
	}
	h.at(syscall.EIO, vfstest.Read, segmentSuffix)
	if _, err := backendOn(h).Marks(hookedDir); errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want EIO, which may pass", err)
	}
}

// A segment whose beginning is damaged is told with what is left: the snapshot of the mark, and
// what later segments say was there.
func TestDamagedSegmentTellsWhatIsIntact(t *testing.T) {
	h := newHooked(t)
	l := founded(t, h)
	l.put(t, 9)
	check(t, l.Close())
	segs := names(t, h, segmentSuffix)
	f, err := h.OpenReadWrite(filepath.Join(hookedDir, segs[0]))
	check(t, err)
	_, err = f.WriteAt([]byte("damage"), 0)
	check(t, errors.Join(err, f.Close()))
	_, _, err = backendOn(h).Open(hookedDir, Mark{Index: 1, Term: 1})
	var damage *CorruptError
	if !errors.As(err, &damage) || damage.Intact != 1 || damage.Known < 3 || damage.Known > 6 {
		t.Errorf("%v: intact %d, known %d; want what the second segment begins behind", err, damage.Intact, damage.Known)
	}
}
