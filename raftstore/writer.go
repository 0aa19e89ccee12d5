package raftstore

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// Writer is the side of a Store that writes its log. The goroutine that appends owns it.
type Writer struct {
	*files
	// log is nil while there is none; seq is its number.
	log wal.Log
	seq uint64
	// hardState is the last one appended.
	hardState raftpb.HardState
	// mark is the newest durable mark; previous the one before it, 0 if none.
	mark, previous uint64
}

// Initialized says whether there is a log.
func (w *Writer) Initialized() bool { return w.log != nil }

// errNoLog: a caller did not ask Initialized, or closed the Store.
var errNoLog = errors.New("raftstore: there is no open log: Store.Found makes the first one, Writer.Install one behind a snapshot, and Store.Close closes it")

// Append makes batches durable together. With wal.ErrNoSpace nothing was
// written, and the same batches may come again; after any other error the Writer
// takes no further write.
func (w *Writer) Append(batches []wal.Batch) error {
	if w.log == nil {
		return errNoLog
	}
	if err := w.log.Append(batches); err != nil {
		return fmt.Errorf("raftstore: append: %w", err)
	}
	for i := range batches {
		if hs := batches[i].HardState; !raft.IsEmptyHardState(hs) {
			w.hardState = hs
		}
	}
	return nil
}

// Durable is the last hard state that Append or Install made durable; its commit
// index may be newer than what a crash would leave.
func (w *Writer) Durable() raftpb.HardState { return w.hardState }

// Idle tells the log that nothing has been appended for a while.
func (w *Writer) Idle() error {
	if w.log == nil {
		return nil
	}
	if err := w.log.Idle(); err != nil {
		return fmt.Errorf("raftstore: let the log fall idle: %w", err)
	}
	return nil
}

// Reserved says whether the file that the log needs next is ready.
func (w *Writer) Reserved() bool { return w.log == nil || w.log.Reserved() }

// Reserve makes the file that the log needs next ready, which takes as long as writing a
// whole file. It may run on a goroutine of its own beside everything but itself. With wal.ErrNoSpace it
// may be tried again later; any other error is final.
func (w *Writer) Reserve() error {
	if err := w.reader.reserve(); err != nil {
		return fmt.Errorf("raftstore: reserve the next file of the log: %w", err)
	}
	return nil
}

// Install makes a snapshot that is in place the beginning of a new log, which
// takes the place of the old one. An empty hs keeps the last one. The old log
// is useful until the new one appears under its name with all that it must
// hold, so a crash leaves one of the two. With wal.ErrNoSpace the old one stays
// in force, and the same may come again.
func (w *Writer) Install(h SnapshotHeader, hs raftpb.HardState, entries []raftpb.Entry) error {
	index := h.Metadata.Index
	if raft.IsEmptyHardState(hs) {
		hs = w.hardState
	}
	hs.Commit = max(hs.Commit, index)
	seq := w.seq + 1
	// The entries that hs may count as committed come after it.
	first := hs
	first.Commit = index
	log, err := w.backend.Create(w.logPath(seq), markOf(h), first)
	if err != nil {
		return fmt.Errorf("raftstore: make the log behind snapshot %d: %w", index, err)
	}
	if len(entries) > 0 || hs.Commit > first.Commit {
		if err = log.Append([]wal.Batch{{Entries: entries, HardState: hs}}); errors.Is(err, wal.ErrNoSpace) {
			discarded := w.discard(log, seq)
			if discarded == nil {
				return fmt.Errorf("raftstore: make the log behind snapshot %d: %w", index, err)
			}
			err = discarded
		}
	}
	// Also after an error: the new log is what the next Open finds, and the old one
	// must take nothing more.
	*w = Writer{files: w.files, log: log, seq: seq, hardState: hs, mark: index}
	// Nothing in the old log counts any more, whether or not it can be closed.
	_ = w.reader.replace(log, seq, index)
	if err != nil {
		return fmt.Errorf("raftstore: append behind snapshot %d: %w", index, err)
	}
	return w.removeLogs(seq)
}

// discard removes a log that is in place and not in force. It loses its name
// first, so that a crash leaves the whole of it or nothing.
func (w *Writer) discard(log wal.Log, seq uint64) error {
	// What it holds is not wanted.
	_ = log.Close()
	path := w.logPath(seq)
	err := w.fs.Rename(path, path+".tmp")
	if err == nil {
		err = w.fs.SyncDir(w.walDir())
	}
	if err == nil {
		err = w.fs.RemoveAll(path + ".tmp")
	}
	if err != nil {
		return fmt.Errorf("raftstore: remove the log %s, for which there is no space: %w", path, err)
	}
	return nil
}

// Mark makes a local snapshot the index at which the log can be opened. Its file must be in
// place: SnapshotWriter.Commit returned. The log must have an entry of its index and term. A
// mark that is not newer than the last one changes nothing. Two are kept, and the log from the older one on: should the
// newer one rot, the older one is still the whole truth. With wal.ErrNoSpace there
// is no mark, and it may be tried again.
func (w *Writer) Mark(h SnapshotHeader) error {
	index := h.Metadata.Index
	if w.log == nil {
		return errNoLog
	}
	if index <= w.mark {
		return nil
	}
	if err := w.log.SetMark(markOf(h)); err != nil {
		return fmt.Errorf("raftstore: mark index %d: %w", index, err)
	}
	before := w.mark
	w.mark = index
	return w.releaseTo(before)
}

// Shed gives up the older of the two marks that Mark keeps, and the log between them,
// where a full disk has no room for the log's next file otherwise. The newer one must be
// readable. View.Marked makes it visible, as after Mark.
func (w *Writer) Shed() error {
	if w.previous == w.mark {
		return nil
	}
	return w.releaseTo(w.mark)
}

// GiveSpares gives back what the log has ready for later, if it can.
func (w *Writer) GiveSpares() error {
	g, ok := w.log.(interface{ GiveSpares() error })
	if !ok {
		return nil
	}
	return g.GiveSpares()
}

// releaseTo frees the log up to a mark, and the snapshots before it.
func (w *Writer) releaseTo(previous uint64) error {
	w.previous = previous
	w.reader.release(previous)
	if err := w.log.Release(previous); err != nil {
		return fmt.Errorf("raftstore: release the log up to %d: %w", previous, err)
	}
	return w.removeSnapshots(previous)
}

func markOf(h SnapshotHeader) wal.Mark {
	return wal.Mark{Index: h.Metadata.Index, Term: h.Metadata.Term, ConfState: h.Metadata.ConfState}
}
