package nodetest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// checker knows what must be true. It sees every decision, every message and
// every call of the state machine, and believes nobody: what it compares with is
// its own book.
//
// The properties of the Raft paper (figure 3) are
//
//	Election Safety        at most one leader in a term                 (looked)
//	Log Matching           equal (index, term), equal entry and past    (decided)
//	Leader Completeness    a leader has all that was committed          (looked)
//	State Machine Safety   one command at an index, on every member     (commit, applied)
//
// and to them come: what is vouched for is durable (sent), and is there after any
// crash (started); a snapshot is what the log up to it amounts to (restored), and
// is labelled with the membership in force there (decided); operations take effect
// between their call and their return, once or never (returned, finish).
type checker struct {
	w *world

	// leaders is who led, by term.
	leaders map[uint64]uint64
	// entries is every entry that was ever in a log, by its place.
	entries map[place]stamp
	// ledger is the committed log, from index 1. (The founder's snapshot is at 1.)
	ledger []entry
	// confs are the memberships that were in force, by the index from which on.
	confs map[uint64]string
	order []uint64

	// memberships are all of them, by their index; buried are those that have a
	// tombstone; reached is the newest entry that a member ever acknowledged.
	memberships map[uint64]*octopiipb.Membership
	buried      map[uint64]bool
	reached     map[uint64]uint64

	// moment counts what clients see; ops are their operations, by number.
	moment uint64
	ops    []*op
	// seen is the highest index that a client has seen.
	seen uint64

	// states are digests of the state at an index, the first that was seen.
	states map[uint64]digest
	// twins are two more state machines, fed with snapshots: one goes along, the
	// other waits in an older state for the next snapshot.
	twins [2]*twin
}

// digest is what a state amounts to, and whose it was.
type digest struct {
	hash uint64
	by   string
	// data is what the hash is of, if that is not too much.
	data []byte
}

// digestBytesMax is how much of a state is kept to show how it differs.
const digestBytesMax = 4 << 10

// differs shows where two states differ.
func (d digest) differs(other digest) string {
	if d.data == nil || other.data == nil {
		return ""
	}
	at := 0
	for at < min(len(d.data), len(other.data)) && d.data[at] == other.data[at] {
		at++
	}
	from := max(0, at-16)
	return fmt.Sprintf(": at byte %d, %s has %s and %s has %s", at, d.by, show(d.data[from:]), other.by, show(other.data[from:]))
}

// twin is a state machine that is no member's.
type twin struct {
	sm node.StateMachine
	// applied is the last index that it has, restored the one at which it began.
	applied, restored uint64
}

// place is where an entry stands.
type place struct{ index, term uint64 }

// stamp is what is remembered of an entry in some log: what it is, and the term
// of the one before it.
type stamp struct{ hash, before uint64 }

// entry is one of the committed log.
type entry struct {
	known   bool
	term    uint64
	command bool
	data    []byte // of a command, with the operation's number
	// chain and result are what the first member made of it.
	applied       bool
	chain, result uint64
	shown         string // the result, by that member
}

// view is what the checker knows of one member.
type view struct {
	// born: it has a log.
	born bool
	// log is the member's log as its raft sees it, behind base.
	base, baseTerm uint64
	log            []stampedTerm
	// commit is how far it is committed, as the member says.
	commit uint64
	// promised is what others count on: the newest entry that it acknowledged, the
	// highest term that it answered in, and its vote in that term.
	ackIndex, ackTerm uint64
	term, vote        uint64
	// damaged: its disk is not what it wrote, and it may say so and not start.
	// forgets: it lost all of what it promised, and nobody can hold it to that.
	damaged, forgets bool
}

type stampedTerm struct {
	term, hash uint64
	// change: it is a change of membership.
	change bool
}

func (v *view) last() uint64 { return v.base + uint64(len(v.log)) }

// termAt returns the term of an entry of the view.
func (v *view) termAt(i uint64) (uint64, bool) {
	switch {
	case i == v.base:
		return v.baseTerm, true
	case i > v.base && i <= v.last():
		return v.log[i-v.base-1].term, true
	}
	return 0, false
}

func newChecker(w *world) *checker {
	return &checker{w: w, leaders: map[uint64]uint64{}, entries: map[place]stamp{}, confs: map[uint64]string{}, states: map[uint64]digest{},
		memberships: map[uint64]*octopiipb.Membership{}, buried: map[uint64]bool{}, reached: map[uint64]uint64{}}
}

// born begins the view of a member that was just brought to life.
func (c *checker) born(m *member) {
	if !m.view.born && m.node.Store().Initialized() {
		c.readLog(m)
		m.view.term = m.node.HardState().Term
	}
}

// decided looks at what a member's core decided, before any of it is done.
func (c *checker) decided(m *member, eff *core.Effects) {
	if m.node != nil { // else it is about to start
		c.born(m)
	}
	if eff.Membership != nil {
		c.membership(m, eff.Membership)
	}
	if a := eff.Append; a != nil {
		if a.Snapshot != nil {
			c.install(m, a.Snapshot)
		}
		for i := range a.Entries {
			c.append(m, &a.Entries[i])
		}
	}
}

