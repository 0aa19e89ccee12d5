package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/check"
	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node"
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
// between their call and their return, once or never (returned; finish and history
// in history.go). states.go has what is checked of the state machine.
type checker struct {
	w *world
	// cluster is that of this world, and 0 before one is founded.
	cluster uint64

	// leaders is who led, by term.
	leaders map[uint64]uint64
	// entries is every entry that was ever in a log, by its place.
	entries map[place]stamp
	// ledger is the committed log, from index 1. (The founder's snapshot is at 1.)
	ledger []entry
	// confs are the memberships that were in force, by the index from which on.
	confs     map[uint64]string
	confsFrom []uint64

	// memberships are all of them, by their index; buried are those that have a
	// tombstone; reached is the newest entry that a member ever acknowledged.
	memberships map[uint64]*octopiipb.Membership
	buried      map[uint64]bool
	reached     map[uint64]uint64
	// learnt is the newest entry that a leader was told that a member has, in its own term.
	learnt map[uint64]uint64

	// moment counts what clients see; ops are their operations, by number.
	moment uint64
	ops    []*op
	// order is that of the indexes that clients have seen.
	order check.Order

	// states are digests of the state at an index, the first that was seen.
	states map[uint64]digest
	// served are answers since images of disks were put back: see images.go.
	served []served
	// twins are two more state machines, fed with snapshots: one goes along, the
	// other waits in an older state for the next snapshot.
	twins [2]*twin

	coverage coverage
	// spare: a member takes a turn that it does not want: see idle.
	spare bool
}

// place is where an entry stands.
type place struct{ index, term uint64 }

// stamp is what is remembered of an entry in some log: what it is, and the term
// of the one before it.
type stamp struct{ hash, before uint64 }

// entry is one of the committed log.
type entry struct {
	known bool
	term  uint64
	// by is the term in which it was known to be committed first: that of the leader that
	// committed it, or a later one.
	by      uint64
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
	// lead is its leader, in leadTerm, at the last look, and heard is when it heard of
	// that last, in ticks of its clock. gone are those of whom it was told that nobody
	// listens there any more, since it began to follow them.
	lead, leadTerm uint64
	ticks, heard   int
	gone           map[uint64]bool
	// granted is the highest term for which another one gave it a pre-vote, or told it
	// to campaign.
	granted uint64
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
		memberships: map[uint64]*octopiipb.Membership{}, buried: map[uint64]bool{}, reached: map[uint64]uint64{}, learnt: map[uint64]uint64{}}
}

// born begins the view of a member that was just brought to life.
func (c *checker) born(m *member) {
	if !m.view.born && m.node.View().Initialized() {
		if c.founded(m); m.phantom {
			return
		}
		c.readLog(m)
		m.view.term = m.node.HardState().Term
	}
}

// decided looks at what a member decided, before any of it is done.
func (c *checker) decided(m *member, d *stepped.Decision) {
	if m.node != nil { // else it is about to start
		c.born(m)
	}
	if m.phantom {
		return
	}
	if c.spare {
		c.lay(m, d)
	}
	if d.Membership != nil {
		c.membership(m, d.Membership)
	}
	for _, id := range d.GivenUp {
		c.givenUp(m, id)
	}
	if a := d.Append; a != nil {
		if a.Snapshot != nil {
			c.install(m, a.Snapshot)
		}
		for i := range a.Entries {
			c.append(m, &a.Entries[i])
		}
	}
}

