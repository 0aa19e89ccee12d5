package kv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node"
)

// Snapshot commits and captures the database file as of the last Apply. The
// snapshot must be closed before Close returns.
func (s *Store) Snapshot() (node.Snapshot, error) {
	if s.db == nil {
		return nil, ErrClosed
	}
	return s.db.be.Snapshot(), nil
}

// Restore replaces everything by the database that r streams, which may hold no
// entry behind index. After a crash in the middle, or an error, the old or the
// new database is there as a whole.
func (s *Store) Restore(index uint64, r io.Reader) error {
	if s.db == nil {
		return ErrClosed
	}
	if err := s.restore(index, r); err != nil {
		return fmt.Errorf("kv: restore to index %d: %w", index, err)
	}
	return nil
}

func (s *Store) restore(index uint64, r io.Reader) error {
	path, err := receiveFile(s.dir, r)
	if err != nil {
		return err
	}
	next, err := s.openReceived(path, index)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	// The name comes last: whichever database has it is whole and durable.
	if err := s.adopt(path); err != nil {
		return errors.Join(err, next.close())
	}
	old := s.replace(next)
	s.closing.Go(func() { s.closeReplaced(old) })
	return nil
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
	db, err := openDatabase(path, s.lg, s.limits, s.origin)
	if err != nil {
		return nil, err
	}
	if at := db.applied; at.index > index {
		return nil, errors.Join(fmt.Errorf("the snapshot holds entries up to %d", at.index), db.close())
	}
	db.moveTo(index)
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
	s.db = next
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
