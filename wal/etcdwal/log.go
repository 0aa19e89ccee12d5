package etcdwal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// Log is an open log. One goroutine calls it; any may call Entries, until Close.
// The first error is final: every later call returns it and writes nothing. That
// includes a full disk: wal.ErrNoSpace comes from Create only.
type Log struct {
	w   *etcd.WAL
	dir string
	// err is why nothing is written any more; nil while all is well.
	err error
	// state is the last HardState that was given to w.
	state raftpb.HardState
	// last is the index of the last entry, or of a mark beyond it.
	last uint64
	// marks are those that the log may next be opened at, in the order in which
	// they were set.
	marks []wal.Mark
	// uncovered is the highest index of a mark for which the commit index that
	// covers it was not appended yet; 0: none.
	uncovered uint64
	// unsynced: a commit index that came alone may not be durable yet.
	unsynced bool
	// scratch joins the entries of several batches. It is empty between calls.
	scratch []raftpb.Entry

	memory memory
}

var _ wal.Log = (*Log)(nil)

// Append writes the batches in order, all with one fsync, and returns when they
// are durable. What changes the commit index and nothing else is not synced: it
// becomes durable with the next thing that is. The exception is a commit index
// that makes a mark count, for a snapshot from the leader is acknowledged with it.
func (l *Log) Append(batches []wal.Batch) error {
	if l.err != nil {
		return l.err
	}
	entries, state, last, err := l.join(batches)
	if err == nil && (len(entries) > 0 || !raft.IsEmptyHardState(state)) {
		if err = l.save(state, entries); err == nil {
			for i := range batches {
				l.memory.append(batches[i].Entries)
			}
			l.last = last
		}
	}
	clear(l.scratch)
	l.scratch = l.scratch[:0]
	return l.fail("append to", err)
}

func (l *Log) save(state raftpb.HardState, entries []raftpb.Entry) error {
	return guard(func() error {
		if err := l.w.Save(state, entries); err != nil {
			return err
		}
		l.unsynced = !raft.MustSync(state, l.state, len(entries))
		if !raft.IsEmptyHardState(state) {
			l.state = state
		}
		if l.uncovered == 0 || l.state.Commit < l.uncovered {
			return nil
		}
		l.uncovered = 0
		return l.sync()
	})
}

// sync makes durable what was written.
func (l *Log) sync() error {
	l.unsynced = false
	return l.w.Sync()
}

// join returns the entries of all batches, the last state among them, and the
// index of the last entry then.
func (l *Log) join(batches []wal.Batch) (entries []raftpb.Entry, state raftpb.HardState, last uint64, err error) {
	last = l.last
	for i := range batches {
		b := &batches[i]
		if !raft.IsEmptyHardState(b.HardState) {
			state = b.HardState
		}
		if last, err = follow(last, b.Entries); err != nil {
			return nil, state, last, err
		}
		if len(batches) > 1 {
			l.scratch = append(l.scratch, b.Entries...)
		}
	}
	if len(batches) == 1 {
		return batches[0].Entries, state, last, nil
	}
	return l.scratch, state, last, nil
}

// follow checks that entries leave no gap behind last, for a log with a gap
// could never be opened again, and returns the index of the last of them.
func follow(last uint64, entries []raftpb.Entry) (uint64, error) {
	for i := range entries {
		index := entries[i].Index
		if index == 0 || index > last+1 || i > 0 && index != last+1 {
			return last, fmt.Errorf("entry %d cannot follow entry %d", index, last)
		}
		last = index
	}
	return last, nil
}

// SetMark makes m, and all that was appended, durable. The next Open may name m
// as soon as a commit index that covers it was appended too.
//
// Where the log holds no entry of m's index and term, m is the mark of a snapshot
// that replaces the log, and everything that was appended before it counts no
// more: such a mark comes before the entries that follow it.
func (l *Log) SetMark(m wal.Mark) error {
	if l.err != nil {
		return l.err
	}
	if err := l.saveMark(m); err != nil {
		return err
	}
	l.marks = append(l.marks, m)
	if !l.memory.holds(m.Index, m.Term) {
		l.memory.reset(m.Index)
		l.last = m.Index
	}
	if m.Index > l.state.Commit {
		l.uncovered = max(l.uncovered, m.Index)
	}
	return nil
}

