package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
)

// everywhere runs a test of what package vfs promises on the machine's own file
// system and on all of ours.
func everywhere(t *testing.T, test func(t *testing.T, fsys vfs.FS, dir string)) {
	nothing := func(Op) error { return nil }
	for name, fsys := range map[string]vfs.FS{
		"os":     vfs.OS,
		"mem":    NewMem(),
		"clone":  NewMem().Clone(),
		"faulty": NewFaulty(NewMem(), nothing),
		"trace":  NewTrace(NewMem(), "/", func(string) {}),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, fsys.MkdirAll(dir))
			test(t, fsys, dir)
		})
	}
}

func TestCreateIsExclusive(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys vfs.FS, dir string) {
		path := filepath.Join(dir, "f")
		check(t, must[vfs.File](t)(fsys.Create(path)).Close())
		if _, err := fsys.Create(path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second Create returned %v, want fs.ErrExist", err)
		}
		for name, open := range map[string]func(string) (vfs.File, error){
			"Open": fsys.Open, "OpenReadWrite": fsys.OpenReadWrite,
			"Create": func(p string) (vfs.File, error) { return fsys.Create(p + "/f") },
		} {
			f, err := open(path + ".missing")
			if !errors.Is(err, fs.ErrNotExist) || f != nil {
				t.Errorf("%s of a missing file returned %v, %v; want nil, fs.ErrNotExist", name, f, err)
			}
		}
		if _, err := fsys.Create(filepath.Join(path, "g")); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("Create in a file returned %v", err)
		}
	})
}

func TestFile(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys vfs.FS, dir string) {
		path := filepath.Join(dir, "f")
		f := must[vfs.File](t)(fsys.Create(path))
		must[int](t)(f.Write([]byte("abcdef")))
		must[int](t)(f.WriteAt([]byte("XY"), 2))
		check(t, f.Sync())
		check(t, f.Truncate(8))
		check(t, f.Sync())
		if n := must[int64](t)(f.Size()); n != 8 {
			t.Errorf("size %d after Truncate(8)", n)
		}
		// Truncate does not move the position.
		must[int](t)(f.Write([]byte("gh")))
		check(t, f.Close())

		f = must[vfs.File](t)(fsys.OpenReadWrite(path))
		must[int](t)(f.WriteAt([]byte("!"), 7))
		if got := must[[]byte](t)(io.ReadAll(f)); string(got) != "abXYefg!" {
			t.Errorf("content %q", got)
		}
		if n, err := f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read at the end returned %d, %v", n, err)
		}
		if n, err := f.Read(nil); n != 0 || err != nil {
			t.Errorf("Read of nothing returned %d, %v", n, err)
		}
		if _, err := f.WriteAt([]byte("x"), -1); err == nil {
			t.Error("a negative offset can be written")
		}
		if err := f.Truncate(-1); err == nil {
			t.Error("a negative size is possible")
		}
		check(t, f.Close())

		f = must[vfs.File](t)(fsys.Open(path))
		part := make([]byte, 3)
		must[int](t)(f.ReadAt(part, 1))
		if string(part) != "bXY" {
			t.Errorf("ReadAt(1) read %q", part)
		}
		if n, err := f.ReadAt(part, 6); n != 2 || err != io.EOF {
			t.Errorf("ReadAt over the end returned %d, %v", n, err)
		}
		if _, err := f.ReadAt(part, 8); err != io.EOF {
			t.Errorf("ReadAt at the end returned %v, want io.EOF", err)
		}
		if _, err := f.Write(part); err == nil {
			t.Error("a file from Open can be written")
		}
		if _, err := f.WriteAt(part, 0); err == nil {
			t.Error("a file from Open can be written at an offset")
		}
		if err := f.Truncate(0); err == nil {
			t.Error("a file from Open can be truncated")
		}
		check(t, f.Close())
		_, readErr := f.Read(part)
		_, readAtErr := f.ReadAt(part, 0)
		_, writeErr := f.Write(part)
		_, sizeErr := f.Size()
		if err := f.Sync(); err == nil {
			t.Error("Sync of a closed file returned nil")
		}
		for i, err := range []error{f.Truncate(0), f.Close(), readErr, readAtErr, writeErr, sizeErr} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("use %d of a closed file returned %v", i, err)
			}
		}
	})
}

