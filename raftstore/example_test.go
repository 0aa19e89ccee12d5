package raftstore_test

import (
	"fmt"
	"os"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The order of the calls in the life of a member: found a log, append to it, take a snapshot, mark
// it, and read everything back. In a program the Writer and the View have goroutines of their own.
func Example() {
	dir, err := os.MkdirTemp("", "raftstore")
	must(err)
	defer os.RemoveAll(dir)

	store, view, writer, err := raftstore.Open(raftstore.Options{Dir: dir})
	must(err)
	must(store.SetIdentity(raftstore.Identity{Node: 1, Name: "a", Incarnation: 11}))
	voters := raftpb.ConfState{Voters: []uint64{1}}
	members := octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: 1, Name: "a", Kind: octopiipb.Voter, Incarnation: 11}}}

	// A cluster begins with a snapshot at index 1: its file first, and then the log behind it.
	first := raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: 1, Term: 1, ConfState: voters}, Membership: members}
	file, err := store.CreateSnapshot(first)
	must(err)
	_, err = file.Commit()
	must(err)
	must(store.Found(first, raftpb.HardState{Term: 1, Commit: 1}))

	// An append is durable when Append returns. Raft sees it when Appended was called.
	entries := []raftpb.Entry{{Index: 2, Term: 1, Data: []byte("x")}, {Index: 3, Term: 1, Data: []byte("y")}}
	must(writer.Append([]wal.Batch{{Entries: entries, HardState: raftpb.HardState{Term: 1, Vote: 1, Commit: 3}}}))
	view.Appended(entries)
	view.Committed(3)
	view.Handed(3, 1, voters) // to the state machine

	// A snapshot of what was applied, and its mark in the log. What is before it may go then.
	second := raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: 3, Term: 1, ConfState: voters}, Membership: members}
	file, err = store.CreateSnapshot(second)
	must(err)
	_, err = file.Write([]byte("x y"))
	must(err)
	_, err = file.Commit()
	must(err)
	must(writer.Mark(second))
	view.Marked(second, 0, 0)
	must(store.Close())

	store, view, _, err = raftstore.Open(raftstore.Options{Dir: dir})
	must(err)
	id, _ := store.Identity()
	hs, _, err := view.InitialState()
	must(err)
	fmt.Printf("member %s begins behind index %d, in term %d, and voted for %d\n", id.Name, view.Start().Metadata.Index, hs.Term, hs.Vote)
	must(store.Close())
	// Output: member a begins behind index 3, in term 1, and voted for 1
}
