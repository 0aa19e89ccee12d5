package raftstore

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// moody is a disk in memory whose operations fail as fail says, while it is set.
type moody struct {
	*vfstest.Faulty
	mem  *vfstest.Mem
	fail func(op vfstest.Op) error
}

func newMoody() *moody {
	m := &moody{mem: vfstest.NewMem()}
	m.Faulty = vfstest.NewFaulty(m.mem, func(op vfstest.Op) error {
		if m.fail == nil {
			return nil
		}
		return m.fail(op)
	})
	return m
}

// at fails operations of a kind on paths that end so.
func (m *moody) at(err error, kind vfstest.Kind, ending string) {
	m.fail = func(op vfstest.Op) error {
		if op.Kind == kind && strings.HasSuffix(op.Path, ending) {
			return err
		}
		return nil
	}
}

func (m *moody) open() (sides, error) {
	return openSides(Options{FS: m, Dir: "/d", Backend: wal.New(wal.Options{FS: m, SegmentBytes: 64 << 10})})
}

// memberOn is a member with a log behind index 1 that ends at 9.
func memberOn(t *testing.T, m *moody) sides {
	t.Helper()
	s, err := m.open()
	noError(t, err)
	noError(t, s.SetIdentity(someIdentity))
	putSnapshot(t, s, headerOf(1, 1, 1))
	noError(t, s.Found(headerOf(1, 1, 1), raftpb.HardState{Term: 1, Commit: 1}))
	appendDurably(t, s, raftpb.HardState{Term: 2, Vote: 2, Commit: 9}, entriesOf(2, 2, 9))
	return s
}

// A disk that cannot say what a directory holds must not pass for an empty one, nor its state for
// damage: the store does not open, and does when the disk can. Nothing is lost meanwhile.
func TestErrorsOfTheSystemWhileTheStoreOpens(t *testing.T) {
	m := newMoody()
	s := memberOn(t, m)
	noError(t, s.SetOrigin(octopiipb.Origin{Member: true}))
	mark(t, s, headerOf(2, 5, 1))
	noError(t, s.Close())
	left, err := m.Create("/d/snap/0000000000000002-0000000000000007.snap.1.tmp")
	noError(t, err)
	noError(t, left.Close())
	noError(t, m.MkdirAll("/d/wal/0000000000000002.tmp"))
	for _, kind := range []vfstest.Kind{vfstest.ReadDir, vfstest.Stat, vfstest.Lock, vfstest.Open, vfstest.OpenReadWrite, vfstest.Mkdir,
		vfstest.Size, vfstest.Read, vfstest.Write, vfstest.Sync, vfstest.SyncDir, vfstest.Remove, vfstest.RemoveAll, vfstest.Close} {
		for n := 1; ; n++ {
			disk := &moody{mem: m.mem.Clone()}
			var struck *vfstest.Op
			seen, opened := 0, false
			disk.Faulty = vfstest.NewFaulty(disk.mem, func(op vfstest.Op) error {
				if op.Kind != kind || opened {
					return nil
				}
				if seen++; seen != n {
					return nil
				}
				struck = &op
				return syscall.EIO
			})
			s, err := disk.open()
			if opened = true; err == nil {
				wantLog(t, s, 5, raftpb.HardState{Term: 2, Vote: 2, Commit: 9}, entriesOf(2, 6, 9))
				if o := s.Origin(); !o.Member {
					t.Errorf("%v fails: its origin is lost", struck)
				}
				_ = s.Close()
			}
			if struck == nil {
				noError(t, err)
				break
			}
			// A file that is only read is closed, whatever that says, and a spare need not be readable.
			if err == nil && kind != vfstest.Close && !strings.HasSuffix(struck.Path, ".spare") {
				t.Errorf("%v fails, and the store opens", struck)
			}
			if err != nil && (!errors.Is(err, syscall.EIO) || errors.Is(err, wal.ErrCorrupt)) || errors.Is(err, wal.ErrLocked) || err != nil && strings.Contains(err.Error(), "rebuild this member") {
				t.Errorf("%v fails: %v", struck, err)
			}
			after, err := (&moody{Faulty: vfstest.NewFaulty(disk.mem, func(vfstest.Op) error { return nil })}).open()
			if err != nil {
				t.Errorf("%v failed, and then: %v", struck, err)
				continue
			}
			wantLog(t, after, 5, raftpb.HardState{Term: 2, Vote: 2, Commit: 9}, entriesOf(2, 6, 9))
			_ = after.Close()
		}
	}
}

