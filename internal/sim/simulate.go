package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/octopii/octopii/internal/check"
	"github.com/octopii/octopii/node"
)

// Options say what is simulated. The zero value is a cluster of the simulator's
// own registers and lists, with everything drawn from the seed. Those of
// nodetest.Options mean the same there.
type Options struct {
	// New makes a state machine, for a member that starts, or to replay the log. It
	// must be one in memory: its Durable answers false. nil: the simulator's own.
	New func() node.StateMachine
	// Command draws a command to propose. Required with New.
	Command func(*rand.Rand) []byte
	// Query draws a query and Read answers it from a state machine, which it must
	// not change. They run behind a ReadBarrier. Optional, both or neither.
	Query func(*rand.Rand) []byte
	Read  func(sm node.StateMachine, query []byte) []byte
	// Model, if set, says what a single state machine would have answered: its
	// operations have commands and queries as Input, and what Apply or Read
	// returned as Output, all of them []byte.
	Model *porcupine.Model
	// Digest, if set, says what a state amounts to: equal states, equal bytes. nil:
	// what the snapshot writes. Set it if snapshots of equal states may differ. It
	// must not change the state machine.
	Digest func(sm node.StateMachine) []byte
	// Describe, if set, shows a command or query in a trace.
	Describe func(input []byte) string

	// Members that the cluster begins with. 0: drawn, 3 mostly, or 5, 7 or 1.
	Members int
	// Clients that call it. 0: drawn.
	Clients int
	// Operations that clients begin before they slow down: a bound for the search
	// that Model asks for. 0: 8,000 of the simulator's own, 1,000 of others.
	Operations int
	// Duration of the faults, in the cluster's own time. 0: 60 s.
	Duration time.Duration
	// Faults that strike: see FaultNames. nil: drawn; empty: none.
	Faults []string
	// Variant tells another story of the same seed: its cluster is configured in the
	// same way, and everything else is drawn anew. 0: the seed's own.
	Variant uint64
	// Trace, if set, gets the whole story line by line.
	Trace func(line string)
}

// Validate says what is wrong with the Options.
func (o *Options) Validate() error {
	switch {
	case o.New == nil && (o.Command != nil || o.Query != nil || o.Read != nil || o.Model != nil || o.Digest != nil):
		return errors.New("Options.New is missing: without it the simulator's own state machine runs, with its own commands, queries and model")
	case o.New != nil && o.Command == nil:
		return errors.New("Options.Command is missing: it draws the commands that clients propose")
	case o.Query != nil && o.Read == nil:
		return errors.New("Options.Read is missing: it answers what Query draws, from a state machine")
	case o.Read != nil && o.Query == nil:
		return errors.New("Options.Query is missing: it draws what Read answers")
	case o.Members < 0 || o.Clients < 0 || o.Operations < 0 || o.Duration < 0:
		return errors.New("Options.Members, Clients, Operations and Duration must not be negative")
	}
	for _, name := range o.Faults {
		if !slices.Contains(FaultNames(), name) {
			return fmt.Errorf("Options.Faults: there is no fault %q; there are %s", name, strings.Join(FaultNames(), ", "))
		}
	}
	if o.New == nil {
		return nil
	}
	one, other := o.New(), o.New()
	if one == nil {
		return errors.New("Options.New returned nil")
	}
	if v := reflect.ValueOf(one); v.Kind() == reflect.Pointer && v.Type().Elem().Size() > 0 && v.Pointer() == reflect.ValueOf(other).Pointer() {
		return errors.New("Options.New returned the same state machine twice: every member needs one of its own")
	}
	if _, durable := one.Durable(); durable {
		return errors.New("Options.New returned a state machine that keeps its own data (its Durable answers true): the simulator cannot take its disk away. Give it one whose Durable answers 0, false, in memory or over a store that is new each time, so that it is restored from snapshots and the log")
	}
	return nil
}

