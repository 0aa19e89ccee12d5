package sim

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

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
//
// It is layers, each of which owns its fields and knows only those below:
//
//	book      the committed log                              book.go
//	digests   the states that it amounts to                  states.go
//	calls     what clients asked and saw                     calls.go, history.go
//	registry  the memberships that were in force             registry.go
//	promises  what is in logs, and what is vouched for       promises.go
//
// checker has what takes several of them: the looks at a member, and its life.
type checker struct {
	promises
	// cluster is that of this world, and 0 before one is founded.
	cluster uint64
	// leaders is who led, by term.
	leaders  map[uint64]uint64
	coverage coverage
	// spare: a member takes a turn that it does not want: see idle.
	spare bool
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
	following
}

// following is what a member heard of leaders.
type following struct {
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
	// change: it is a change of membership or of a setting, which is part of it.
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
	d := digests{book: book{w: w}, states: map[uint64]digest{}}
	r := registry{calls: calls{digests: d}, confs: map[uint64]string{}, memberships: map[uint64]*octopiipb.Membership{}, buried: map[uint64]bool{}}
	p := promises{registry: r, entries: map[place]stamp{}, reached: map[uint64]uint64{}, learnt: map[uint64]uint64{}}
	return &checker{promises: p, leaders: map[uint64]uint64{}}
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
	o := w.member(id)
	if o == nil || !o.awake() || w.now-max(o.awakeSince, m.awakeSince, w.troubled) < 2*patience || w.byHand || o.view.forgets {
		return
	}
	if rec, ok := m.status().Membership.Member(id); ok && rec.Address == o.address {
		w.fail("nobody is given up who answers", "%s gives up %s, which runs since %v, and nothing kept it from answering since %v: %s", m.name(), o.name(), o.awakeSince, w.troubled, w.summary())
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
// leader that are older than its own process may look like those of one that forgot. One whose
// records do not have its leader any more takes no message of it.
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
	if _, ok := st.Membership.Member(lead); !ok {
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
	if !v.born { // its founding ended with an error behind what made it durable
		if c.founded(m); m.phantom {
			return
		}
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

// killed: a process ended. What it had only in memory is gone.
func (c *checker) killed(m *member) { m.view.commit = 0 }

// refused: a member does not start. Only damage is a reason, or a log that is lost.
func (c *checker) refused(m *member, err error) {
	if m.lostLog && errors.Is(err, node.ErrAmnesia) || m.isOlder(err) {
		return
	}
	if !m.view.damaged && !m.disk.struck && !m.disk.dead {
		c.w.fail("an honest crash keeps nobody from starting", "%s: %v", m.name(), err)
	}
}

// isOlder: a script started a program that does not read what the cluster writes.
func (m *member) isOlder(err error) bool {
	return m.reads != 0 && errors.Is(err, node.ErrFormatLevel)
}

// stopped: a process ended by itself. Only a fault of its disk, its removal, or a
// disk that forgot is a reason.
func (c *checker) stopped(m *member, err error, struck bool) {
	switch {
	case m.phantom && errors.Is(err, node.ErrOtherCluster):
	case c.w.branching && (errors.Is(err, node.ErrDiverged) || errors.Is(err, node.ErrAmnesia)):
	case struck, m.view.damaged, m.view.forgets, m.isOlder(err):
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