// What a system does not let go costs space, and stops nobody: the next start, or the next mark,
// tries again. Any other error is final.
func TestOldFilesThatStay(t *testing.T) {
	for _, why := range []error{syscall.EACCES, syscall.EIO} {
		for name, c := range map[string]struct {
			kind   vfstest.Kind
			ending string
			do     func(t *testing.T, s sides) error
			left   string
		}{
			"the logs cannot be listed": {vfstest.ReadDir, "/wal", install, "wal/0000000000000001"},
			"a log cannot be removed":   {vfstest.RemoveAll, "/wal/0000000000000001", install, "wal/0000000000000001"},
			"the snapshots cannot be listed": {vfstest.ReadDir, "/snap", func(t *testing.T, s sides) error {
				return s.Restored(5)
			}, "snap/0000000000000001-0000000000000001.snap"},
			"a snapshot cannot be removed": {vfstest.Remove, "0000000000000001.snap", func(t *testing.T, s sides) error {
				return s.Restored(5)
			}, "snap/0000000000000001-0000000000000001.snap"},
		} {
			m := newMoody()
			s := memberOn(t, m)
			mark(t, s, headerOf(2, 5, 1))
			putSnapshot(t, s, headerOf(3, 20, 1, 2))
			m.at(why, c.kind, c.ending)
			err := c.do(t, s)
			if (err == nil) != (why == syscall.EACCES) || err != nil && !errors.Is(err, why) {
				t.Errorf("%s for %v: %v", name, why, err)
			}
			m.fail = nil
			if _, err := m.Stat(filepath.Join("/d", c.left)); err != nil {
				t.Errorf("%s: %s is gone", name, c.left)
			}
			noError(t, s.Restored(5)) // as behind the next snapshot
			_ = s.Close()
			again, err := m.open()
			noError(t, err)
			if _, err := m.Stat(filepath.Join("/d", c.left)); err == nil {
				t.Errorf("%s for %v: %s is there after a start", name, why, c.left)
			}
			noError(t, again.Close())
		}
	}
}

func install(t *testing.T, s sides) error {
	return s.Install(headerOf(3, 20, 1, 2), raftpb.HardState{Term: 3, Commit: 20}, nil)
}

// A directory whose log is not noted in its identity is noted at a start that has room for it.
// One that has none starts all the same; a disk that fails does not.
func TestLogThatCannotBeNoted(t *testing.T) {
	mem, _ := beginLog(t, 1<<20)
	mem = mem.CrashKeepingAll()
	data, err := encodeIdentity(someIdentity)
	noError(t, err)
	mem.WriteFile("/d/identity", data)
	for _, c := range []struct {
		why  error
		kind vfstest.Kind
	}{{syscall.ENOSPC, vfstest.Create}, {syscall.EMFILE, vfstest.Create}, {syscall.ENOSPC, vfstest.Write}, {syscall.EIO, vfstest.Write}, {syscall.EIO, vfstest.Rename}} {
		disk := mem.Clone()
		m := &moody{mem: disk}
		m.Faulty = vfstest.NewFaulty(disk, func(op vfstest.Op) error {
			if op.Kind == c.kind && strings.Contains(filepath.Base(op.Path), "identity") {
				return c.why
			}
			return nil
		})
		s, err := m.open()
		if (err == nil) != (c.why != syscall.EIO) || err != nil && !errors.Is(err, c.why) {
			t.Errorf("%s of the identity fails with %v: %v", c.kind, c.why, err)
		}
		if err == nil {
			if id, _ := s.Identity(); id.Cluster != 0 {
				t.Errorf("%s fails with %v, and the identity says that there is a log: %+v", c.kind, c.why, id)
			}
			noError(t, s.Close())
		}
		s = openMem(t, disk)
		if id, _ := s.Identity(); id.Cluster != 0xc {
			t.Errorf("%s failed with %v: the next start noted nothing: %+v", c.kind, c.why, id)
		}
		noError(t, s.Close())
	}
}

// A directory has one identity. Where the disk does not say whether it has one, it is given none.
func TestIdentityIsNotGivenInDoubt(t *testing.T) {
	m := newMoody()
	s, err := m.open()
	noError(t, err)
	m.at(syscall.EIO, vfstest.Stat, "/identity")
	if err := s.SetIdentity(someIdentity); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v, want EIO", err)
	}
	m.fail = nil
	if _, ok := s.Identity(); ok {
		t.Error("it has an identity after an error")
	}
	noError(t, s.SetIdentity(someIdentity))
	noError(t, s.Close())
}