// setting is what a seed makes of the Options.
type setting struct {
	Options
	Seed uint64

	durable, failoverByTimeout bool
	// together: the cluster is founded by all of its members.
	together                                  bool
	tick                                      time.Duration
	electionTicks, joinTimeoutTicks           int
	snapshotEntries, snapshotLogBytes         uint64
	trailingEntries, messageBytes, promoteLag uint64
	cacheBytes, requestWindow                 uint64
	inflight                                  int
	segmentBytes                              int64
	think, patience                           time.Duration
	loopMax, appendMax, applyMax, taskMax     time.Duration
	// votersMin is down to how many voters members are removed.
	votersMin  int
	stallLimit time.Duration

	// reads is member.reads of those that a script begins with, or a story with an upgrade.
	reads uint32
	// priorities of the members that a script begins with.
	priorities []int

	// audit, if set, looks at what clients saw, with the state that the story led to. It
	// takes the place of the Model.
	audit func(*calls, check.History, node.StateMachine) error
}

func draw(seed uint64, o Options) setting {
	s := setting{Options: o, Seed: seed}
	rnd := rand.New(rand.NewPCG(seed, 1))
	if s.New == nil {
		s.New = func() node.StateMachine { return &registers{} }
		s.Command, s.Query, s.Describe = drawCommand, drawQuery, describe
		s.Read = func(sm node.StateMachine, q []byte) []byte { return sm.(*registers).answer(q) }
		s.audit = auditRegisters
		s.durable = rnd.IntN(4) == 0
	}
	if s.Duration == 0 {
		s.Duration = time.Minute
	}
	members, clients := pick(rnd, 3, 3, 3, 3, 3, 3, 5, 5, 4, 2, 7, 1), 1+rnd.IntN(6)
	if s.Members == 0 {
		s.Members = members
	}
	if s.Clients == 0 {
		s.Clients = clients
	}
	s.tick = 100 * time.Millisecond
	s.electionTicks = pick(rnd, 5, 10, 10)
	s.snapshotEntries = pick(rnd, uint64(10), 50, 200, 1000)
	s.snapshotLogBytes = pick(rnd, uint64(32<<10), 256<<10, 4<<20)
	s.trailingEntries = pick(rnd, uint64(1), 10, 100)
	s.messageBytes = pick(rnd, uint64(1<<10), 64<<10)
	s.cacheBytes = pick(rnd, uint64(1<<10), 16<<10, 1<<20)
	s.inflight = pick(rnd, 2, 16, 256)
	s.promoteLag = pick(rnd, uint64(1), 10, 100)
	s.failoverByTimeout = seed%8 == 5
	s.together = seed%4 == 2
	if seed%8 == 3 {
		s.reads = 1 // see nemesis.upgrade
	}
	s.joinTimeoutTicks = pick(rnd, 60, 150, 600)
	s.segmentBytes = pick(rnd, int64(32<<10), 64<<10, 256<<10)
	s.stallLimit = 15 * time.Second
	s.think = pick(rnd, 20*time.Millisecond, 100*time.Millisecond, 400*time.Millisecond)
	if s.Operations == 0 {
		s.Operations = 8000
		if o.New != nil {
			s.Operations = 1000
		}
	}
	if o.New != nil { // there are few of them: over the whole story, and with snapshots
		s.snapshotEntries = min(s.snapshotEntries, max(10, uint64(s.Operations)/10))
		s.think = max(s.think, 2*s.Duration*time.Duration(s.Clients)/time.Duration(s.Operations))
	}
	s.patience = pick(rnd, 500*time.Millisecond, 3*time.Second, 10*time.Second)
	s.loopMax = pick(rnd, 50*time.Microsecond, time.Millisecond)
	s.applyMax = pick(rnd, 50*time.Microsecond, 5*time.Millisecond, 5*time.Millisecond, 100*time.Millisecond)
	s.taskMax = pick(rnd, time.Millisecond, 50*time.Millisecond, time.Second)
	// What waits for a late appender is written together.
	s.appendMax = pick(rnd, s.loopMax, s.loopMax, 10*time.Millisecond, 100*time.Millisecond)
	s.requestWindow = pick(rnd, uint64(0), 0, 64, 128)
	s.votersMin = pick(rnd, 3, 3, 2, 1)
	return s
}

func (s *setting) describe(input []byte) string {
	if s.Describe != nil {
		return s.Describe(input)
	}
	return fmt.Sprintf("%x", input)
}