// givenUp: a member that a leader gives up did not answer. One that runs, where it is
// looked for, and that nothing kept from answering for as long as others are waited
// for, does.
func (c *checker) givenUp(m *member, id uint64) {
	w := c.w
	w.nemesis.removed[id] = true
	patience := time.Duration(w.cfg.joinTimeoutTicks) * w.cfg.tick
	o := w.nemesis.member(id)
	if o == nil || !o.awake() || w.now-max(o.awakeSince, m.awakeSince, w.troubled) < 2*patience || w.byHand || o.view.forgets {
		return
	}
	if rec, ok := m.status().Membership.Member(id); ok && rec.Address == o.address {
		w.fail("nobody is given up who answers", "%s gives up %s, which runs since %v, and nothing kept it from answering since %v: %s", m.name(), o.name(), o.awakeSince, w.troubled, w.summary())
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
	m.installs++
	c.grow(meta.Index)
	if e := c.ledger[meta.Index]; e.known && e.term != meta.Term {
		c.w.fail("state machine safety", "%s installs a snapshot at %d of term %d, and the entry there has term %d", m.name(), meta.Index, meta.Term, e.term)
	}
	c.label(m, meta.Index, confString(meta.ConfState))
	v.base, v.baseTerm, v.log = meta.Index, meta.Term, nil
	v.commit = max(v.commit, meta.Index)
}

// membership: the same change leads to the same membership everywhere.
func (c *checker) membership(m *member, ms *octopiipb.Membership) {
	cs, err := stepped.ConfState(ms)
	if err != nil {
		c.w.fail("one membership at an index", "%s has from %d on what cannot be: %v", m.name(), ms.Index, err)
		return
	}
	s := confString(cs)
	old, ok := c.confs[ms.Index]
	if ok && old != s {
		c.w.fail("one membership at an index", "%s has %s from %d on, and another member %s", m.name(), s, ms.Index, old)
	}
	if v := &m.view; m.node != nil && ms.Index > v.base && ms.Index <= v.last() && !v.log[ms.Index-v.base-1].change {
		c.w.fail("membership changes where its entry is", "%s has %s from %d on, and the entry there is no change", m.name(), s, ms.Index)
	}
	if !ok {
		c.onePlaceEach(m, ms)
		for _, mem := range ms.Members { // it took the place of a learner
			if mem.Kind == octopiipb.Learner && !mem.Promote && c.w.nemesis.demoted[mem.Replaces] {
				c.w.nemesis.demoted[mem.ID] = true
			}
		}
		c.confs[ms.Index], c.memberships[ms.Index] = s, ms
		at, _ := slices.BinarySearch(c.confsFrom, ms.Index)
		if at > 0 {
			c.bury(m, c.memberships[c.confsFrom[at-1]], ms)
		}
		c.confsFrom = slices.Insert(c.confsFrom, at, ms.Index)
		c.w.tell(m, "  membership from %d on: %s", ms.Index, s)
	}
}

// onePlaceEach: one process listens at an address. A second voter there is one that is no
// more, and its vote is missing for good.
func (c *checker) onePlaceEach(m *member, ms *octopiipb.Membership) {
	for i, a := range ms.Members {
		for _, b := range ms.Members[i+1:] {
			if a.Address == b.Address && a.Address != "" && a.Kind == octopiipb.Voter && b.Kind == octopiipb.Voter {
				c.w.fail("no two voters have one address", "%s has a membership from %d on in which %x and %x vote at %s", m.name(), ms.Index, a.ID, b.ID, a.Address)
			}
		}
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
	for _, was := range before.Members {
		now := slices.IndexFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == was.ID && o.Kind == octopiipb.Voter })
		if was.Kind == octopiipb.Learner && was.Replaces != 0 && now >= 0 && slices.ContainsFunc(after.Members, func(o octopiipb.Member) bool { return o.ID == was.Replaces }) {
			c.w.fail("whoever takes a place takes it in one change", "%s has a membership from %d on in which %x votes and %x, which it replaces, is still there", m.name(), after.Index, was.ID, was.Replaces)
		}
	}
}

// met: two members have shaken hands. One whose disk forgot what it promised must
// be told so by everybody who knows that disk. (One that was wiped before anybody
// knew its disk promised nothing: the others come to know the one that it has now.)
func (c *checker) met(m, who *member) {
	if m.phantom || !who.wiped || m.view.forgets || !m.up() {
		return
	}
	ms, ok := c.memberships[m.status().Membership.Index]
	if !ok {
		return
	}
	now := who.end.handler.Hello(m.id).Incarnation
	for _, o := range ms.Members {
		switch {
		case o.ID != who.id || o.Incarnation == 0:
		case o.Incarnation != now:
			c.w.fail("whoever forgot is kept out", "%s shakes hands with %s, which it knows from before its disk was wiped", m.name(), who.name())
		case who.voted:
			c.w.fail("whoever forgot is kept out", "%s knows %s by the disk that it has since it was wiped, and it voted before", m.name(), who.name())
		}
	}
}