// append: Log Matching. If two entries have the same index and term they are the
// same, and so is all that comes before them (paper, 5.3).
func (c *checker) append(m *member, e *raftpb.Entry) {
	v := &m.view
	before, ok := v.termAt(e.Index - 1)
	if !ok {
		c.w.fail("log without gaps", "%s appends entry %d to a log from %d to %d", m.name(), e.Index, v.base, v.last())
		return
	}
	if e.Index <= v.commit {
		c.w.fail("committed entries stay", "%s replaces entry %d, and %d is committed", m.name(), e.Index, v.commit)
	}
	s := stamp{hash: bytesHash(e.Data) + uint64(e.Type), before: before}
	p := place{e.Index, e.Term}
	if old, ok := c.entries[p]; ok && old != s {
		c.w.fail("log matching", "%s has another entry %d of term %d, or another past of it", m.name(), e.Index, e.Term)
	}
	c.entries[p] = s
	change := e.Type == raftpb.EntryConfChangeV2
	if change && m.node != nil && m.status().Role == node.Leader && e.Term == m.status().Term {
		c.proposed(m, e)
	}
	v.log = append(v.log[:e.Index-v.base-1], stampedTerm{e.Term, s.hash, change})
	// What a leader replaces is not promised any more.
	if e.Index <= v.ackIndex {
		if was, _ := v.termAt(v.ackIndex); was != v.ackTerm || v.last() < v.ackIndex {
			v.ackIndex, v.ackTerm = e.Index-1, before
		}
	}
	c.grow(e.Index)
}

// proposed: a leader makes a voter only of a learner that has caught up, for a vote
// is worth something only with the log behind it (thesis 4.2.1).
func (c *checker) proposed(m *member, e *raftpb.Entry) {
	var cc raftpb.ConfChangeV2
	if err := cc.Unmarshal(e.Data); err != nil {
		c.w.fail("membership changes where its entry is", "%s appends the change %d, which cannot be read: %v", m.name(), e.Index, err)
		return
	}
	for _, one := range cc.Changes {
		has, commit := c.reached[one.NodeID], m.status().Commit
		if one.Type == raftpb.ConfChangeAddNode && (has == 0 || has+c.w.cfg.promoteLag < commit) {
			c.w.fail("a vote comes with the log behind it", "%s promotes %x, which has acknowledged entry %d, and %d is committed", m.name(), one.NodeID, has, commit)
		}
	}
}

func (c *checker) grow(index uint64) {
	for uint64(len(c.ledger)) <= index {
		c.ledger = append(c.ledger, entry{})
	}
}

// install: a snapshot takes the place of the log. Its label must be that of the
// committed log there.
func (c *checker) install(m *member, s *raftpb.Snapshot) {
	v, meta := &m.view, s.Metadata
	c.grow(meta.Index)
	if e := c.ledger[meta.Index]; e.known && e.term != meta.Term {
		c.w.fail("state machine safety", "%s installs a snapshot at %d of term %d, and the entry there has term %d", m.name(), meta.Index, meta.Term, e.term)
	}
	c.label(m, meta.Index, confString(meta.ConfState.Voters, meta.ConfState.Learners))
	v.base, v.baseTerm, v.log = meta.Index, meta.Term, nil
	v.commit = max(v.commit, meta.Index)
}

// membership: the same change leads to the same membership everywhere.
func (c *checker) membership(m *member, ms *octopiipb.Membership) {
	var voters, learners []uint64
	for _, mem := range ms.Members {
		if mem.Learner {
			learners = append(learners, mem.ID)
		} else {
			voters = append(voters, mem.ID)
		}
	}
	s := confString(voters, learners)
	old, ok := c.confs[ms.Index]
	if ok && old != s {
		c.w.fail("one membership at an index", "%s has %s from %d on, and another member %s", m.name(), s, ms.Index, old)
	}
	if v := &m.view; m.node != nil && ms.Index > v.base && ms.Index <= v.last() && !v.log[ms.Index-v.base-1].change {
		c.w.fail("membership changes where its entry is", "%s has %s from %d on, and the entry there is no change", m.name(), s, ms.Index)
	}
	if !ok {
		c.confs[ms.Index], c.memberships[ms.Index] = s, ms
		at, _ := slices.BinarySearch(c.order, ms.Index)
		if at > 0 {
			c.bury(m, c.memberships[c.order[at-1]], ms)
		}
		c.order = slices.Insert(c.order, at, ms.Index)
		c.w.tell(m, "  membership from %d on: %s", ms.Index, s)
	}
}

// bury: an ID is never used again. Whoever is not in the next membership has a
// tombstone there, for ever.
func (c *checker) bury(m *member, before, after *octopiipb.Membership) {
	gone := slices.Clone(before.Removed)
	for _, mem := range before.Members {
		if !slices.ContainsFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == mem.ID }) {
			gone = append(gone, mem.ID)
		}
	}
	for _, id := range gone {
		if !slices.Contains(after.Removed, id) {
			c.w.fail("whoever was removed has a tombstone", "%s has a membership from %d on without %x, and without a tombstone for it", m.name(), after.Index, id)
		}
		c.buried[id] = true
	}
}

// met: two members have shaken hands. One whose disk forgot what it promised must
// be told so by everybody who knows it.
func (c *checker) met(m, who *member) {
	if !who.wiped || m.view.forgets || !m.up() {
		return
	}
	if _, known := m.status().Membership.Member(who.id); known {
		c.w.fail("whoever forgot is kept out", "%s shakes hands with %s, which it knows from before its disk was wiped", m.name(), who.name())
	}
}

