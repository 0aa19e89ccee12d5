package raftstore

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// offer is the snapshot that raft may send to others.
type offer struct {
	// external: the state machine keeps its own data, of which it streams what it has then.
	external bool
	// snap is the newest durable snapshot or mark; handed is how far the state
	// machine was handed the log.
	snap, handed raftpb.SnapshotMetadata
	// wanted: raft asked for one that there is not.
	wanted bool
}

// reset makes a snapshot the newest, from which the state machine goes on.
func (o *offer) reset(snap raftpb.SnapshotMetadata) { o.snap, o.handed = snap, snap }

func (o *offer) snapshot() (raftpb.Snapshot, error) {
	if o.external {
		// What is streamed is cut when it is asked for: it has all of this.
		return raftpb.Snapshot{Metadata: o.handed}, nil
	}
	if o.snap.ConfState.Equivalent(o.handed.ConfState) != nil {
		o.wanted = true
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return raftpb.Snapshot{Metadata: o.snap}, nil
}
