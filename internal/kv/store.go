// Package kv is the state machine of octopiid: etcd's multi-version key-value
// store on bbolt, which stores the index of the last applied log entry in one
// transaction with what that entry changed.
package kv

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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

// ErrClosed: the store was closed.
var ErrClosed = errors.New("kv: store is closed")

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

// Options of a Store. The zero value of every field is a good choice.
type Options struct {
	// ReserveBytes of the volume are kept for the database beyond what it uses, so
	// that a full disk keeps no commit from what the log has. 0: a sixteenth of the
	// volume, at least 16 MiB and at most 64 MiB.
	ReserveBytes int64
}

// Store is a durable node.StateMachine. The methods of node.StateMachine, and
// Commit, are called by one goroutine. Those that read may be called from any.
//
// What does not match its checksum, and an error of writing the file, are final: the
// database is neither read nor written any more, all calls return why (ErrDamaged
// for damage), and Failed says so. What was committed before stays as it is.
type Store struct {
	dir    string
	lg     *zap.Logger
	limits limits
	// comparisons outlive the database.
	comparisons *comparisons
	// origin tells the commands that this store's server proposes from all others.
	origin uint64

	// mu guards db against Restore, which replaces it. Reads hold it for as long
	// as they last; the goroutine that applies needs it only to replace db.
	mu sync.RWMutex
	// db is nil after Close, and while dropped.
	db *database
	// dropped: Restore removed the old database to make room for the new one. There is
	// nothing to read until it has succeeded.
	dropped bool
	// noRoom: the last Restore found no room. Owned by the goroutine that applies.
	noRoom bool
	// lastRoom is what Room found last.
	lastRoom atomic.Int64
	// closing counts replaced databases that a reader of a snapshot still holds.
	closing sync.WaitGroup
}

// Open opens the store in dir, which is made if it is missing. A file that is
// not a whole database is an error that names it, and stays as it is. lg may be
// nil.
func Open(dir string, lg *zap.Logger) (*Store, error) { return OpenWith(dir, lg, Options{}) }

// OpenWith is Open with options.
func OpenWith(dir string, lg *zap.Logger, o Options) (*Store, error) {
	return open(dir, lg, limits{reserveBytes: o.ReserveBytes})
}

func open(dir string, lg *zap.Logger, l limits) (*Store, error) {
	if lg == nil {
		lg = zap.NewNop()
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	if l.fs == nil {
		l.fs = vfs.OS
	}
	s := &Store{dir: dir, lg: lg, limits: l, comparisons: newComparisons(), origin: newOrigin()}
	// It goes first: on a full volume it may be what the rest needs.
	if err := s.removeLeft(); err != nil {
		return nil, fmt.Errorf("kv: remove an interrupted restore: %w", err)
	}
	err := s.verify()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.create()
	case err == nil:
		s.db, err = s.openDatabase(s.path())
	}
	if err != nil {
		return nil, fmt.Errorf("kv: open %s: %w", s.path(), err)
	}
	return s, nil
}

// verify reads the database, which nobody else may be writing. One that does not exist
// is fs.ErrNotExist.
func (s *Store) verify() error {
	if _, err := os.Stat(s.path()); err != nil {
		return err
	}
	lock, err := vfs.OS.Lock(s.path())
	if errors.Is(err, vfs.ErrLocked) {
		return errInUse
	}
	if err != nil {
		return err
	}
	return errors.Join(verifyFile(s.path()), lock.Close())
}

// newOrigin draws a number that no other store has, and no other run of this one.
func newOrigin() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// create makes an empty database. It gets its name when it is whole, so that a
// crash leaves no half of one.
func (s *Store) create() error {
	path, err := receiveFile(s.dir, strings.NewReader(""))
	if err != nil {
		return err
	}
	db, err := s.openDatabase(path)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	if err := s.adopt(path); err != nil {
		return errors.Join(err, db.close())
	}
	s.db = db
	return nil
}

func (s *Store) openDatabase(path string) (*database, error) {
	db, err := openDatabase(path, s.lg, s.limits, s.origin)
	if err != nil {
		return nil, err
	}
	db.comparisons = s.comparisons
	return db, nil
}

// adopt gives a whole and durable database at path its final name.
func (s *Store) adopt(path string) error {
	if err := s.limits.fs.Rename(path, s.path()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return s.limits.fs.SyncDir(s.dir)
}

// makeDir makes dir durably.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("kv: make directory: %w", err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("kv: make directory %s: %w", dir, err)
	}
	return nil
}

