package vfs

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// directFile writes past the page cache what can be written so: whole blocks, from
// memory that Aligned gave. Such a write is on the disk when it returns, and a Sync
// behind it has nothing to do: one system call instead of two, and no copy. The
// rest goes through the page cache, as all reading does.
//
// Both ways see one file. Before a direct write the kernel writes back what the
// page cache holds of that range, and behind it, before the call returns, it
// drops those pages; a page that somebody reads in meanwhile is locked until it
// is there, and dropped then. So whoever reads after a WriteAt sees what it wrote,
// by this handle or another one. A page that is read beside a WriteAt may be old
// or new, sector by sector, as it may be without any of this.
type directFile struct {
	cached cachedFile
	// direct is the same file, opened for writing past the page cache; each write
	// is followed by what fdatasync does.
	direct directWriter
	// refused: the file system took the flag and not the write. It is not asked
	// again.
	refused atomic.Bool
	// dirty: something went through the page cache, or changed the size, since the
	// last Sync. It is set when that is done: a Sync beside it owes it nothing yet.
	dirty  atomic.Bool
	closed atomic.Bool
}

// cachedFile is what is needed of an osFile, for tests to do something meanwhile.
type cachedFile interface {
	File
	Name() string
}

// directWriter is what is needed of an *os.File, for tests to refuse.
type directWriter interface {
	WriteAt(p []byte, off int64) (int, error)
	Close() error
}

// openReadWrite opens a file for direct writing where that is known to keep Sync's
// promise, and like any other elsewhere.
func openReadWrite(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, fileMode)
	if err != nil {
		return nil, err
	}
	cached := osFile{f}
	if !syncsDirectWrites(f) {
		return cached, nil
	}
	direct, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC, fileMode)
	if err != nil {
		return cached, nil // an optimisation that the system refuses
	}
	return &directFile{cached: cached, direct: direct}, nil
}

// syncsDirectWrites says whether the file is on ext4 or XFS. Others take the flags
// too, and not all of them mean it: over FUSE, to sync or not is up to a program
// that need not look at them, while it is always told of an fsync.
func syncsDirectWrites(f *os.File) bool {
	var s unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &s)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && (s.Type == unix.EXT4_SUPER_MAGIC || s.Type == unix.XFS_SUPER_MAGIC)
	}
}

func (f *directFile) WriteAt(p []byte, off int64) (n int, err error) {
	if len(p)%blockBytes == 0 && off%blockBytes == 0 && isAligned(p) && !f.refused.Load() {
		n, err = f.direct.WriteAt(p, off)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return n, err
		}
		f.refused.Store(true)
	}
	m, err := f.cached.WriteAt(p[n:], off+int64(n))
	f.dirty.Store(true)
	return n + m, err
}

func (f *directFile) Write(p []byte) (int, error) {
	n, err := f.cached.Write(p)
	f.dirty.Store(true)
	return n, err
}

func (f *directFile) Truncate(size int64) error {
	err := f.cached.Truncate(size)
	f.dirty.Store(true)
	return err
}

func (f *directFile) Sync() error {
	if f.closed.Load() {
		return &os.PathError{Op: "sync", Path: f.cached.Name(), Err: os.ErrClosed}
	}
	if !f.dirty.Swap(false) {
		return nil
	}
	err := f.cached.Sync()
	if err != nil {
		f.dirty.Store(true)
	}
	return err
}

func (f *directFile) Read(p []byte) (int, error)              { return f.cached.Read(p) }
func (f *directFile) ReadAt(p []byte, off int64) (int, error) { return f.cached.ReadAt(p, off) }
func (f *directFile) Size() (int64, error)                    { return f.cached.Size() }

func (f *directFile) Close() error {
	f.closed.Store(true)
	return errors.Join(f.direct.Close(), f.cached.Close())
}