func (l *Log) saveMark(m wal.Mark) error {
	err := guard(func() error { return l.w.SaveSnapshot(snapshotOf(m)) })
	l.unsynced = false
	return l.fail("set a mark in", err)
}

// rememberMark writes the mark that the log was opened at once more. It is for
// a log without entries behind it: etcd's log would not know where the next file
// begins and might give it the name of one that is needed for older entries.
func (l *Log) rememberMark() error { return l.saveMark(l.marks[0]) }

// Release frees the files that hold nothing behind index, and nothing behind
// the newest mark that is committed. Files go oldest first, each for good before
// the next, so that a crash leaves no gap.
func (l *Log) Release(index uint64) error {
	if l.err != nil {
		return l.err
	}
	newest := l.committedMark()
	if newest < 0 {
		return nil
	}
	// The mark is written once more, for it may be in a file that goes: it is in an
	// older one than its entry when the leader's snapshot was not installed after
	// all and the entries came one by one. That also syncs the commit index.
	if err := l.saveMark(l.marks[newest]); err != nil {
		return err
	}
	l.marks = l.marks[newest:]
	index = min(index, l.marks[0].Index)
	if err := guard(func() error { return l.w.ReleaseLockTo(index) }); err != nil {
		return l.fail("release the files of", err)
	}
	l.memory.drop(index)
	return l.fail("release the files of", removeBefore(l.dir, index))
}

// Entries returns [lo, hi): at least one entry, and then as many as maxBytes
// hold. They come from memory. raft.ErrCompacted: lo is at or before the mark at
// which the log was opened, or was released, or was replaced by a mark.
func (l *Log) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	return l.memory.get(lo, hi, maxBytes)
}

// Reserved is always true: etcd's log makes the file that it needs next on a
// goroutine of its own, and where it could not says so only when it needs it.
func (l *Log) Reserved() bool { return true }

// Reserve does nothing: see Reserved.
func (l *Log) Reserve() error { return nil }

// Idle makes a commit index durable that came alone. The format has nothing that
// would prove the last append durable.
func (l *Log) Idle() error {
	if l.err != nil || !l.unsynced {
		return l.err
	}
	return l.fail("sync", guard(l.sync))
}

// committedMark is the position of the newest mark that the log would be opened
// at after a crash. -1: that one is not known any more, or never was.
func (l *Log) committedMark() int {
	newest := -1
	for i, m := range l.marks {
		if m.Index <= l.state.Commit && (newest < 0 || m.Index >= l.marks[newest].Index) {
			newest = i
		}
	}
	return newest
}

// removeBefore removes the files before the one with which reading begins when
// the log is opened at index.
func removeBefore(dir string, index uint64) error {
	segments, err := listSegments(dir)
	if err != nil {
		return err
	}
	for i := range max(0, home(segments, index)) {
		path := filepath.Join(dir, segments[i].name)
		if err := os.Remove(path + ".broken"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// Close makes everything durable and gives up the lock, also after an error,
// which it then returns.
func (l *Log) Close() error {
	if l.err != nil {
		if l.w != nil {
			abandon(l.w)
			l.w = nil
		}
		return l.err
	}
	w := l.w
	l.w = nil
	err := l.fail("close", closeWAL(w))
	if err == nil {
		l.err = fmt.Errorf("etcdwal: log %s: %w", l.dir, os.ErrClosed)
	}
	return err
}

// fail makes the first error final. A failed fsync may have dropped the pages
// that it should have written: a second one that succeeds would prove nothing.
func (l *Log) fail(what string, err error) error {
	if err != nil {
		l.err = fmt.Errorf("etcdwal: %s %s: %w", what, l.dir, err)
	}
	return l.err
}
