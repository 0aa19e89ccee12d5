// Package waltest holds the tests that both formats of the log must stand, or
// that compare them: the fault sweep, crash points, faults at run time, the
// differential test, the golden trace and the benchmarks.
package waltest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// segmentBytes is the size of a segment in tests, of either format: a few dozen
// appends fill it.
const segmentBytes = 64 << 10

// dir is where the log is on a disk in memory.
const dir = "/data/wal"

func TestMain(m *testing.M) {
	etcd.SegmentSizeBytes = segmentBytes
	code := m.Run()
	for _, dir := range builtDirs {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// quick says that a sample is enough: the race detector makes all of it too slow.
func quick() bool { return testing.Short() || raceEnabled }

// thorough says that time does not matter: every case is tried, and not a sample of them.
func thorough() bool { return os.Getenv("OCTOPII_LONG_TESTS") != "" }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// native returns the backend of the native format on a disk. Its salt is always
// the same, so that what it writes is too.
func native(fsys vfs.FS) wal.Backend {
	return nativeOf(fsys, segmentBytes)
}

func nativeOf(fsys vfs.FS, segmentBytes int64) wal.Backend {
	return wal.New(wal.Options{FS: fsys, SegmentBytes: segmentBytes, Rand: strings.NewReader(strings.Repeat("saltsalt", 100))})
}

func etcdBackend() wal.Backend { return etcdwal.New(nil) }

func markAt(index, term uint64) wal.Mark {
	return wal.Mark{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, index}}}
}

func hard(term, vote, commit uint64) raftpb.HardState {
	return raftpb.HardState{Term: term, Vote: vote, Commit: commit}
}

// dataOf is the data of an entry: it names the entry, and no two are alike.
func dataOf(index, term uint64, size int) []byte {
	data := make([]byte, size)
	rnd := rand.NewPCG(index, term)
	for i := range data {
		data[i] = byte(rnd.Uint64() | 1) // no byte is zero
	}
	copy(data, fmt.Sprintf("%d/%d;", index, term))
	return data
}

// entriesFrom are entries of one term from an index on, one for each size.
func entriesFrom(first, term uint64, sizes ...int) []raftpb.Entry {
	var entries []raftpb.Entry
	for i, size := range sizes {
		index := first + uint64(i)
		entries = append(entries, raftpb.Entry{Index: index, Term: term, Data: dataOf(index, term, size)})
	}
	return entries
}

func sameEntry(a, b *raftpb.Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
}

// model is what a log holds.
type model struct {
	// base is where it begins; marks are all that were set since, base included.
	base  wal.Mark
	marks []wal.Mark
	// entries behind base.
	entries []raftpb.Entry
	// hard is the last hard state; durable is the commit index that a crash cannot
	// take back.
	hard    raftpb.HardState
	durable uint64
}

func (m *model) last() uint64 { return m.base.Index + uint64(len(m.entries)) }

func (m *model) term(index uint64) uint64 {
	if index == m.base.Index {
		return m.base.Term
	}
	return m.entries[index-m.base.Index-1].Term
}

func (m *model) newest() wal.Mark { return m.marks[len(m.marks)-1] }

// after is the model after one more entry, or after a hard state alone. It leaves
// m as it is.
func (m *model) after(entries []raftpb.Entry, hs raftpb.HardState) model {
	n := *m
	if len(entries) > 0 {
		keep := entries[0].Index - m.base.Index - 1
		n.entries = append(n.entries[:keep:keep], entries...)
	}
	if !raft.IsEmptyHardState(hs) {
		synced := len(entries) > 0 || hs.Term != n.hard.Term || hs.Vote != n.hard.Vote
		n.hard = hs
		if synced {
			n.durable = hs.Commit
		}
	}
	if len(entries) > 0 {
		n.durable = n.hard.Commit
	}
	return n
}

func (m *model) marked(mark wal.Mark) model {
	n := *m
	n.marks = append(n.marks[:len(n.marks):len(n.marks)], mark)
	n.hard.Commit = max(n.hard.Commit, mark.Index)
	n.durable = n.hard.Commit
	return n
}

// subject is a log beside its model.
type subject struct {
	backend wal.Backend
	dir     string
	log     wal.Log
	// created: the first Create returned; before it there may be no log.
	created bool
	// done is what was acknowledged; batches and mark are under way.
	done    model
	batches []wal.Batch
	mark    *wal.Mark
	// written, if set, is called when something was acknowledged.
	written func()
}

// moment is what must be true of a log if everything stops now.
type moment struct {
	created bool
	done    model
	batches []wal.Batch
	mark    *wal.Mark
}

func (s *subject) now() moment {
	return moment{created: s.created, done: s.done, batches: s.batches, mark: s.mark}
}

func (s *subject) create(index uint64) error {
	mark := markAt(index, 1)
	s.done = model{base: mark, marks: []wal.Mark{mark}, hard: hard(1, 1, index), durable: index}
	l, err := s.backend.Create(s.dir, mark, s.done.hard)
	if err != nil {
		return err
	}
	s.log, s.created = l, true
	return nil
}

