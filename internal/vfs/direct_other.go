//go:build !linux

package vfs

import "os"

// openReadWrite: direct writes are for Linux only.
func openReadWrite(path string) (File, error) { return open(path, os.O_RDWR) }
