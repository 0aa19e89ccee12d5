package raftstore

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// View is the side of a Store that raft reads: it is raft's Storage. The goroutine that
// drives raft owns it. It shows what is durable, as far as it was told of: see Appended,
// Installed and Marked. Before there is a log it shows an empty one.
type View struct {
	*files
	tail  tail
	offer offer
	// seq is the number of the log that tail is of, 0 if there is none, and readErr why it
	// could not be read.
	seq     uint64
	readErr error
}

var _ raft.Storage = (*View)(nil)

// Initialized says whether this member is part of a cluster: it has a log.
func (v *View) Initialized() bool { return v.seq != 0 }

// load lets raft see the log that was just opened.
func (v *View) load(h SnapshotHeader, seq uint64, state wal.State) error {
	v.seq = seq
	v.offer.external = v.external
	v.offer.reset(h.Metadata)
	return v.tail.load(h, state)
}

// Start returns the header of the snapshot or mark at which the log begins.
func (v *View) Start() SnapshotHeader { return v.tail.start }

// InitialState implements raft.Storage.
func (v *View) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	return v.tail.hardState, v.tail.start.Metadata.ConfState, nil
}

// Committed says that everything up to an index that is in the log is known to be
// committed, as a state machine that keeps its own data has applied it. The log need
// not say so: a hard state that changes only in commit is not synced. It is called
// before raft starts.
func (v *View) Committed(index uint64) {
	t := &v.tail
	t.hardState.Commit = max(t.hardState.Commit, index)
}

// Entries implements raft.Storage. It may return fewer entries than fit, where
// some are in memory and some only on disk, and none at all once ReadErr is set.
func (v *View) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	entries, cold, err := v.tail.entries(lo, hi, maxSize)
	if err != nil || cold == 0 {
		return entries, err
	}
	return v.readCold(lo, cold, maxSize)
}

// ReadErr is why entries could not be read back from disk; nil while all is
// well. It must be looked at after every step of raft, before anything is carried
// out: with an error the member stops, and nothing that raft decided in that step
// counts, for it was told that there is nothing where there is something. In one
// place raft panics at that, in a campaign with entries that are committed and not
// applied; whoever calls raft may take any panic for this error when it is set.
func (v *View) ReadErr() error { return v.readErr }

// Term implements raft.Storage.
func (v *View) Term(i uint64) (uint64, error) { return v.tail.term(i) }

// LastIndex implements raft.Storage.
func (v *View) LastIndex() (uint64, error) { return v.tail.last(), nil }

// FirstIndex implements raft.Storage.
func (v *View) FirstIndex() (uint64, error) { return v.tail.first(), nil }

// Snapshot implements raft.Storage. It answers that none is available while
// the newest one has another configuration than the one in force: raft's
// receiver ignores a snapshot that does not name it, and so the leader would
// wait for ever. SnapshotWanted then says that a new one is needed.
func (v *View) Snapshot() (raftpb.Snapshot, error) { return v.offer.snapshot() }

// Handed tells how far the state machine was handed the log, and which
// configuration is in force there.
func (v *View) Handed(index, term uint64, cs raftpb.ConfState) {
	v.offer.handed = raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: cs}
}

// SnapshotWanted says, once, that raft asked for a snapshot that there is not.
func (v *View) SnapshotWanted() bool {
	wanted := v.offer.wanted
	v.offer.wanted = false
	return wanted
}

// LogBytes is about how much the entries take that raft sees, in memory or on
// disk. Those that were there when the log was opened count once raft has read
// them, which it does to apply them.
func (v *View) LogBytes() uint64 { return v.tail.bytes }

// Appended makes a durable batch visible to raft.
func (v *View) Appended(entries []raftpb.Entry) { v.tail.append(entries) }

// Installed makes an installed snapshot the beginning of what raft sees. It is
// called once for every Writer.Install that succeeded, in their order.
func (v *View) Installed(h SnapshotHeader) {
	v.seq++
	v.tail.reset(h)
	v.offer.reset(h.Metadata)
}

// Marked makes a durable mark the snapshot that raft offers to others. Behind
// it, at most so many entries and bytes stay in the log for slow followers, and
// none that Writer.Mark released and memory does not hold.
func (v *View) Marked(h SnapshotHeader, trailing, trailingBytes uint64) {
	v.offer.snap = h.Metadata
	v.tail.marked(h.Metadata.Index, v.reader.releasedIndex(), trailing, trailingBytes)
}

// Newest describes the newest durable snapshot or mark.
func (v *View) Newest() raftpb.SnapshotMetadata { return v.offer.snap }

// SnapshotIndex is that of the newest snapshot or mark.
func (v *View) SnapshotIndex() uint64 { return v.offer.snap.Index }

// readCold reads [lo, hi) from disk.
//
// raft cannot be told that the disk failed: it panics. So it is given nothing,
// which makes it wait, and the error is kept for ReadErr.
func (v *View) readCold(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	if v.readErr != nil {
		return nil, nil
	}
	entries, err := v.reader.entries(v.seq, lo, hi, maxSize)
	switch {
	case errors.Is(err, errReplaced):
		return nil, raft.ErrCompacted
	case errors.Is(err, raft.ErrCompacted) && lo <= v.offer.snap.Index:
		// A new mark released it, and Marked is still to come: the follower that
		// wants it gets a snapshot. What is yet to be applied is behind the newest
		// mark that Marked told of, and that much is never released.
		return nil, raft.ErrCompacted
	}
	if err == nil {
		err = v.tail.compare(entries, lo, hi)
	}
	if err != nil {
		v.readErr = fmt.Errorf("raftstore: read entries %d to %d of the log back: %w", lo, hi-1, err)
		return nil, nil
	}
	v.tail.count(entries)
	return entries, nil
}

// compare checks what came from disk against what is known of it.
func (t *tail) compare(entries []raftpb.Entry, lo, hi uint64) error {
	if len(entries) == 0 || uint64(len(entries)) > hi-lo {
		return fmt.Errorf("%w: %d entries came back", wal.ErrCorrupt, len(entries))
	}
	r := t.run(lo)
	for i := range entries {
		index := lo + uint64(i)
		if r+1 < len(t.runs) && t.runs[r+1].First <= index {
			r++
		}
		if e := &entries[i]; e.Index != index || e.Term != t.runs[r].Term {
			return fmt.Errorf("%w: entry %d of term %d came back as entry %d of term %d", wal.ErrCorrupt, index, t.runs[r].Term, e.Index, e.Term)
		}
	}
	return nil
}