// What is not readable at the moment is no memory file that is damaged, and none that is missing.
func TestMemoriesThatCannotBeRead(t *testing.T) {
	m := newMoody()
	s, err := m.open()
	noError(t, err)
	noError(t, s.SaveMemories(octopiipb.Memories{}, true))
	m.at(syscall.EIO, vfstest.Open, memoriesFile)
	if _, err := s.Memories(); !errors.Is(err, syscall.EIO) || errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("%v, want EIO", err)
	}
	noError(t, s.Close())
}

// markless is a backend whose log has no mark, or is held by somebody, or damaged without saying where.
type markless struct {
	wal.Backend
	err error
}

func (b markless) Marks(string) ([]wal.Mark, error) { return nil, b.err }

// A log that cannot be used says what to do about it: nothing is rebuilt that another process
// only holds.
func TestAdviceOnALog(t *testing.T) {
	m := newMoody()
	noError(t, memberOn(t, m).Close())
	for name, c := range map[string]struct {
		err  error
		is   error
		want string
	}{
		"no mark":               {nil, wal.ErrCorrupt, "rebuild this member from its peers"},
		"damage somewhere":      {wal.ErrCorrupt, wal.ErrCorrupt, "rebuild this member from its peers"},
		"another process":       {wal.ErrLocked, wal.ErrLocked, "stop the process that uses it"},
		"the system is at work": {syscall.EMFILE, syscall.EMFILE, ""},
	} {
		_, err := openSides(Options{FS: m, Dir: "/d", Backend: markless{wal.New(wal.Options{FS: m}), c.err}})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || c.is != wal.ErrCorrupt && (errors.Is(err, wal.ErrCorrupt) || strings.Contains(err.Error(), "rebuild")) {
			t.Errorf("%s: %v; want %v and %q", name, err, c.is, c.want)
		}
	}
}

