package wal_test

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The order of the calls in the life of a log. One goroutine makes them.
func Example() {
	parent, err := os.MkdirTemp("", "wal")
	must(err)
	defer os.RemoveAll(parent)
	dir, logs := filepath.Join(parent, "log"), wal.New(wal.Options{})

	// A log begins behind the snapshot of its mark, which counts as committed.
	voters := raftpb.ConfState{Voters: []uint64{1}}
	log, err := logs.Create(dir, wal.Mark{Index: 1, Term: 1, ConfState: voters}, raftpb.HardState{Term: 1, Commit: 1})
	must(err)

	// All batches of an Append are durable when it returns. The second one replaces an entry.
	must(log.Append([]wal.Batch{
		{Entries: []raftpb.Entry{{Index: 2, Term: 1, Data: []byte("a")}, {Index: 3, Term: 1, Data: []byte("b")}}},
		{Entries: []raftpb.Entry{{Index: 3, Term: 2, Data: []byte("c")}}, HardState: raftpb.HardState{Term: 2, Vote: 1, Commit: 2}},
	}))

	// A snapshot of the state up to index 2 is durable elsewhere: what it covers may go.
	must(log.SetMark(wal.Mark{Index: 2, Term: 1, ConfState: voters}))
	must(log.Release(2))
	must(log.Close())

	marks, err := logs.Marks(dir)
	must(err)
	newest := marks[len(marks)-1]
	log, state, err := logs.Open(dir, newest)
	must(err)
	entries, err := log.Entries(newest.Index+1, state.Last+1, 1<<20)
	must(err)
	for _, e := range entries {
		fmt.Printf("entry %d of term %d: %s\n", e.Index, e.Term, e.Data)
	}
	must(log.Close())

	// Where is what in the files, and is it whole?
	sum, err := wal.Inspect(nil, dir, func(r *wal.Record) error {
		fmt.Printf("frame %d: %s\n", r.Sequence, r.Kinds)
		return nil
	}, nil)
	must(err)
	fmt.Printf("its end is proven: %v\n", sum.Ended)
	// Output:
	// entry 3 of term 2: c
	// frame 1: mark,begin
	// frame 2: entries
	// frame 3: mark
	// frame 4: end
	// its end is proven: true
}
