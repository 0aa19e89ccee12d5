package kv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node"
)

// restorer replaces the current database by a snapshot's, and makes room for it. Owned by
// the goroutine that applies.
type restorer struct {
	files
	current
	// noRoom: the last Restore found no room.
	noRoom bool
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
	if err := s.restore(index, r); err != nil {
		return fmt.Errorf("kv: restore to index %d: %w", index, err)
	}
	return nil
}

// restoreSpare is what a restored database needs beside its own size.
const restoreSpare = 4 << 20

// makeRoom gives back what can be spared if the database has no room: the old one, and
// if that is not enough the file that the snapshot is read from, where no vote depends on
// it.
func (s *restorer) makeRoom(r io.Reader) error {
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

func (s *restorer) restore(index uint64, r io.Reader) (err error) {
	defer func() { s.noRoom = isNoSpace(err) }()
	path, err := s.receive(r)
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
	if old := s.replace(next, false); old != nil {
		s.closing.Go(func() { s.closeReplaced(old) })
	}
	return nil
}

// drop removes the database. What a peer still reads of it takes room until it is done.
func (s *restorer) drop() error {
	s.lg.Warn("removing the old database, as there is no room for two; this member serves nothing until the snapshot is restored",
		zap.String("file", s.path()))
	old := s.replace(nil, true)
	err := s.remove()
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

// closeReplaced waits for the snapshots that are still read from db: a peer may
// be slow, and nothing of it may hold up the state machine.
func (s *restorer) closeReplaced(db *database) {
	if err := db.close(); err != nil {
		s.lg.Warn("closing the database that a snapshot replaced", zap.Error(err))
	}
}
