package vfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// refusing is a directWriter that writes some blocks, and then fails.
type refusing struct {
	file   *os.File
	blocks int
	err    error
	calls  int
}

func (r *refusing) WriteAt(p []byte, off int64) (int, error) {
	r.calls++
	n := min(r.blocks*blockBytes, len(p))
	if n, err := r.file.WriteAt(p[:n], off); err != nil {
		return n, err
	}
	return n, r.err
}

func (r *refusing) Close() error { return r.err }

func filled(n int, with byte) []byte {
	p := Aligned(n)
	for i := range p {
		p[i] = with
	}
	return p
}

// openDirect opens a new file of 64 zero blocks, or skips the test where files are
// not written directly.
func openDirect(t *testing.T) (*directFile, string) {
	t.Helper()
	// Beside the sources: temporary files may be in memory.
	dir := must[string](t)(os.MkdirTemp(".", "direct-*.tmp"))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "f")
	check(t, os.WriteFile(path, make([]byte, 64*blockBytes), fileMode))
	f := must[File](t)(OS.OpenReadWrite(path))
	d, ok := f.(*directFile)
	if !ok {
		check(t, f.Close())
		t.Skip("the file system here is not ext4 or XFS, or refuses direct writes")
	}
	t.Cleanup(func() {
		if !d.closed.Load() {
			check(t, d.Close())
		}
	})
	return d, path
}

