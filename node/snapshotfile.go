package node

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
)

// headerOf describes a state in the header of its snapshot.
func headerOf(label core.Label) raftstore.SnapshotHeader {
	h := raftstore.SnapshotHeader{
		Metadata:   raftpb.SnapshotMetadata{Index: label.Index, Term: label.Term, ConfState: label.ConfState},
		Membership: *label.Membership,
		Terms:      label.Terms,
	}
	if label.Sums != (core.Sums{}) {
		h.Sums = label.Sums[:]
	}
	return h
}

// labelOf is headerOf the other way around.
func labelOf(h raftstore.SnapshotHeader) core.Label {
	return core.Label{
		Index:      h.Metadata.Index,
		Term:       h.Metadata.Term,
		ConfState:  h.Metadata.ConfState,
		Membership: &h.Membership,
		Terms:      h.Terms,
		Sums:       core.SumsFrom(h.Sums),
	}
}

// writeSnapshot writes the file of a snapshot and closes snapshot; nil is a mark without
// data. It returns the file's size in bytes.
func (g *group) writeSnapshot(header raftstore.SnapshotHeader, snapshot Snapshot) (size int64, err error) {
	header.External = snapshot == nil
	if snapshot != nil {
		defer func() { err = errors.Join(err, g.callbacks.write(snapshot.Close)) }()
	}
	w, err := g.createFile(g.store.CreateSnapshot, header)
	if err != nil {
		return 0, err
	}
	if snapshot != nil {
		err := g.callbacks.write(func() error {
			_, err := snapshot.WriteTo(w)
			return err
		})
		if err != nil {
			w.Abort()
			return 0, fmt.Errorf("node: the state machine failed to write the snapshot at %d: %w", header.Metadata.Index, err)
		}
	}
	return w.Commit()
}

// snapshotFile is the file of a snapshot that is being written. The watchdog looks at each
// operation: the whole file may take long, and one of its writes may not.
type snapshotFile struct {
	file  *raftstore.SnapshotWriter
	files *progress
}

// createFile begins a file by one of the store's CreateSnapshot and ReceiveSnapshot.
func (g *group) createFile(create func(raftstore.SnapshotHeader) (*raftstore.SnapshotWriter, error), header raftstore.SnapshotHeader) (snapshotFile, error) {
	files := &g.watchdog.files
	files.begin()
	defer files.end()
	w, err := create(header)
	return snapshotFile{w, files}, err
}

func (f snapshotFile) Write(p []byte) (int, error) {
	f.files.begin()
	defer f.files.end()
	return f.file.Write(p)
}

func (f snapshotFile) Commit() (int64, error) {
	f.files.begin()
	defer f.files.end()
	return f.file.Commit()
}

func (f snapshotFile) Abort() {
	f.files.begin()
	defer f.files.end()
	f.file.Abort()
}