func (s *subject) append(batches ...wal.Batch) error {
	s.batches = batches
	if err := s.log.Append(batches); err != nil {
		return err
	}
	s.batches = nil
	synced := false
	before := s.done.hard
	for _, b := range batches {
		s.done = s.done.after(b.Entries, b.HardState)
		synced = synced || len(b.Entries) > 0
	}
	if synced || before.Term != s.done.hard.Term || before.Vote != s.done.hard.Vote {
		s.done.durable = s.done.hard.Commit
	}
	if s.written != nil {
		s.written()
	}
	return nil
}

// add appends entries of the present term behind the last, one batch.
func (s *subject) add(sizes ...int) error {
	return s.append(wal.Batch{Entries: entriesFrom(s.done.last()+1, s.done.hard.Term, sizes...), HardState: s.done.hard})
}

// addCommitted also commits what was there before.
func (s *subject) addCommitted(sizes ...int) error {
	hs := s.done.hard
	hs.Commit = s.done.last()
	return s.append(wal.Batch{Entries: entriesFrom(s.done.last()+1, hs.Term, sizes...), HardState: hs})
}

// replace has a new term replace the last n entries.
func (s *subject) replace(n uint64, sizes ...int) error {
	hs := s.done.hard
	hs.Term++
	hs.Vote = hs.Term%3 + 1
	first := s.done.last() - n + 1
	return s.append(wal.Batch{Entries: entriesFrom(first, hs.Term, sizes...), HardState: hs})
}

// commit commits everything; nothing is synced.
func (s *subject) commit() error {
	hs := s.done.hard
	hs.Commit = s.done.last()
	return s.append(wal.Batch{HardState: hs})
}

func (s *subject) setMark(index uint64) error {
	mark := markAt(index, s.done.term(index))
	s.mark = &mark
	if err := s.log.SetMark(mark); err != nil {
		return err
	}
	s.mark = nil
	s.done = s.done.marked(mark)
	return nil
}

// release frees what lies before the newest mark.
func (s *subject) release() error { return s.log.Release(s.done.newest().Index) }

func (s *subject) reserve() error {
	if s.log.Reserved() {
		return nil
	}
	return s.log.Reserve()
}

// idle and close make a commit index durable that came alone; but it stands where
// the next append is written, and a crash then may take it back.
func (s *subject) idle() error { return s.log.Idle() }

func (s *subject) close() error {
	err := s.log.Close()
	s.log = nil
	return err
}

// reopen closes the log and opens it again, and expects to find all there.
func (s *subject) reopen() error {
	if err := s.close(); err != nil {
		return err
	}
	return s.open()
}

// open opens a log that was closed.
func (s *subject) open() error {
	got, l, err := recoverLog(s.backend, s.dir)
	if err != nil {
		return err
	}
	s.log = l
	if got.state.HardState != s.done.hard {
		return fmt.Errorf("%w: hard state %+v, and %+v was there when the log was closed", errLost, got.state.HardState, s.done.hard)
	}
	return s.now().judge(&got)
}

// sequence runs steps up to the first that fails.
func sequence(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// recovered is what a log gives back.
type recovered struct {
	mark    wal.Mark
	state   wal.State
	entries []raftpb.Entry
}

// errNoMark is what raftstore takes for damage.
var errNoMark = fmt.Errorf("no mark: %w", wal.ErrCorrupt)

// recoverLog opens a log as raftstore does, and reads everything.
func recoverLog(b wal.Backend, dir string) (recovered, wal.Log, error) {
	var got recovered
	marks, err := b.Marks(dir)
	if err != nil {
		return got, nil, err
	}
	if len(marks) == 0 {
		return got, nil, errNoMark
	}
	got.mark = marks[len(marks)-1]
	l, state, err := b.Open(dir, got.mark)
	if err != nil {
		return got, nil, err
	}
	got.state = state
	if got.entries, err = readAll(l, got.mark.Index+1, state.Last+1); err != nil {
		return got, nil, errors.Join(err, l.Close())
	}
	return got, l, nil
}

// readAll reads [lo, hi) in pieces.
func readAll(l wal.Log, lo, hi uint64) ([]raftpb.Entry, error) {
	var all []raftpb.Entry
	for lo < hi {
		entries, err := l.Entries(lo, hi, 20<<10)
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			return nil, fmt.Errorf("no entries for [%d, %d)", lo, hi)
		}
		all = append(all, entries...)
		lo += uint64(len(entries))
	}
	return all, nil
}

// errLost, errWrong: what a log gave back lacks something that was acknowledged,
// or is something that it was never given.
var (
	errLost  = errors.New("lost")
	errWrong = errors.New("wrong")
)

