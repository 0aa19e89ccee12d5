package kv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
)

// Snapshot commits and captures the database file as of the last Apply. The
// snapshot must be closed before Close returns.
func (s *Store) Snapshot() (node.Snapshot, error) {
	if s.db == nil {
		return nil, ErrClosed
	}
	snap, err := s.db.be.capture()
	if err != nil {
		return nil, fmt.Errorf("kv: capture the database: %w", err)
	}
	return snap, nil
}

// snapshot is a captured file.
type snapshot struct {
	b    *checkedBackend
	view *view
}

// WriteTo reads and verifies the whole file before it writes any of it, so that no
// damage travels to another member: this one fails instead.
func (s *snapshot) WriteTo(w io.Writer) (n int64, err error) {
	if err := s.b.verifyView(context.Background(), s.view, nil); err != nil {
		return 0, fmt.Errorf("kv: this member's own database is not fit for a snapshot: %w", err)
	}
	s.b.protect("copy the file", func() { n, err = s.view.tx.WriteTo(w) })
	return n, errors.Join(err, s.b.failure())
}

// Close lets the database go.
func (s *snapshot) Close() error {
	s.b.release(s.view)
	return nil
}

// verifyView reads and verifies all pages and records of a view, of which this
// backend fails if they are damaged. See verifyTree for pace.
func (b *checkedBackend) verifyView(ctx context.Context, v *view, pace func(context.Context, int) error) error {
	m := meta{
		pageBytes: int64(b.db.Info().PageSize),
		root:      uint64(v.tx.Cursor().Bucket().Root()),
	}
	m.pages = uint64(v.tx.Size() / m.pageBytes)
	err := verifyTree(ctx, b.file, m, pace)
	if errors.Is(err, ErrDamaged) {
		b.fail(err)
	}
	return err
}

// Restore replaces everything by the database that r streams, which may hold no
// entry behind index. After a crash in the middle, or an error, the old or the
// new database is there as a whole.
//
// If there is no room for both, the old one is removed before the new one comes: after a
// crash the store is empty then, at index 0, and the caller must still have the snapshot.
// If r is a node.Releaser, and that is not enough, its file goes while it is read.
// A store without a database returns ErrClosed.
func (s *Store) Restore(index uint64, r io.Reader) error {
	if s.db == nil && !s.dropped {
		return ErrClosed
	}
	if err := s.makeRoom(r); err != nil {
		return fmt.Errorf("kv: restore to index %d: make room: %w", index, err)
	}
	err := s.restore(index, r)
	s.noRoom = isNoSpace(err)
	if err != nil {
		return fmt.Errorf("kv: restore to index %d: %w", index, err)
	}
	return nil
}

// restoreSpare is what a restored database needs beside its own size.
const restoreSpare = 4 << 20

// makeRoom gives back what can be spared if the database has no room: the old one, and
// if that is not enough the file that the snapshot is read from, where no vote depends on
// it.
func (s *Store) makeRoom(r io.Reader) error {
	file, ok := r.(node.Releaser)
	short := func() bool { return ok && s.free() < file.Bytes()+restoreSpare }
	if s.db != nil && (s.noRoom || short()) {
		if err := s.drop(); err != nil {
			return err
		}
	}
	if !short() || s.free() < restoreSpare {
		return nil
	}
	if err := file.Release(s.dir); err != nil {
		s.lg.Warn("the received snapshot and the database do not fit beside each other", zap.Error(err))
		return nil
	}
	s.lg.Warn("giving the space of the received snapshot back while the database is written, as there is no room for both",
		zap.Int64("bytes", file.Bytes()))
	return nil
}

// free is how much space the volume has for this process, in bytes; as much as there can
// be if that is not known.
func (s *Store) free() int64 {
	d, err := os.Open(filepath.Clean(s.dir))
	if err != nil {
		return math.MaxInt64
	}
	_, free, err := vfs.Space(d)
	if errors.Join(err, d.Close()) != nil {
		return math.MaxInt64
	}
	return free
}

func (s *Store) restore(index uint64, r io.Reader) error {
	path, err := receiveFile(s.dir, r)
	if err != nil {
		return noRoom(s.dir, err)
	}
	next, err := s.openReceived(path, index)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	// The name comes last: whichever database has it is whole and durable.
	if err := s.adopt(path); err != nil {
		return errors.Join(err, next.close())
	}
	if old := s.replace(next); old != nil {
		s.closing.Go(func() { s.closeReplaced(old) })
	}
	return nil
}

// drop removes the database. What a peer still reads of it takes room until it is done.
func (s *Store) drop() error {
	s.lg.Warn("removing the old database, as there is no room for two; this member serves nothing until the snapshot is restored",
		zap.String("file", s.path()))
	s.mu.Lock()
	old := s.db
	s.db, s.dropped = nil, true
	s.mu.Unlock()
	err := errors.Join(s.limits.fs.Remove(s.path()), s.limits.fs.SyncDir(s.dir))
	closed := make(chan struct{})
	s.closing.Go(func() {
		s.closeReplaced(old)
		close(closed)
	})
	// Its room is free when it is closed, which waits for peers that read from it: if
	// that takes long, the next try finds the room.
	timer := time.NewTimer(dropWait)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
	return err
}

// dropWait bounds how long drop waits for the readers of the database.
const dropWait = time.Second

// noRoom says what to do about a disk that is too full for a second database.
func noRoom(dir string, err error) error {
	if !isNoSpace(err) {
		return err
	}
	return fmt.Errorf("%w: the new database needs room in %s beside the old one; free some, or enlarge the volume", err, dir)
}

// receiveFile writes what r streams to a new file in dir, durably.
func receiveFile(dir string, r io.Reader) (path string, err error) {
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// openReceived opens a received database and makes index durable in it.
func (s *Store) openReceived(path string, index uint64) (*database, error) {
	if err := verifyFile(path); err != nil {
		return nil, fmt.Errorf("the snapshot is no whole database: %w", err)
	}
	db, err := s.openDatabase(path)
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

// moveTo says that there is nothing between the last entry in db and index that
// a state machine would have seen: raft writes entries of its own.
func (db *database) moveTo(index uint64) {
	tx := db.be.BatchTx()
	tx.LockOutsideApply()
	db.applied.index = index
	db.applying = db.applied
	db.store(tx)
	tx.Unlock()
	db.be.ForceCommit()
}

// replace puts next in the place of the database that it returns, once all
// reads that use that one have ended.
func (s *Store) replace(next *database) *database {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.db
	s.db, s.dropped = next, false
	return old
}

// closeReplaced waits for the snapshots that are still read from db: a peer may
// be slow, and nothing of it may hold up the state machine.
func (s *Store) closeReplaced(db *database) {
	if err := db.close(); err != nil {
		s.lg.Warn("closing the database that a snapshot replaced", zap.Error(err))
	}
}

func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
