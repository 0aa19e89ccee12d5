package core

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// countedStorage counts the entries that are read from it.
type countedStorage struct {
	Storage
	entries int
}

func (s *countedStorage) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	entries, err := s.Storage.Entries(lo, hi, maxSize)
	s.entries += len(entries)
	return entries, err
}

// counted lets a bench count what is read beside raft.
func counted(b *bench) *countedStorage {
	s := &countedStorage{Storage: b.c.storage}
	b.c.storage = s
	return s
}

// An append that is repeated, with the sums of the log before it, does not read that part of
// the log each time: it may be large and only on disk, and a member that falls behind gets
// more and more of them in a turn.
func TestRepeatedAppendsReadOnce(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 41}, entriesOf(1, 2, 41)...)
	sums := b.c.sumsAt(40)
	b.c.computed = computedSums{}
	b.follow(2, 1)
	s := counted(b)
	var in Input
	for range 100 {
		in.Messages = append(in.Messages, noted(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 40, LogTerm: 1, Commit: 40}, octopiipb.Note{Sums: sums[:]})...)
	}
	if e := b.step(in); len(e.Suspects) > 0 {
		t.Fatalf("the leader's log is the same: %+v", e.Suspects)
	}
	if s.entries > 32 {
		t.Errorf("%d entries were read for 100 appends after the same entry, want 32 once", s.entries)
	}
}

// The same where this member leads: what it sends to a member that acknowledges nothing begins
// at the same place each time.
func TestAppendsToASilentMemberReadOnce(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 41}, entriesOf(1, 2, 41)...)
	b.elect(2)
	term := b.c.Status().Term
	s := counted(b)
	sent := 0
	for range 100 {
		e := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 3, To: 1, Term: term}})})
		for i := range e.Messages {
			if m := &e.Messages[i]; m.To == 3 && m.Type == raftpb.MsgApp && len(m.Note.Sums) > 0 {
				sent++
			}
		}
	}
	if sent < 50 {
		t.Fatalf("%d appends were sent with sums: the test does not test", sent)
	}
	if s.entries > 64 {
		t.Errorf("%d entries were read for %d appends, want 32 once", s.entries, sent)
	}
}

// Entries that take the place of others have sums of their own, and so has a snapshot.
func TestSumsOfWhatWasReplaced(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, entriesOf(1, 2, 40)...)
	before, lower := b.c.sumsAt(40), b.c.sumsAt(30)
	b.follow(2, 2)
	entries := entriesOf(2, 35, 40)
	e := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 34, LogTerm: 1, Entries: entries}})})
	if e.Append == nil || len(e.Append.Entries) != len(entries) {
		t.Fatalf("append %+v, want the entries of the new leader", e.Append)
	}
	if got := b.c.sumsAt(40); got != (Sums{}) {
		t.Errorf("sums %v of what is not durable", got)
	}
	if got := b.c.sumsAt(30); got != lower {
		t.Errorf("sums %v up to 30, want %v: nothing changed there", got, lower)
	}
	if err := b.d.Append(e.Append.Entries); err != nil {
		t.Fatal(err)
	}
	b.step(Input{Appended: []*Append{e.Append}})
	if got := b.c.sumsAt(40); got == before || got == (Sums{}) {
		t.Errorf("sums %v of the new entries, and %v of those before", got, before)
	}
	for i := uint64(2); i <= 40; i++ { // more than are kept
		got := b.c.sumsAt(i)
		b.c.computed = computedSums{}
		if want := b.c.sumsAt(i); got != want {
			t.Errorf("sums %v up to %d, want %v", got, i, want)
		}
	}
	b.c.computed.written(&Append{Snapshot: &raftpb.Snapshot{}})
	if _, ok := b.c.computed.get(40); ok {
		t.Error("sums of entries that a snapshot replaced are kept")
	}
}