// label: a snapshot at an index has the membership in force there.
func (c *checker) label(m *member, index uint64, conf string) {
	at, _ := slices.BinarySearch(c.order, index+1)
	if at == 0 {
		return
	}
	if want := c.confs[c.order[at-1]]; conf != want {
		c.w.fail("snapshots are labelled right", "%s has a snapshot at %d with %s, and %s is in force there since %d", m.name(), index, conf, want, c.order[at-1])
	}
}

func confString(voters, learners []uint64) string {
	voters, learners = slices.Clone(voters), slices.Clone(learners)
	slices.Sort(voters)
	slices.Sort(learners)
	return fmt.Sprintf("voters %x learners %x", voters, learners)
}

// sent looks at a message as it leaves a member. What it vouches for must be
// durable (thesis 3.8, 10.2.1).
func (c *checker) sent(m *member, msg *raftpb.Message) {
	v := &m.view
	if m.log == nil {
		c.vouched(m, msg)
		return
	}
	hs := m.log.hard
	if msg.Type == raftpb.MsgVoteResp || msg.Type == raftpb.MsgAppResp {
		// Persistent state is updated before answering (paper, figure 2).
		if hs.Term < msg.Term {
			c.w.fail("terms are durable", "%s answers in term %d, and on its disk is term %d", m.name(), msg.Term, hs.Term)
		}
		if msg.Term > v.term {
			v.term, v.vote = msg.Term, 0
		}
	}
	switch {
	case msg.Type == raftpb.MsgVoteResp && !msg.Reject:
		if hs.Term < msg.Term || hs.Term == msg.Term && hs.Vote != msg.To {
			c.w.fail("votes are durable", "%s votes for %x in term %d, and on its disk is a vote for %x in term %d", m.name(), msg.To, msg.Term, hs.Vote, hs.Term)
		}
		if v.term == msg.Term && v.vote != 0 && v.vote != msg.To {
			c.w.fail("one vote in a term", "%s votes for %x in term %d, and voted for %x", m.name(), msg.To, msg.Term, v.vote)
		}
		if msg.Term >= v.term {
			v.term, v.vote = msg.Term, msg.To
		}
	case msg.Type == raftpb.MsgVote:
		// Else a candidate could win by the votes of others alone, lose its term in a
		// crash, and lead in it again with another log.
		if hs.Term < msg.Term || hs.Term == msg.Term && hs.Vote != m.id {
			c.w.fail("votes are durable", "%s asks for votes in term %d, and on its disk is a vote for %x in term %d", m.name(), msg.Term, hs.Vote, hs.Term)
		}
		if msg.Term > v.term {
			v.term, v.vote = msg.Term, m.id
		}
	case msg.Type == raftpb.MsgAppResp && !msg.Reject:
		last := m.log.last
		if hs.Term < msg.Term || last < msg.Index {
			c.w.fail("acknowledgements are durable", "%s acknowledges entry %d in term %d, and its disk has %d in term %d", m.name(), msg.Index, msg.Term, last, hs.Term)
		}
		c.reached[m.id] = max(c.reached[m.id], msg.Index)
		if t, ok := v.termAt(msg.Index); ok && msg.Index >= v.ackIndex {
			v.ackIndex, v.ackTerm = msg.Index, t
		}
	}
}

// vouched: a member without a log has nothing to vouch for (thesis 3.8). It may
// say that it is there, to a leader that knows nothing else, and that it has
// nothing.
func (c *checker) vouched(m *member, msg *raftpb.Message) {
	switch {
	case msg.Type == raftpb.MsgHeartbeatResp && len(msg.Context) == 0 && m.remembered != msg.Term:
	case msg.Type == raftpb.MsgAppResp && msg.Reject:
	default:
		c.w.fail("whoever has no log vouches for nothing", "%s has no log, and answers %x with %s in term %d", m.name(), msg.To, msg.Type, msg.Term)
	}
}

// wrote looks at a member after a turn of its appender: an operation on the log
// that failed is the last (thesis 3.8; a second fsync proves nothing).
func (c *checker) wrote(m *member) {
	if !m.disk.refusedLog || m.disk.dead {
		return
	}
	select {
	case <-m.real.Done():
	default:
		c.w.fail("the first failed write is the last", "%s goes on after its log could not be written or synced", m.name())
	}
}

// looked looks at a member after each turn of its loop.
func (c *checker) looked(m *member) {
	if m.node == nil {
		return
	}
	st := m.status()
	v := &m.view
	c.born(m)
	if st.Commit < v.commit {
		c.w.fail("commit grows", "%s is committed up to %d, and was up to %d", m.name(), st.Commit, v.commit)
	}
	if st.Commit > v.last() {
		c.w.fail("what is committed is there", "%s is committed up to %d, and its log ends at %d", m.name(), st.Commit, v.last())
		return
	}
	if st.Commit > v.commit {
		if st.Role == node.Leader {
			c.replicated(m, st)
		}
		c.commit(m, v.commit+1, st.Commit)
		v.commit = st.Commit
	}
	if st.Role != node.Leader {
		return
	}
	was, ok := c.leaders[st.Term]
	if ok && was != m.id {
		c.w.fail("election safety", "%s and %x lead in term %d", m.name(), was, st.Term)
	}
	if !ok {
		c.leaders[st.Term] = m.id
		c.w.tell(m, "leads in term %d", st.Term)
		c.complete(m)
	}
}