func TestNames(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys vfs.FS, root string) {
		dir := filepath.Join(root, "a", "b")
		check(t, fsys.MkdirAll(dir))
		check(t, fsys.MkdirAll(dir))
		if got, err := fsys.ReadDir(dir); err != nil || got == nil || len(got) != 0 {
			t.Errorf("an empty directory has the names %v, %v", got, err)
		}
		for _, name := range []string{"z", "m", "a"} {
			f := must[vfs.File](t)(fsys.Create(filepath.Join(dir, name)))
			must[int](t)(f.Write([]byte(name)))
			check(t, f.Close())
		}
		check(t, fsys.SyncDir(dir))
		check(t, fsys.Rename(filepath.Join(dir, "z"), filepath.Join(dir, "m")))
		check(t, fsys.Rename(filepath.Join(dir, "m"), filepath.Join(dir, "m")))
		check(t, fsys.SyncDir(dir))
		if got, want := must[[]string](t)(fsys.ReadDir(dir)), []string{"a", "m"}; !reflect.DeepEqual(got, want) {
			t.Errorf("names %q, want %q", got, want)
		}
		f := must[vfs.File](t)(fsys.Open(filepath.Join(dir, "m")))
		if got := must[[]byte](t)(io.ReadAll(f)); string(got) != "z" {
			t.Errorf("Rename did not replace: m holds %q", got)
		}
		check(t, f.Close())
		if got := must[vfs.Info](t)(fsys.Stat(filepath.Join(dir, "m"))); got != (vfs.Info{Size: 1}) {
			t.Errorf("Stat of a file: %+v", got)
		}
		if got := must[vfs.Info](t)(fsys.Stat(dir)); !got.Dir {
			t.Errorf("Stat of a directory: %+v", got)
		}
		if err := fsys.Rename(filepath.Join(dir, "no"), filepath.Join(dir, "m")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Rename of a missing file returned %v", err)
		}
		if err := fsys.Rename(filepath.Join(dir, "m"), filepath.Dir(dir)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Rename onto a directory returned %v", err)
		}
		if err := fsys.Rename(dir, filepath.Join(dir, "m")); err == nil {
			t.Error("a directory replaced a file")
		}
		if err := fsys.MkdirAll(filepath.Join(dir, "m", "x")); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("MkdirAll in a file returned %v", err)
		}
		if err := fsys.Remove(dir); !errors.Is(err, syscall.ENOTEMPTY) {
			t.Errorf("Remove of a full directory returned %v", err)
		}
		check(t, fsys.Remove(filepath.Join(dir, "a")))
		if err := fsys.Remove(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("second Remove returned %v, want fs.ErrNotExist", err)
		}
		moved := filepath.Join(root, "a", "c")
		check(t, fsys.Rename(dir, moved))
		check(t, fsys.Remove(filepath.Join(moved, "m")))
		check(t, fsys.Remove(moved))
		check(t, fsys.RemoveAll(filepath.Dir(dir)))
		check(t, fsys.RemoveAll(filepath.Dir(dir)))
		check(t, fsys.RemoveAll(filepath.Join(dir, "deep", "down")))
		if _, err := fsys.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat after RemoveAll returned %v, want fs.ErrNotExist", err)
		}
		if err := fsys.SyncDir(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("SyncDir of a missing directory returned %v, want fs.ErrNotExist", err)
		}
		if _, err := fsys.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("ReadDir of a missing directory returned %v, want fs.ErrNotExist", err)
		}
	})
}

// A handle stays with its file, whatever becomes of the name.
func TestHandlesStay(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		old := must[vfs.File](t)(fsys.Create(b))
		must[int](t)(old.Write([]byte("old")))
		f := must[vfs.File](t)(fsys.Create(a))
		check(t, fsys.Rename(a, b))
		must[int](t)(f.Write([]byte("new")))
		check(t, fsys.Remove(b))
		check(t, must[vfs.File](t)(fsys.Create(b)).Close())
		for want, f := range map[string]vfs.File{"old": old, "new": f} {
			must[int](t)(f.WriteAt([]byte("!"), 3))
			check(t, f.Sync())
			p := make([]byte, 4)
			must[int](t)(f.ReadAt(p, 0))
			if string(p) != want+"!" {
				t.Errorf("the handle of %s reads %q", want, p)
			}
			check(t, f.Close())
		}
		if got := must[vfs.Info](t)(fsys.Stat(b)); got.Size != 0 {
			t.Errorf("a write through an old handle reached a new file: %+v", got)
		}
	})
}

func TestLock(t *testing.T) {
	everywhere(t, func(t *testing.T, fsys vfs.FS, dir string) {
		path := filepath.Join(dir, "lock")
		lock := must[io.Closer](t)(fsys.Lock(path))
		if _, err := fsys.Lock(path); !errors.Is(err, vfs.ErrLocked) {
			t.Fatalf("second Lock returned %v, want ErrLocked", err)
		}
		check(t, must[vfs.File](t)(fsys.Open(path)).Close())
		if _, err := fsys.Lock(path); !errors.Is(err, vfs.ErrLocked) {
			t.Fatalf("Lock after opening the file returned %v, want ErrLocked", err)
		}
		check(t, lock.Close())
		check(t, must[io.Closer](t)(fsys.Lock(path)).Close())
		check(t, lockAgain(fsys, path))
		if _, err := fsys.Stat(path); err != nil {
			t.Errorf("the file of the lock is gone: %v", err)
		}
		if _, err := fsys.Lock(filepath.Join(dir, "none", "lock")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lock in a missing directory returned %v", err)
		}
	})
}

