package vfstest

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
)

// story does a bit of everything, as a log does. It returns the first error.
func story(fsys vfs.FS) error {
	if err := fsys.MkdirAll("/data/wal"); err != nil {
		return err
	}
	if err := fsys.SyncDir("/data"); err != nil {
		return err
	}
	lock, err := fsys.Lock("/data/wal/LOCK")
	if err != nil {
		return err
	}
	defer lock.Close()
	f, err := fsys.Create("/data/wal/1.tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(sectors("ab")); err != nil {
		return err
	}
	if _, err := f.Write(sectors("c")); err != nil {
		return err
	}
	if _, err := f.WriteAt(sectors("X"), SectorSize); err != nil {
		return err
	}
	if err := f.Truncate(8 * SectorSize); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := fsys.Rename("/data/wal/1.tmp", "/data/wal/1.seg"); err != nil {
		return err
	}
	return fsys.SyncDir("/data/wal")
}

func TestTrace(t *testing.T) {
	var lines []string
	fsys := NewTrace(NewMem(), "/data/wal/", func(line string) { lines = append(lines, line) })
	check(t, story(fsys))
	f := must[vfs.File](t)(fsys.OpenReadWrite("/data/wal/1.seg"))
	must[[]byte](t)(io.ReadAll(f))
	must[int64](t)(f.Size())
	must[[]string](t)(fsys.ReadDir("/data/wal"))
	must[vfs.Info](t)(fsys.Stat("/data"))
	must[int](t)(f.Write([]byte("end")))
	check(t, f.Close())
	fsys.Open("/data/wal/2.seg")
	fsys.Rename("/data/wal/2.seg", "/data/wal/1.seg")
	check(t, must[vfs.File](t)(fsys.Open("/data/wal/1.seg")).Close())
	check(t, fsys.Remove("/data/wal/1.seg"))
	check(t, fsys.RemoveAll("/data/wal"))
	want := `mkdir .
sync-dir /data
lock LOCK
create 1.tmp
write 1.tmp off=0 len=1024
write 1.tmp off=1024 len=512
write 1.tmp off=512 len=512
truncate 1.tmp size=4096
sync 1.tmp
rename 1.tmp -> 1.seg
sync-dir .
close 1.tmp
unlock LOCK
open-rw 1.seg
write 1.seg off=4096 len=3
close 1.seg
open 2.seg: no such file or directory
rename 2.seg -> 1.seg: no such file or directory
open 1.seg
close 1.seg
remove 1.seg
remove-all .`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("the trace is\n%s\nwant\n%s", got, want)
	}
}

// Each operation can be made to fail, reports the error and does nothing.
func TestFaultyFailsEach(t *testing.T) {
	total := 0
	check(t, story(NewFaulty(NewMem(), func(Op) error { total++; return nil })))
	if total != 13 {
		t.Fatalf("%d operations", total)
	}
	// The last two are Close and Unlock.
	for n := range total - 2 {
		m, at := NewMem(), 0
		var failed Op
		var before string
		err := story(NewFaulty(m, func(op Op) error {
			if at++; at == n+1 {
				failed, before = op, tree(m)
				return syscall.EIO
			}
			return nil
		}))
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%v was to fail, story returned %v", failed, err)
		}
		if path := (*fs.PathError)(nil); !errors.As(err, &path) || path.Path != failed.Path {
			t.Errorf("%v failed with %v, which does not name the path", failed, err)
		}
		if after := tree(m); after != before {
			t.Errorf("%v failed and did something: from %q to %q", failed, before, after)
		}
	}
}

func TestFaultyCloses(t *testing.T) {
	m := NewMem()
	fsys := NewFaulty(m, func(op Op) error {
		if op.Kind == Close || op.Kind == Unlock {
			return syscall.EIO
		}
		return nil
	})
	f := must[vfs.File](t)(fsys.Create("f"))
	if err := f.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Close returned %v", err)
	}
	if _, err := f.Size(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a file whose Close failed is open: %v", err)
	}
	lock := must[io.Closer](t)(fsys.Lock("lock"))
	if err := lock.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Close of the lock returned %v", err)
	}
	check(t, must[io.Closer](t)(m.Lock("lock")).Close())
}

func TestFailNth(t *testing.T) {
	fsys := NewFaulty(NewMem(), FailNth(2, syscall.EIO, Write, Sync))
	f := must[vfs.File](t)(fsys.Create("f"))
	must[int](t)(f.Write([]byte("a")))
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the second of write and sync returned %v", err)
	}
	check(t, f.Sync())
	must[int](t)(f.Write([]byte("a")))
}

func TestShortWrite(t *testing.T) {
	m := NewMem()
	fsys := NewFaulty(m, FailNth(2, &ShortWrite{N: 2, Err: syscall.EIO}, Write))
	f := must[vfs.File](t)(fsys.Create("f"))
	must[int](t)(f.Write([]byte("abc")))
	if n, err := f.Write([]byte("defg")); n != 2 || !errors.Is(err, syscall.EIO) {
		t.Errorf("a short write returned %d, %v", n, err)
	}
	must[int](t)(f.Write([]byte("h")))
	if got := m.ReadFile("f"); string(got) != "abcdeh" {
		t.Errorf("the file holds %q", got)
	}
}

// The n-th crash point leaves n changes done, and nothing works after it.
func TestCrashAfter(t *testing.T) {
	whole := NewFaulty(NewMem(), func(Op) error { return nil })
	check(t, story(whole))
	if whole.Changes() != 11 {
		t.Fatalf("%d changes", whole.Changes())
	}
	for n := range whole.Changes() {
		m := NewMem()
		fsys := NewFaulty(m, CrashAfter(n))
		if err := story(fsys); !errors.Is(err, ErrCrashed) {
			t.Fatalf("crash after %d: story returned %v", n, err)
		}
		if fsys.Changes() != n {
			t.Errorf("crash after %d: %d changes", n, fsys.Changes())
		}
		_, readErr := fsys.ReadDir("/")
		_, openErr := fsys.Open("/data/wal/1.seg")
		for _, err := range []error{readErr, openErr, fsys.MkdirAll("/x")} {
			if !errors.Is(err, ErrCrashed) {
				t.Errorf("crash after %d: an operation returned %v", n, err)
			}
		}
		for s := range uint64(20) {
			m.Crash(seed(s))
		}
	}
	fsys := NewFaulty(NewMem(), CrashAfter(whole.Changes()))
	if err := story(fsys); err != nil {
		t.Errorf("a crash after the end stopped the story: %v", err)
	}
}

// A sync that fails as on Linux.
func TestFailedSyncDropsPages(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("ab"))
	fail := FailNth(1, syscall.EIO, Sync)
	fsys := NewFaulty(m, func(op Op) error {
		err := fail(op)
		if err != nil {
			m.DropUnsynced(op.Path, nil)
		}
		return err
	})
	f := must[vfs.File](t)(fsys.OpenReadWrite("f"))
	must[int](t)(f.Write(sectors("X")))
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync returned %v", err)
	}
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=ab")
	if got := tree(m); got != "f=Xb" {
		t.Errorf("programs see %q", got)
	}
}