// replicated: what a leader commits is on the disks of a majority (paper, 5.3). The
// majority is one of the membership in force, or of the one before it, as a change
// may take effect in the same turn.
func (c *checker) replicated(m *member, st node.Status) {
	i := st.Commit
	term, _ := m.view.termAt(i)
	have := map[uint64]bool{}
	for _, o := range c.w.members {
		if o.view.forgets || o.view.damaged {
			return // it had what it acknowledged
		}
		if o.log == nil || o.log.last < i {
			continue
		}
		if t, ok := o.view.termAt(i); !ok || t == term {
			have[o.id] = true
		}
	}
	at, _ := slices.BinarySearch(c.order, st.Membership.Index+1)
	for _, index := range c.order[max(0, at-2):at] {
		voters, got := 0, 0
		for _, mem := range c.memberships[index].Members {
			if !mem.Learner {
				voters++
				if have[mem.ID] {
					got++
				}
			}
		}
		if got > voters/2 {
			return
		}
	}
	c.w.fail("what is committed is on the disks of a majority", "%s commits entry %d of term %d, and only %d members have it on disk", m.name(), i, term, len(have))
}

// complete: Leader Completeness. A new leader has everything that was committed in
// an earlier term (paper, 5.4.3).
func (c *checker) complete(m *member) {
	v, st := &m.view, m.status()
	for i := len(c.ledger) - 1; i >= 0; i-- {
		e := &c.ledger[i]
		if !e.known || e.term >= st.Term {
			continue
		}
		if t, ok := v.termAt(uint64(i)); uint64(i) >= v.base && (!ok || t != e.term) {
			c.w.fail("leader completeness", "%s leads in term %d without entry %d of term %d, which is committed", m.name(), st.Term, i, e.term)
		}
		return
	}
}

// commit: State Machine Safety. Nobody ever commits another entry at an index.
func (c *checker) commit(m *member, lo, hi uint64) {
	v := &m.view
	c.grow(hi)
	for i := max(lo, v.base+1); i <= hi; i++ {
		s, e := v.log[i-v.base-1], &c.ledger[i]
		if e.known {
			if e.term != s.term {
				c.w.fail("state machine safety", "%s commits entry %d of term %d, and another member one of term %d", m.name(), i, s.term, e.term)
			}
			continue
		}
		e.known, e.term = true, s.term
	}
}

// applied looks at a command as the state machine gets it.
func (c *checker) applied(m *member, e *node.Entry, result []byte, chain uint64) {
	c.grow(e.Index)
	l := &c.ledger[e.Index]
	if !l.known || l.term != e.Term {
		c.w.fail("only what is committed is applied", "%s applies entry %d of term %d; committed there: %v, of term %d", m.name(), e.Index, e.Term, l.known, l.term)
	}
	if !l.applied {
		l.applied, l.command, l.data, l.chain, l.result = true, true, bytes.Clone(e.Data), chain, bytesHash(result)
		l.shown = fmt.Sprintf("%s: %s", m.name(), show(result))
		c.landed(e.Index, binary.LittleEndian.Uint64(e.Data))
		return
	}
	switch {
	case !bytes.Equal(l.data, e.Data):
		c.w.fail("state machine safety", "%s applies another command at %d", m.name(), e.Index)
	case l.chain != chain:
		c.w.fail("every command is applied once, in order", "%s has another past at %d", m.name(), e.Index)
	case l.result != bytesHash(result):
		c.w.fail("the state machine is deterministic", "the command at %d (%s) has different results, on %s and on %s: %s",
			e.Index, c.w.cfg.describe(e.Data[opHead:]), l.shown, m.name(), show(result)+deterministic)
	}
}

const deterministic = ". Is there a clock, a random source, the order of a map, a variable of the package in Apply, or something in memory that is not in the snapshot?"

// show shows the beginning of what a state machine returned.
func show(b []byte) string {
	more := ""
	if len(b) > 48 {
		b, more = b[:48], fmt.Sprintf("... (%d bytes)", len(b))
	}
	if strings.IndexFunc(string(b), func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return fmt.Sprintf("%q%s", b, more)
	}
	return fmt.Sprintf("%x%s", b, more)
}

// state: equal logs, equal states. It returns the state's digest.
func (c *checker) state(m *member) digest {
	at := m.machine.applied
	d, err := c.w.digest(m.name(), m.machine.inner)
	if err == nil && !c.agrees(at, d) && c.stable(m.name(), m.machine.inner) {
		c.w.fail("equal logs are equal states", "%s has another state at %d than %s had there%s", m.name(), at, c.states[at].by, d.differs(c.states[at])+deterministic)
	}
	return d
}

// agrees says whether a state is what others had at that index.
func (c *checker) agrees(at uint64, d digest) bool {
	was, ok := c.states[at]
	if !ok {
		c.states[at] = d
	}
	return !ok || was.hash == d.hash
}

// stable: the digest of a state is always the same. Where it is not, it says
// nothing about states.
func (c *checker) stable(who string, sm node.StateMachine) bool {
	first, err := c.w.digest(who, sm)
	for range 16 {
		next, err2 := c.w.digest(who, sm)
		if err != nil || err2 != nil {
			return false
		}
		if next.hash != first.hash {
			c.w.fail("two snapshots of one state are equal", "those of %s are not: write maps in the order of their keys, or set Options.Digest, which must give equal bytes for equal states", who)
			return false
		}
	}
	return true
}

// twinEvery is how many entries are at least between two snapshots that the twins
// take in.
const twinEvery = 16

