package vfstest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/octopii/octopii/internal/vfs"
)

// Kind says which method of vfs.FS or vfs.File an Op is.
type Kind string

// The kinds of operations.
const (
	Create        Kind = "create"
	Open          Kind = "open"
	OpenReadWrite Kind = "open-rw"
	Rename        Kind = "rename"
	Remove        Kind = "remove"
	RemoveAll     Kind = "remove-all"
	Mkdir         Kind = "mkdir"
	ReadDir       Kind = "read-dir"
	Stat          Kind = "stat"
	SyncDir       Kind = "sync-dir"
	Lock          Kind = "lock"
	Unlock        Kind = "unlock"
	Read          Kind = "read"
	Write         Kind = "write"
	Sync          Kind = "sync"
	Size          Kind = "size"
	Truncate      Kind = "truncate"
	Close         Kind = "close"
)

// Op is one operation on a file system.
type Op struct {
	Kind Kind
	Path string
	// To is the new path of a Rename.
	To string
	// Offset and Length are those of a Read or Write; the Offset of a Truncate is
	// the new size.
	Offset, Length int64
}

// Changes tells whether the operation changes what a crash may leave: all but
// reading, looking, opening and closing.
func (op Op) Changes() bool {
	switch op.Kind {
	case Create, Rename, Remove, RemoveAll, Mkdir, SyncDir, Lock, Write, Sync, Truncate:
		return true
	}
	return false
}

func (op Op) String() string {
	switch op.Kind {
	case Rename:
		return fmt.Sprintf("%s %s -> %s", op.Kind, op.Path, op.To)
	case Read, Write:
		return fmt.Sprintf("%s %s off=%d len=%d", op.Kind, op.Path, op.Offset, op.Length)
	case Truncate:
		return fmt.Sprintf("%s %s size=%d", op.Kind, op.Path, op.Offset)
	}
	return fmt.Sprintf("%s %s", op.Kind, op.Path)
}

// ErrCrashed is what every operation returns once CrashAfter has struck.
var ErrCrashed = errors.New("vfstest: the machine has crashed")

// ShortWrite is an error for a hook of Faulty: a write writes the first N bytes
// and then fails with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (e *ShortWrite) Error() string { return fmt.Sprintf("short write of %d bytes: %v", e.N, e.Err) }

func (e *ShortWrite) Unwrap() error { return e.Err }

// Faulty is a file system whose operations fail as a hook says.
type Faulty struct {
	wrapper
	changes atomic.Int64
}

// NewFaulty returns an FS that calls hook before each operation on fsys and, when
// hook returns an error, fails with it in place of the operation (Close and
// Unlock close all the same). hook is called from wherever the FS is.
func NewFaulty(fsys vfs.FS, hook func(op Op) error) *Faulty {
	f := &Faulty{}
	f.wrapper = wrapper{fs: fsys, after: func(Op, error) {}, before: func(op Op) error {
		err := hook(op)
		if err == nil && op.Changes() {
			f.changes.Add(1)
		}
		return err
	}}
	return f
}

// Changes returns how many operations that change something went through: the
// bound for the n of CrashAfter.
func (f *Faulty) Changes() int { return int(f.changes.Load()) }

// CrashAfter returns a hook for Faulty that lets through the first n operations
// that change something; what comes then fails with ErrCrashed, and from there
// on everything does. Take Crash of the Mem below afterwards.
func CrashAfter(n int) func(Op) error {
	var mu sync.Mutex
	crashed := false
	return func(op Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Changes() {
			crashed = crashed || n == 0
			n--
		}
		if crashed {
			return ErrCrashed
		}
		return nil
	}
}

// FailNth returns a hook for Faulty with which the nth operation (from 1) of
// these kinds fails with err, and no other.
func FailNth(n int, err error, kinds ...Kind) func(Op) error {
	var seen atomic.Int64
	return func(op Op) error {
		for _, k := range kinds {
			if op.Kind == k && seen.Add(1) == int64(n) {
				return err
			}
		}
		return nil
	}
}

// NewTrace returns an FS that calls emit with one line for each operation on
// fsys that was done, other than reads and looks, with paths as seen from root.
// A failed one ends in its error. Calls of emit do not overlap.
func NewTrace(fsys vfs.FS, root string, emit func(line string)) vfs.FS {
	var mu sync.Mutex
	clean := path.Clean(root)
	relative := func(p string) string {
		p = path.Clean(p)
		if p == clean {
			return "."
		}
		return strings.TrimPrefix(p, strings.TrimSuffix(clean, "/")+"/")
	}
	return &wrapper{fs: fsys, before: func(Op) error { return nil }, after: func(op Op, err error) {
		switch op.Kind {
		case Read, Stat, Size, ReadDir:
			return
		}
		op.Path = relative(op.Path)
		if op.To != "" {
			op.To = relative(op.To)
		}
		line := op.String()
		if err != nil {
			line += ": " + cause(err).Error()
		}
		mu.Lock()
		defer mu.Unlock()
		emit(line)
	}}
}

// cause strips the operation and the path, which the line has already.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		return l.Err
	}
	return err
}

// wrapper calls before and after around each operation of fs.
type wrapper struct {
	fs     vfs.FS
	before func(Op) error
	after  func(Op, error)
}