// removeLeft removes what an interrupted Restore left. Who opens a store sees to it
// that nobody else has it open.
func (s *Store) removeLeft() error {
	left, err := filepath.Glob(filepath.Join(s.dir, tempPattern))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func (s *Store) path() string { return filepath.Join(s.dir, fileName) }

// Close commits, waits for a compaction that is under way, for all reads and
// for every Snapshot that is not closed, and releases the file.
func (s *Store) Close() error {
	s.mu.Lock()
	db := s.db
	s.db, s.dropped = nil, false
	s.mu.Unlock()
	if db == nil {
		s.closing.Wait()
		return nil
	}
	err := db.close()
	s.closing.Wait()
	if err != nil {
		return fmt.Errorf("kv: close %s: %w", s.path(), err)
	}
	return nil
}

// StopWaiting lets an Apply that waits for space return an error, and all later ones
// that would. It is called before a Close that must not wait for space. Any goroutine
// may call it.
func (s *Store) StopWaiting() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db != nil {
		s.db.room.stop()
	}
}

// NoSpace says whether the volume lacks the room that the store keeps in reserve:
// nothing that grows the store should be proposed. It passes by itself when there is
// space again. Any goroutine may call it.
func (s *Store) NoSpace() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.db != nil && s.db.room.low.Load()
}

// Stuck says why nothing is applied and what to do, if an entry waits for space; else it is
// empty. Any goroutine may call it.
func (s *Store) Stuck() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return ""
	}
	need := s.db.room.wanted.Load()
	if need == 0 || !s.db.room.low.Load() {
		return ""
	}
	return fmt.Sprintf("this member's volume is full: it applies nothing, and an entry waits for room for %d bytes; free some space on the volume, enlarge it, or, while a majority of the others is well, stop this member, empty its directory and start it with the same command", need)
}

// Room implements node.Limited. While the database is replaced it is what it was before.
func (s *Store) Room() int64 {
	if s.mu.TryRLock() { // it must not wait for those who read
		defer s.mu.RUnlock()
		if s.db != nil {
			s.lastRoom.Store(s.db.room.forCommands())
		}
	}
	return s.lastRoom.Load()
}

// tightDeleteBytes is what the records of the keys that one request deletes may take where
// the members have little room: the least reserve has that much for several at a time.
const tightDeleteBytes = 1 << 20

// FitsDeletes says whether there is room for what r writes about the keys that it deletes
// and does not name. What has none would wait in the log, with all that comes later. Any
// goroutine may call it. tight: others have less room than this member may have.
func (s *Store) FitsDeletes(r *pb.InternalRaftRequest, tight bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil || r.DeleteRange == nil && r.Txn == nil {
		return true
	}
	db := s.db
	room := db.room.share()
	if !tight && room >= 4*db.be.SizeInUse() {
		return true // whatever it deletes
	}
	if tight {
		room = min(room, tightDeleteBytes)
	}
	need := db.tombstones(r)
	if need <= room {
		return true
	}
	s.lg.Warn("a request is refused, as there is no room for the records of the keys that it deletes: delete fewer keys at a time, and compact; or enlarge the volume",
		zap.Int64("bytes", need), zap.Int64("room", room))
	return false
}

// Durable returns the index of the last entry whose effects are on disk. It
// waits for a commit that is under way.
func (s *Store) Durable() (index uint64, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return 0, true
	}
	return s.db.durable(), true
}

// Position returns what Durable does, and the term of the entry there.
func (s *Store) Position() (index, term uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return 0, 0
	}
	return s.db.position()
}

// Commit brings everything that was applied to disk.
func (s *Store) Commit() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	s.db.be.ForceCommit()
	if err := s.db.be.failure(); err != nil {
		return fmt.Errorf("kv: commit: %w", err)
	}
	return nil
}

// Failed returns a channel that is closed when the database fails, and a function
// that says why then. It is about the database that is open now: Restore opens
// another one.
func (s *Store) Failed() (failed <-chan struct{}, why func() error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return nil, func() error { return ErrClosed }
	}
	be := s.db.be
	return be.failed, func() error { return fmt.Errorf("kv: %s: %w", s.path(), be.failure()) }
}

// Size is the size of the database in bytes: of its file, and of what is in
// use of it. Both are 0 after Close.
func (s *Store) Size() (total, inUse int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return 0, 0
	}
	return s.db.be.Size(), s.db.be.SizeInUse()
}
