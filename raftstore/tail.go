package raftstore

import (
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

const (
	// cacheBytes is how much of the log is in memory where nothing else is said.
	cacheBytes = 32 << 20
	// blockEntries is how many entries a block holds at most.
	blockEntries = 1024
	// cacheBlocks is how many blocks full by bytes fill the memory.
	cacheBlocks = 16
)

// tail is what raft sees of the log, as far as it is durable: the terms of all
// entries, and the newest of the entries themselves. Older ones are on disk.
//
// Invariant: the blocks hold every index from the first to the last, in order
// and without a gap; of all up to cold the entries are only on disk.
type tail struct {
	blocks []block
	cold   int
	// runs are the terms. The first begins at the entry before the first one, of
	// which only that is known.
	runs []wal.TermRun
	end  uint64
	// bytes is the size of all entries, cached that of those in memory, and limit
	// the most that it may be.
	bytes, cached, limit uint64
	// The entries from uncounted up to uncountedEnd were there when the log was
	// opened and were not read since, so that bytes lacks them.
	uncounted, uncountedEnd uint64
	// hardState is what the log held when it was opened.
	hardState raftpb.HardState
	// start is the header at which the log was opened or last installed.
	start SnapshotHeader
	// released is the index up to which the log on disk may be gone.
	released uint64
}

// block is a piece of the log.
type block struct {
	first, count uint64
	// bytes is the size of its entries, as far as known. Where a part of them that
	// is only on disk was dropped, it is in proportion.
	bytes uint64
	// entries are nil where they are only on disk. What raft was given of them is
	// never written to again.
	entries []raftpb.Entry
}

func (b *block) next() uint64 { return b.first + b.count }

// load takes over what a log held when it was opened. Nothing of it is read yet.
func (t *tail) load(h SnapshotHeader, state wal.State) error {
	t.reset(h)
	t.hardState = state.HardState
	t.hardState.Commit = max(t.hardState.Commit, h.Metadata.Index)
	if t.hardState.Commit > state.Last {
		return fmt.Errorf("raftstore: %w: the log ends at index %d, but %d was committed; rebuild this member from its peers",
			wal.ErrCorrupt, state.Last, t.hardState.Commit)
	}
	next := h.Metadata.Index + 1
	for i, r := range state.Terms {
		if i == 0 && r.First != next || i > 0 && r.First <= state.Terms[i-1].First || r.First > state.Last {
			return fmt.Errorf("raftstore: %w: the terms %v cannot be those of the entries %d to %d; rebuild this member from its peers",
				wal.ErrCorrupt, state.Terms, next, state.Last)
		}
	}
	if len(state.Terms) == 0 && state.Last >= next {
		return fmt.Errorf("raftstore: %w: the terms of the entries %d to %d are missing; rebuild this member from its peers", wal.ErrCorrupt, next, state.Last)
	}
	t.runs = append(t.runs, state.Terms...)
	for i := next; i <= state.Last; i += blockEntries {
		t.blocks = append(t.blocks, block{first: i, count: min(blockEntries, state.Last-i+1)})
	}
	t.cold, t.end = len(t.blocks), state.Last
	t.uncounted, t.uncountedEnd = next, state.Last+1
	return nil
}

// reset makes a snapshot the beginning of an empty log.
func (t *tail) reset(h SnapshotHeader) {
	t.start = h
	t.runs = []wal.TermRun{{First: h.Metadata.Index, Term: h.Metadata.Term}}
	t.end, t.released = h.Metadata.Index, h.Metadata.Index
	t.blocks, t.cold = nil, 0
	t.bytes, t.cached = 0, 0
	t.uncounted, t.uncountedEnd = 0, 0
}

func (t *tail) first() uint64 { return t.runs[0].First + 1 }
func (t *tail) last() uint64  { return t.end }

// firstCached is the index of the first entry in memory, or the one after the
// last.
func (t *tail) firstCached() uint64 {
	if t.cold < len(t.blocks) {
		return t.blocks[t.cold].first
	}
	return t.end + 1
}

func (t *tail) term(i uint64) (uint64, error) {
	switch {
	case i < t.runs[0].First:
		return 0, raft.ErrCompacted
	case i > t.end:
		return 0, raft.ErrUnavailable
	}
	return t.runs[t.run(i)].Term, nil
}

// run is the position of the run that tells the term of i.
func (t *tail) run(i uint64) int {
	return sort.Search(len(t.runs), func(n int) bool { return t.runs[n].First > i }) - 1
}

// find is the position of the block that holds i.
func (t *tail) find(i uint64) int {
	return sort.Search(len(t.blocks), func(n int) bool { return t.blocks[n].first > i }) - 1
}

// entries returns [lo, hi): at least one entry, and then as many as maxSize
// bytes hold. Where lo is only on disk it returns no entry, and in cold the index
// up to which to read there.
func (t *tail) entries(lo, hi, maxSize uint64) (entries []raftpb.Entry, cold uint64, err error) {
	switch {
	case lo < t.first():
		return nil, 0, raft.ErrCompacted
	case hi > t.end+1:
		return nil, 0, raft.ErrUnavailable
	case lo < t.firstCached():
		return nil, min(hi, t.firstCached()), nil
	}
	n := t.find(lo)
	b := &t.blocks[n]
	if hi <= b.next() {
		return limit(b.entries[lo-b.first:hi-b.first], maxSize), 0, nil
	}
	entries = make([]raftpb.Entry, 0, min(hi-lo, 2*blockEntries))
	for size := uint64(0); ; n++ {
		b := &t.blocks[n]
		for i := lo - b.first; i < b.count && lo < hi; i, lo = i+1, lo+1 {
			e := &b.entries[i]
			if size += uint64(e.Size()); len(entries) > 0 && size > maxSize {
				return slices.Clip(entries), 0, nil
			}
			entries = append(entries, *e)
		}
		if lo == hi {
			return slices.Clip(entries), 0, nil
		}
	}
}

// limit returns at least one entry, and then as many as maxSize bytes hold.
func limit(entries []raftpb.Entry, maxSize uint64) []raftpb.Entry {
	var size uint64
	for i := range entries {
		if size += uint64(entries[i].Size()); i > 0 && size > maxSize {
			return entries[:i:i]
		}
	}
	return entries[:len(entries):len(entries)]
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
	if entries[0].Index > t.end+1 {
		panic(fmt.Sprintf("raftstore: append of index %d behind a log that ends at %d", entries[0].Index, t.end))
	}
	t.cut(entries[0].Index)
	for i := range entries {
		t.add(&entries[i])
	}
	t.evict()
}

// add adds the entry that follows the last one.
func (t *tail) add(e *raftpb.Entry) {
	n := len(t.blocks)
	if n == t.cold || len(t.blocks[n-1].entries) == cap(t.blocks[n-1].entries) || t.blocks[n-1].bytes >= t.limit/cacheBlocks {
		t.blocks = append(t.blocks, block{first: e.Index, entries: make([]raftpb.Entry, 0, blockEntries)})
		n++
	}
	b := &t.blocks[n-1]
	b.entries = append(b.entries, *e)
	b.count++
	size := entryBytes(e)
	b.bytes, t.bytes, t.cached = b.bytes+size, t.bytes+size, t.cached+size
	if t.runs[len(t.runs)-1].Term != e.Term {
		t.runs = append(t.runs, wal.TermRun{First: e.Index, Term: e.Term})
	}
	t.end = e.Index
}

// cut drops the entries from index on.
func (t *tail) cut(index uint64) {
	if index > t.end {
		return
	}
	for n := len(t.blocks) - 1; n >= 0 && t.blocks[n].next() > index; n-- {
		t.trim(n, 0, max(index, t.blocks[n].first)-t.blocks[n].first)
		if t.blocks[n].count == 0 {
			t.blocks = t.blocks[:n]
		}
	}
	t.cold = min(t.cold, len(t.blocks))
	for n := len(t.runs); n > 1 && t.runs[n-1].First >= index; n-- {
		t.runs = t.runs[:n-1]
	}
	t.end = index - 1
	t.uncountedEnd = min(t.uncountedEnd, index)
}

// trim keeps the entries [from, to) of a block, counted from its first.
func (t *tail) trim(n int, from, to uint64) {
	b := &t.blocks[n]
	dropped := b.bytes
	if b.entries != nil {
		// Where the end goes the capacity goes too, so that what raft was given is
		// not overwritten.
		kept := b.entries[from:to]
		if to < b.count {
			kept = slices.Clip(kept)
		}
		for i := range kept {
			dropped -= entryBytes(&kept[i])
		}
		b.entries = kept
		t.cached -= dropped
	} else {
		dropped -= b.bytes * (to - from) / b.count
	}
	b.bytes -= dropped
	t.bytes -= dropped
	b.first, b.count = b.first+from, to-from
}

// evict forgets the oldest entries in memory where there are too many. The
// newest block stays.
func (t *tail) evict() {
	for t.cached > t.limit && t.cold < len(t.blocks)-1 {
		b := &t.blocks[t.cold]
		t.cached -= b.bytes
		b.entries = nil
		t.cold++
	}
	t.hideReleased()
}

// hideReleased compacts what is neither in memory nor on disk.
func (t *tail) hideReleased() { t.compact(min(t.released, t.firstCached()-1)) }

// count adds the size of entries that were found at open and are now read.
func (t *tail) count(entries []raftpb.Entry) {
	for i := range entries {
		if e := &entries[i]; e.Index == t.uncounted && e.Index < t.uncountedEnd {
			b := &t.blocks[t.find(e.Index)]
			b.bytes += entryBytes(e)
			t.bytes += entryBytes(e)
			t.uncounted++
		}
	}
}

// marked leaves so many entries and bytes behind a durable mark. released is the index up
// to which the log on disk may be gone.
func (t *tail) marked(index, released, trailing, trailingBytes uint64) {
	t.released = released
	t.compactBehind(index, trailing, trailingBytes)
	t.hideReleased()
}

// compactBehind drops what is further behind index than so many entries and
// bytes.
func (t *tail) compactBehind(index, trailing, trailingBytes uint64) {
	if index < t.first() || index > t.end {
		return
	}
	var size uint64
	keep := index
	n := t.find(index)
	for keep >= t.first() && index-keep < trailing && size < trailingBytes {
		if t.blocks[n].first > keep {
			n--
		}
		size += t.blocks[n].size(keep)
		keep--
	}
	t.compact(keep)
}

// size is that of one entry, on average where it is only on disk.
func (b *block) size(index uint64) uint64 {
	if b.entries == nil {
		return b.bytes / b.count
	}
	return entryBytes(&b.entries[index-b.first])
}

// compact drops the entries up to and including index.
func (t *tail) compact(index uint64) {
	if index < t.first() || index > t.end {
		return
	}
	gone := 0
	for n := range t.blocks {
		if t.blocks[n].first > index {
			break
		}
		t.trim(n, min(index+1-t.blocks[n].first, t.blocks[n].count), t.blocks[n].count)
		if t.blocks[n].count == 0 {
			gone++
		}
	}
	t.blocks = slices.Delete(t.blocks, 0, gone)
	t.cold = max(t.cold, gone) - gone
	r := t.run(index)
	t.runs = slices.Delete(t.runs, 0, r)
	t.runs[0].First = index
	t.uncounted = max(t.uncounted, index+1)
}

// entryBytes is about what an entry takes in memory.
func entryBytes(e *raftpb.Entry) uint64 { return uint64(len(e.Data)) + 48 }
