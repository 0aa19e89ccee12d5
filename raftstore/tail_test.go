package raftstore

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/octopii/octopii/wal"
)

// headerOf is a snapshot header with the given voters.
func headerOf(term, index uint64, voters ...uint64) SnapshotHeader {
	h := headerAt(term, index)
	h.Metadata.ConfState = raftpb.ConfState{Voters: voters}
	return h
}

// entriesOf are the entries lo to hi of one term; their data names them.
func entriesOf(term, lo, hi uint64) []raftpb.Entry {
	var entries []raftpb.Entry
	for i := lo; i <= hi; i++ {
		entries = append(entries, raftpb.Entry{Index: i, Term: term, Data: fmt.Appendf(nil, "entry %d of term %d", i, term)})
	}
	return entries
}

// disk is a log of which only the reading side counts: it holds what a model
// does, except what was released.
type disk struct {
	wal.Log
	model    *raft.MemoryStorage
	released uint64
	err      error
}

func (d *disk) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	if d.err != nil {
		return nil, d.err
	}
	if lo <= d.released {
		return nil, raft.ErrCompacted
	}
	return d.model.Entries(lo, hi, maxBytes)
}

// newReading is the side of a store that raft reads, with so much memory.
func newReading(t rapid.TB, h SnapshotHeader, d *disk, limit uint64) *View {
	t.Helper()
	v := &View{files: &files{}}
	v.tail.limit = limit
	if err := v.reader.replace(d, 1, h.Metadata.Index); err != nil {
		t.Fatal(err)
	}
	if err := v.load(h, 1, wal.State{Last: h.Metadata.Index}); err != nil {
		t.Fatal(err)
	}
	return v
}

func newTail(t rapid.TB, h SnapshotHeader) *tail {
	t.Helper()
	tl := tail{limit: 1 << 40}
	if err := tl.load(h, wal.State{Last: h.Metadata.Index}); err != nil {
		t.Fatal(err)
	}
	return &tl
}

// handedOut is a slice that raft may hold, and what it showed at the time.
type handedOut struct{ slice, copy []raftpb.Entry }

// TestTailIsMemoryStorage drives a store and raft's own MemoryStorage through
// the same appends and compactions, with memory for all of the log or for next to
// nothing, and compares all that raft can ask of them. What was handed out earlier
// must not change under raft's hands.
func TestTailIsMemoryStorage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := headerOf(1, rapid.Uint64Range(1, 5).Draw(t, "start"), 1)
		ms := raft.NewMemoryStorage()
		if err := ms.ApplySnapshot(raftpb.Snapshot{Metadata: start.Metadata}); err != nil {
			t.Fatal(err)
		}
		d := &disk{model: ms, released: start.Metadata.Index}
		memory := rapid.SampledFrom([]uint64{1, 200, 1200, 3000, 1 << 40}).Draw(t, "memory")
		s := newReading(t, start, d, memory)
		tl := &s.tail
		var out []handedOut
		term := uint64(1)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			first, last := tl.first(), tl.last()
			switch rapid.SampledFrom([]string{"append", "append", "overwrite", "compact", "mark", "reset"}).Draw(t, "op") {
			case "append":
				add := entriesOf(term, last+1, last+rapid.Uint64Range(0, 6).Draw(t, "count"))
				tl.append(slices.Clone(add))
				_ = ms.Append(add)
			case "overwrite": // a leader of a new term; its entries may begin before what is kept
				term++
				lo := rapid.Uint64Range(max(first, 3)-2, last+1).Draw(t, "from")
				add := entriesOf(term, lo, lo+rapid.Uint64Range(0, 4).Draw(t, "count"))
				tl.append(slices.Clone(add))
				_ = ms.Append(add)
			case "compact":
				index := rapid.Uint64Range(0, last+2).Draw(t, "index")
				tl.compact(index)
				if index >= first && index <= last {
					_ = ms.Compact(index)
				}
			case "mark": // what the one before it released is gone from the disk
				index := rapid.Uint64Range(max(first-1, s.offer.snap.Index), max(last, s.offer.snap.Index)).Draw(t, "index")
				trailing := rapid.Uint64Range(0, 8).Draw(t, "trailing")
				d.released = s.offer.snap.Index
				s.offer.snap = raftpb.SnapshotMetadata{Index: index, Term: term}
				tl.marked(index, d.released, trailing, 1<<30)
				if keep := index - min(trailing, index); keep >= first && index <= last {
					_ = ms.Compact(keep)
				}
			case "reset":
				h := headerOf(term, last+rapid.Uint64Range(1, 3).Draw(t, "ahead"), 1)
				tl.reset(h)
				s.offer.reset(h.Metadata)
				_ = ms.ApplySnapshot(raftpb.Snapshot{Metadata: h.Metadata})
				d.released = h.Metadata.Index
			}
			// What is neither on disk nor in memory must not be seen.
			if gone := min(d.released, tl.firstCached()-1); gone >= tl.first() {
				t.Fatalf("raft sees the log from %d on, and everything up to %d is gone", tl.first(), gone)
			} else if first, _ := ms.FirstIndex(); gone >= first {
				_ = ms.Compact(gone)
			}
			checkInvariants(t, tl)
			compareStorages(t, tl, ms)
			out = append(out, drawEntries(t, s, ms))
			for _, o := range out {
				if diff := cmp.Diff(o.copy, o.slice); diff != "" {
					t.Fatalf("entries that raft was given changed afterwards (-then +now):\n%s", diff)
				}
			}
		}
	})
}