// wantContent looks at the file by this handle and by another one.
func wantContent(t *testing.T, f File, path string, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	must[int](t)(f.ReadAt(got, 0))
	if !bytes.Equal(got, want) {
		t.Errorf("the handle that wrote reads something else, from byte %d on", differs(got, want))
	}
	if got := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(got, want) {
		t.Errorf("another handle reads %d bytes, and something else from byte %d of %d on", len(got), differs(got, want), len(want))
	}
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// cache reads the file, so that all of it is in the page cache.
func cache(t *testing.T, f File, path string) {
	t.Helper()
	must[int](t)(f.ReadAt(make([]byte, 64*blockBytes), 0))
	must[[]byte](t)(os.ReadFile(path))
}

// What is aligned needs no Sync, and is seen at once, though the page cache held
// what was there before.
func TestDirectAligned(t *testing.T) {
	f, path := openDirect(t)
	want := make([]byte, 64*blockBytes)
	for i, n := range []int{1, 2, 7, 1} {
		cache(t, f, path)
		p := filled(n*blockBytes, byte(i+1))
		off := int64(i*9) * blockBytes
		if n := must[int](t)(f.WriteAt(p, off)); n != len(p) {
			t.Fatalf("wrote %d of %d bytes", n, len(p))
		}
		copy(want[off:], p)
		if f.dirty.Load() || f.refused.Load() {
			t.Errorf("%d blocks were not written directly", n)
		}
		wantContent(t, f, path, want)
	}
	check(t, f.Sync())
	// The file grows as by any other write.
	must[int](t)(f.WriteAt(filled(2*blockBytes, 9), 64*blockBytes))
	want = append(want, filled(2*blockBytes, 9)...)
	wantContent(t, f, path, want)
	if n := must[int64](t)(f.Size()); n != int64(len(want)) {
		t.Errorf("size %d after writing at the end, want %d", n, len(want))
	}
}

func TestDirectUnaligned(t *testing.T) {
	for name, c := range map[string]struct {
		p   []byte
		off int64
	}{
		"length": {Aligned(2 * blockBytes)[:blockBytes+512], 0},
		"offset": {Aligned(blockBytes), 512},
		"memory": {Aligned(2 * blockBytes)[8:][:blockBytes], blockBytes},
		"a byte": {Aligned(1), 5},
	} {
		t.Run(name, func(t *testing.T) {
			f, path := openDirect(t)
			cache(t, f, path)
			for i := range c.p {
				c.p[i] = 7
			}
			must[int](t)(f.WriteAt(c.p, c.off))
			if !f.dirty.Load() || f.refused.Load() {
				t.Error("it did not go through the page cache")
			}
			want := make([]byte, 64*blockBytes)
			copy(want[c.off:], c.p)
			wantContent(t, f, path, want)
			check(t, f.Sync())
			if f.dirty.Load() {
				t.Error("Sync left something to sync")
			}
		})
	}
	f, path := openDirect(t)
	must[int](t)(f.Write([]byte("abc")))
	if !f.dirty.Load() {
		t.Error("Write leaves nothing to sync")
	}
	check(t, f.Sync())
	check(t, f.Truncate(2*blockBytes))
	if !f.dirty.Load() {
		t.Error("Truncate leaves nothing to sync")
	}
	check(t, f.Sync())
	want := make([]byte, 2*blockBytes)
	copy(want, "abc")
	wantContent(t, f, path, want)
	must[int64](t)(f.cached.(osFile).Seek(0, io.SeekStart))
	if got := must[[]byte](t)(io.ReadAll(struct{ io.Reader }{f})); !bytes.Equal(got, want) {
		t.Error("Read reads something else")
	}
}

// A Sync makes durable what was changed before it began. So one beside a write through
// the page cache, or a Truncate, leaves the next Sync something to do.
func TestSyncBesideAChange(t *testing.T) {
	for name, change := range map[string]func(f *directFile) error{
		"WriteAt":  func(f *directFile) error { _, err := f.WriteAt([]byte("abc"), 5); return err },
		"Write":    func(f *directFile) error { _, err := f.Write([]byte("abc")); return err },
		"Truncate": func(f *directFile) error { return f.Truncate(blockBytes) },
	} {
		t.Run(name, func(t *testing.T) {
			file := must[*os.File](t)(os.Create(filepath.Join(t.TempDir(), "f")))
			cached := &besides{osFile: osFile{file}}
			f := &directFile{cached: cached, direct: file}
			t.Cleanup(func() { check(t, file.Close()) })
			cached.beside = func() { check(t, f.Sync()) }
			check(t, change(f))
			cached.syncs = 0
			check(t, f.Sync())
			if cached.syncs != 1 {
				t.Errorf("the Sync behind it syncs %d times; want once", cached.syncs)
			}
			check(t, f.Sync())
			if cached.syncs != 1 {
				t.Error("a Sync with nothing to do syncs")
			}
		})
	}
}

// besides calls beside when a change begins, and counts syncs.
type besides struct {
	osFile
	beside func()
	syncs  int
}

func (b *besides) WriteAt(p []byte, off int64) (int, error) {
	b.beside()
	return b.osFile.WriteAt(p, off)
}

func (b *besides) Write(p []byte) (int, error) {
	b.beside()
	return b.osFile.Write(p)
}

func (b *besides) Truncate(size int64) error {
	b.beside()
	return b.osFile.Truncate(size)
}

func (b *besides) Sync() error {
	b.syncs++
	return b.osFile.Sync()
}

// A direct write is durable when it returns: the system syncs each one.
func TestDirectWritesAreSynced(t *testing.T) {
	f, _ := openDirect(t)
	flags := must[int](t)(unix.FcntlInt(f.direct.(*os.File).Fd(), unix.F_GETFL, 0))
	if want := unix.O_DIRECT | unix.O_DSYNC; flags&want != want {
		t.Errorf("it writes with the flags %#x; want %#x among them", flags, want)
	}
}

// Both ways mixed, over each other, are one file; with seed 1.
func TestDirectMixed(t *testing.T) {
	f, path := openDirect(t)
	rnd := rand.New(rand.NewPCG(1, 0))
	want := make([]byte, 64*blockBytes)
	for i := range 300 {
		n, off := 1+rnd.IntN(3*blockBytes), rnd.IntN(60*blockBytes)
		if rnd.IntN(2) == 0 {
			n, off = (n/blockBytes+1)*blockBytes, off/blockBytes*blockBytes
		}
		p := filled(n, byte(i))
		must[int](t)(f.WriteAt(p, int64(off)))
		copy(want[off:], p)
		if rnd.IntN(4) == 0 {
			check(t, f.Sync())
		}
		if i%10 == 0 {
			wantContent(t, f, path, want)
		}
	}
	wantContent(t, f, path, want)
}

// Readers beside a writer leave nothing old in the page cache.
func TestDirectBesideReaders(t *testing.T) {
	f, path := openDirect(t)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			other, err := OS.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer other.Close()
			p := make([]byte, 64*blockBytes)
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, r := range []File{f, other} {
					if _, err := r.ReadAt(p, 0); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	want := make([]byte, 64*blockBytes)
	for i := range 200 {
		p, off := filled((1+i%4)*blockBytes, byte(i+1)), i%60*blockBytes
		must[int](t)(f.WriteAt(p, int64(off)))
		copy(want[off:], p)
		wantContent(t, f, path, want)
	}
	close(stop)
	readers.Wait()
}

// A file system may take the flag and refuse the write, at once or after a part:
// the rest goes through the page cache, and so does everything later.
func TestDirectRefused(t *testing.T) {
	for _, errno := range []error{unix.EINVAL, unix.EOPNOTSUPP} {
		for blocks := range 3 {
			f, path := openDirect(t)
			check(t, f.direct.Close())
			r := &refusing{file: f.cached.(osFile).File, blocks: blocks, err: &os.PathError{Op: "write", Path: path, Err: errno}}
			f.direct = r
			want := make([]byte, 64*blockBytes)
			for i := range 3 {
				p := filled(3*blockBytes, byte(i+1))
				if n := must[int](t)(f.WriteAt(p, int64(i)*blockBytes)); n != len(p) {
					t.Errorf("wrote %d of %d bytes", n, len(p))
				}
				copy(want[i*blockBytes:], p)
				if !f.dirty.Load() {
					t.Error("nothing is left to sync")
				}
				check(t, f.Sync())
			}
			wantContent(t, f, path, want)
			if r.calls != 1 {
				t.Errorf("the file system was asked %d times", r.calls)
			}
			r.err = nil
		}
	}
}

// Other errors are told, and not tried again some other way.
func TestDirectFails(t *testing.T) {
	for _, errno := range []error{unix.EIO, unix.ENOSPC} {
		f, path := openDirect(t)
		check(t, f.direct.Close())
		f.direct = &refusing{file: f.cached.(osFile).File, blocks: 1, err: &os.PathError{Op: "write", Path: path, Err: errno}}
		if n, err := f.WriteAt(filled(3*blockBytes, 1), 0); n != blockBytes || !errors.Is(err, errno) {
			t.Errorf("WriteAt returned %d, %v; want one block and %v", n, err, errno)
		}
		if f.refused.Load() {
			t.Errorf("%v was taken for a refusal", errno)
		}
		if err := f.Close(); !errors.Is(err, errno) {
			t.Errorf("Close returned %v, want %v", err, errno)
		}
	}
}

func TestDirectSyncFails(t *testing.T) {
	f, _ := openDirect(t)
	must[int](t)(f.WriteAt([]byte("abc"), 1))
	check(t, f.cached.Close()) // so that fdatasync fails
	for range 2 {
		if err := f.Sync(); err == nil {
			t.Error("Sync that cannot sync returned nil")
		}
	}
	f.closed.Store(true)
	check(t, f.direct.Close())

	f, _ = openDirect(t)
	must[int](t)(f.WriteAt(Aligned(blockBytes), 0))
	check(t, f.Close())
	if err := f.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Sync of a closed file returned %v, want os.ErrClosed", err)
	}
	if _, err := f.WriteAt(Aligned(blockBytes), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteAt of a closed file returned %v, want os.ErrClosed", err)
	}
}

// Where direct writes are not known to be synced, or are refused at once, a file
// is like any other. Nothing here is durable, so only the seam is looked at.
func TestNotDirectInMemory(t *testing.T) {
	const memory = "/dev/shm"
	var s unix.Statfs_t
	if err := unix.Statfs(memory, &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		t.Skip("there is no tmpfs at " + memory)
	}
	dir := must[string](t)(os.MkdirTemp(memory, "vfs-*"))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "f")
	check(t, os.WriteFile(path, make([]byte, blockBytes), fileMode))
	f := must[File](t)(OS.OpenReadWrite(path))
	if _, ok := f.(osFile); !ok {
		t.Errorf("a file in memory is opened as %T", f)
	}
	p := filled(2*blockBytes, 3)
	must[int](t)(f.WriteAt(p, 0))
	check(t, f.Sync())
	wantContent(t, f, path, p)
	check(t, f.Close())
}
