// Package vfstest has file systems for tests: Mem is a disk in memory that can
// lose power, Faulty makes operations fail, and Trace writes down what was done.
// Nothing here has a clock, a goroutine or randomness of its own: the same calls
// with the same seed give the same disk.
//
// Pebble's vfs.NewCrashableMem does not do this job: it keeps or loses blocks of
// 4096 bytes, has no Truncate, always brings back a name whose removal was not
// synced, and draws from its random source in the order of a Go map, so that a
// seed does not give the same disk twice. Its errorfs wraps pebble's own FS and
// File, so both would come with adapters and pebble's modules for what is a hook
// here.
package vfstest

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/octopii/octopii/internal/vfs"
)

// Mem is a file system in memory that knows what a crash may undo. Paths with
// and without a leading slash are the same. Its disk begins with an empty root.
type Mem struct {
	mu   sync.Mutex
	root *node
	// used counts the blocks of all files that have a name or are open.
	used int64
	// capacity in blocks; 0 means no bound.
	capacity int64
}

var _ vfs.FS = (*Mem)(nil)

// node is a file or a directory, whatever its names are.
type node struct {
	// links counts names, opens counts handles: without either it is gone.
	links, opens int
	locked       bool

	file // of a file

	// names of a directory as programs see them, nil for a file; durable is what
	// the disk has, and renames are the changes since the last SyncDir, in order.
	names, durable map[string]*node
	renames        []*nameChange
}

// nameChange gives a name in a directory to another node, or to none. It never
// changes.
type nameChange struct {
	dir  *node
	name string
	to   *node
	// needs is a change that survives a crash if this one does.
	needs *nameChange
}

func (r *nameChange) applyTo(names map[string]*node) {
	if r.to == nil {
		delete(names, r.name)
	} else {
		names[r.name] = r.to
	}
}

func newDir() *node {
	return &node{links: 1, names: map[string]*node{}, durable: map[string]*node{}}
}

// NewMem returns an empty Mem.
func NewMem() *Mem { return &Mem{root: newDir()} }

func sortedNames(names map[string]*node) []string {
	list := slices.AppendSeq(make([]string, 0, len(names)), maps.Keys(names))
	slices.Sort(list)
	return list
}

func elements(name string) []string {
	name = path.Clean("/" + name)[1:]
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

func (m *Mem) find(name string) (*node, error) {
	n := m.root
	for _, e := range elements(name) {
		if n.names == nil {
			return nil, syscall.ENOTDIR
		}
		if n = n.names[e]; n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

func (m *Mem) findFile(name string) (*node, error) {
	n, err := m.find(name)
	if err == nil && n.names != nil {
		return nil, syscall.EISDIR
	}
	return n, err
}

func (m *Mem) findDir(name string) (*node, error) {
	n, err := m.find(name)
	if err == nil && n.names == nil {
		return nil, syscall.ENOTDIR
	}
	return n, err
}

// parent returns the directory that the last element of a path is in.
func (m *Mem) parent(name string) (*node, string, error) {
	e := elements(name)
	if len(e) == 0 {
		return nil, "", syscall.EINVAL
	}
	dir, err := m.findDir(path.Dir(path.Clean("/" + name)))
	return dir, e[len(e)-1], err
}

// setName is the one place where a name changes.
func (m *Mem) setName(dir *node, name string, to *node) *nameChange {
	old := dir.names[name]
	r := &nameChange{dir: dir, name: name, to: to}
	dir.renames = append(dir.renames, r)
	r.applyTo(dir.names)
	if to != nil {
		to.links++
	}
	if old != nil {
		old.links--
		m.release(old)
	}
	return r
}

// release gives back the space of a file that nobody can reach any more.
func (m *Mem) release(n *node) {
	if n.links == 0 && n.opens == 0 {
		m.used -= n.cache.held
	}
}

func (m *Mem) open(name string, n *node, write bool) vfs.File {
	n.opens++
	return &handle{m: m, n: n, path: name, write: write}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (m *Mem) create(name string) (*node, error) {
	dir, last, err := m.parent(name)
	if err != nil {
		return nil, err
	}
	if dir.names[last] != nil {
		return nil, syscall.EEXIST
	}
	n := &node{}
	m.setName(dir, last, n)
	return n, nil
}

// Create implements vfs.FS.
func (m *Mem) Create(name string) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.create(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return m.open(name, n, true), nil
}

// Open implements vfs.FS.
func (m *Mem) Open(name string) (vfs.File, error) { return m.openExisting(name, false) }

// OpenReadWrite implements vfs.FS.
func (m *Mem) OpenReadWrite(name string) (vfs.File, error) { return m.openExisting(name, true) }

func (m *Mem) openExisting(name string, write bool) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findFile(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return m.open(name, n, write), nil
}

// Rename implements vfs.FS. It refuses to move a directory into another one:
// what a crash makes of that is not modelled.
func (m *Mem) Rename(oldPath, newPath string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.rename(oldPath, newPath); err != nil {
		return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
	}
	return nil
}

func (m *Mem) rename(oldPath, newPath string) error {
	n, err := m.find(oldPath)
	if err != nil {
		return err
	}
	from, oldName, err := m.parent(oldPath)
	if err != nil {
		return err
	}
	to, newName, err := m.parent(newPath)
	if err != nil {
		return err
	}
	replaced := to.names[newName]
	switch {
	case replaced == n:
		return nil
	case replaced != nil && replaced.names != nil:
		return syscall.EEXIST
	case replaced != nil && n.names != nil:
		return syscall.ENOTDIR
	case n.names != nil && from != to:
		return syscall.ENOTSUP
	}
	appears := m.setName(to, newName, n)
	vanishes := m.setName(from, oldName, nil)
	vanishes.needs = appears
	if n.names != nil {
		// No file system has a directory under two names.
		appears.needs = vanishes
	}
	return nil
}

// Remove implements vfs.FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, last, err := m.parent(name)
	switch {
	case err != nil:
	case dir.names[last] == nil:
		err = syscall.ENOENT
	case len(dir.names[last].names) > 0:
		err = syscall.ENOTEMPTY
	default:
		m.setName(dir, last, nil)
	}
	return pathError("remove", name, err)
}

// RemoveAll implements vfs.FS.
func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, last, err := m.parent(name)
	if err == syscall.ENOENT {
		return nil
	}
	if err != nil {
		return pathError("removeall", name, err)
	}
	m.removeAll(dir, last)
	return nil
}

func (m *Mem) removeAll(dir *node, name string) {
	n := dir.names[name]
	if n == nil {
		return
	}
	for _, child := range sortedNames(n.names) {
		m.removeAll(n, child)
	}
	m.setName(dir, name, nil)
}

// MkdirAll implements vfs.FS.
func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for _, e := range elements(name) {
		if n.names[e] == nil {
			d := newDir()
			d.links = 0
			m.setName(n, e, d)
		}
		if n = n.names[e]; n.names == nil {
			return pathError("mkdir", name, syscall.ENOTDIR)
		}
	}
	return nil
}

// ReadDir implements vfs.FS.
func (m *Mem) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findDir(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return sortedNames(n.names), nil
}

// Stat implements vfs.FS.
func (m *Mem) Stat(name string) (vfs.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return vfs.Info{}, pathError("stat", name, err)
	}
	return vfs.Info{Size: n.cache.size, Dir: n.names != nil}, nil
}