// checkInvariants checks what a tail says of its own fields.
func checkInvariants(t *rapid.T, tl *tail) {
	for i, r := range tl.runs {
		if i > 0 && (r.First <= tl.runs[i-1].First || r.Term == tl.runs[i-1].Term) || i > 0 && r.First > tl.end {
			t.Fatalf("the terms %v are not those of one log up to %d", tl.runs, tl.end)
		}
	}
	next := tl.first()
	var bytes, cached uint64
	for n := range tl.blocks {
		b := &tl.blocks[n]
		if b.first != next || b.count == 0 || (b.entries == nil) != (n < tl.cold) || b.entries != nil && uint64(len(b.entries)) != b.count {
			t.Fatalf("block %d of %d, %d of them cold, has %d of %d entries from %d on; want them from %d on",
				n, len(tl.blocks), tl.cold, len(b.entries), b.count, b.first, next)
		}
		var held uint64
		for i := range b.entries {
			held += entryBytes(&b.entries[i])
		}
		if b.entries != nil && held != b.bytes {
			t.Fatalf("block %d says that it takes %d bytes, and its entries take %d", n, b.bytes, held)
		}
		next, bytes, cached = b.next(), bytes+b.bytes, cached+held
	}
	if next != tl.last()+1 || bytes != tl.bytes || cached != tl.cached {
		t.Fatalf("blocks up to %d of %d bytes, %d in memory; want them up to %d, %d and %d", next-1, bytes, cached, tl.last(), tl.bytes, tl.cached)
	}
	if hot := len(tl.blocks) - tl.cold; tl.cached > tl.limit && hot > 1 {
		t.Fatalf("%d bytes in memory in %d blocks; want at most %d, or one block", tl.cached, hot, tl.limit)
	}
}