// written: a capture is of its moment, however late it is written; and a state
// machine that had another state, restored from it, is equal to the one that was
// captured, and stays equal.
func (c *checker) written(s *capture, data []byte) {
	if c.w.failed != nil {
		return
	}
	if c.w.cfg.Digest == nil && bytesHash(data) != s.digest.hash {
		if c.stable(s.m.name(), s.m.machine.inner) {
			c.w.fail("a capture is of its moment", "%s captured a snapshot at %d and has applied %d now, and the snapshot is not of the state that it captured: it shares memory with the state machine", s.m.name(), s.applied, s.m.machine.applied)
		}
		return
	}
	for i := range c.twins {
		if c.twins[i] == nil {
			c.twins[i] = &twin{sm: c.w.cfg.New()}
		}
	}
	along, waits := c.twins[0], c.twins[1]
	if s.applied < along.restored+twinEvery || s.applied < along.applied {
		return
	}
	if !c.follow(along, s.applied) {
		return
	}
	d, err := c.w.digest("it", along.sm)
	if err != nil {
		return
	}
	if d.hash != s.digest.hash {
		if !c.stable("a restored state machine", along.sm) {
			return
		}
		c.w.fail("a restored state machine goes on like the others", "one that was restored at %d and applied what came then has another state at %d than %s%s. Is something not in the snapshot?", along.restored, s.applied, s.m.name(), d.differs(s.digest))
		return
	}
	c.faulty(along.sm, s, data)
	what := fmt.Sprintf("a state machine at %d restores the snapshot of %s at %d", waits.applied, s.m.name(), s.applied)
	from := &pieces{from: bytes.NewReader(data)}
	if c.w.tested(what, func() error { return waits.sm.Restore(s.applied, from) }) != nil {
		return
	}
	if d, err = c.w.digest("it", waits.sm); err != nil {
		return
	}
	if d.hash != s.digest.hash {
		if !c.stable("a restored state machine", waits.sm) {
			return
		}
		c.w.fail("Restore replaces the whole state", "%s, and does not have the state that was captured%s. Is something left of the old state, not in the snapshot, or shared between the snapshot and the state machine (%s has applied %d meanwhile)?", what, d.differs(s.digest), s.m.name(), s.m.machine.applied)
		return
	}
	waits.applied, waits.restored = s.applied, s.applied
	c.twins[0], c.twins[1] = waits, along
}

// faulty: a writer or a reader that fails makes WriteTo or Restore fail: else half
// a snapshot would count as a whole one.
func (c *checker) faulty(sm node.StateMachine, s *capture, data []byte) {
	to := &tee{to: errWriter{}}
	_ = c.w.tested(fmt.Sprintf("a snapshot at %d is written, and the writer fails", s.applied), func() error {
		snap, err := sm.Snapshot()
		if err != nil {
			return err
		}
		_, err = snap.WriteTo(to)
		_ = snap.Close() // it may complain again
		if err == nil && to.err != nil {
			return fmt.Errorf("WriteTo returned no error when the writer did: %w", to.err)
		}
		return nil
	})
	from := &pieces{from: io.MultiReader(bytes.NewReader(data[:len(data)/2]), errReader{})}
	_ = c.w.tested(fmt.Sprintf("the snapshot of %s at %d is restored, and the reader fails half way", s.m.name(), s.applied), func() error {
		return from.explains(c.w.cfg.New().Restore(s.applied, from))
	})
}

// errWriter and errReader fail.
type (
	errWriter struct{}
	errReader struct{}
)

func (errWriter) Write([]byte) (int, error) { return 0, errIO }
func (errReader) Read([]byte) (int, error)  { return 0, errIO }

// follow gives a twin the committed commands up to an index.
func (c *checker) follow(t *twin, to uint64) bool {
	for t.applied < to {
		t.applied++
		e := &c.ledger[t.applied]
		if !e.command {
			continue
		}
		who := fmt.Sprintf("a state machine that was restored at %d", t.restored)
		result, err := c.apply(who, t.sm, t.applied)
		if err != nil {
			return false
		}
		if bytesHash(result) != e.result {
			c.w.fail("a restored state machine goes on like the others", "one that was restored at %d gets another result for the command at %d (%s) than %s: %s: is something not in the snapshot?",
				t.restored, t.applied, c.w.cfg.describe(e.data[opHead:]), e.shown, show(result))
			return false
		}
	}
	return true
}

// apply gives a command of the ledger to a state machine.
func (c *checker) apply(who string, sm node.StateMachine, index uint64) (result []byte, err error) {
	e := &c.ledger[index]
	entry, _ := hand(index, e.term, e.data[opHead:])
	commands := []node.Entry{entry}
	err = c.w.tested(c.w.applyOf(who, commands), func() error {
		results, err := sm.Apply(commands)
		switch {
		case err != nil:
			return err
		case len(results) > 1 || results != nil && len(results) == 0:
			return fmt.Errorf("%d results for 1 entry", len(results))
		case results != nil:
			result = results[0]
		}
		return nil
	})
	return result, err
}

// landed notes that an operation is committed.
func (c *checker) landed(index, id uint64) {
	if id == 0 || id > uint64(len(c.ops)) {
		c.w.fail("nothing is made up", "the command at %d is of operation %d, and there are %d", index, id, len(c.ops))
		return
	}
	o := c.ops[id-1]
	switch {
	case o.committed != 0:
		c.w.fail("every command is applied once, in order", "operation %d is committed at %d and at %d", id, o.committed, index)
	case o.outcome == notCommitted:
		c.w.fail("what is certainly not committed is not", "operation %d is committed at %d", id, index)
	}
	o.committed = index
}

