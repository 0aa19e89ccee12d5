package raftstore

import (
	"errors"
	iofs "io/fs"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// Calls in another order than that of Example are refused, or show an empty log; none of them
// panics or changes anything.
func TestCallsOutOfOrder(t *testing.T) {
	s, v, w, err := Open(Options{Dir: t.TempDir()})
	noError(t, err)
	batch := []wal.Batch{{Entries: []raftpb.Entry{{Index: 2, Term: 1}}}}
	first, err := v.FirstIndex()
	if last, err2 := v.LastIndex(); first != 1 || last != 0 || err != nil || err2 != nil {
		t.Errorf("before there is a log: from %d to %d, %v, %v", first, last, err, err2)
	}
	if term, err := v.Term(0); term != 0 || err != nil {
		t.Errorf("before there is a log: the term at 0 is %d, %v", term, err)
	}
	if _, err := v.Term(1); err != raft.ErrUnavailable {
		t.Errorf("before there is a log: the term at 1: %v", err)
	}
	if _, err := v.Entries(1, 2, 100); err != raft.ErrUnavailable {
		t.Errorf("before there is a log: the entry at 1: %v", err)
	}
	if v.Initialized() || w.Initialized() {
		t.Error("there is a log")
	}
	if err := w.Append(batch); err != errNoLog {
		t.Errorf("an append before there is a log: %v", err)
	}

	h := headerOf(1, 1, 1)
	if err := s.Found(h, raftpb.HardState{Term: 1}); err == nil || !strings.Contains(err.Error(), "call SetIdentity before Found") {
		t.Errorf("a log without an identity: %v", err)
	}
	id := Identity{Node: 1, Incarnation: 2}
	noError(t, s.SetIdentity(id))
	if err := s.SetIdentity(Identity{Node: 3, Incarnation: 4}); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("another identity: %v", err)
	}
	if got, ok := s.Identity(); got != id || !ok {
		t.Errorf("the identity is %+v, want %+v", got, id)
	}
	file, err := s.CreateSnapshot(h)
	noError(t, err)
	_, err = file.Commit()
	noError(t, err)
	noError(t, s.Found(h, raftpb.HardState{Term: 1}))
	noError(t, w.Append(batch))
	if err := s.Found(h, raftpb.HardState{Term: 1}); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("a second first log: %v", err)
	}
	noError(t, s.Close())
	if err := w.Append(batch); err != errNoLog {
		t.Errorf("an append after Close: %v", err)
	}

	s, v, _, err = Open(Options{Dir: s.dir})
	noError(t, err)
	if last, err := v.LastIndex(); last != 2 || err != nil {
		t.Errorf("opened again, the log ends at %d, %v", last, err)
	}
	noError(t, s.Close())
}