func (s *setting) electionTimeout() time.Duration { return time.Duration(s.electionTicks) * s.tick }

// Report is what a simulation was.
type Report struct {
	Seed uint64
	// Hash is over everything that happened: the same seed, options and program
	// give the same one on any machine.
	Hash uint64
	// Events and Faults that happened, Operations that clients began, and Committed
	// entries.
	Events, Faults, Operations, Committed int
	// Time that passed in the cluster.
	Time time.Duration
	// Members and Clients that it began with, the Duration of the faults, and the
	// Kinds of them. The same seed with Options that name them is the same story.
	Members, Clients int
	Duration         time.Duration
	Kinds            []string
	// Settings in words.
	Settings string
	// Failure is nil if all is well.
	Failure *Failure
	// Coverage is what members were.
	Coverage Coverage
}

// Failure is an invariant that did not hold.
type Failure struct {
	Seed uint64
	// Invariant is its name, Detail what was seen, At when.
	Invariant, Detail string
	At                time.Duration
	// Last are the last lines of the story, up to the failure.
	Last []string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d: %s does not hold at %v: %s", f.Seed, f.Invariant, f.At, f.Detail)
}

// lastLines is how much of the story a Failure holds.
const lastLines = 60

// Simulate runs a cluster by a seed, and tells what happened. It takes no part in
// real time: the process's source of chance is seeded meanwhile, and so one
// simulation at a time runs in a process.
//
// Options that make no sense are a Failure.
func Simulate(seed uint64, o Options) Report {
	if err := o.Validate(); err != nil {
		return Report{Seed: seed, Failure: &Failure{Seed: seed, Invariant: "the options are complete", Detail: err.Error()}}
	}
	// Lines cost time, so that without a Trace they are made only of what failed.
	if o.Trace == nil {
		r := simulate(seed, o)
		if r.Failure != nil {
			r.explain(seed, o)
		}
		return r
	}
	var last tail
	trace := o.Trace
	o.Trace = func(line string) {
		last.add(line)
		trace(line)
	}
	r := simulate(seed, o)
	if r.Failure != nil {
		r.Failure.Last = last.lines()
	}
	return r
}

// explain simulates once more, to be able to say what led to the failure.
func (r *Report) explain(seed uint64, o Options) {
	var last tail
	o.Trace = last.add
	again := simulate(seed, o)
	if again.Hash != r.Hash {
		r.Failure.Detail += fmt.Sprintf(" (and it does not replay: hash %016x, then %016x: is there chance that does not come from the seed?)", r.Hash, again.Hash)
	}
	if again.Failure == nil {
		r.Failure.Detail += " (a second run of the seed found nothing)"
	}
	r.Failure.Last = last.lines()
}

// tail keeps the last lines of a story.
type tail struct{ kept []string }

func (t *tail) add(line string) {
	if t.kept = append(t.kept, line); len(t.kept) > 2*lastLines {
		t.kept = slices.Delete(t.kept, 0, lastLines)
	}
}

func (t *tail) lines() []string { return t.kept[max(0, len(t.kept)-lastLines):] }

func simulate(seed uint64, o Options) (r Report) {
	exclusively(seed, func() {
		w := newWorld(draw(seed, o))
		w.trace = o.Trace
		w.run()
		w.end()
		committed := 0
		for i := range w.check.ledger {
			if w.check.ledger[i].known {
				committed++
			}
		}
		r = Report{
			Seed: seed, Hash: w.hash, Events: int(w.events), Faults: w.faults, Time: w.now,
			Operations: len(w.check.ops), Committed: committed, Settings: w.settings(), Failure: w.failed,
			Members: w.cfg.Members, Clients: w.cfg.Clients, Duration: w.cfg.Duration, Kinds: w.nemesis.names(), Coverage: w.check.coverage.report(),
		}
	})
	return r
}

func (w *world) settings() string {
	c := &w.cfg
	return fmt.Sprintf("members=%d clients=%d durable=%v together=%v election=%d snapshot-entries=%d trailing=%d segment=%d message=%d inflight=%d faults=%s",
		c.Members, c.Clients, c.durable, c.together, c.electionTicks, c.snapshotEntries, c.trailingEntries, c.segmentBytes, c.messageBytes, c.inflight, strings.Join(w.nemesis.names(), ","))
}

