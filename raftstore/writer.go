package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// writer is the side of a Store that writes. The goroutine that appends owns
// it.
type writer struct {
	log wal.Log
	seq uint64
	// hardState is the last one appended.
	hardState raftpb.HardState
	// mark is the newest durable mark; previous the one before it, 0 if none.
	mark, previous uint64
}

// Append makes batches durable together. With wal.ErrNoSpace nothing was
// written, and the same batches may come again; after any other error the Store
// takes no further write.
func (s *Store) Append(batches []wal.Batch) error {
	if err := s.writer.log.Append(batches); err != nil {
		return fmt.Errorf("raftstore: append: %w", err)
	}
	for i := range batches {
		if hs := batches[i].HardState; !raft.IsEmptyHardState(hs) {
			s.writer.hardState = hs
		}
	}
	return nil
}

// Durable is the last hard state that Append or Install made durable; its commit
// index may be newer than what a crash would leave. It belongs to the writing side.
func (s *Store) Durable() raftpb.HardState { return s.writer.hardState }

// Idle tells the log that nothing has been appended for a while.
func (s *Store) Idle() error {
	if s.writer.log == nil {
		return nil
	}
	if err := s.writer.log.Idle(); err != nil {
		return fmt.Errorf("raftstore: let the log fall idle: %w", err)
	}
	return nil
}

// Reserved says whether the file that the log needs next is ready.
func (s *Store) Reserved() bool { return s.writer.log == nil || s.writer.log.Reserved() }

// Reserve makes it ready, which takes as long as writing a whole file. It may run
// on a goroutine of its own beside everything but itself. With wal.ErrNoSpace it
// may be tried again later; any other error is final.
func (s *Store) Reserve() error {
	if err := s.reader.reserve(); err != nil {
		return fmt.Errorf("raftstore: reserve the next file of the log: %w", err)
	}
	return nil
}

// Install makes a snapshot that is in place the beginning of a new log, which
// takes the place of the old one. An empty hs keeps the last one. The old log
// is useful until the new one appears under its name with all that it must
// hold, so a crash leaves one of the two. With wal.ErrNoSpace the old one stays
// in force, and the same may come again.
func (s *Store) Install(h octopiipb.SnapshotHeader, hs raftpb.HardState, entries []raftpb.Entry) error {
	index := h.Metadata.Index
	if raft.IsEmptyHardState(hs) {
		hs = s.writer.hardState
	}
	hs.Commit = max(hs.Commit, index)
	seq := s.writer.seq + 1
	// The entries that hs may count as committed come after it.
	first := hs
	first.Commit = index
	log, err := s.opts.Backend.Create(s.logPath(seq), markOf(h), first)
	if err != nil {
		return fmt.Errorf("raftstore: make the log behind snapshot %d: %w", index, err)
	}
	if len(entries) > 0 || hs.Commit > first.Commit {
		if err = log.Append([]wal.Batch{{Entries: entries, HardState: hs}}); errors.Is(err, wal.ErrNoSpace) {
			discarded := s.discard(log, seq)
			if discarded == nil {
				return fmt.Errorf("raftstore: make the log behind snapshot %d: %w", index, err)
			}
			err = discarded
		}
	}
	// Also after an error: the new log is what the next Open finds, and the old one
	// must take nothing more.
	s.writer = writer{log: log, seq: seq, hardState: hs, mark: index}
	// Nothing in the old log counts any more, whether or not it can be closed.
	_ = s.reader.replace(log, seq, index)
	if err != nil {
		return fmt.Errorf("raftstore: append behind snapshot %d: %w", index, err)
	}
	return s.removeLogs(seq)
}

// Restored tells that the state machine has the snapshot at index: those before it
// can go. Install must not remove them, for another one may be installed before the
// state machine has read the first. It may be called from any goroutine.
func (s *Store) Restored(index uint64) error { return s.removeSnapshots(index) }

// Replace puts a mark in the place of a snapshot that a durable state machine has restored:
// its file is not needed any more. After a crash there is one of the two.
func (s *Store) Replace(h octopiipb.SnapshotHeader) error {
	h.External = true
	w, err := s.CreateSnapshot(h)
	if err != nil {
		return err
	}
	_, err = w.Commit()
	return err
}

// discard removes a log that is in place and not in force. It loses its name
// first, so that a crash leaves the whole of it or nothing.
func (s *Store) discard(log wal.Log, seq uint64) error {
	// What it holds is not wanted.
	_ = log.Close()
	path := s.logPath(seq)
	err := s.fs.Rename(path, path+".tmp")
	if err == nil {
		err = s.fs.SyncDir(s.walDir())
	}
	if err == nil {
		err = s.fs.RemoveAll(path + ".tmp")
	}
	if err != nil {
		return fmt.Errorf("raftstore: remove the log %s, for which there is no space: %w", path, err)
	}
	return nil
}

// Mark makes a local snapshot, which is in place, the index at which the log
// can be opened. Two are kept, and the log from the older one on: should the
// newer one rot, the older one is still the whole truth. With wal.ErrNoSpace there
// is no mark, and it may be tried again.
func (s *Store) Mark(h octopiipb.SnapshotHeader) error {
	index := h.Metadata.Index
	if index <= s.writer.mark {
		return nil
	}
	if err := s.writer.log.SetMark(markOf(h)); err != nil {
		return fmt.Errorf("raftstore: mark index %d: %w", index, err)
	}
	s.writer.previous, s.writer.mark = s.writer.mark, index
	s.reader.release(s.writer.previous)
	if err := s.writer.log.Release(s.writer.previous); err != nil {
		return fmt.Errorf("raftstore: release the log up to %d: %w", s.writer.previous, err)
	}
	return s.removeSnapshots(s.writer.previous)
}

func markOf(h octopiipb.SnapshotHeader) wal.Mark {
	return wal.Mark{Index: h.Metadata.Index, Term: h.Metadata.Term, ConfState: h.Metadata.ConfState}
}

// removeLogs removes the logs before seq.
func (s *Store) removeLogs(seq uint64) error {
	seqs, err := s.logs()
	if vfs.Refused(err) {
		return nil // the next start does it
	}
	if err != nil {
		return err
	}
	for _, old := range seqs {
		if old >= seq {
			break
		}
		if err := s.fs.RemoveAll(s.logPath(old)); err != nil && !vfs.Refused(err) {
			return fmt.Errorf("raftstore: remove an old log: %w", err)
		}
	}
	return nil
}

// removeSnapshots removes the snapshots before index.
func (s *Store) removeSnapshots(index uint64) error {
	names, err := listSnapshots(s.fs, s.snapDir())
	if vfs.Refused(err) {
		return nil // the next mark does it
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Index >= index {
			continue
		}
		// A mark may remove them at the same time.
		if err := s.fs.Remove(filepath.Join(s.snapDir(), n.String())); err != nil && !errors.Is(err, fs.ErrNotExist) && !vfs.Refused(err) {
			return fmt.Errorf("raftstore: remove an old snapshot: %w", err)
		}
	}
	return nil
}
