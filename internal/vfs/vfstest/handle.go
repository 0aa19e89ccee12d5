package vfstest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
)

// handle is an open file, or a lock. It stays with its file whatever becomes of
// the name.
type handle struct {
	m    *Mem
	n    *node
	path string
	// All below is guarded by m.mu.
	pos         int64
	write, lock bool
	closed      bool
}

// begin takes the lock, which the caller gives back in any case.
func (h *handle) begin() error {
	h.m.mu.Lock()
	if h.closed {
		return os.ErrClosed
	}
	return nil
}

func (h *handle) Read(p []byte) (int, error) {
	err := h.begin()
	defer h.m.mu.Unlock()
	n := 0
	if err == nil {
		n = h.n.cache.read(p, h.pos)
		h.pos += int64(n)
		if n == 0 && len(p) > 0 {
			return 0, io.EOF
		}
	}
	return n, pathError("read", h.path, err)
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	err := h.begin()
	defer h.m.mu.Unlock()
	if err == nil && off < 0 {
		err = errors.New("negative offset")
	}
	if err != nil {
		return 0, pathError("readat", h.path, err)
	}
	n := h.n.cache.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) Write(p []byte) (int, error) {
	err := h.begin()
	defer h.m.mu.Unlock()
	n := 0
	if err == nil {
		n, err = h.writeAt(p, h.pos)
		h.pos += int64(n)
	}
	return n, pathError("write", h.path, err)
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	err := h.begin()
	defer h.m.mu.Unlock()
	n := 0
	if err == nil && off < 0 {
		err = errors.New("negative offset")
	}
	if err == nil {
		n, err = h.writeAt(p, off)
	}
	return n, pathError("write", h.path, err)
}

func (h *handle) writeAt(p []byte, off int64) (int, error) {
	if !h.write {
		return 0, syscall.EBADF
	}
	fits := int64(len(p))
	var err error
	if h.m.capacity > 0 {
		need := int64(0)
		for i := off / BlockSize; i*BlockSize < off+int64(len(p)); i++ {
			if h.n.cache.block(i) != nil {
				continue
			}
			if need++; h.m.used+need > h.m.capacity {
				fits, err = max(i*BlockSize-off, 0), syscall.ENOSPC
				break
			}
		}
	}
	if fits > 0 {
		held := h.n.cache.held
		h.n.change(newWrite(p[:fits], off, h.n.cache.size))
		h.m.used += h.n.cache.held - held
	}
	return int(fits), err
}

// newWrite copies p, unless it is all zeros.
func newWrite(p []byte, off, size int64) change {
	ch := change{off: off, length: int64(len(p)), from: size}
	ch.to = max(size, ch.end())
	for b := range slices.Chunk(p, BlockSize) {
		if !bytes.Equal(b, zeroBlock[:len(b)]) {
			ch.data = bytes.Clone(p)
			break
		}
	}
	return ch
}

func (h *handle) Sync() error {
	err := h.begin()
	defer h.m.mu.Unlock()
	if err == nil {
		h.n.sync()
	}
	return pathError("sync", h.path, err)
}

func (h *handle) Size() (int64, error) {
	err := h.begin()
	defer h.m.mu.Unlock()
	if err != nil {
		return 0, pathError("stat", h.path, err)
	}
	return h.n.cache.size, nil
}

func (h *handle) Truncate(size int64) error {
	err := h.begin()
	defer h.m.mu.Unlock()
	if err == nil && (!h.write || size < 0) {
		err = syscall.EINVAL
	}
	if err == nil {
		old, held := h.n.cache.size, h.n.cache.held
		h.n.change(change{off: size, length: max(old-size, 0), from: old, to: size, truncate: true})
		h.m.used += h.n.cache.held - held
	}
	return pathError("truncate", h.path, err)
}

func (h *handle) Close() error {
	err := h.begin()
	defer h.m.mu.Unlock()
	if err == nil {
		h.closed = true
		if h.lock {
			h.n.locked = false
		}
		h.n.opens--
		h.m.release(h.n)
	}
	return pathError("close", h.path, err)
}