// run is the whole story: a cluster is founded, things break, a quorum is healed,
// everything is healed, and then everything must be equal.
func (w *world) run() {
	defer w.caught()
	w.found()
	for range w.cfg.Clients {
		w.addClient()
	}
	w.nemesis.begin()
	w.runUntil(w.now + w.cfg.Duration)
	if w.branching {
		return // there is no history to agree on
	}
	w.healQuorum()
	w.healAll()
	w.beCalm()
	if w.failed == nil {
		w.check.finish()
	}
}

// end lets go of what is under way.
func (w *world) end() {
	for _, m := range w.members {
		m.stopWriting()
		m.helpers.stop()
	}
}

// found starts a founder and lets the others join it.
func (w *world) found() {
	if w.cfg.together {
		w.foundTogether()
		return
	}
	founder := w.addMember()
	founder.founder = true
	founder.start()
	for len(w.members) < w.cfg.Members {
		m := w.addMember()
		m.join = []string{founder.address}
		m.start()
	}
	w.within(60*w.cfg.electionTimeout(), "a cluster is founded", func() bool {
		for _, m := range w.members {
			if !m.up() || len(m.status().Membership.Voters()) != w.cfg.Members {
				return false
			}
		}
		return w.leader() != nil
	})
}

// within waits for a condition; that it becomes true in time is an invariant:
// liveness.
func (w *world) within(limit time.Duration, what string, ok func() bool) {
	w.runWhile(w.now+limit, func() bool { return !ok() })
	if !ok() {
		w.fail("liveness", "within %v: %s: it is not so: %s", limit, what, w.summary())
	}
}

// healQuorum heals a majority of the voters, drawn, and ends the others: the
// cluster must serve without them (Raft thesis 3.9).
func (w *world) healQuorum() {
	if w.failed != nil {
		return
	}
	voters, learners := w.voters()
	of := len(voters)
	var leaving []*member
	if w.changing() || 2*w.informed(voters) <= of { // of those who come a majority is needed, too
		of *= 2
		leaving = w.leaving(voters)
	}
	voters = slices.DeleteFunc(voters, (*member).hopeless)
	w.rnd.Shuffle(len(voters), func(i, j int) { voters[i], voters[j] = voters[j], voters[i] })
	// A learner may be a voter in a moment.
	quorum := slices.Concat(voters[:min(len(voters), of/2+1)], slices.DeleteFunc(learners, (*member).hopeless), leaving)
	w.tell(nil, "a quorum is healed: %s", names(quorum))
	w.nemesis.heal(quorum)
	began := w.check.moment
	w.within(40*w.cfg.electionTimeout()+w.cfg.patience, "a healed quorum commits", func() bool {
		for i := len(w.check.ops) - 1; i >= 0; i-- {
			o := w.check.ops[i]
			if o.called <= began {
				return false
			}
			if o.outcome == done && !o.query {
				return true
			}
		}
		return false
	})
}

// hopeless: it will not run again, or not with what it promised.
func (m *member) hopeless() bool { return m.gone || m.view.damaged || m.view.forgets }

// healAll heals everybody, and waits until all are equal.
func (w *world) healAll() {
	if w.failed != nil {
		return
	}
	keep := w.nemesis.hopeful()
	w.tell(nil, "everybody is healed: %s", names(keep))
	w.nemesis.heal(keep)
	for _, c := range w.clients {
		c.quiet = true
	}
	w.within(60*w.cfg.electionTimeout()+w.cfg.patience, "all members are equal", w.settled)
}

