//go:build !linux

package vfs

import "os"

// syncData uses os.File.Sync, which on darwin is fcntl(F_FULLFSYNC): there a
// plain fsync, and fdatasync too, leaves the bytes in the drive's own cache.
func syncData(f *os.File) error { return f.Sync() }