// SyncDir implements vfs.FS.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findDir(name)
	if err != nil {
		return pathError("open", name, err)
	}
	for _, r := range n.renames {
		r.applyTo(n.durable)
	}
	n.renames = nil
	return nil
}

// Lock implements vfs.FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findFile(name)
	if err == syscall.ENOENT {
		n, err = m.create(name)
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if n.locked {
		return nil, pathError("lock", name, vfs.ErrLocked)
	}
	n.locked = true
	n.opens++
	return &handle{m: m, n: n, path: name, lock: true}, nil
}

// SetCapacity bounds the space of the disk, of which each file takes whole
// blocks of BlockSize for what was written to it; 0 takes the bound away. A write
// that needs more space than is left writes what fits and returns ENOSPC.
// Overwriting what was written before always has its space. Remove and Truncate
// give space back at once, or when the removed file's last handle is closed.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes / BlockSize
	if bytes > 0 && m.capacity == 0 {
		panic("vfstest: a capacity below one block; use BlockSize or more")
	}
}

// Used returns the space that files take, in bytes.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used * BlockSize
}

// ReadFile returns what programs see in a file, and nil when there is none.
func (m *Mem) ReadFile(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findFile(name)
	if err != nil {
		return nil
	}
	return n.bytes()
}

func (n *node) bytes() []byte {
	p := make([]byte, n.cache.size)
	n.cache.read(p, 0)
	return p
}

// WriteFile sets the content of a file and makes it, its name and its
// directories as needed. All of it is durable at once, whatever the capacity is.
func (m *Mem) WriteFile(name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, all := m.root, elements(name)
	if len(all) == 0 {
		panic("vfstest: write file: the root is not a file")
	}
	for i, e := range all {
		n := dir.names[e]
		last := i == len(all)-1
		if n == nil {
			n = &node{}
			if !last {
				n = newDir()
				n.links = 0
			}
			m.setName(dir, e, n)
		}
		if last != (n.names == nil) {
			panic("vfstest: write file " + name + ": a file and a directory in one place")
		}
		dir.durable[e] = n
		dir.renames = slices.DeleteFunc(dir.renames, func(r *nameChange) bool { return r.name == e })
		dir = n
	}
	m.used -= dir.cache.held
	dir.cache.truncate(0)
	dir.change(newWrite(data, 0, 0))
	dir.disk, dir.pending = dir.cache.clone(), nil
	m.used += dir.cache.held
}

// Names returns the names in a directory, sorted, and nil when there is none.
func (m *Mem) Names(dir string) []string {
	names, _ := m.ReadDir(dir)
	return names
}

// Image returns the content of every file by its path from the root, as
// programs see it.
func (m *Mem) Image() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	image := map[string][]byte{}
	var add func(prefix string, n *node)
	add = func(prefix string, n *node) {
		if n.names == nil {
			image[prefix] = n.bytes()
		}
		for name, child := range n.names {
			add(path.Join(prefix, name), child)
		}
	}
	add("", m.root)
	return image
}
