package kv

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/octopii/octopii/internal/vfs"
)

// extent is how much of a database has its space on the volume. Only room's keeper makes it
// grow; any goroutine may read it.
type extent struct {
	// file is the database, by a handle of its own.
	file *os.File

	mu sync.Mutex
	// allocated is how much of the file has its space.
	allocated int64
	// grown is closed, and replaced, when allocated grows.
	grown chan struct{}
}

// open opens the file at path. An earlier run left its reserve in the file, and bbolt may
// have extended that without space.
func (x *extent) open(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	x.file, x.grown = f, make(chan struct{})
	if x.allocated, err = vfs.Allocated(f); err != nil || x.allocated >= info.Size() {
		return err
	}
	if err = vfs.Allocate(f, x.allocated, info.Size()); err == nil {
		x.allocated = info.Size()
	} else if vfs.Full(err) {
		err = nil // the keeper says so
	}
	return err
}

// now is what is allocated, and what is closed when that grows.
func (x *extent) now() (allocated int64, grown <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.allocated, x.grown
}

// allocate brings the file to a size, if that leaves spare bytes on the volume.
func (x *extent) allocate(to, spare int64) error {
	from, _ := x.now()
	if from >= to {
		return nil
	}
	if _, free, err := vfs.Space(x.file); err == nil && free < to-from+spare {
		return fmt.Errorf("%w: %d bytes are free on the volume, and %d are wanted with %d beside", syscall.ENOSPC, free, to-from, spare)
	}
	if err := vfs.Allocate(x.file, from, to); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.allocated = max(x.allocated, to)
	close(x.grown)
	x.grown = make(chan struct{})
	return nil
}