// lockAgain checks that a lock closed twice does not free the next one's.
func lockAgain(fsys vfs.FS, path string) error {
	first, err := fsys.Lock(path)
	if err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
	second, err := fsys.Lock(path)
	if err != nil {
		return err
	}
	first.Close()
	if _, err := fsys.Lock(path); !errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("a lock closed twice freed another: %v", err)
	}
	return second.Close()
}

// Random calls do the same on the machine's file system and in memory.
func TestMemIsLikeTheOS(t *testing.T) {
	for s := range uint64(40) {
		rnd := seed(s)
		m, dir := NewMem(), t.TempDir()
		check(t, m.MkdirAll(dir))
		type pair struct{ os, mem vfs.File }
		var open []pair
		same := func(what string, osErr, memErr error) {
			t.Helper()
			if (osErr == nil) != (memErr == nil) || errors.Is(osErr, fs.ErrNotExist) != errors.Is(memErr, fs.ErrNotExist) ||
				errors.Is(osErr, fs.ErrExist) != errors.Is(memErr, fs.ErrExist) {
				t.Fatalf("seed %d: %s: os %v, mem %v", s, what, osErr, memErr)
			}
		}
		name := func() string {
			return filepath.Join(dir, []string{"", "d", "d/e"}[rnd.IntN(3)], fmt.Sprint(rnd.IntN(4)))
		}
		both := func(what string, f func(vfs.FS) error) { same(what, f(vfs.OS), f(m)) }
		for range 150 {
			p, q := name(), name()
			var h pair
			if len(open) > 0 {
				h = open[rnd.IntN(len(open))]
			}
			switch k := rnd.IntN(12); {
			case k == 0:
				both("mkdir", func(fsys vfs.FS) error { return fsys.MkdirAll(filepath.Dir(p)) })
			case k == 1:
				both("rename "+p+" "+q, func(fsys vfs.FS) error { return fsys.Rename(p, q) })
			case k == 2:
				both("remove "+p, func(fsys vfs.FS) error { return fsys.Remove(p) })
			case k == 3 && rnd.IntN(5) == 0:
				both("remove all", func(fsys vfs.FS) error { return fsys.RemoveAll(filepath.Join(dir, "d/e")) })
			case k < 6:
				a, osErr := vfs.OS.Create(p)
				b, memErr := m.Create(p)
				if same("create "+p, osErr, memErr); osErr == nil {
					open = append(open, pair{a, b})
				}
			case k == 6:
				a, osErr := vfs.OS.OpenReadWrite(p)
				b, memErr := m.OpenReadWrite(p)
				if same("open "+p, osErr, memErr); osErr == nil {
					open = append(open, pair{a, b})
				}
			case h.os == nil:
			case k == 7:
				size := rnd.Int64N(20000)
				same("truncate", h.os.Truncate(size), h.mem.Truncate(size))
			case k == 8:
				data := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(6000))
				_, osErr := h.os.Write(data)
				_, memErr := h.mem.Write(data)
				same("write", osErr, memErr)
			case k == 9:
				data, off := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(9000)), rnd.Int64N(20000)
				_, osErr := h.os.WriteAt(data, off)
				_, memErr := h.mem.WriteAt(data, off)
				same("write at", osErr, memErr)
			default:
				a, b, off := make([]byte, 5000), make([]byte, 5000), rnd.Int64N(20000)
				n, osErr := h.os.ReadAt(a, off)
				l, memErr := h.mem.ReadAt(b, off)
				if same("read at", osErr, memErr); n != l || !bytes.Equal(a[:n], b[:l]) {
					t.Fatalf("seed %d: ReadAt read %d and %d bytes, or others", s, n, l)
				}
				if osErr != memErr {
					t.Fatalf("seed %d: ReadAt returned %v and %v", s, osErr, memErr)
				}
			}
		}
		for _, h := range open {
			check(t, h.os.Close())
			check(t, h.mem.Close())
		}
		want := map[string][]byte{}
		check(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				want[strings.TrimPrefix(p, "/")], err = os.ReadFile(p)
			}
			return err
		}))
		if got := m.Image(); len(got) != len(want) {
			t.Fatalf("seed %d: %d files, want %d", s, len(got), len(want))
		}
		for p, data := range want {
			if !bytes.Equal(m.ReadFile(p), data) || m.ReadFile(p) == nil {
				t.Fatalf("seed %d: %s differs", s, p)
			}
		}
	}
}