// The snapshot file of a mark is damage where its directory lacks it. Where the directory cannot
// be listed, or the file not be opened for now, nothing is known.
func TestSnapshotOfAMarkThatIsNotFound(t *testing.T) {
	missing := "/d/snap/0000000000000001-0000000000000001.snap"
	for name, c := range map[string]struct {
		err, list error
		damage    bool
	}{
		"it is gone": {syscall.ENOENT, nil, true},
		"it is gone, and nobody knows what there is": {syscall.ENOENT, syscall.EIO, false},
		"no descriptor": {syscall.EMFILE, nil, false},
	} {
		m := newMoody()
		noError(t, memberOn(t, m).Close())
		if c.err == syscall.ENOENT && c.list == nil {
			noError(t, m.Remove(missing))
		}
		began := false
		m.fail = func(op vfstest.Op) error {
			switch {
			case op.Kind == vfstest.Open && op.Path == missing:
				began = true
				return c.err
			case op.Kind == vfstest.ReadDir && strings.HasSuffix(op.Path, "/snap") && began:
				return c.list
			}
			return nil
		}
		_, err := m.open()
		if err == nil || errors.Is(err, wal.ErrCorrupt) != c.damage || strings.Contains(err.Error(), "rebuild") != c.damage {
			if c.list == nil || errors.Is(err, wal.ErrCorrupt) || !errors.Is(err, c.list) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A header that no reader would take is written nowhere.
func TestSnapshotHeaderIsBounded(t *testing.T) {
	m := newMoody()
	s, err := m.open()
	noError(t, err)
	h := headerOf(1, 1, 1)
	h.Membership.Members = []octopiipb.Member{{ID: 1, Name: strings.Repeat("x", sectionsBytesMax), Kind: octopiipb.Voter}}
	if w, err := s.CreateSnapshot(h); err == nil {
		w.Abort()
		t.Error("a header of more than its bound is written")
	}
	if names, err := m.ReadDir("/d/snap"); err != nil || len(names) > 0 {
		t.Errorf("%q is left, %v", names, err)
	}
	noError(t, s.Close())
}

// A snapshot file is published when all of it is durable, and its name is. What fails before
// that leaves no file under the name.
func TestSnapshotThatCannotBePublished(t *testing.T) {
	for _, kind := range []vfstest.Kind{vfstest.Sync, vfstest.Close, vfstest.Rename, vfstest.SyncDir} {
		m := newMoody()
		s, err := m.open()
		noError(t, err)
		w, err := s.CreateSnapshot(headerOf(1, 1, 1))
		noError(t, err)
		_, err = w.Write([]byte("the state"))
		noError(t, err)
		m.fail = func(op vfstest.Op) error {
			if op.Kind == kind {
				return syscall.EIO
			}
			return nil
		}
		if _, err := w.Commit(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s fails: %v", kind, err)
		}
		m.fail = nil
		w.Abort()
		names, err := m.mem.CrashLosingAll().ReadDir("/d/snap")
		noError(t, err)
		if len(names) > 0 {
			t.Errorf("%s fails, and after a crash there is %q", kind, names)
		}
		noError(t, s.Close())
	}
}

// puncher is a file system that gives the space of files back, or says that it cannot.
type puncher struct {
	vfs.FS
	from, to int64
	calls    int
	fails    func(call int) error
}

func (p *puncher) PunchHole(_ string, offset, length int64) error {
	p.calls++
	if p.fails != nil {
		if err := p.fails(p.calls); err != nil {
			return err
		}
	}
	p.from, p.to = min(p.from, offset), offset+length
	return nil
}

// The space of a file goes where the system can give it back, as far as was handed out and no
// further. A system that cannot leaves the file as it was; one that fails in the middle ends the
// read, as nobody knows what is left.
func TestReleaseThatFails(t *testing.T) {
	data := randomBytes(4 * releaseBytes)
	m := newMoody()
	s, err := m.open()
	noError(t, err)
	w, err := s.CreateSnapshot(headerOf(1, 1, 1))
	noError(t, err)
	_, err = w.Write(data)
	noError(t, err)
	_, err = w.Commit()
	noError(t, err)
	path := s.snapPath(1, 1)
	read := func(fs vfs.FS) (released error, got []byte, err error) {
		t.Helper()
		r, err := openSnapshot(fs, path)
		noError(t, err)
		defer r.Close()
		if r.Path() != path {
			t.Errorf("it is at %q, want %q", r.Path(), path)
		}
		released = r.Release()
		got, err = io.ReadAll(r)
		return released, got, err
	}
	if released, got, err := read(m); !errors.Is(released, errors.ErrUnsupported) || err != nil || !bytes.Equal(got, data) {
		t.Errorf("a system that cannot: %v; read: %d bytes, %v", released, len(got), err)
	}
	never := &puncher{FS: m, fails: func(int) error { return syscall.EOPNOTSUPP }}
	if released, got, err := read(never); !errors.Is(released, syscall.EOPNOTSUPP) || err != nil || !bytes.Equal(got, data) || never.calls != 1 {
		t.Errorf("a file system that cannot: %v; read: %d bytes, %v, after %d calls", released, len(got), err, never.calls)
	}
	fine := &puncher{FS: m}
	if released, got, err := read(fine); released != nil || err != nil || !bytes.Equal(got, data) || fine.from != 0 || fine.to < 2*releaseBytes || fine.to > 5*releaseBytes {
		t.Errorf("%v; read: %d bytes, %v; released from %d to %d", released, len(got), err, fine.from, fine.to)
	}
	later := &puncher{FS: m, fails: func(call int) error {
		if call == 3 {
			return syscall.EIO
		}
		return nil
	}}
	if released, got, err := read(later); released != nil || !errors.Is(err, syscall.EIO) || !bytes.HasPrefix(data, got) || len(got) == len(data) || later.calls != 3 {
		t.Errorf("it fails in the middle: %v; read: %d bytes, %v, after %d calls", released, len(got), err, later.calls)
	}
	noError(t, s.Close())
}

// short is a writer that takes so many bytes.
type short struct{ left int }

func (w *short) Write(p []byte) (int, error) {
	n := min(w.left, len(p))
	if w.left -= n; n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Where what a snapshot is written to ends early, WriteTo says how much went there, and what is
// left can be read.
func TestSnapshotToAWriterThatEnds(t *testing.T) {
	data := randomBytes(600 << 10)
	r, err := openSnapshot(vfs.OS, writeSnapshot(t, t.TempDir(), headerAt(3, 40), data))
	noError(t, err)
	defer r.Close()
	n, err := r.WriteTo(&short{left: 300 << 10})
	if n != 300<<10 || !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	var rest bytes.Buffer
	m, err := r.WriteTo(&rest)
	if m != int64(len(data))-n || err != nil || !bytes.Equal(rest.Bytes(), data[n:]) {
		t.Errorf("the rest: %d bytes, %v", m, err)
	}
}
