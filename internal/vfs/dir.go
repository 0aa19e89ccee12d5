package vfs

import (
	"errors"
	"os"
)

// Dir is a directory that stays open: making its names durable needs no descriptor
// then, which may not be had when it counts. Sync may be called from any goroutine.
type Dir struct {
	fs   FS
	path string
	file *os.File
}

// OpenDir opens a directory of fs. It must not be renamed while the Dir is in use.
func OpenDir(fs FS, path string) (*Dir, error) {
	d := &Dir{fs: fs, path: path}
	if _, real := fs.(osFS); real {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		d.file = f
	}
	return d, nil
}

// Sync is FS.SyncDir of the directory.
func (d *Dir) Sync() error {
	if d.file == nil {
		return d.fs.SyncDir(d.path)
	}
	return d.file.Sync()
}

// Close gives the directory back; a second Close does nothing.
func (d *Dir) Close() error {
	if d == nil || d.file == nil {
		return nil
	}
	if err := d.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