// beCalm lets the clients go on where nothing breaks: every call must be answered,
// also while leadership is handed around, and at last while messages get lost under
// leaders that stay: no later term decides what became of those.
func (w *world) beCalm() {
	if w.failed != nil {
		return
	}
	for _, m := range w.running() {
		if w.check.buried[m.id] { // nobody could tell it
			m.kill(false)
			m.gone = true
		}
	}
	w.tell(nil, "nothing breaks any more")
	w.calm = true
	for _, c := range w.clients {
		c.quiet = false
		c.later(0)
	}
	w.runUntil(w.now + 8*w.cfg.electionTimeout())
	w.handing = true
	for range 5 {
		if w.failed == nil {
			w.nemesis.transfer()
			w.runUntil(w.now + w.between(w.cfg.tick, 5*w.cfg.tick))
		}
	}
	w.net.lose, w.net.breaking = 400, 400
	w.runUntil(w.now + 4*w.cfg.electionTimeout())
	w.net.calm()
	for _, c := range w.clients {
		c.quiet = true
	}
	patience := time.Duration(3*w.cfg.joinTimeoutTicks) * w.cfg.tick // one after the other is given up
	w.within(60*w.cfg.electionTimeout()+patience, "all members are equal, and vote", func() bool { return w.settled() && w.allVote() })
	// A transfer that failed while things broke may not be tried again for a while.
	w.within(60*w.cfg.electionTimeout(), "a voter of the highest priority leads", w.ranked)
}

// ranked says whether no voter that runs has a higher priority than the leader.
func (w *world) ranked() bool {
	l := w.leader()
	if l == nil {
		return false
	}
	ms := l.status().Membership
	self, _ := ms.Member(l.id)
	for _, mem := range ms.Members {
		if !mem.Learner && mem.Priority > self.Priority && !w.member(mem.ID).hopeless() {
			return false
		}
	}
	return true
}

// settled says whether nobody waits any more, and all are equal.
func (w *world) settled() bool {
	for _, c := range w.clients {
		if c.op != nil && w.belongs(c.op.member) {
			return false
		}
	}
	return w.equal()
}

// allVote says whether there is no learner left: whoever joins here wants to vote. One
// that never showed up must have been given up, and no two are recorded at one address.
func (w *world) allVote() bool {
	members := w.leader().status().Membership.Members
	for i, mem := range members {
		// Whoever came back in the place of another one took it.
		if slices.ContainsFunc(members[i+1:], func(o node.Member) bool { return o.Address == mem.Address }) {
			return false
		}
		if m := w.member(mem.ID); mem.Learner && (m.noShow || !m.hopeless() && !w.nemesis.demoted[mem.ID]) {
			return false
		}
	}
	return true
}

// canAsk says whether a member knows where another one is. One that waits to be added
// does not, nor does one that was away when all others moved.
func (w *world) canAsk(m *member) bool {
	return slices.ContainsFunc(w.running(), func(o *member) bool {
		at := func(mem node.Member) bool { return mem.Address == o.address }
		return o != m && !w.check.buried[o.id] && (slices.Contains(m.join, o.address) || slices.ContainsFunc(m.status().Membership.Members, at))
	})
}

// canBeTold says whether a member that was removed can find that out: a majority of the other
// voters that it knows says so, or, where it has no log, anybody does.
func (w *world) canBeTold(m *member) bool {
	ms := m.status().Membership
	if len(ms.Members) == 0 {
		return w.canAsk(m)
	}
	others, tell := 0, 0
	for _, mem := range ms.Members {
		if mem.Learner || mem.ID == m.id {
			continue
		}
		others++
		if slices.ContainsFunc(w.running(), func(o *member) bool { return o.id == mem.ID && o.address == mem.Address && !w.check.buried[o.id] }) {
			tell++
		}
	}
	return tell > others/2
}

// equal says whether all members of the cluster have all of the log.
func (w *world) equal() bool {
	l := w.leader()
	if l == nil {
		return false
	}
	for _, m := range w.running() {
		if w.check.buried[m.id] && !m.hopeless() && w.canBeTold(m) {
			return false // whoever was removed stops
		}
	}
	st := l.status()
	for _, mem := range st.Membership.Members {
		m := w.member(mem.ID)
		if m.hopeless() {
			continue
		}
		if !m.up() {
			return false
		}
		at := m.status()
		if at.Applied != st.Commit || at.Commit != st.Commit || at.Term != st.Term || m.machine.applied != l.machine.applied || m.machine.chain != l.machine.chain {
			return false
		}
	}
	for _, mem := range st.Membership.Members {
		if m := w.member(mem.ID); !m.hopeless() && m.address != mem.Address {
			return false // it moved
		}
	}
	return st.LastIndex == st.Commit
}
