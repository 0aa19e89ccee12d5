package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Allocate makes sure that writing the bytes of f between from and size needs no more
// space, and extends the file to that size. What is in the file stays. Where the file
// system cannot reserve space, it only looks whether there is enough of it now. An
// error for which Full is true says that there is not; part of the space may have been
// reserved, or none: tmpfs gives back what is not written yet in the whole range, so
// the range must not begin before what is missing.
func Allocate(f *os.File, from, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, from, size-from)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return lookForSpace(f, size)
		case err != nil:
			return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
		return f.Sync()
	}
}

// Space is how large the volume is that f is on, and how much of it is free for this
// process, in bytes.
func Space(f *os.File) (total, free int64, err error) {
	var s unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &s)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
		}
		return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize), nil
	}
}

func punchHole(path string, from, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, from, size)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		err = &os.PathError{Op: "punch a hole into", Path: path, Err: err}
	}
	return errors.Join(err, f.Close())
}

// SameVolume says whether two paths are on one file system.
func SameVolume(a, b string) (bool, error) {
	var of [2]unix.Stat_t
	for i, path := range []string{a, b} {
		if err := unix.Stat(path, &of[i]); err != nil {
			return false, &os.PathError{Op: "stat", Path: path, Err: err}
		}
	}
	return of[0].Dev == of[1].Dev, nil
}

func lookForSpace(f *os.File, size int64) error {
	has, err := Allocated(f)
	if err != nil {
		return err
	}
	_, free, err := Space(f)
	if err == nil && size-has > free {
		err = &os.PathError{Op: "reserve space for", Path: f.Name(), Err: unix.ENOSPC}
	}
	return err
}

// Allocated is how much space a file has in bytes, and no more than its size: what it
// lacks is a hole, at the end of a file that was only extended.
func Allocated(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return min(st.Size, st.Blocks*512), nil
}