// restored: a snapshot is what the log up to it amounts to.
func (c *checker) restored(m *member, index, applied, chain uint64) {
	if applied > index {
		c.w.fail("snapshots are labelled right", "%s restores a snapshot at %d that has entry %d in it", m.name(), index, applied)
	}
	if applied > 0 && applied < uint64(len(c.ledger)) && c.ledger[applied].applied && c.ledger[applied].chain != chain {
		c.w.fail("a snapshot is what the log amounts to", "%s restores a snapshot at %d with another past up to %d", m.name(), index, applied)
	}
	for i := applied + 1; i <= index && i < uint64(len(c.ledger)); i++ {
		if c.ledger[i].command {
			c.w.fail("a snapshot is what the log amounts to", "%s restores a snapshot at %d that lacks the command at %d", m.name(), index, i)
		}
	}
	d, err := c.w.digest(m.name(), m.machine.inner)
	if err == nil && !c.agrees(applied, d) && c.stable(m.name(), m.machine.inner) {
		c.w.fail("Restore replaces the whole state", "%s restores a snapshot at %d, and does not have the state that %s had there%s. Is something left of the old state, not in the snapshot, or shared between the snapshot and the state machine?", m.name(), index, c.states[applied].by, d.differs(c.states[applied]))
	}
}

// started: what a member promised, and what it gave a client, is there after any
// crash.
func (c *checker) started(m *member) {
	v, store := &m.view, m.node.Store()
	if !store.Initialized() {
		if v.ackIndex+v.term > 0 && !v.forgets {
			c.w.fail("what was promised is there", "%s starts without a log, and acknowledged entry %d in term %d", m.name(), v.ackIndex, v.term)
		}
		*v = view{damaged: v.damaged, forgets: v.forgets}
		return
	}
	promised := *v
	c.readLog(m)
	hs := m.node.HardState()
	v.term, v.vote = promised.term, promised.vote
	v.ackIndex, v.ackTerm = promised.ackIndex, promised.ackTerm
	v.commit = hs.Commit
	if promised.forgets {
		v.term, v.vote, v.ackIndex, v.ackTerm = hs.Term, hs.Vote, 0, 0
		return
	}
	if hs.Term < v.term || hs.Term == v.term && v.vote != 0 && hs.Vote != v.vote {
		c.w.fail("what was promised is there", "%s comes back in term %d with a vote for %x; it answered in term %d with a vote for %x", m.name(), hs.Term, hs.Vote, v.term, v.vote)
	}
	if t, ok := v.termAt(v.ackIndex); v.ackIndex > v.base && (!ok || t != v.ackTerm) {
		c.w.fail("what was promised is there", "%s comes back with a log from %d to %d; it acknowledged entry %d of term %d, and that is of term %d now", m.name(), v.base, v.last(), v.ackIndex, v.ackTerm, t)
	}
	// What the disk says is committed was so before.
	c.commit(m, v.base+1, v.commit)
}

// readLog takes a member's log from its disk into the view.
func (c *checker) readLog(m *member) {
	store := m.node.Store()
	start := store.Start().Metadata
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	m.view = view{born: true, base: start.Index, baseTerm: start.Term, damaged: m.view.damaged, forgets: m.view.forgets}
	v := &m.view
	c.grow(start.Index)
	ms := store.Start().Membership
	c.membership(m, &ms) // a founder's is in no entry
	c.label(m, start.Index, confString(start.ConfState.Voters, start.ConfState.Learners))
	failing := m.disk.failing
	m.disk.failing = nil
	defer func() { m.disk.failing = failing }()
	for next := first; next <= last; {
		entries, err := store.Entries(next, last+1, math.MaxUint64)
		if err != nil || len(entries) == 0 {
			c.w.fail("the log can be read", "%s: entry %d of a log up to %d: %v", m.name(), next, last, err)
			return
		}
		for i := range entries {
			e := &entries[i]
			s := stamp{hash: bytesHash(e.Data) + uint64(e.Type)}
			s.before, _ = v.termAt(e.Index - 1)
			if old, ok := c.entries[place{e.Index, e.Term}]; ok && old != s {
				c.w.fail("log matching", "%s comes back with another entry %d of term %d", m.name(), e.Index, e.Term)
			} else if !ok {
				c.w.fail("nothing is made up", "%s comes back with entry %d of term %d, which nobody ever had", m.name(), e.Index, e.Term)
			}
			v.log = append(v.log, stampedTerm{e.Term, s.hash, e.Type == raftpb.EntryConfChangeV2})
		}
		next += uint64(len(entries))
	}
}

// killed: a process ended. What it had only in memory is gone.
func (c *checker) killed(m *member) { m.view.commit = 0 }

// refused: a member does not start. Only damage is a reason.
func (c *checker) refused(m *member, err error) {
	if !m.view.damaged && !m.disk.struck && !m.disk.dead {
		c.w.fail("an honest crash keeps nobody from starting", "%s: %v", m.name(), err)
	}
}

