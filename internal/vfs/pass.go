package vfs

import (
	"errors"
	"io/fs"
	"syscall"
)

// MayPass says whether err tells what the operating system did, and nothing of the
// bytes in a file: no descriptor, memory, permission or space, a lock that another
// process holds, a device that did not answer. It may be gone at the next attempt,
// so it proves no damage, also where it is joined with an error that says damage.
//
// What a name stands for is another matter: that a file does not exist, or is a
// directory, may pass or may be damage. The caller knows which; MayPass says false.
func MayPass(err error) bool {
	if errors.Is(err, ErrLocked) || errors.Is(err, fs.ErrPermission) {
		return true
	}
	errno, ok := errnoOf(err)
	if !ok {
		return false
	}
	switch errno {
	case 0, syscall.ENOENT, syscall.ENOTDIR, syscall.EEXIST, syscall.EISDIR, syscall.ENOTEMPTY:
		return false
	}
	return true
}

// Exhausted says whether err means that something has run out that comes back: file
// descriptors, memory, or space. What failed so may be tried again later, where
// nothing was done before it.
func Exhausted(err error) bool {
	errno, ok := errnoOf(err)
	if !ok {
		return false
	}
	switch errno {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN:
		return true
	}
	return Full(err)
}

// Refused says whether err means that the system takes no new file now, for a reason
// that an operator can change: Exhausted, or no permission, or a file system that is
// mounted read-only.
func Refused(err error) bool {
	errno, ok := errnoOf(err)
	if !ok {
		return errors.Is(err, fs.ErrPermission)
	}
	switch errno {
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return true
	}
	return Exhausted(err)
}

// Full says whether err means that a volume, or somebody's share of it, has no room.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Advice returns what an operator can change about an error that may pass; "" where
// there is nothing to say.
func Advice(err error) string {
	if errors.Is(err, ErrLocked) {
		return "stop the process that uses it"
	}
	errno, ok := errnoOf(err)
	if !ok {
		if errors.Is(err, fs.ErrPermission) {
			return adviceOf[syscall.EACCES]
		}
		return ""
	}
	if advice, ok := adviceOf[errno]; ok {
		return advice
	}
	if MayPass(err) {
		return "look for the cause in the system's log"
	}
	return ""
}

var adviceOf = map[syscall.Errno]string{
	syscall.EACCES: "give this process's user the right to read and write it",
	syscall.EPERM:  "give this process's user the right to read and write it",
	syscall.EROFS:  "mount the file system for writing",
	syscall.EMFILE: "raise the limit of open files of this process (ulimit -n, LimitNOFILE)",
	syscall.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
	syscall.ENOMEM: "raise the memory limit of this process (ulimit -v, its cgroup), or give the machine more memory",
	syscall.EAGAIN: "raise the memory and process limits of this process",
	syscall.ENOSPC: "free some space on the volume, or enlarge it",
	syscall.EDQUOT: "raise the quota, or free some space",
	syscall.EIO:    "the device did not answer: look for the cause in the system's log, and replace the disk if it stays so",
	syscall.ENODEV: "the device is gone: attach and mount it again",
	syscall.ENXIO:  "the device is gone: attach and mount it again",
}

// errnoOf finds the first error number in err's tree that says something of the
// operating system.
func errnoOf(err error) (syscall.Errno, bool) {
	var errno syscall.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}