// label: a snapshot at an index has the membership in force there.
func (c *checker) label(m *member, index uint64, conf string) {
	at, _ := slices.BinarySearch(c.confsFrom, index+1)
	if at == 0 {
		return
	}
	if want := c.confs[c.confsFrom[at-1]]; conf != want {
		c.w.fail("snapshots are labelled right", "%s has a snapshot at %d with %s, and %s is in force there since %d", m.name(), index, conf, want, c.confsFrom[at-1])
	}
}

func confString(cs raftpb.ConfState) string {
	list := func(ids []uint64) []uint64 {
		ids = slices.Clone(ids)
		slices.Sort(ids)
		return ids
	}
	s := fmt.Sprintf("voters %x learners %x", list(cs.Voters), list(cs.Learners))
	if len(cs.VotersOutgoing) > 0 {
		s += fmt.Sprintf(" outgoing %x staged %x", list(cs.VotersOutgoing), list(cs.LearnersNext))
	}
	return s
}

// sent looks at a message as it leaves a member. What it vouches for must be
// durable (thesis 3.8, 10.2.1).
func (c *checker) sent(m *member, msg *raftpb.Message) {
	v := &m.view
	if m.phantom {
		return
	}
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
		// A late pre-vote for the term before counts as well: raft takes it for a new one.
		if msg.Term > v.granted+1 {
			c.w.fail("whoever campaigns has pre-votes", "%s asks for votes in term %d without a pre-vote of another one, and was not told to", m.name(), msg.Term)
		}
		if msg.Term > v.term {
			v.term, v.vote = msg.Term, m.id
		}
	case msg.Type == raftpb.MsgAppResp && !msg.Reject:
		last := m.log.last
		if hs.Term > msg.Term && last < msg.Index {
			// The log was cut for the leader of a later term in the same write. The
			// answer says what it was in the term that it names, which still holds: the
			// later leader was elected without the entry, so whoever voted for it had
			// not acknowledged it before, and it cannot be committed.
			return
		}
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
	c.idle(m)
	if m.node == nil {
		return
	}
	st := m.status()
	v := &m.view
	m.knows = m.knows || m.told && m.disk.well()
	if c.born(m); m.phantom {
		return
	}
	c.followed(m, st)
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
	c.readable(m)
	c.coverage.visit(m, &st)
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

// readable: what a member's raft may ask for is there, in memory or on disk.
func (c *checker) readable(m *member) {
	d, store := m.disk, m.node.View()
	if m.log == nil || m.view.damaged || d.failing != nil || d.struck || d.dead || c.w.byHand || !c.w.oneIn(readEvery) {
		return
	}
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	if first > last {
		return
	}
	entries, err := store.Entries(first, first+1, math.MaxUint64)
	if errors.Is(err, raft.ErrCompacted) && (len(m.tasks) > 0 || m.writing != nil || m.node.Work().Loop) {
		return // its release is under way, and the loop hears of that in a later turn
	}
	if err != nil || len(entries) == 0 {
		c.w.fail("the log can be read", "%s: entry %d, the first of a log up to %d: %v, %v", m.name(), first, last, err, store.ReadErr())
	}
}

// readEvery is after how many turns of loops the oldest entry of one is read.
const readEvery = 100

// heard notes that a member hears of its leader, or gets what it needs to campaign.
func (c *checker) heard(m *member, msg *raftpb.Message) {
	if st := m.status(); msg.Type == raftpb.MsgAppResp && !msg.Reject && st.Role == node.Leader && st.Term == msg.Term {
		c.learnt[msg.From] = max(c.learnt[msg.From], msg.Index)
	}
	v := &m.view
	switch {
	case msg.Type == raftpb.MsgHeartbeat && msg.From == v.lead && msg.Term == v.leadTerm:
		v.heard = v.ticks
	case msg.Type == raftpb.MsgPreVoteResp && !msg.Reject:
		v.granted = max(v.granted, msg.Term)
	case msg.Type == raftpb.MsgTimeoutNow:
		v.granted = max(v.granted, msg.Term+1)
	}
}

// gone notes that a member is told that nobody listens any more where another was.
func (c *checker) gone(m *member, id uint64) {
	if m.view.gone == nil {
		m.view.gone = map[uint64]bool{}
	}
	m.view.gone[id] = true
}

// followed: whoever follows goes on until it has not heard of its leader for an
// election timeout, or nobody listens any more where that was. A connection that
// breaks is no reason. One that serves nothing asks a majority first: messages of its
// leader that are older than its own process may look like those of one that forgot.
func (c *checker) followed(m *member, st node.Status) {
	v := &m.view
	lead, term := v.lead, v.leadTerm
	v.lead, v.leadTerm = st.Leader, st.Term
	if st.Leader != 0 && (st.Leader != lead || st.Term != term) {
		v.heard = v.ticks
		delete(v.gone, st.Leader)
	}
	if lead == 0 || lead == m.id || st.Leader != 0 || st.Term != term || v.gone[lead] || v.forgets || st.Suspended != nil {
		return
	}
	// A turn may be late by a tick, and a message wait for the next turn.
	if silent := v.ticks - v.heard; silent < c.w.cfg.electionTicks-2 {
		c.w.fail("a leader is forgotten for a reason", "%s follows %x no more in term %d, heard of it %d ticks ago, and was not refused by it", m.name(), lead, term, silent)
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
		if o.log == nil || o.phantom || o.log.last < i {
			continue
		}
		if t, ok := o.view.termAt(i); !ok || t == term {
			have[o.id] = true
		}
	}
	at, _ := slices.BinarySearch(c.confsFrom, st.Membership.Index+1)
	for _, index := range c.confsFrom[max(0, at-2):at] {
		voters, got := 0, 0
		for _, mem := range c.memberships[index].Members {
			if mem.Kind == octopiipb.Voter {
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
// an earlier term (paper, 5.4.3). What a leader of an earlier term appended may be committed
// in a later one, of which a leader between them, that hears only now of its votes, has
// nothing.
func (c *checker) complete(m *member) {
	v, st := &m.view, m.status()
	for i := len(c.ledger) - 1; i >= 0; i-- {
		e := &c.ledger[i]
		if !e.known || e.by >= st.Term {
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
	v, term := &m.view, m.status().Term
	c.grow(hi)
	for i := max(lo, v.base+1); i <= hi; i++ {
		s, e := v.log[i-v.base-1], &c.ledger[i]
		if e.known {
			if e.term != s.term {
				c.w.fail("state machine safety", "%s commits entry %d of term %d, and another member one of term %d", m.name(), i, s.term, e.term)
			}
			continue
		}
		e.known, e.term, e.by = true, s.term, term
	}
}

// applied looks at a command as the state machine gets it.
func (c *checker) applied(m *member, e *node.Entry, result []byte, chain uint64) {
	if m.phantom {
		return
	}
	m.reaches(e.Index, chain)
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
	if m.phantom {
		return
	}
	if m.chains != nil {
		m.chains = map[uint64]uint64{} // what it had before is gone, and what it answered from that stays in served
	}
	m.reaches(applied, chain)
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
	if m.lostLog {
		c.w.fail("whoever lost its log stays away", "%s runs under its ID %x, and its log was lost", m.name(), m.id)
	}
	if m.phantom {
		return
	}
	v, store := &m.view, m.node.View()
	if !store.Initialized() {
		if v.ackIndex+v.term > 0 && !v.forgets {
			c.w.fail("what was promised is there", "%s starts without a log, and acknowledged entry %d in term %d", m.name(), v.ackIndex, v.term)
		}
		*v = view{damaged: v.damaged, forgets: v.forgets}
		return
	}
	if s := m.machine; s.durable && !v.forgets && m.status().Commit < s.saved.applied {
		c.w.fail("what is applied is committed", "%s starts committed up to %d, and its state machine has what is applied up to %d", m.name(), m.status().Commit, s.saved.applied)
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
	store := m.node.View()
	start := store.Start().Metadata
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	m.view = view{born: true, base: start.Index, baseTerm: start.Term, damaged: m.view.damaged, forgets: m.view.forgets}
	v := &m.view
	c.grow(start.Index)
	ms := store.Start().Membership
	c.membership(m, &ms) // a founder's is in no entry
	c.label(m, start.Index, confString(start.ConfState))
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

// refused: a member does not start. Only damage is a reason, or a log that is lost.
func (c *checker) refused(m *member, err error) {
	if m.lostLog && errors.Is(err, node.ErrAmnesia) {
		return
	}
	if !m.view.damaged && !m.disk.struck && !m.disk.dead {
		c.w.fail("an honest crash keeps nobody from starting", "%s: %v", m.name(), err)
	}
}

// stopped: a process ended by itself. Only a fault of its disk, its removal, or a
// disk that forgot is a reason.
func (c *checker) stopped(m *member, err error, struck bool) {
	switch {
	case m.phantom && errors.Is(err, node.ErrOtherCluster):
	case c.w.nemesis.branching && (errors.Is(err, node.ErrDiverged) || errors.Is(err, node.ErrAmnesia)):
	case struck, m.view.damaged, m.view.forgets:
	case errors.Is(err, node.ErrDiskStalled) && (max(m.disk.stalled, m.disk.hung) >= c.w.now || m.awakeSince == c.w.now):
		// If it stood still, it learns at once that its limit is over and that the disk works.
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
	o.called, o.known = c.moment, c.order.Newest()
	o.id = uint64(len(c.ops)) + 1
	c.ops = append(c.ops, o)
	if c.w.trace != nil {
		c.w.tell(o.member, "  client %d: op %d: %s", o.client.number, o.id, c.w.cfg.describe(o.input))
	}
}

// failed: a member that goes on fails no proposal because of a change of leader or a
// message that got lost. What is certainly not committed it proposes again, and of
// the rest it finds the outcome in its log, unless a snapshot took the place of that.
func (c *checker) failed(o *op) {
	switch {
	case o.query, errors.Is(o.err, node.ErrClosed), errors.Is(o.err, node.ErrRemoved):
	case errors.Is(o.err, node.ErrSuspect), errors.Is(o.err, node.ErrDiverged):
		if !o.member.view.forgets && !c.w.nemesis.branching {
			c.w.fail("nobody doubts without a reason", "%s fails operation %d: %v", o.member.name(), o.id, o.err)
		}
	case errors.Is(o.err, node.ErrNotCommitted):
		c.w.fail("what is certainly not committed is proposed again", "%s fails operation %d: %v", o.member.name(), o.id, o.err)
	case errors.Is(o.err, node.ErrUnknownOutcome) && o.member.installs == o.installs:
		c.w.fail("only a snapshot hides an outcome", "%s fails operation %d, and has installed no snapshot since it was called: %v", o.member.name(), o.id, o.err)
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
	case c.w.nemesis.branching:
		if o.outcome == done {
			c.oneHistory(o.member)
		}
	case o.outcome == notCommitted && o.committed != 0:
		c.w.fail("what is certainly not committed is not", "operation %d is committed at %d", o.id, o.committed)
	case o.outcome == done:
		c.acknowledged(o)
	}
}

// acknowledged: what a client was told is so, and newer than what anybody had seen when
// it called.
func (c *checker) acknowledged(o *op) {
	r := o.recorded()
	err := c.order.Returned(&r, o.known)
	switch {
	case err != nil && o.query:
		c.w.fail("no stale reads", "on %s: %v", o.member.name(), err)
	case err != nil:
		c.w.fail("real-time order", "on %s: %v", o.member.name(), err)
	case o.query:
	case o.committed != o.index:
		c.w.fail("what is acknowledged is committed", "operation %d was acknowledged at %d and is committed at %d", o.id, o.index, o.committed)
	case o.applied < o.index:
		c.w.fail("what is acknowledged is applied here", "operation %d was acknowledged at %d on %s, whose state machine is at %d", o.id, o.index, o.member.name(), o.applied)
	}
}