// stopped: a process ended by itself. Only a fault of its disk, its removal, or a
// disk that forgot is a reason.
func (c *checker) stopped(m *member, err error, struck bool) {
	switch {
	case struck, m.view.damaged, m.view.forgets:
	case errors.Is(err, node.ErrRemoved), errors.Is(err, node.ErrIDReused):
		if !c.w.nemesis.removed[m.id] {
			c.w.fail("nobody is removed who was not", "%s stops: %v", m.name(), err)
		}
	default:
		c.w.fail("nobody stops without a reason", "%s: %v", m.name(), err)
	}
}

// called notes that an operation begins.
func (c *checker) called(o *op) {
	c.moment++
	o.called, o.floor = c.moment, c.seen
	o.id = uint64(len(c.ops)) + 1
	c.ops = append(c.ops, o)
	if c.w.trace != nil {
		c.w.tell(o.member, "  client %d: op %d: %s", o.client.number, o.id, c.w.cfg.describe(o.input))
	}
}

// returned: an operation takes effect between its call and its return. The log
// says in which order they took effect, so that what was done when this one began
// must come before it, and what it read may not be older.
func (c *checker) returned(o *op) {
	c.moment++
	o.returned = c.moment
	c.w.mix(o.id, uint64(o.outcome), o.index)
	c.w.tell(o.member, "  client %d: op %d: %s at %d: %s", o.client.number, o.id, o.outcome, o.index, show(o.output))
	switch {
	case o.outcome == notCommitted && o.committed != 0:
		c.w.fail("what is certainly not committed is not", "operation %d is committed at %d", o.id, o.committed)
	case o.outcome != done:
	case o.query && o.index < o.floor:
		c.w.fail("no stale reads", "operation %d read at index %d on %s, and when it began somebody had seen index %d", o.id, o.index, o.member.name(), o.floor)
	case !o.query && o.index <= o.floor:
		c.w.fail("real-time order", "operation %d is at index %d, and when it began somebody had seen index %d", o.id, o.index, o.floor)
	case !o.query && o.committed != o.index:
		c.w.fail("what is acknowledged is committed", "operation %d was acknowledged at %d and is committed at %d", o.id, o.index, o.committed)
	case !o.query && o.applied < o.index:
		c.w.fail("what is acknowledged is applied here", "operation %d was acknowledged at %d on %s, whose state machine is at %d", o.id, o.index, o.member.name(), o.applied)
	default:
		c.seen = max(c.seen, o.index)
	}
}

// finish looks at the whole story when all is quiet.
func (c *checker) finish() {
	for _, o := range c.ops {
		if o.outcome == done && !o.query && o.committed != o.index {
			c.w.fail("what is acknowledged is committed", "operation %d was acknowledged at %d and is committed at %d", o.id, o.index, o.committed)
		}
		if o.outcome == done && o.query {
			for i := o.applied + 1; i <= o.index; i++ {
				if c.ledger[i].command {
					c.w.fail("a read sees what its index says", "operation %d read at index %d on %s, whose state machine was at %d and lacked the command at %d", o.id, o.index, o.member.name(), o.applied, i)
				}
			}
		}
	}
	results := c.replay()
	c.history(results)
}

// replay gives the whole committed log to a new state machine: every result, the
// states where states are compared, and every answer to a query must be what the
// members had.
func (c *checker) replay() map[uint64][]byte {
	queries := map[uint64][]*op{}
	for _, o := range c.ops {
		if o.query && o.outcome == done {
			queries[o.applied] = append(queries[o.applied], o)
		}
	}
	sm, results := c.w.cfg.New(), map[uint64][]byte{}
	last := uint64(0)
	for i := range uint64(len(c.ledger)) {
		if e := &c.ledger[i]; e.command {
			last = i
			result, err := c.apply("a replay", sm, i)
			if err != nil {
				return nil
			}
			if bytesHash(result) != e.result {
				c.w.fail("the state machine is deterministic", "a replay gets another result for the command at %d (%s) than %s: %s", i, c.w.cfg.describe(e.data[opHead:]), e.shown, show(result)+deterministic)
				return nil
			}
			results[i] = bytes.Clone(result)
		}
		if !c.answers(sm, i, queries[i]) || checkpoint(i) && !c.replayed(sm, i) {
			return nil
		}
	}
	for _, m := range c.w.running() {
		if m.machine.applied == last {
			c.state(m)
		}
	}
	if c.replayed(sm, last) && c.w.cfg.audit != nil {
		c.w.cfg.audit(c, sm)
	}
	return results
}

// replayed compares the state of a replay with what members had.
func (c *checker) replayed(sm node.StateMachine, at uint64) bool {
	was, ok := c.states[at]
	if !ok {
		return true
	}
	d, err := c.w.digest("the replay", sm)
	if err == nil && d.hash != was.hash && c.stable("the replay", sm) {
		c.w.fail("snapshot and tail are the full replay", "the state of %s at %d is not that of a replay of the log%s", was.by, at, d.differs(was)+deterministic)
	}
	return c.w.failed == nil
}

// answers: a query has the same answer wherever it is asked, as long as the same
// commands are applied there.
func (c *checker) answers(sm node.StateMachine, at uint64, queries []*op) bool {
	for _, o := range queries {
		var output []byte
		if c.w.tested("a replay: Options.Read", func() error {
			output = c.w.cfg.Read(sm, o.input)
			return nil
		}) != nil {
			return false
		}
		if !bytes.Equal(output, o.output) {
			c.w.fail("equal states give equal answers", "%s answered %s at %d with %s, and a replay of the log answers with %s: does Read use something that is not in the snapshot, or change the state?",
				o.member.name(), c.w.cfg.describe(o.input), at, show(o.output), show(output))
			return false
		}
	}
	return true
}

