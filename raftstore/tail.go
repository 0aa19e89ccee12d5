package raftstore

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// tail is the end of the log in memory, as far as it is durable.
//
// Invariant: ents[0] is the entry before the first one, of which only index and
// term are known; the indexes have no gaps.
type tail struct {
	ents  []raftpb.Entry
	bytes uint64
	// hardState is what the log held when it was opened.
	hardState raftpb.HardState
	// start is the header at which the log was opened or last installed.
	start octopiipb.SnapshotHeader
	// snap is the newest durable snapshot or mark; handed is how far the state
	// machine was handed the log.
	snap, handed raftpb.SnapshotMetadata
	external     bool
	wanted       bool
}

// load takes over what a log held when it was opened.
func (t *tail) load(h octopiipb.SnapshotHeader, state wal.State, external bool) error {
	t.external = external
	t.reset(h)
	t.append(state.Entries)
	t.hardState = state.HardState
	if t.hardState.Commit < h.Metadata.Index {
		t.hardState.Commit = h.Metadata.Index
	}
	if t.hardState.Commit > t.last() {
		return fmt.Errorf("raftstore: %w: the log ends at index %d, but %d was committed; rebuild this member from its peers",
			wal.ErrCorrupt, t.last(), t.hardState.Commit)
	}
	return nil
}

// reset makes a snapshot the beginning of an empty log.
func (t *tail) reset(h octopiipb.SnapshotHeader) {
	t.start = h
	t.snap, t.handed = h.Metadata, h.Metadata
	t.ents = []raftpb.Entry{{Index: h.Metadata.Index, Term: h.Metadata.Term}}
	t.bytes = 0
}

func (t *tail) first() uint64 { return t.ents[0].Index + 1 }
func (t *tail) last() uint64  { return t.ents[0].Index + uint64(len(t.ents)) - 1 }

func (t *tail) term(i uint64) (uint64, error) {
	switch {
	case i < t.ents[0].Index:
		return 0, raft.ErrCompacted
	case i > t.last():
		return 0, raft.ErrUnavailable
	}
	return t.ents[i-t.ents[0].Index].Term, nil
}

// entries returns [lo, hi), at least one entry and then as many as maxSize
// bytes hold.
func (t *tail) entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	switch {
	case lo < t.first():
		return nil, raft.ErrCompacted
	case hi > t.last()+1:
		return nil, raft.ErrUnavailable
	}
	base := t.ents[0].Index
	ents := t.ents[lo-base : hi-base : hi-base]
	var size uint64
	for i := range ents {
		size += uint64(ents[i].Size())
		if i > 0 && size > maxSize {
			return ents[:i:i], nil
		}
	}
	return ents, nil
}

// append adds entries; those that it holds from the first index on are
// replaced.
func (t *tail) append(entries []raftpb.Entry) {
	for len(entries) > 0 && entries[0].Index < t.first() {
		entries = entries[1:] // compacted already
	}
	if len(entries) == 0 {
		return
	}
	keep := entries[0].Index - t.ents[0].Index
	if keep > uint64(len(t.ents)) {
		panic(fmt.Sprintf("raftstore: append of index %d behind a log that ends at %d", entries[0].Index, t.last()))
	}
	if keep < uint64(len(t.ents)) {
		for i := range t.ents[keep:] {
			t.bytes -= entryBytes(&t.ents[keep:][i])
		}
		// raft may still read the slice that it was given: never write into it.
		t.ents = t.ents[:keep:keep]
	}
	for i := range entries {
		t.bytes += entryBytes(&entries[i])
	}
	t.ents = append(t.ents, entries...)
}

// compactBehind drops what is further behind index than so many entries and
// bytes.
func (t *tail) compactBehind(index, trailing, trailingBytes uint64) {
	var size uint64
	keep := index
	for keep >= t.first() && index-keep < trailing && size < trailingBytes {
		size += entryBytes(&t.ents[keep-t.ents[0].Index])
		keep--
	}
	t.compact(keep)
}

// compact drops the entries up to and including index.
func (t *tail) compact(index uint64) {
	if index < t.first() || index > t.last() {
		return
	}
	drop := index - t.ents[0].Index
	for i := range t.ents[1 : drop+1] {
		t.bytes -= entryBytes(&t.ents[1+i])
	}
	kept := make([]raftpb.Entry, uint64(len(t.ents))-drop, 2*(uint64(len(t.ents))-drop))
	copy(kept, t.ents[drop:])
	kept[0] = raftpb.Entry{Index: kept[0].Index, Term: kept[0].Term}
	t.ents = kept
}

func (t *tail) snapshot() (raftpb.Snapshot, error) {
	if t.external {
		// What is streamed is cut when it is asked for: it has all of this.
		return raftpb.Snapshot{Metadata: t.handed}, nil
	}
	if t.snap.ConfState.Equivalent(t.handed.ConfState) != nil {
		t.wanted = true
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return raftpb.Snapshot{Metadata: t.snap}, nil
}

// entryBytes is about what an entry takes in memory.
func entryBytes(e *raftpb.Entry) uint64 { return uint64(len(e.Data)) + 48 }
