package etcdwal

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// memory holds the entries behind the mark at which the log was opened, because
// etcd's format has no way to find one of them in its files. Any goroutine may
// read while one changes it.
type memory struct {
	mu sync.RWMutex
	// entries are those behind base, without a gap. What was handed out is never
	// written to again.
	entries []raftpb.Entry
	base    uint64
}

// get returns [lo, hi): at least one entry, and then as many as maxBytes hold.
func (m *memory) get(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case lo <= m.base:
		return nil, raft.ErrCompacted
	case lo >= hi || hi > m.base+uint64(len(m.entries))+1:
		return nil, raft.ErrUnavailable
	}
	entries := m.entries[lo-m.base-1 : hi-m.base-1]
	n, size := 0, uint64(0)
	for ; n < len(entries); n++ {
		if size += uint64(entries[n].Size()); n > 0 && size > maxBytes {
			break
		}
	}
	return entries[:n:n], nil
}

// append adds entries that follow those that it holds, or replace the last of
// them, or begin behind a mark that replaces the log.
func (m *memory) append(entries []raftpb.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(entries) > 0 && entries[0].Index <= m.base {
		// A suffix is replaced from here on; what is left of it is behind base.
		m.entries = nil
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return
	}
	if keep := entries[0].Index - m.base - 1; keep < uint64(len(m.entries)) {
		m.entries = m.entries[:keep:keep]
	}
	m.entries = append(m.entries, entries...)
}

// holds reports whether the entry at index has term, or is not held any more.
func (m *memory) holds(index, term uint64) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if index <= m.base {
		return true
	}
	i := index - m.base - 1
	return i < uint64(len(m.entries)) && m.entries[i].Term == term
}

// reset forgets everything and begins anew behind index.
func (m *memory) reset(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries, m.base = nil, index
}

// drop forgets the entries up to and including index.
func (m *memory) drop(index uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index <= m.base {
		return
	}
	n := min(index-m.base, uint64(len(m.entries)))
	m.entries = slices.Clone(m.entries[n:])
	m.base = index
}
