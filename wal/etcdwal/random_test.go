package etcdwal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/octopii/octopii/wal"
)

// model is a log next to what it should hold.
type model struct {
	t   *rapid.T
	dir string
	log wal.Log
	// base is the mark behind which entries begin: the first, or that of the last
	// snapshot that replaced the log.
	base    wal.Mark
	entries []raftpb.Entry
	state   raftpb.HardState
	// durable is the commit index that a crash cannot take back.
	durable uint64
	// marks that the log can be opened at, oldest first; released is the index up
	// to which files may be gone.
	marks    []wal.Mark
	released uint64
	// readable is the index behind which the open log must hand out entries.
	readable uint64
	crashes  int
}

func (m *model) last() uint64 { return m.base.Index + uint64(len(m.entries)) }

func (m *model) term(index uint64) uint64 {
	if index == m.base.Index {
		return m.base.Term
	}
	return m.entries[index-m.base.Index-1].Term
}

func (m *model) check(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// batch draws entries from anywhere behind the commit index on.
func (m *model) batch() wal.Batch {
	var b wal.Batch
	if n := rapid.IntRange(0, 12).Draw(m.t, "entries"); n > 0 {
		first := rapid.Uint64Range(m.state.Commit+1, m.last()+1).Draw(m.t, "first")
		if first <= m.last() {
			m.state.Term++
		}
		b.Entries = entriesOf(m.state.Term, first, first+uint64(n)-1)
		m.entries = append(m.entries[:first-m.base.Index-1:first-m.base.Index-1], b.Entries...)
		b.HardState = m.state
	}
	if rapid.Bool().Draw(m.t, "state") {
		m.state.Commit = rapid.Uint64Range(m.state.Commit, m.last()).Draw(m.t, "commit")
		b.HardState = m.state
	}
	return b
}

func (m *model) append() {
	var batches []wal.Batch
	synced := false
	for range rapid.IntRange(1, 3).Draw(m.t, "batches") {
		b := m.batch()
		synced = synced || len(b.Entries) > 0
		batches = append(batches, b)
	}
	m.check(m.log.Append(batches))
	if synced {
		m.durable = m.state.Commit
	}
}

func (m *model) mark() {
	index := rapid.Uint64Range(m.marks[len(m.marks)-1].Index, m.state.Commit).Draw(m.t, "mark")
	m.setMark(markAt(index, m.term(index)))
}

func (m *model) setMark(mark wal.Mark) {
	m.check(m.log.SetMark(mark))
	m.durable = m.state.Commit
	if mark.Index > m.marks[len(m.marks)-1].Index {
		m.marks = append(m.marks, mark)
	}
}

// install replaces the log with a snapshot, perhaps after a first attempt ended
// in a crash.
func (m *model) install() {
	m.state.Term++
	m.check(m.log.Append([]wal.Batch{{HardState: m.state}}))
	m.durable = m.state.Commit
	index := rapid.Uint64Range(m.state.Commit+1, m.last()+20).Draw(m.t, "install")
	mark := markAt(index, m.state.Term)
	if rapid.Bool().Draw(m.t, "crash") {
		m.check(m.log.SetMark(mark))
		m.crash()
	}
	m.check(m.log.SetMark(mark))
	m.state.Commit = index
	m.check(m.log.Append([]wal.Batch{{HardState: m.state}}))
	m.durable, m.readable = index, index
	m.base, m.entries, m.marks = mark, nil, []wal.Mark{mark}
}

func (m *model) release() {
	index := rapid.Uint64Range(0, m.last()).Draw(m.t, "release")
	m.check(m.log.Release(index))
	index = min(index, m.marks[len(m.marks)-1].Index)
	m.released, m.readable = max(m.released, index), max(m.readable, index)
	m.durable = m.state.Commit
}

func (m *model) reopen() {
	m.check(m.log.Close())
	m.durable = m.state.Commit
	m.recover()
}

// crash goes on with a copy of the files as they are, without Close.
func (m *model) crash() {
	m.crashes++
	old := m.dir
	m.dir = filepath.Join(filepath.Dir(old), string(rune('a'+m.crashes%2)))
	writeDir(m.t, m.dir, files(m.t, old))
	m.check(m.log.Close())
	m.check(os.RemoveAll(old))
	m.recover()
}

// recover opens the log at one of its marks and compares.
func (m *model) recover() {
	marks, err := New(nil).Marks(m.dir)
	m.check(err)
	newest := m.marks[len(m.marks)-1]
	if diff := cmp.Diff(newest, marks[len(marks)-1]); diff != "" {
		m.t.Fatalf("newest mark (-want +got):\n%s", diff)
	}
	m.checkOracle(marks)
	var choice []wal.Mark
	for _, mark := range m.marks {
		if mark.Index >= m.released {
			choice = append(choice, mark)
		}
	}
	mark := rapid.SampledFrom(choice).Draw(m.t, "open at")
	l, state, err := New(nil).Open(m.dir, mark)
	m.check(err)
	m.log = l
	if c := state.HardState.Commit; c < m.durable || c > m.state.Commit {
		m.t.Fatalf("commit index %d, want %d-%d", c, m.durable, m.state.Commit)
	}
	m.state.Commit = state.HardState.Commit
	if diff := cmp.Diff(m.state, state.HardState); diff != "" {
		m.t.Fatalf("hard state (-want +got):\n%s", diff)
	}
	want := m.entries[mark.Index-m.base.Index:]
	if got := allEntries(m.t, l, mark.Index, state); !sameEntries(want, got) {
		m.t.Fatalf("entries behind mark %d (-want +got):\n%s", mark.Index, cmp.Diff(want, got))
	}
	m.readable = mark.Index
}

// read compares a range of entries of the open log.
func (m *model) read() {
	if m.readable == m.last() {
		return
	}
	lo := rapid.Uint64Range(m.readable+1, m.last()).Draw(m.t, "lo")
	hi := rapid.Uint64Range(lo+1, m.last()+1).Draw(m.t, "hi")
	got, err := m.log.Entries(lo, hi, 1<<62)
	m.check(err)
	if want := m.entries[lo-m.base.Index-1 : hi-m.base.Index-1]; !sameEntries(want, got) {
		m.t.Fatalf("entries [%d, %d) (-want +got):\n%s", lo, hi, cmp.Diff(want, got))
	}
}

// checkOracle: every mark is one that etcd lists too.
func (m *model) checkOracle(marks []wal.Mark) {
	snaps, err := etcd.ValidSnapshotEntries(nil, m.dir)
	m.check(err)
	known := make(map[[2]uint64]bool)
	for _, s := range snaps {
		known[[2]uint64{s.Index, s.Term}] = true
	}
	for _, mark := range marks {
		if !known[[2]uint64{mark.Index, mark.Term}] {
			m.t.Fatalf("mark %d of term %d is not one of etcd's", mark.Index, mark.Term)
		}
	}
}

func TestRandom(t *testing.T) {
	parent := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			t.Fatal(err)
		}
		m := &model{t: t, dir: filepath.Join(dir, "a"), base: markAt(1, 1), marks: []wal.Mark{markAt(1, 1)}, state: hard(1, 1), durable: 1}
		m.readable = m.base.Index
		m.log, err = New(nil).Create(m.dir, m.base, m.state)
		m.check(err)
		defer func() { m.log.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append":  func(*rapid.T) { m.append() },
			"append2": func(*rapid.T) { m.append() },
			"append3": func(*rapid.T) { m.append() },
			"mark":    func(*rapid.T) { m.mark() },
			"install": func(*rapid.T) { m.install() },
			"release": func(*rapid.T) { m.release() },
			"reopen":  func(*rapid.T) { m.reopen() },
			"crash":   func(*rapid.T) { m.crash() },
			"read":    func(*rapid.T) { m.read() },
		})
		m.reopen()
		// Before its directory goes, because the open log prepares its next file there.
		m.check(m.log.Close())
		m.check(os.RemoveAll(dir))
	})
}