func compareStorages(t *rapid.T, tl *tail, ms *raft.MemoryStorage) {
	first, _ := ms.FirstIndex()
	last, _ := ms.LastIndex()
	if tl.first() != first || tl.last() != last {
		t.Fatalf("log from %d to %d, want %d to %d", tl.first(), tl.last(), first, last)
	}
	for i := max(first, 3) - 3; i <= last+2; i++ {
		got, gotErr := tl.term(i)
		want, wantErr := ms.Term(i)
		if got != want || gotErr != wantErr {
			t.Fatalf("term of %d is %d, %v; want %d, %v", i, got, gotErr, want, wantErr)
		}
	}
	if first > last {
		return
	}
	all, err := ms.Entries(first, last+1, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	var bytes uint64
	for i := range all {
		bytes += entryBytes(&all[i])
	}
	// Of what is only on disk the size is known in blocks; all entries here are of
	// nearly the same size.
	if tl.cold == 0 && tl.bytes != bytes || max(tl.bytes, bytes)-min(tl.bytes, bytes) > bytes/10 {
		t.Fatalf("the tail says that its entries take %d bytes, and they take %d", tl.bytes, bytes)
	}
}

// drawEntries compares one range of entries, and returns it as handed out.
func drawEntries(t *rapid.T, s *View, ms *raft.MemoryStorage) handedOut {
	first, last := s.tail.first(), s.tail.last()
	lo := rapid.Uint64Range(max(first, 2)-2, last).Draw(t, "lo")
	hi := rapid.Uint64Range(lo+1, last+1).Draw(t, "hi")
	size := rapid.SampledFrom([]uint64{0, 1, 30, 60, 100, 1 << 62}).Draw(t, "max size")
	if first > last { // MemoryStorage says unavailable where it holds nothing
		if _, err := s.Entries(lo, hi, size); err != raft.ErrCompacted {
			t.Fatalf("entries [%d, %d) of an empty log that begins behind %d: %v, want ErrCompacted", lo, hi, last, err)
		}
		return handedOut{}
	}
	got, gotErr := s.Entries(lo, hi, size)
	if lo < s.tail.firstCached() && lo >= first {
		hi = min(hi, s.tail.firstCached()) // those in memory are for the next call
		if err := s.ReadErr(); err != nil {
			t.Fatal(err)
		}
	}
	want, wantErr := ms.Entries(lo, hi, size)
	if gotErr != wantErr {
		t.Fatalf("entries [%d, %d): %v, want %v", lo, hi, gotErr, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("entries [%d, %d) of at most %d bytes (-want +got):\n%s", lo, hi, size, diff)
	}
	if cap(got) != len(got) && lo >= s.tail.firstCached() {
		t.Fatalf("entries [%d, %d) have room for %d more: who appends to them writes into the log", lo, hi, cap(got)-len(got))
	}
	return handedOut{slice: got, copy: slices.Clone(got)}
}

func TestTailBeyondItsEnds(t *testing.T) {
	tl := newTail(t, headerOf(1, 5, 1))
	tl.append(entriesOf(1, 6, 9))
	if _, _, err := tl.entries(6, 11, 1000); err != raft.ErrUnavailable {
		t.Errorf("entries beyond the end: %v, want ErrUnavailable", err)
	}
	if _, _, err := tl.entries(5, 7, 1000); err != raft.ErrCompacted {
		t.Errorf("entries before the beginning: %v, want ErrCompacted", err)
	}
	tl.append(nil)
	tl.append(entriesOf(1, 3, 5)) // all of it is compacted
	if tl.last() != 9 || tl.first() != 6 {
		t.Errorf("an append of compacted entries left %d to %d, want 6 to 9", tl.first(), tl.last())
	}
	defer func() {
		if recover() == nil {
			t.Error("an append that leaves a gap was taken")
		}
	}()
	tl.append(entriesOf(1, 11, 11))
}

// How much stays behind a mark for followers that are slow.
func TestTailKeepsWhatTrails(t *testing.T) {
	one := entriesOf(1, 10, 10)
	size := entryBytes(&one[0])
	for _, c := range []struct {
		index, trailing, trailingBytes, first uint64
	}{
		{30, 0, 1 << 30, 31},
		{30, 5, 1 << 30, 26},
		{30, 5, 0, 31},
		{30, 5, 1, 30},        // one entry more than the bytes hold
		{30, 5, 2 * size, 29}, // exactly two
		{30, 5, 2*size + 1, 28},
		{30, 1 << 40, 1 << 40, 6},
		{5, 0, 0, 6}, // nothing is behind it yet
		{40, 0, 0, 41},
		{41, 0, 0, 6}, // not in the log: nothing is known of it
	} {
		tl := newTail(t, headerOf(1, 5, 1))
		tl.append(entriesOf(1, 6, 9)[:4])
		tl.append(entriesOf(1, 10, 40))
		if c.index > tl.last() {
			tl.compact(c.index)
		} else {
			tl.compactBehind(c.index, c.trailing, c.trailingBytes)
		}
		if tl.first() != c.first {
			t.Errorf("behind %d, %d entries of %d bytes: the log begins at %d, want %d", c.index, c.trailing, c.trailingBytes, tl.first(), c.first)
		}
	}
}

func TestSnapshotIsOfTheConfigurationInForce(t *testing.T) {
	var o offer
	o.reset(headerOf(1, 5, 1).Metadata)
	if s, err := o.snapshot(); err != nil || s.Metadata.Index != 5 || o.wanted {
		t.Errorf("at the start: %v, %v, wanted %v; want the snapshot at 5", s.Metadata, err, o.wanted)
	}
	o.handed = raftpb.SnapshotMetadata{Index: 8, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}}
	if _, err := o.snapshot(); err != raft.ErrSnapshotTemporarilyUnavailable || !o.wanted {
		t.Errorf("after a change of membership: %v, wanted %v; want it temporarily unavailable, and wanted", err, o.wanted)
	}
	o.snap = o.handed
	if s, err := o.snapshot(); err != nil || s.Metadata.Index != 8 {
		t.Errorf("with a new snapshot: %v, %v; want the one at 8", s.Metadata, err)
	}
}

// A log that ends before what was committed has lost something, and one whose
// terms do not fit its entries is none.
func TestTailRefusesALogThatLostItsEnd(t *testing.T) {
	load := func(commit, last uint64, terms ...wal.TermRun) (uint64, error) {
		var tl tail
		err := tl.load(headerOf(1, 5, 1), wal.State{HardState: raftpb.HardState{Term: 1, Commit: commit}, Last: last, Terms: terms})
		return tl.hardState.Commit, err
	}
	run := func(first, term uint64) wal.TermRun { return wal.TermRun{First: first, Term: term} }
	_, err := load(9, 8, run(6, 1))
	wantCorrupt(t, err, "ends at index 8, but 9 was committed")
	for _, terms := range [][]wal.TermRun{{}, {run(5, 1)}, {run(7, 1)}, {run(6, 1), run(6, 2)}, {run(6, 1), run(9, 2)}} {
		_, err := load(5, 8, terms...)
		wantCorrupt(t, err, "6 to 8")
	}
	commit, err := load(3, 8, run(6, 1), run(8, 2))
	noError(t, err)
	if commit != 5 {
		t.Errorf("a snapshot at 5 with commit 3 gives commit %d, want 5: it is committed", commit)
	}
}
