package node

import (
	"cmp"
	"slices"
	"sync"

	"go.uber.org/zap"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// memory is what this member knows of the others' disks: of its followers, while it
// led, what they acknowledged, and of its leaders what they said. It reminds them in
// every handshake, for a disk that was set back to an older image cannot know by
// itself.
//
// The loop writes it, and the transport's goroutines read it. It is kept on this
// member's own disk, a few ticks late: see saveMemory.
type memory struct {
	mu sync.Mutex
	of map[uint64]transport.Memory
	// changed: it is not as it was saved last. saving: it is being written.
	changed, saving bool
	// pause is for how many ticks nothing is saved.
	pause int
}

// note remembers that a member has its log up to match, in a term in which it only
// grows, and that up to commit it is committed, which it stays in any term. termOf tells the
// term of an entry; 0: it is not known.
func (m *memory) note(id, term, match, commit uint64, termOf func(index uint64) uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[uint64]transport.Memory{}
	}
	was, commit := m.of[id], min(match, commit)
	of := transport.Memory{Term: term, Match: match, Commit: was.Commit, MatchTerm: termOf(match), CommitTerm: was.CommitTerm}
	if commit > was.Commit {
		of.Commit, of.CommitTerm = commit, termOf(commit)
	}
	m.set(id, of)
}

func (m *memory) set(id uint64, of transport.Memory) {
	m.changed = m.changed || m.of[id] != of
	m.of[id] = of
}

// giveUp forgets what is committed beyond an index, which is that of a leader that has
// committed in its own term. Such a leader has everything that was ever committed; so
// what is beyond was given up by an operator (Config.AcceptLoss).
func (m *memory) giveUp(commit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, of := range m.of {
		if of.Commit > commit {
			of.Commit, of.CommitTerm = commit, 0
		}
		m.set(id, of)
	}
}

func (m *memory) get(id uint64) transport.Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[id]
}

// keep forgets all who do not belong to the cluster any more.
func (m *memory) keep(ms *octopiipb.Membership) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.of {
		if !isMember(ms, id) {
			delete(m.of, id)
			m.changed = true
		}
	}
}

// load takes what was saved.
func (m *memory) load(saved octopiipb.Memories) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of = map[uint64]transport.Memory{}
	for i := range saved.Of {
		of := &saved.Of[i]
		m.of[of.Member] = fromMemory(of.Memory)
	}
}

// save returns what is to be written, if something is, and nobody writes.
func (m *memory) save() (octopiipb.Memories, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list octopiipb.Memories
	if !m.changed || m.saving {
		return list, false
	}
	m.changed, m.saving = false, true
	for id, of := range m.of {
		list.Of = append(list.Of, octopiipb.MemoryOf{Member: id, Memory: toMemory(of)})
	}
	slices.SortFunc(list.Of, func(a, b octopiipb.MemoryOf) int { return cmp.Compare(a.Member, b.Member) })
	return list, true
}

// saved says that the writing has ended, and whether it failed.
func (m *memory) saved(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saving = false
	m.changed = m.changed || err != nil
}

func toMemory(m transport.Memory) octopiipb.Memory {
	return octopiipb.Memory(m)
}

func fromMemory(m octopiipb.Memory) transport.Memory {
	return transport.Memory(m)
}

// memoryTicks is how often what changed is saved at most.
const memoryTicks = 5

// saveMemorySoon lets a helper write the memory, if it changed. It costs no fsync:
// what a crash takes of it only costs detection.
func (l *loop) saveMemorySoon(ticks int) {
	if l.memory.pause = max(0, l.memory.pause-ticks); l.memory.pause > 0 {
		return
	}
	if list, ok := l.memory.save(); ok {
		l.memory.pause = memoryTicks
		l.host.aside(&l.helpers, func() { l.writeMemory(list, false) })
	}
}

// writeMemory writes what save returned.
func (g *group) writeMemory(list octopiipb.Memories, sync bool) {
	err := g.store.SaveMemories(list, sync)
	if err != nil {
		g.log.Warn("cannot write down what is known of the other members' disks; trying again", zap.Error(err))
	}
	g.memory.saved(err)
}

// loadMemory reads what was saved before a restart.
func (g *group) loadMemory() {
	list, err := g.store.Memories()
	if err != nil {
		g.log.Warn("cannot read what was known of the other members' disks; going on without", zap.Error(err))
	}
	g.memory.load(list)
}

func isMember(ms *octopiipb.Membership, id uint64) bool { return recordOf(ms, id) != nil }

// recordOf returns a member's record, or nil.
func recordOf(ms *octopiipb.Membership, id uint64) *octopiipb.Member {
	if ms == nil {
		return nil
	}
	for i := range ms.Members {
		if ms.Members[i].ID == id {
			return &ms.Members[i]
		}
	}
	return nil
}

// contradicts says whether a peer remembers more of this member's log than there
// is, or something else. In a term that this member has left its log may have been cut, but
// for what was committed; in its own term a log only grows; and no term is ever forgotten.
// last is where the log ends. termOf tells the term of an entry; 0: it is not known. A log
// that is long enough may have a tail that was never committed.
func contradicts(r transport.Memory, term, last uint64, termOf func(index uint64) uint64) bool {
	differs := func(index, want uint64) bool {
		has := termOf(index)
		return want != 0 && has != 0 && has != want
	}
	switch {
	case r == transport.Memory{}:
		return false
	case last < r.Commit, term < r.Term, differs(r.Commit, r.CommitTerm):
		return true
	}
	return term == r.Term && (last < r.Match || differs(r.Match, r.MatchTerm))
}