// seenAt is the first moment at which a client saw an index, or a higher one.
func (c *checker) seenAt(index uint64) uint64 {
	at := c.moment + 1
	for _, o := range c.ops {
		if o.outcome == done && o.index >= index {
			at = min(at, o.returned)
		}
	}
	return at
}

// porcupineTimeout bounds the search for an order; without one found by then the
// history counts as wrong.
const porcupineTimeout = time.Minute

// history: what clients saw is what some one of them would have seen alone. The
// search takes time that grows fast with the operations that overlap on one key;
// Options.Operations keeps them below a thousand a key for the simulator's own
// state machine, and below a thousand in all for others. No answer in time counts
// as wrong.
func (c *checker) history(results map[uint64][]byte) {
	if c.w.cfg.Model == nil || c.w.failed != nil {
		return
	}
	var history []porcupine.Operation
	for _, o := range c.ops {
		p := porcupine.Operation{ClientId: o.client.number, Input: o.input, Call: int64(o.called), Output: o.output, Return: int64(o.returned)}
		switch {
		case o.outcome == done:
		case o.committed != 0:
			// Its client does not know, but the log does: it took effect before anything
			// behind it returned.
			p.Output, p.Return = results[o.committed], int64(c.seenAt(o.committed))
			p.ClientId = len(c.w.clients) + int(o.id)
		default:
			continue
		}
		history = append(history, p)
	}
	model, panicked := calm(*c.w.cfg.Model)
	res := porcupine.Unknown
	if c.w.tested("Options.Model", func() error {
		if c.logExplains(model, history) {
			res = porcupine.Ok
		} else if panicked.Load() == nil {
			res = porcupine.CheckOperationsTimeout(model, history, porcupineTimeout)
		}
		return nil
	}) != nil {
		return
	}
	switch p := panicked.Load(); {
	case p != nil:
		c.w.fail("the model does not panic", "%s", *p)
	case res == porcupine.Unknown:
		c.w.fail("linearizability", "no order of the %d operations that explains them was found in %v: give Options.Model a Partition, or fewer Operations", len(history), porcupineTimeout)
	case res == porcupine.Illegal:
		c.w.fail("linearizability", "there is no order of the %d operations that explains them%s", len(history), c.unexplained(model, history))
	}
}

// logExplains says whether the order of the log explains a history: it is the one to
// expect, and one that explains is enough. To look for another takes long.
func (c *checker) logExplains(model porcupine.Model, history []porcupine.Operation) bool {
	if model.Step == nil {
		return false
	}
	ops := map[int64]*op{} // by their call, which is a moment of its own
	for _, o := range c.ops {
		ops[int64(o.called)] = o
	}
	at := func(p porcupine.Operation) uint64 { // a query stands behind what it saw
		o := ops[p.Call]
		if o.query {
			return 2*o.applied + 1
		}
		return 2 * o.committed
	}
	parts := [][]porcupine.Operation{history}
	if model.Partition != nil {
		parts = model.Partition(history)
	}
	for _, part := range parts {
		part = slices.Clone(part)
		slices.SortFunc(part, func(a, b porcupine.Operation) int {
			return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a.Call, b.Call))
		})
		state, ok := model.Init(), true
		latest := int64(0) // the latest call so far: nothing behind it returned before
		for _, p := range part {
			if latest = max(latest, p.Call); p.Return < latest {
				return false
			}
			if ok, state = model.Step(state, p.Input, p.Output); !ok {
				return false
			}
		}
	}
	return true
}

// calm is a model whose Step does not panic, but says so. Porcupine calls it in
// goroutines of its own.
func calm(m porcupine.Model) (porcupine.Model, *atomic.Pointer[string]) {
	var panicked atomic.Pointer[string]
	if step := m.Step; step != nil {
		m.Step = func(state, input, output any) (ok bool, next any) {
			defer func() {
				if r := recover(); r != nil {
					p := fmt.Sprintf("Step(%v, %v, %v): %v\n%s", state, input, output, r, stackOf(debug.Stack()))
					panicked.CompareAndSwap(nil, &p)
					ok, next = false, state
				}
			}()
			return step(state, input, output)
		}
	}
	return m, &panicked
}

// unexplained names the operation that returned first of those that the best
// attempt at an order leaves out.
func (c *checker) unexplained(model porcupine.Model, history []porcupine.Operation) string {
	_, info := porcupine.CheckOperationsVerbose(model, history, porcupineTimeout)
	explained := map[int64]bool{} // by their call, which is a moment of its own
	for _, part := range info.PartialLinearizationsOperations() {
		var best []porcupine.Operation
		for _, order := range part {
			if len(order) > len(best) {
				best = order
			}
		}
		for _, o := range best {
			explained[o.Call] = true
		}
	}
	history = slices.DeleteFunc(slices.Clone(history), func(o porcupine.Operation) bool { return explained[o.Call] })
	if len(history) == 0 {
		return ""
	}
	first := slices.MinFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, o := range c.ops {
		if int64(o.called) == first.Call {
			return fmt.Sprintf("; an order of the others stops at operation %d, %s at index %d, which returned %s", o.id, c.w.cfg.describe(o.input), max(o.index, o.committed), show(first.Output.([]byte)))
		}
	}
	return ""
}
