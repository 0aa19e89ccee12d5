package kv

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
)

const (
	// fileName is the database inside the directory given to Open.
	fileName = "db"
	// tempPattern names what Restore writes before it takes the place of
	// fileName. A crash may leave one behind; Open removes it.
	tempPattern = "db.restore.*"
)

// errInUse: another process has the file open, or another Store of this one.
var errInUse = fmt.Errorf("another process uses the database; stop it first: %w", vfs.ErrLocked)

// limits say when the backend commits by itself. Zero values: as in etcd.
type limits struct {
	// batchInterval is the longest time between two commits.
	batchInterval time.Duration
	// batchOps is how many writes bring the next commit at once.
	batchOps int
	// reserveBytes is Options.ReserveBytes.
	reserveBytes int64
	// fs has the names of the files, not what is in them. nil: vfs.OS.
	fs vfs.FS
}

// files are the databases in the directory of a store: the one that has the name, and those
// that are to take its place. Its methods belong to the goroutine that opens and applies.
type files struct {
	dir    string
	lg     *zap.Logger
	limits limits
	// comparisons outlive a database.
	comparisons *comparisons
	// origin tells the commands that this store's server proposes from all others.
	origin uint64
}

// verify reads the database, which nobody else may be writing. One that does not exist
// is fs.ErrNotExist.
func (f *files) verify() error {
	if _, err := os.Stat(f.path()); err != nil {
		return err
	}
	lock, err := vfs.OS.Lock(f.path())
	if errors.Is(err, vfs.ErrLocked) {
		return errInUse
	}
	if err != nil {
		return err
	}
	return errors.Join(verifyFile(f.path()), lock.Close())
}

// create makes an empty database. It gets its name when it is whole, so that a
// crash leaves no half of one.
func (f *files) create() (*database, error) {
	path, err := f.receive(strings.NewReader(""))
	if err != nil {
		return nil, err
	}
	db, err := f.openDatabase(path)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	if err := f.adopt(path); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

func (f *files) openDatabase(path string) (*database, error) {
	db, err := openDatabase(path, f.lg, f.limits, f.origin)
	if err != nil {
		return nil, err
	}
	db.comparisons = f.comparisons
	return db, nil
}

// adopt gives a whole and durable database at path its final name.
func (f *files) adopt(path string) error {
	if err := f.limits.fs.Rename(path, f.path()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return f.limits.fs.SyncDir(f.dir)
}

// receive writes what r streams to a new file, durably.
func (f *files) receive(r io.Reader) (path string, err error) {
	file, err := os.CreateTemp(f.dir, tempPattern)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(file, r)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

// openReceived opens a received database and makes index durable in it.
func (f *files) openReceived(path string, index uint64) (*database, error) {
	if err := verifyFile(path); err != nil {
		return nil, fmt.Errorf("the snapshot is no whole database: %w", err)
	}
	db, err := f.openDatabase(path)
	if err != nil {
		return nil, err
	}
	if at := db.applied; at.index > index {
		return nil, errors.Join(fmt.Errorf("the snapshot holds entries up to %d", at.index), db.close())
	}
	db.moveTo(index)
	if err := db.be.failure(); err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

// makeDir makes the directory durably.
func (f *files) makeDir() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("kv: make directory: %w", err)
	}
	if err := syncDir(filepath.Dir(f.dir)); err != nil {
		return fmt.Errorf("kv: make directory %s: %w", f.dir, err)
	}
	return nil
}

// removeLeft removes what an interrupted Restore left. Who opens a store sees to it
// that nobody else has it open.
func (f *files) removeLeft() error {
	left, err := filepath.Glob(filepath.Join(f.dir, tempPattern))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func (f *files) path() string { return filepath.Join(f.dir, fileName) }

// remove removes the database, which may still be open.
func (f *files) remove() error {
	return errors.Join(f.limits.fs.Remove(f.path()), f.limits.fs.SyncDir(f.dir))
}

// free is how much space the volume has for this process, in bytes; as much as there can
// be if that is not known.
func (f *files) free() int64 {
	d, err := os.Open(filepath.Clean(f.dir))
	if err != nil {
		return math.MaxInt64
	}
	_, free, err := vfs.Space(d)
	if errors.Join(err, d.Close()) != nil {
		return math.MaxInt64
	}
	return free
}

func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// newOrigin draws a number that no other store has, and no other run of this one.
func newOrigin() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}