func (w *wrapper) do(op Op, f func() error) error {
	err := w.before(op)
	if err != nil {
		err = pathError(string(op.Kind), op.Path, err)
	} else {
		err = f()
	}
	w.after(op, err)
	return err
}

func (w *wrapper) open(kind Kind, name string, open func(string) (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := w.do(Op{Kind: kind, Path: name}, func() (err error) {
		f, err = open(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &wrapped{w: w, f: f, path: name}, nil
}

func (w *wrapper) Create(p string) (vfs.File, error) { return w.open(Create, p, w.fs.Create) }
func (w *wrapper) Open(p string) (vfs.File, error)   { return w.open(Open, p, w.fs.Open) }
func (w *wrapper) OpenReadWrite(p string) (vfs.File, error) {
	return w.open(OpenReadWrite, p, w.fs.OpenReadWrite)
}

func (w *wrapper) Rename(oldPath, newPath string) error {
	return w.do(Op{Kind: Rename, Path: oldPath, To: newPath}, func() error { return w.fs.Rename(oldPath, newPath) })
}

func (w *wrapper) Remove(p string) error {
	return w.do(Op{Kind: Remove, Path: p}, func() error { return w.fs.Remove(p) })
}

func (w *wrapper) RemoveAll(p string) error {
	return w.do(Op{Kind: RemoveAll, Path: p}, func() error { return w.fs.RemoveAll(p) })
}

func (w *wrapper) MkdirAll(p string) error {
	return w.do(Op{Kind: Mkdir, Path: p}, func() error { return w.fs.MkdirAll(p) })
}

func (w *wrapper) SyncDir(p string) error {
	return w.do(Op{Kind: SyncDir, Path: p}, func() error { return w.fs.SyncDir(p) })
}

func (w *wrapper) ReadDir(p string) (names []string, err error) {
	err = w.do(Op{Kind: ReadDir, Path: p}, func() (err error) {
		names, err = w.fs.ReadDir(p)
		return err
	})
	return names, err
}

func (w *wrapper) Stat(p string) (info vfs.Info, err error) {
	err = w.do(Op{Kind: Stat, Path: p}, func() (err error) {
		info, err = w.fs.Stat(p)
		return err
	})
	return info, err
}

func (w *wrapper) Lock(p string) (io.Closer, error) {
	var lock io.Closer
	err := w.do(Op{Kind: Lock, Path: p}, func() (err error) {
		lock, err = w.fs.Lock(p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return closer(func() error { return w.close(Op{Kind: Unlock, Path: p}, lock) }), nil
}

// close closes even when a hook says that it failed: nobody could do it later.
func (w *wrapper) close(op Op, c io.Closer) error {
	done := false
	err := w.do(op, func() error {
		done = true
		return c.Close()
	})
	if !done {
		err = errors.Join(err, c.Close())
	}
	return err
}

type closer func() error

func (c closer) Close() error { return c() }

type wrapped struct {
	w    *wrapper
	f    vfs.File
	path string
	pos  int64 // of Read and Write, which are called by one at a time
}

func (f *wrapped) Read(p []byte) (int, error) {
	n, err := f.read(p, f.pos, f.f.Read)
	f.pos += int64(n)
	return n, err
}

func (f *wrapped) ReadAt(p []byte, off int64) (int, error) {
	return f.read(p, off, func(p []byte) (int, error) { return f.f.ReadAt(p, off) })
}

func (f *wrapped) read(p []byte, off int64, read func([]byte) (int, error)) (n int, err error) {
	err = f.w.do(Op{Kind: Read, Path: f.path, Offset: off, Length: int64(len(p))}, func() (err error) {
		n, err = read(p)
		return err
	})
	return n, err
}

func (f *wrapped) Write(p []byte) (int, error) {
	n, err := f.write(p, f.pos, f.f.Write)
	f.pos += int64(n)
	return n, err
}

func (f *wrapped) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, off, func(p []byte) (int, error) { return f.f.WriteAt(p, off) })
}

func (f *wrapped) write(p []byte, off int64, write func([]byte) (int, error)) (n int, err error) {
	err = f.w.do(Op{Kind: Write, Path: f.path, Offset: off, Length: int64(len(p))}, func() (err error) {
		n, err = write(p)
		return err
	})
	if short := (*ShortWrite)(nil); errors.As(err, &short) && n == 0 {
		n, writeErr := write(p[:min(short.N, len(p))])
		if writeErr != nil {
			err = writeErr
		}
		return n, err
	}
	return n, err
}

func (f *wrapped) Sync() error {
	return f.w.do(Op{Kind: Sync, Path: f.path}, f.f.Sync)
}

func (f *wrapped) Size() (size int64, err error) {
	err = f.w.do(Op{Kind: Size, Path: f.path}, func() (err error) {
		size, err = f.f.Size()
		return err
	})
	return size, err
}

func (f *wrapped) Truncate(size int64) error {
	return f.w.do(Op{Kind: Truncate, Path: f.path, Offset: size}, func() error { return f.f.Truncate(size) })
}

func (f *wrapped) Close() error {
	return f.w.close(Op{Kind: Close, Path: f.path}, f.f)
}
