// Package vfs is the seam between Octopii's files and the disk: everything that
// raftstore and the native WAL write goes through an FS, so that the simulator
// can put a faulty disk behind the same code.
package vfs

import (
	"errors"
	"io"
)

// ErrLocked: somebody else, in this process or another, holds the lock.
var ErrLocked = errors.New("vfs: locked")

// FS is a file system. Its methods may be called from any goroutine. Errors are
// those of package os, so errors.Is finds fs.ErrNotExist and fs.ErrExist.
//
// Every comment says what a caller may assume after a crash. A crash is the
// loss of power at any moment: what is not promised to survive may survive as
// a whole, in part, or not at all, and changes to different names and files may
// survive in any order.
type FS interface {
	// Create makes an empty file open for reading and writing and fails with
	// fs.ErrExist when the name is taken.
	// After a crash the name is there only if SyncDir of its directory returned
	// since, and the content only as File.Sync says: a synced file whose name was
	// not synced is lost.
	Create(path string) (File, error)
	// Open opens an existing file for reading; writing to it fails.
	// It changes nothing that a crash could undo.
	Open(path string) (File, error)
	// OpenReadWrite opens an existing file for reading and writing and leaves its
	// content alone. It changes nothing that a crash could undo. What is written to
	// it in whole blocks from memory that Aligned gave may cost least.
	OpenReadWrite(path string) (File, error)
	// Rename gives a file or directory a new name in the same file system, and
	// replaces a file that had it. Nobody ever sees the new name absent in between.
	// After a crash the new name stands for the old file or the new one, never for
	// a mixture; it is certainly the new one only after SyncDir of its directory.
	// Until then the old name may also be there beside the new one, for the same
	// file; a file is never under neither.
	// Rename does not sync content: Sync the file first. When the directories
	// differ, the old name is certainly gone only after SyncDir of the old one.
	Rename(oldPath, newPath string) error
	// Remove removes a file or an empty directory.
	// After a crash the name may be back until SyncDir of its directory returned;
	// its content is then what it was.
	Remove(path string) error
	// RemoveAll removes a directory with all that is in it. It returns nil when
	// there is none.
	// After a crash any part of it may be back, until SyncDir of its parent
	// returned: never give meaning to the presence of such a rest.
	RemoveAll(path string) error
	// MkdirAll makes a directory and the parents that are missing.
	// After a crash each one that is new is there only if SyncDir of its own
	// parent returned since.
	MkdirAll(path string) error
	// ReadDir returns the names in a directory, sorted.
	// It shows what was done, whether or not a crash could still undo it.
	ReadDir(path string) ([]string, error)
	// Stat describes a file or directory.
	// It shows what was done, whether or not a crash could still undo it.
	Stat(path string) (Info, error)
	// SyncDir makes durable which names the directory holds: every Create, Rename,
	// Remove and MkdirAll in it that returned before survives a crash from now on.
	// It says nothing of the content of these files. After an error nothing is
	// known of any of them, and calling it again proves nothing.
	SyncDir(path string) error
	// Lock takes the lock that the file at path stands for, and makes that file
	// when there is none. It fails at once with ErrLocked when the lock is held,
	// be it by this process. Closing the result frees it; the file stays.
	// A crash, or the end of the process for any reason, frees the lock.
	Lock(path string) (io.Closer, error)
}

// HolePuncher is an FS that can give back the space of a part of a file.
type HolePuncher interface {
	// PunchHole has size bytes of a file from an offset on be zeros that take no space.
	// A crash may undo it until File.Sync.
	PunchHole(path string, from, size int64) error
}

// Spacer is an FS that knows how much space it has.
type Spacer interface {
	// Free is how many bytes this process may still write to the volume that path is on.
	Free(path string) (int64, error)
}

// Info is what Stat tells of a name.
type Info struct {
	// Size in bytes; without meaning for a directory.
	Size int64
	Dir  bool
}

// File is an open file. ReadAt and WriteAt may be called from any goroutine,
// everything else from one at a time.
type File interface {
	// Read reads from the file's position on. It sees all that was written,
	// durable or not: reading something back proves nothing about a crash.
	io.Reader
	// ReadAt reads at an offset, and otherwise is like Read. At the end of the
	// file it returns io.EOF.
	io.ReaderAt
	// Write writes at the file's position, extending the file as needed.
	// The bytes survive a crash only after Sync. Before it any subset of the
	// 512-byte sectors that were touched may hold the new bytes and the others the
	// old ones, or zeros where the file was extended; the size may be the old one,
	// the new one, or one in between.
	io.Writer
	// WriteAt writes at an offset, extending the file as needed. What survives a
	// crash is as for Write; all of it may be durable before it returns, and an
	// error is then what Sync would have said. Bytes of a touched sector that are
	// overwritten with the value that they have are safe; sectors that were not
	// touched are safe.
	io.WriterAt
	// Close gives the file back. It syncs nothing: what was not synced may be lost
	// in a crash after Close as before it.
	io.Closer
	// Sync makes the content and the size durable: all that was written or
	// truncated before it survives a crash from now on. It does not make the name
	// durable: see FS.SyncDir. After an error any part of what was written since
	// the last Sync may be lost, and a later Sync that succeeds proves nothing
	// about it: give the file up.
	Sync() error
	// Size is the size in bytes now; after a crash it is what Sync and Write say.
	Size() (int64, error)
	// Truncate cuts the file, or extends it with zeros, and does not move its
	// position. Space for the zeros is not reserved: only bytes that were written
	// are sure to have it. After a crash the size is the old or the new one, and
	// certainly the new one only after Sync.
	Truncate(size int64) error
}
