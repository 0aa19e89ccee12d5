package sim

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// probe asks what a loss of power at this moment would leave of a member's log. It
// works on a copy of the disk, so the member goes on as if nothing had happened, and
// many more crashes are looked at than members could live through: also crashes
// within recovery, and within the first writes after it.
type probe struct {
	w *world
	m *member
	// mem is the copy of the disk.
	mem *vfstest.Mem
	// hard, first and terms are what must be there: the hard state, and the terms of
	// the entries from first on.
	hard  raftpb.HardState
	first uint64
	terms []uint64
}

const (
	// probeEvery: one write of a log in so many is followed by a probe, and one in
	// probeWithin is interrupted by one.
	probeEvery, probeWithin = 150, 1000
	// probeChangesMax bounds after how many changes the power fails again.
	probeChangesMax = 24
)

// opened is a store with both sides in one hand.
type opened struct {
	*raftstore.Store
	view   *raftstore.View
	writer *raftstore.Writer
}

// probe looks at the copy of the disk as the power leaves it, up to three times in a row.
func (l *watchedLog) probe() {
	m := l.m
	if m.w.byHand || m.w.failed != nil || m.view.damaged || m.view.forgets || m.disk.struck || m.disk.dead || m.disk.readOnly {
		return
	}
	p := &probe{w: m.w, m: m, mem: m.disk.mem.Crash(m.w.rnd), hard: l.hard, first: l.first, terms: l.terms}
	if n := l.replacesFrom; n != 0 && n < p.first+uint64(len(p.terms)) { // a write is under way
		p.terms = p.terms[:n-p.first]
	}
	for range m.w.rnd.IntN(3) {
		if !p.crash() {
			return
		}
	}
	if s, ok := p.open(vfstest.NewFaulty(p.mem, func(vfstest.Op) error { return nil })); ok {
		_ = s.Close()
	}
}

// crash opens the store and writes to it until the power fails. It returns false if
// something was wrong.
func (p *probe) crash() bool {
	left := p.w.rnd.IntN(probeChangesMax)
	fs := vfstest.NewFaulty(p.mem, func(op vfstest.Op) error {
		if !op.Changes() {
			return nil
		}
		if left == 0 {
			return vfstest.ErrCrashed
		}
		left--
		return nil
	})
	s, ok := p.open(fs)
	if s.Store == nil {
		p.mem = p.mem.Crash(p.w.rnd)
		return ok
	}
	for range p.w.rnd.IntN(4) {
		if !p.write(s) {
			break
		}
	}
	if p.w.oneIn(2) {
		_ = s.Close()
	}
	p.mem = p.mem.Crash(p.w.rnd)
	return true
}

// write appends an entry, and says whether it is durable.
func (p *probe) write(s opened) bool {
	last, _ := s.view.LastIndex()
	next := p.first + uint64(len(p.terms))
	if last+1 > next {
		return false // what was under way became whole: it may be replaced, or not
	}
	size := p.w.rnd.IntN(200)
	if p.w.oneIn(3) {
		size = p.w.rnd.IntN(30000)
	}
	hard := p.hard
	if p.w.oneIn(3) { // another vote, or another term
		hard.Term, hard.Vote = hard.Term+uint64(p.w.rnd.IntN(2)), uint64(1+p.w.rnd.IntN(3))
		if hard.Term == p.hard.Term && p.hard.Vote != 0 {
			hard.Vote = p.hard.Vote
		}
	}
	e := raftpb.Entry{Index: next, Term: max(hard.Term, 1), Data: make([]byte, size)}
	e.Term = hard.Term
	if size > 0 {
		e.Data[0], e.Data[size-1] = 1, byte(next)
	}
	if err := s.writer.Append([]wal.Batch{{Entries: []raftpb.Entry{e}, HardState: hard}}); err != nil {
		return false
	}
	p.hard, p.terms = hard, append(p.terms[:len(p.terms):len(p.terms)], e.Term)
	return true
}

// open recovers the store, and compares it with what must be there. Without a store
// it says whether only the power failed.
func (p *probe) open(fs *vfstest.Faulty) (opened, bool) {
	c := &p.w.cfg
	var s opened
	var err error
	s.Store, s.view, s.writer, err = raftstore.Open(raftstore.Options{FS: fs, Dir: dataDir, External: c.durable, CacheBytes: c.cacheBytes,
		Backend: wal.New(wal.Options{FS: fs, SegmentBytes: c.segmentBytes})})
	if errors.Is(err, vfstest.ErrCrashed) {
		return opened{}, true
	}
	if err != nil {
		p.w.fail("an honest crash keeps nobody from starting", "if the power of %s failed now: %v", p.m.name(), err)
		return opened{}, false
	}
	if err := p.compare(s.view); err != nil {
		p.w.fail("what is written is on the disk", "if the power of %s failed now: %v", p.m.name(), err)
		_ = s.Close()
		return opened{}, false
	}
	return s, true
}

// compare says what is missing.
func (p *probe) compare(s *raftstore.View) error {
	if !s.Initialized() {
		return errors.New("there would be no log")
	}
	hs, _, _ := s.InitialState()
	if hs.Term < p.hard.Term || hs.Term == p.hard.Term && p.hard.Vote != raft.None && hs.Vote != p.hard.Vote {
		return fmt.Errorf("there would be term %d with a vote for %x, and written was term %d with a vote for %x", hs.Term, hs.Vote, p.hard.Term, p.hard.Vote)
	}
	first, _ := s.FirstIndex()
	for i := range p.terms {
		at := p.first + uint64(i)
		if at < first {
			continue
		}
		if term, err := s.Term(at); err != nil || term != p.terms[i] {
			return fmt.Errorf("entry %d would have term %d (%v), and written was one of term %d", at, term, err, p.terms[i])
		}
	}
	return nil
}
