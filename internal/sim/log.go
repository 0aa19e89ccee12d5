package sim

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// watched is a member's backend. It changes nothing, and notes what its logs
// said that they have taken, so that nobody else need be believed about it.
type watched struct {
	wal.Backend
	m *member
}

func (b watched) Create(dir string, mark wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	log, err := b.Backend.Create(dir, mark, hs)
	if err != nil {
		return log, err
	}
	return b.watch(log, mark, wal.State{HardState: hs, Last: mark.Index}), nil
}

func (b watched) Open(dir string, mark wal.Mark) (wal.Log, wal.State, error) {
	log, state, err := b.Backend.Open(dir, mark)
	if err != nil {
		return log, state, err
	}
	return b.watch(log, mark, state), state, nil
}

func (b watched) watch(log wal.Log, mark wal.Mark, s wal.State) *watchedLog {
	l := &watchedLog{Log: log, m: b.m, before: b.m.log, hard: s.HardState, last: s.Last, first: mark.Index + 1}
	for i, r := range s.Terms {
		end := s.Last + 1
		if i+1 < len(s.Terms) {
			end = s.Terms[i+1].First
		}
		for range end - r.First {
			l.terms = append(l.terms, r.Term)
		}
	}
	b.m.log = l
	return l
}

// watchedLog is a log and what it has taken.
type watchedLog struct {
	wal.Log
	m *member
	// before is the log whose place it took.
	before *watchedLog
	hard   raftpb.HardState
	last   uint64
	// terms are those of the entries from first on.
	first uint64
	terms []uint64
	// writes: a write of it is under way, which replaces the entries from
	// replacesFrom on (0: none).
	writes       bool
	replacesFrom uint64
}

func (l *watchedLog) Append(batches []wal.Batch) error {
	l.writes, l.replacesFrom = true, replaced(batches)
	err := l.Log.Append(batches)
	l.writes, l.replacesFrom = false, 0
	if err != nil {
		return err
	}
	voted := false
	for i := range batches {
		if ents := batches[i].Entries; len(ents) > 0 {
			l.last = ents[len(ents)-1].Index
			l.terms = l.terms[:min(uint64(len(l.terms)), ents[0].Index-l.first)]
			for j := range ents {
				l.terms = append(l.terms, ents[j].Term)
			}
		}
		if hs := batches[i].HardState; !raft.IsEmptyHardState(hs) {
			voted = voted || hs.Term != l.hard.Term || hs.Vote != l.hard.Vote
			l.hard = hs
		}
	}
	if !l.m.w.byHand && (voted && l.m.w.oneIn(4) || l.m.w.oneIn(probeEvery)) {
		l.probe()
	}
	return nil
}

// replaced is the first entry that batches may replace; 0: none.
func replaced(batches []wal.Batch) (first uint64) {
	for i := range batches {
		if ents := batches[i].Entries; len(ents) > 0 && (first == 0 || ents[0].Index < first) {
			first = ents[0].Index
		}
	}
	return first
}

func (l *watchedLog) SetMark(m wal.Mark) error {
	l.writes = true
	defer func() { l.writes = false }()
	return l.Log.SetMark(m)
}

func (l *watchedLog) Release(index uint64) error {
	l.writes = true
	defer func() { l.writes = false }()
	return l.Log.Release(index)
}

func (l *watchedLog) Idle() error {
	l.writes = true
	defer func() { l.writes = false }()
	return l.Log.Idle()
}

func (l *watchedLog) Close() error {
	if l.m.log == l && l.before != nil { // it was given up
		l.m.log = l.before
	}
	return l.Log.Close()
}
