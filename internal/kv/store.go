// Package kv is the state machine of octopiid: etcd's multi-version key-value
// store on bbolt, which stores the index of the last applied log entry in one
// transaction with what that entry changed.
package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
)

// ErrClosed: the store was closed.
var ErrClosed = errors.New("kv: store is closed")

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
	restorer
	// lastRoom is what Room found last.
	lastRoom atomic.Int64
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
	if l.fs == nil {
		l.fs = vfs.OS
	}
	s := &Store{restorer: restorer{files: files{dir: dir, lg: lg, limits: l, comparisons: newComparisons(), origin: newOrigin()}}}
	if err := s.makeDir(); err != nil {
		return nil, err
	}
	// It goes first: on a full volume it may be what the rest needs.
	if err := s.removeLeft(); err != nil {
		return nil, fmt.Errorf("kv: remove an interrupted restore: %w", err)
	}
	err := s.verify()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.db, err = s.create()
	case err == nil:
		s.db, err = s.openDatabase(s.path())
	}
	if err != nil {
		return nil, fmt.Errorf("kv: open %s: %w", s.path(), err)
	}
	return s, nil
}

// Close commits, waits for a compaction that is under way, for all reads and
// for every Snapshot that is not closed, and releases the file.
func (s *Store) Close() error {
	db := s.replace(nil, false)
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
