package core

import (
	"bytes"
	"encoding/binary"
	"hash/crc64"
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

// Appends with the sums of the log before them read each entry of that part once, whether they
// are repeated or follow each other: it may be large and only on disk, and a member that falls
// behind gets more and more of them in a turn.
func TestRepeatedAppendsReadOnce(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 41}, entriesOf(1, 2, 41)...)
	sums := b.c.sumsAt(40)
	b.c.entrySums = entrySums{}
	b.follow(2, 1)
	s := counted(b)
	var in Input
	for range 100 {
		in.Messages = append(in.Messages, noted(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 40, LogTerm: 1, Commit: 40}, octopiipb.Note{Sums: sums[:]})...)
	}
	if e := b.step(in); len(e.Suspects) > 0 {
		t.Fatalf("the leader's log is the same: %+v", e.Suspects)
	}
	if s.entries != 32 {
		t.Errorf("%d entries were read for 100 appends after the same entry, want 32 once", s.entries)
	}
	for i := uint64(33); i <= 41; i++ {
		b.c.sumsAt(i)
	}
	if s.entries != 32+7+1 {
		t.Errorf("%d entries were read for the places from 33 to 41, want each of 2 to 41 once: 40 in all", s.entries)
	}
}

// What sums are is part of the format of messages and snapshots: a CRC over the entries, one
// behind the other.
func TestSumsAreOverWholeWindows(t *testing.T) {
	entries := entriesOf(3, 2, 40)
	for i := range entries {
		entries[i].Data = bytes.Repeat([]byte{1, byte(i)}, i*i*i)
	}
	for n := 0; n <= len(entries); n++ {
		var want Sums
		for i, w := range windows {
			if uint64(n) < w {
				break
			}
			sum := crc64.New(crc64.MakeTable(crc64.ECMA))
			for _, e := range entries[n-int(w) : n] {
				sum.Write(binary.LittleEndian.AppendUint64(nil, e.Index))
				sum.Write(binary.LittleEndian.AppendUint64(nil, e.Term))
				sum.Write([]byte{byte(e.Type)})
				sum.Write(e.Data)
			}
			want[i] = max(1, sum.Sum64())
		}
		if got := sumsOf(entries[:n]); got != want {
			t.Errorf("sums %v of %d entries, want %v", got, n, want)
		}
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
		b.c.entrySums = entrySums{}
		if want := b.c.sumsAt(i); got != want {
			t.Errorf("sums %v up to %d, want %v", got, i, want)
		}
	}
	b.c.entrySums.written(&Append{Snapshot: &raftpb.Snapshot{}})
	if _, ok := b.c.entrySums.get(40); ok {
		t.Error("sums of entries that a snapshot replaced are kept")
	}
}
