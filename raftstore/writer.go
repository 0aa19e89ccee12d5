package raftstore

import (
	"fmt"
	"path/filepath"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

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

// Append makes batches durable together. After an error the Store takes no
// further write.
func (s *Store) Append(batches []wal.Batch) error {
	for i := range batches {
		if hs := batches[i].HardState; !raft.IsEmptyHardState(hs) {
			s.writer.hardState = hs
		}
	}
	if err := s.writer.log.Append(batches); err != nil {
		return fmt.Errorf("raftstore: append: %w", err)
	}
	return nil
}

// Install makes a snapshot that is in place the beginning of a new log, which
// takes the place of the old one. An empty hs keeps the last one. The old log
// is useful until the new one appears under its name with all that it must
// hold, so a crash leaves one of the two.
func (s *Store) Install(h octopiipb.SnapshotHeader, hs raftpb.HardState, entries []raftpb.Entry) error {
	if raft.IsEmptyHardState(hs) {
		hs = s.writer.hardState
	}
	hs.Commit = max(hs.Commit, h.Metadata.Index)
	seq := s.writer.seq + 1
	// The entries that hs may count as committed come after it.
	first := hs
	first.Commit = h.Metadata.Index
	log, err := s.opts.Backend.Create(s.logPath(seq), markOf(h), first)
	if err != nil {
		return fmt.Errorf("raftstore: make the log behind snapshot %d: %w", h.Metadata.Index, err)
	}
	if old := s.writer.log; old != nil {
		// Nothing in it counts any more.
		_ = old.Close()
	}
	s.writer = writer{log: log, seq: seq, hardState: hs, mark: h.Metadata.Index}
	if len(entries) > 0 || hs.Commit > first.Commit {
		if err := s.Append([]wal.Batch{{Entries: entries, HardState: hs}}); err != nil {
			return err
		}
	}
	if err := s.removeLogs(seq); err != nil {
		return err
	}
	return s.removeSnapshots(h.Metadata.Index)
}

// Mark makes a local snapshot, which is in place, the index at which the log
// can be opened. Two are kept, and the log from the older one on: should the
// newer one rot, the older one is still the whole truth.
func (s *Store) Mark(h octopiipb.SnapshotHeader) error {
	index := h.Metadata.Index
	if index <= s.writer.mark {
		return nil
	}
	if err := s.writer.log.SetMark(markOf(h)); err != nil {
		return fmt.Errorf("raftstore: mark index %d: %w", index, err)
	}
	s.writer.previous, s.writer.mark = s.writer.mark, index
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
	if err != nil {
		return err
	}
	for _, old := range seqs {
		if old >= seq {
			break
		}
		if err := s.fs.RemoveAll(s.logPath(old)); err != nil {
			return fmt.Errorf("raftstore: remove an old log: %w", err)
		}
	}
	return nil
}

// removeSnapshots removes the snapshots before index.
func (s *Store) removeSnapshots(index uint64) error {
	names, err := listSnapshots(s.fs, s.snapDir())
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Index >= index {
			continue
		}
		if err := s.fs.Remove(filepath.Join(s.snapDir(), n.String())); err != nil {
			return fmt.Errorf("raftstore: remove an old snapshot: %w", err)
		}
	}
	return nil
}
