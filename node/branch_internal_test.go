package node

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// database is a durable state machine that is at a place of a log.
type database struct {
	StateMachine
	index, term uint64
}

func (d database) Durable() (uint64, bool)    { return d.index, true }
func (d database) Position() (uint64, uint64) { return d.index, d.term }

// A database that is an image of another time than the log beside it is found at the
// start, whichever of the two is older.
func TestDatabaseOfAnotherBranch(t *testing.T) {
	fs := vfstest.NewMem()
	store, view, writer, err := raftstore.Open(raftstore.Options{FS: fs, Dir: "/data", Backend: wal.New(wal.Options{FS: fs, SegmentBytes: 1 << 20}), External: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.SetIdentity(raftstore.Identity{Node: 1, Incarnation: 1}); err != nil {
		t.Fatal(err)
	}
	header := raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: 5, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1}}}, External: true}
	w, err := store.CreateSnapshot(header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := store.Found(header, raftpb.HardState{Term: 2, Commit: 5}); err != nil {
		t.Fatal(err)
	}
	entries := []raftpb.Entry{{Index: 6, Term: 2}, {Index: 7, Term: 3}}
	if err := writer.Append([]wal.Batch{{Entries: entries, HardState: raftpb.HardState{Term: 3, Commit: 5}}}); err != nil {
		t.Fatal(err)
	}
	view.Appended(entries)
	for name, c := range map[string]struct {
		index, term uint64
		want        error
	}{
		"the same branch":                  {7, 3, nil},
		"behind the log":                   {6, 2, nil},
		"its term is not known":            {7, 0, nil},
		"another branch":                   {7, 4, ErrDiverged},
		"another branch, behind":           {6, 1, ErrDiverged},
		"beyond the log":                   {8, 3, ErrAmnesia},
		"older than where the log begins":  {4, 2, ErrAmnesia},
		"another branch, where it begins":  {5, 1, ErrDiverged},
		"the same branch, where it begins": {5, 2, nil},
	} {
		l := bareLoop()
		l.view, l.store, l.durable = view, store, true
		l.cfg = Config{Dir: "/data", StateMachine: database{index: c.index, term: c.term}}
		if _, err := l.recoverStateMachine(view.Start()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// The last branches are remembered, also of members that are none any more; what a member
// found out itself replaces what a leader saw of it.
func TestBranchesAreBounded(t *testing.T) {
	l := bareLoop()
	d := &losses{loop: l}
	for id := range uint64(2*branchesMax + 1) {
		l.membership = &octopiipb.Membership{Members: []octopiipb.Member{{ID: id + 1, Kind: octopiipb.Voter}}}
		d.keep(l.membership)
		d.branched(Branch{ID: id + 1, First: 5, Last: 9}, false)
		d.branched(Branch{ID: id + 1, First: 6, Last: 9, Term: 2}, true)
		d.branched(Branch{ID: id + 1, First: 7, Last: 9}, false)
	}
	if len(d.branches) != branchesMax {
		t.Fatalf("%d branches, want %d: %v", len(d.branches), branchesMax, d.branches)
	}
	for i, b := range d.branches {
		if want := (Branch{ID: uint64(branchesMax + 2 + i), First: 6, Last: 9, Term: 2}); b != want {
			t.Errorf("branch %d is %+v, want %+v", i, b, want)
		}
	}
}