// judge says whether a log may be so after everything stopped at this moment:
// all that was acknowledged, and of what was under way only what comes first.
func (m moment) judge(got *recovered) error {
	if err := got.consistent(); err != nil {
		return err
	}
	if err := m.judgeMark(got.mark); err != nil {
		return err
	}
	states := []model{m.done}
	for _, b := range m.batches {
		for i := range b.Entries {
			states = append(states, states[len(states)-1].after(b.Entries[i:i+1], raftpb.HardState{}))
		}
		states = append(states, states[len(states)-1].after(nil, b.HardState))
	}
	var err error
	for i := len(states) - 1; i >= 0; i-- {
		if err = states[i].holds(got); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return m.judgeHardState(got.state.HardState)
}

// judgeMark: the newest mark, or the one that was being set.
func (m moment) judgeMark(got wal.Mark) error {
	want := m.done.newest()
	if m.mark != nil && got.Index == m.mark.Index {
		want = *m.mark
	}
	if got.Index != want.Index || got.Term != want.Term {
		err := errLost
		if got.Index > want.Index {
			err = errWrong
		}
		return fmt.Errorf("%w: the newest mark is %d of term %d, want %d of term %d", err, got.Index, got.Term, want.Index, want.Term)
	}
	if err := want.ConfState.Equivalent(got.ConfState); err != nil {
		return fmt.Errorf("%w: the configuration of mark %d: %v", errWrong, got.Index, err)
	}
	return nil
}

// holds says whether got has exactly the entries of the model.
func (m *model) holds(got *recovered) error {
	want := m.entries[got.mark.Index-m.base.Index:]
	for i := range got.entries {
		e := &got.entries[i]
		switch {
		case i < len(want) && sameEntry(&want[i], e):
		case !bytes.Equal(e.Data, dataOf(e.Index, e.Term, len(e.Data))):
			return fmt.Errorf("%w: entry %d of term %d was never so", errWrong, e.Index, e.Term)
		default:
			return fmt.Errorf("%w: entry %d of term %d is back, which was replaced, or never acknowledged", errLost, e.Index, e.Term)
		}
	}
	if len(got.entries) < len(want) {
		return fmt.Errorf("%w: the last entry is %d, and %d was acknowledged", errLost, got.state.Last, m.last())
	}
	return nil
}

func (m moment) judgeHardState(got raftpb.HardState) error {
	known := got.Term == m.done.hard.Term && got.Vote == m.done.hard.Vote
	most := m.done.hard.Commit
	for _, b := range m.batches {
		known = known || got.Term == b.HardState.Term && got.Vote == b.HardState.Vote
		most = max(most, b.HardState.Commit)
	}
	if m.mark != nil {
		most = max(most, m.mark.Index)
	}
	switch {
	case !known && got.Term > m.done.hard.Term, got.Commit > most:
		return fmt.Errorf("%w: hard state %+v after %+v", errWrong, got, m.done.hard)
	case !known:
		return fmt.Errorf("%w: hard state %+v, and %+v was acknowledged", errLost, got, m.done.hard)
	case got.Commit < m.done.durable:
		return fmt.Errorf("%w: commit index %d, and %d was durable", errLost, got.Commit, m.done.durable)
	}
	return nil
}

// consistent compares the parts of a state with each other.
func (r *recovered) consistent() error {
	if want := r.mark.Index + uint64(len(r.entries)); r.state.Last != want {
		return fmt.Errorf("%w: Last is %d, and the entries end at %d", errWrong, r.state.Last, want)
	}
	if r.state.HardState.Commit > r.state.Last {
		return fmt.Errorf("%w: commit index %d in a log that ends at %d", errLost, r.state.HardState.Commit, r.state.Last)
	}
	runs := r.state.Terms
	if len(r.entries) == 0 && len(runs) > 0 {
		return fmt.Errorf("%w: terms %v without entries", errWrong, runs)
	}
	at := -1
	for i := range r.entries {
		e := &r.entries[i]
		if e.Index != r.mark.Index+1+uint64(i) {
			return fmt.Errorf("%w: entry %d in the place of %d", errWrong, e.Index, r.mark.Index+1+uint64(i))
		}
		if at+1 < len(runs) && runs[at+1].First == e.Index {
			at++
		}
		if at < 0 || runs[at].Term != e.Term {
			return fmt.Errorf("%w: entry %d has term %d, and the terms are %v", errWrong, e.Index, e.Term, runs)
		}
	}
	if at+1 != len(runs) {
		return fmt.Errorf("%w: terms %v in a log that ends at %d", errWrong, runs, r.state.Last)
	}
	return nil
}

// usable appends to a log that was recovered, closes and opens it again.
func usable(b wal.Backend, dir string, l wal.Log, got recovered) error {
	s := &subject{backend: b, dir: dir, log: l, created: true, done: got.model()}
	return sequence(
		func() error { return s.replace(0, 100, 6000, 10) },
		func() error { return s.add(20<<10, 10) },
		func() error { return s.add(30 << 10) },
		func() error { return s.add(30 << 10) },
		func() error { return s.add(300) },
		s.reopen,
		func() error { return s.add(2000) },
		s.commit,
		func() error { return s.setMark(s.done.last()) },
		s.release,
		s.reopen,
		s.close,
	)
}

// model is what a log holds that was recovered.
func (r *recovered) model() model {
	return model{base: r.mark, marks: []wal.Mark{r.mark}, entries: r.entries, hard: r.state.HardState, durable: r.state.HardState.Commit}
}

// noLimit is for Entries.
const noLimit = math.MaxUint64