func TestMemFromManyGoroutines(t *testing.T) {
	m := NewMem()
	f := must[vfs.File](t)(m.Create("f"))
	var all sync.WaitGroup
	for i := range int64(4) {
		all.Go(func() {
			for j := range int64(50) {
				if _, err := f.WriteAt(sectors("x"), (4*j+i)*SectorSize); err != nil {
					t.Error(err)
				}
				m.Clone().Crash(seed(uint64(j)))
			}
		})
	}
	all.Wait()
	if got := m.ReadFile("f"); letters(got) != strings.Repeat("x", 200) {
		t.Errorf("content %s", letters(got))
	}
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(3*BlockSize + 100)
	f := must[vfs.File](t)(m.Create("f"))
	// Truncate reserves nothing.
	check(t, f.Truncate(10*BlockSize))
	if m.Used() != 0 {
		t.Errorf("zeros take %d bytes", m.Used())
	}
	must[int](t)(f.WriteAt(make([]byte, 10), BlockSize-5))
	if m.Used() != 2*BlockSize {
		t.Errorf("two blocks take %d bytes", m.Used())
	}
	n, err := f.WriteAt(bytes.Repeat([]byte("x"), 3*BlockSize), BlockSize+1)
	if n != 2*BlockSize-1 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write of more than fits returned %d, %v; want %d, ENOSPC", n, err, 2*BlockSize-1)
	}
	if p := make([]byte, 2*BlockSize-1); must[int](t)(f.ReadAt(p, BlockSize+1)) != n || len(bytes.Trim(p, "x")) > 0 {
		t.Error("what fitted was not written")
	}
	// The position moves by what was written.
	g := must[vfs.File](t)(m.Create("g"))
	if n, err := g.Write([]byte("x")); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write to a full disk returned %d, %v", n, err)
	}
	must[int](t)(f.WriteAt(bytes.Repeat([]byte("y"), 3*BlockSize), 0))
	check(t, f.Sync())
	check(t, m.SyncDir("/"))
	if c := m.Crash(seed(0)); c.Used() != m.Used() || m.Clone().Used() != m.Used() {
		t.Errorf("a copy takes %d bytes, the Mem %d", c.Used(), m.Used())
	}

	check(t, f.Truncate(BlockSize))
	must[int](t)(g.Write(make([]byte, 2*BlockSize)))
	check(t, m.Remove("g"))
	if m.Used() != 3*BlockSize {
		t.Errorf("a removed file that is open gave its space back: %d", m.Used())
	}
	check(t, g.Close())
	if m.Used() != BlockSize {
		t.Errorf("%d bytes taken after Remove and Close", m.Used())
	}
	check(t, f.Close())
	check(t, must[vfs.File](t)(m.Create("h")).Close())
	check(t, m.Rename("h", "f"))
	if m.Used() != 0 {
		t.Errorf("%d bytes taken after the last file was replaced", m.Used())
	}
	m.SetCapacity(0)
	f = must[vfs.File](t)(m.OpenReadWrite("f"))
	must[int](t)(f.Write(make([]byte, 100*BlockSize)))
}

// A crash may leave a renamed file under both names; it takes its space once.
func TestTwoNamesTakeSpaceOnce(t *testing.T) {
	m := NewMem()
	m.WriteFile("a", sectors("X"))
	check(t, m.Rename("a", "b"))
	for c := range m.Crashes() {
		if tree(c) != "a=X b=X" {
			continue
		}
		check(t, c.Remove("a"))
		if c.Used() != BlockSize {
			t.Errorf("%d bytes used with one name left", c.Used())
		}
		check(t, c.Remove("b"))
		if c.Used() != 0 {
			t.Errorf("%d bytes used without a name", c.Used())
		}
		return
	}
	t.Error("no crash left both names")
}

// The caller may use its buffer again after a write.
func TestWriteCopies(t *testing.T) {
	m, f := having(t, "f", "a")
	p := sectors("X")
	must[int](t)(f.WriteAt(p, 0))
	copy(p, sectors("Z"))
	outcomes(t, m, "f=a", "f=X")
}

// Used is what the files with a name hold, whatever was done and became of it.
func TestUsedIsWhatFilesHold(t *testing.T) {
	for s := range uint64(30) {
		m := busy(t, s)
		for name, m := range map[string]*Mem{"mem": m, "clone": m.Clone(), "crash": m.Crash(seed(s))} {
			if want := heldBy(m); m.Used() != want {
				t.Errorf("busy %d, %s: Used is %d, the files hold %d", s, name, m.Used(), want)
			}
		}
	}
}

func heldBy(m *Mem) int64 {
	held, seen := int64(0), map[*node]bool{}
	var add func(n *node)
	add = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, b := range n.cache.blocks {
			if b != nil {
				held += BlockSize
			}
		}
		for _, child := range n.names {
			add(child)
		}
	}
	add(m.root)
	return held
}
