package core

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// Storage is what core reads of the durable log. Nothing else reads or changes
// it during a Step.
type Storage interface {
	raft.Storage
	// Handed tells that everything up to index was handed to the state machine
	// and which configuration is in force there, so that Snapshot never hands
	// out one that does not name its receiver.
	Handed(index, term uint64, cs raftpb.ConfState)
}

// Config is what a Core is made of. All fields are required.
type Config struct {
	ID uint64
	// Start is the label of the snapshot or mark at which Storage begins.
	Start Label
	// Applied is the index that the state machine has: Start's, or 0 if it gets
	// that snapshot only now. No read is answered before it has it.
	Applied uint64
	Storage Storage
	// ElectionTicks and HeartbeatTicks are raft's.
	ElectionTicks, HeartbeatTicks int
	// MessageBytesMax and InflightMessagesMax bound what is on its way to one
	// follower.
	MessageBytesMax     uint64
	InflightMessagesMax int
	// PromoteLagMax and PromoteStableTicks say when a learner has caught up.
	PromoteLagMax      uint64
	PromoteStableTicks int
	// JoinTimeoutTicks is for how long a member that is to vote may be silent before
	// it is given up.
	JoinTimeoutTicks int
	// StallTicks is for how long an append may be out before a leader hands
	// leadership over; 0: for ever.
	StallTicks int
	// ProposalBytesMax bounds a proposal, WaitingBytesMax all that wait here,
	// UncommittedBytesMax what this leader appends ahead of what is applied, and
	// UnappliedBytesMax what is handed out to be applied.
	ProposalBytesMax    int
	WaitingBytesMax     int64
	UncommittedBytesMax int64
	UnappliedBytesMax   int64
	// Founded: a cluster was just founded. Nobody leads it, and there is nobody to wait for: the
	// only voter campaigns at once, and for several voters Input.Campaign follows.
	Founded bool
	// Formats is the range of format levels that this program reads. Zero: 1 to 1.
	Formats Formats
	// ReadSeed must differ at every start of every member.
	ReadSeed uint64
	// RequestWindow is how many of a member's forwarded requests a leader knows apart,
	// in whole words of 64; all members have the same. 0: 32,768.
	RequestWindow uint64
	Logger        raft.Logger
}

// Core is one member of a cluster. One goroutine at a time calls it.
//
// It is made of layers, from the ground up: base, history, members, reading, guard,
// requests, space, changes, leading. Each owns its fields, and knows only those below it. What takes several
// of them is here.
type Core struct{ leading }

// base is raft, and what is said of it.
type base struct {
	cfg     Config
	rn      *raft.RawNode
	storage Storage
	effects Effects
	// status is raft's, as of the end of the last Step.
	status raft.BasicStatus
}

// request is a Request and where it came from.
type request struct {
	Request
	// from is 0 for a local caller; otherwise id is the follower's, and term the one
	// in which it is to be appended, if at all.
	from, id, term uint64
	// wrapped: Data names an origin.
	wrapped bool
	growth  growth
}

// New starts a member at a snapshot or mark. What Storage holds behind it as
// committed is handed out again in Effects.Apply.
func New(cfg Config) (*Core, error) {
	hs, _, err := cfg.Storage.InitialState()
	if err != nil {
		return nil, fmt.Errorf("core: read the initial state: %w", err)
	}
	last, err := cfg.Storage.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("core: read the last index: %w", err)
	}
	if cfg.Formats == (Formats{}) {
		cfg.Formats = Formats{1, 1}
	}
	c := new(Core)
	c.cfg, c.storage = cfg, cfg.Storage
	c.handed, c.applied, c.last, c.since = cfg.Start, cfg.Applied, last, hs.Term
	c.labels = []Label{cfg.Start}
	c.forwarded = newForwarded(cfg.ReadSeed)
	c.forwarded.window, c.peers.window = cfg.RequestWindow, cfg.RequestWindow
	c.reads = reads{node: cfg.ID, seed: cfg.ReadSeed}
	c.handed.Terms = withTerm(cfg.Start.Terms, cfg.Start.Index, cfg.Start.Term)
	c.begin(&c.handed)
	c.ownFirst.written, c.ownFirst.commit = hs.Commit, hs.Commit
	if hs.Commit < cfg.Start.Index || hs.Commit > last {
		return nil, fmt.Errorf("core: commit %d is outside of the log, which goes from %d to %d", hs.Commit, cfg.Start.Index, last)
	}
	if err := checkKinds(cfg.Start.Membership); err != nil {
		return nil, fmt.Errorf("core: the membership at index %d cannot be read: %w", cfg.Start.Index, err)
	}
	if err := readable(&cfg, last); err != nil {
		return nil, err
	}
	c.rn, err = raft.NewRawNode(&raft.Config{
		ID:              cfg.ID,
		ElectionTick:    cfg.ElectionTicks,
		HeartbeatTick:   cfg.HeartbeatTicks,
		Storage:         cfg.Storage,
		Applied:         cfg.Start.Index,
		MaxSizePerMsg:   cfg.MessageBytesMax,
		MaxInflightMsgs: cfg.InflightMessagesMax,
		// What is on its way to the state machine; the rest stays in the log.
		MaxCommittedSizePerReady: uint64(cfg.UnappliedBytesMax),
		// What is in the log and not applied: callers that give up must not make
		// it grow for ever.
		MaxUncommittedEntriesSize: uint64(cfg.UncommittedBytesMax),
		AsyncStorageWrites:        true,
		CheckQuorum:               true,
		PreVote:                   true,
		// The leader knows the place of what it appends itself: see pending.
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("core: start raft: %w", err)
	}
	// Nobody else is there to lead. One that was started again waits for a timeout, as its disk may
	// have been set back to before others joined: they call it within that.
	if cs := cfg.Start.ConfState; cfg.Founded && len(cs.Voters) == 1 && cs.Voters[0] == cfg.ID && hs.Commit == last {
		if err := c.rn.Campaign(); err != nil {
			return nil, fmt.Errorf("core: campaign: %w", err)
		}
	}
	if cfg.Founded && len(cfg.Start.ConfState.Voters) > 1 {
		c.campaigns = 1
	}
	c.status = c.rn.BasicStatus()
	return c, nil
}

// readableBytes is how much of a log is read at a time: it may be larger than
// memory.
const readableBytes = 1 << 20

// readable checks that this version reads the format level at which a log begins, and knows
// every entry of it: a newer one may have written them.
func readable(cfg *Config, last uint64) error {
	if err := cfg.Formats.Check(cfg.ID, cfg.Start.Membership.Settings.Level()); err != nil {
		return err
	}
	s := cfg.Storage
	first, err := s.FirstIndex()
	if err != nil || first > last {
		return err
	}
	for next := first; next <= last; {
		entries, err := s.Entries(next, last+1, readableBytes)
		if err != nil {
			return fmt.Errorf("core: read the log: %w", err)
		}
		if len(entries) == 0 {
			return fmt.Errorf("core: entry %d of a log up to %d cannot be read", next, last)
		}
		for i := range entries {
			if err := entryReadable(&entries[i], cfg.ID, cfg.Formats); err != nil {
				return err
			}
			if err := admitEntry(&entries[i]); err != nil {
				return fmt.Errorf("core: the log cannot be read: %w", err)
			}
		}
		next += uint64(len(entries))
	}
	return nil
}

// Step takes in what happened. The effects are valid until the next Step.
//
// Completions come first, since they free what others wait for; requests come
// last, so that what they append is the end of the Ready that follows and
// thereby known by index and term.
func (c *Core) Step(in *Input) *Effects {
	c.effects = Effects{}
	c.bound, c.room = c.last, in.Room
	for _, w := range in.Gone {
		w.caller().gone = true
	}
	c.sort(in.Grows)
	if in.Refuse != nil {
		c.refuseAll(in.Refuse)
	}
	if in.Compacted.Index != 0 {
		c.compacted(in.Compacted)
	}
	for _, p := range in.PeersUp {
		c.peers.up(p)
		c.reconnected(p.ID)
	}
	for _, a := range in.Appended {
		c.outstanding.back()
		c.entrySums.written(a)
		if len(c.unwritten) > 0 && c.unwritten[0] == a {
			c.unwritten = c.unwritten[1:]
		}
		if a.Snapshot != nil {
			c.installed(a.Installed)
		}
		if len(a.Entries) > 0 {
			c.appending--
		}
		c.ownFirst.durable(a)
		c.deliver(a)
	}
	for _, a := range in.Applied {
		c.stepApplied(a)
	}
	if in.Campaign {
		// Before messages: what another candidate asks for in this Step must not be
		// given first and contested then.
		c.stepCampaign()
	}
	deferred := c.deferred
	c.deferred = nil
	for i := range deferred {
		c.stepMessage(&deferred[i])
	}
	for i := range in.Messages {
		c.stepMessage(&in.Messages[i])
	}
	for _, s := range in.SnapshotsSent {
		c.stepSnapshotSent(s)
	}
	if in.Stuck {
		c.outstanding.restart()
	}
	for range in.Ticks {
		c.tick()
	}
	for i := range in.Undelivered {
		c.undelivered(&in.Undelivered[i])
	}
	for _, r := range in.Replies {
		c.stepReplies(r)
	}
	for _, id := range in.PeersDown {
		c.rn.ReportUnreachable(id)
		c.forwarded.broken(id, c.cfg.ElectionTicks)
	}
	c.stepGone(in.PeersGone)
	c.stepRequests(in)
	c.ready()
	if in.NoSpace {
		c.refuseProposals() // what the Ready gave back
	}
	c.askForGrowth()
	c.tendLeadership(in.Ticks > 0)
	return &c.effects
}

// More says that another Step with an empty Input has effects.
func (c *Core) More() bool {
	return c.rn.HasReady() || len(c.deferred) > 0 || c.unserved()
}

// deliver hands on what waited for an append to become durable.
func (c *base) deliver(a *Append) {
	for i := range a.responses {
		m := &a.responses[i]
		if m.To != c.cfg.ID {
			c.send(m, a.noteOf(m))
			continue
		}
		// raft ignores an acknowledgement that is out of date.
		_ = c.rn.Step(*m)
	}
	c.effects.Messages = append(c.effects.Messages, a.behind...)
}

// send hands out a message with what there is to say beside it.
func (c *base) send(m *raftpb.Message, note octopiipb.Note) {
	c.effects.Messages = append(c.effects.Messages, octopiipb.PeerMessage{Message: *m, Note: note})
}

func (c *Core) stepMessage(m *octopiipb.PeerMessage) {
	if err := c.readableMessage(m); err != nil {
		c.effects.Unreadable = err
		return
	}
	if err := c.judge(m); err != nil {
		c.effects.Suspects = append(c.effects.Suspects, *err)
		return
	}
	if m.Type == raftpb.MsgHeartbeat && m.Commit > c.bound {
		// An append before it may have cut the log, or be an old one that changes
		// nothing: the next Ready tells.
		c.deferred = append(c.deferred, *m)
		return
	}
	if m.Type == raftpb.MsgHeartbeat {
		c.forgot = counter{}
		c.led = led{from: m.From, term: m.Term, durable: m.Note.Durable, committed: min(m.Note.Durable, m.Commit), tight: m.Note.Tight}
	}
	c.leaderEnd.note(m)
	c.peers.heard(m.From)
	c.noteVoter(m)
	c.takeFarewell(m)
	switch {
	case m.Type == raftpb.MsgHeartbeatResp:
		c.peers.get(m.From).answers()
		c.noteRoom(m)
	case m.Type == raftpb.MsgAppResp && !m.Reject && m.Term == c.rn.BasicStatus().Term:
		c.peers.get(m.From).answers()
		c.peers.get(m.From).acknowledged(m.Index)
		c.noteRoom(m)
	}
	if m.Type == raftpb.MsgReadIndex {
		c.reads.ask(&m.Message)
		return
	}
	// What this message may cut off the log is not there for the next one.
	switch {
	case m.Type == raftpb.MsgApp && len(m.Entries) > 0:
		c.bound = min(c.bound, m.Index+uint64(len(m.Entries)))
	case m.Type == raftpb.MsgSnap:
		c.bound = min(c.bound, m.Snapshot.Metadata.Index)
	}
	// Errors say that the sender is unknown or that a proposal was dropped;
	// both are for the sender to notice.
	_ = c.rn.Step(m.Message)
}

func (c *base) stepSnapshotSent(s SnapshotSent) {
	status := raft.SnapshotFinish
	if !s.OK {
		status = raft.SnapshotFailure
	}
	c.rn.ReportSnapshot(s.To, status)
}

func (c *Core) tick() {
	c.rn.Tick()
	st := c.rn.BasicStatus()
	c.reign.tick(&st)
	c.peers.tick()
	c.settleOwnAddress()
	c.outstanding.tick()
	c.forgot.tick(c.cfg.ElectionTicks)
	c.short.tick(c.cfg.ElectionTicks)
	c.reads.tick(max(2*c.cfg.HeartbeatTicks, c.cfg.ElectionTicks/2))
	c.sendAgain()
	c.pruneWaiting()
	c.tryReturned()
	c.tendLearners()
	c.tendAddresses()
	c.tendPlaces()
	c.tendLevel()
}

// ready draws one Ready from raft and turns it into effects.
func (c *Core) ready() {
	if c.rn.HasReady() {
		rd := c.rn.Ready()
		c.placeProposals(rd.Entries)
		c.reads.answered(rd.ReadStates)
		var votes, entries []octopiipb.PeerMessage
		for i := range rd.Messages {
			switch m := &rd.Messages[i]; {
			case m.Type == raftpb.MsgVote:
				votes = append(votes, octopiipb.PeerMessage{Message: *m})
			case m.Type == raftpb.MsgApp && c.ownFirst.holds(m):
				entries = append(entries, octopiipb.PeerMessage{Message: *m, Note: c.introduction(m)})
			default:
				c.emit(m)
			}
		}
		c.askForVotes(votes)
		c.sendBehindOwn(entries)
	}
	c.reads.applied(c.applied, func(w Waiter, index uint64) {
		c.effects.Outcomes = append(c.effects.Outcomes, Outcome{Waiter: w, Index: index})
	})
	c.note()
}

// askForVotes has a candidate ask when its term, and its vote for itself, are
// durable. raft counts that vote only then, but the others' may be a majority
// without it: a leader that forgets its term in a crash could win the same term
// again, and append another entry at the same index in it.
func (c *history) askForVotes(requests []octopiipb.PeerMessage) {
	if a := c.effects.Append; a != nil {
		a.behind = append(a.behind, requests...)
		return
	}
	c.effects.Messages = append(c.effects.Messages, requests...)
}

// emit sorts one message of a Ready by what it wants.
func (c *Core) emit(m *raftpb.Message) {
	switch m.Type {
	case raftpb.MsgStorageAppend:
		c.noteVotes(m.Responses)
		c.effects.Append = c.newAppend(m)
	case raftpb.MsgStorageApply:
		c.effects.Apply = c.newApply(m)
	case raftpb.MsgSnap:
		notes := c.peers.get(m.To)
		notes.restoreGoal = max(notes.restoreGoal, m.Snapshot.Metadata.Index)
		c.effects.Snapshots = append(c.effects.Snapshots, *m)
	case raftpb.MsgApp:
		c.send(m, c.introduction(m))
	case raftpb.MsgHeartbeatResp:
		// raft's own acknowledgement of a snapshot says only that its file is in place.
		c.send(m, octopiipb.Note{Applied: c.applied, Room: uint64(c.room)})
	case raftpb.MsgHeartbeat:
		c.send(m, c.noteOfLeader())
	default:
		c.send(m, octopiipb.Note{})
	}
}

// noteOfLeader is what this leader says of its own log with each heartbeat: how far it is
// durable, and where it ends, so that a follower on another branch finds out.
func (c *Core) noteOfLeader() octopiipb.Note {
	note := octopiipb.Note{Tight: c.tight()}
	note.Durable, _ = c.storage.LastIndex()
	if term, ok := c.termAt(c.last); ok {
		note.Last, note.LastTerm = c.last, term
	}
	return note
}

func (c *Core) newAppend(m *raftpb.Message) *Append {
	a := &Append{
		Entries:   m.Entries,
		HardState: raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit},
		Snapshot:  m.Snapshot,
		responses: m.Responses,
	}
	a.note = c.noteOfVoter(a.responses)
	a.note.Applied, a.note.Room = c.roomToTell()
	if a.Snapshot != nil {
		c.last = a.Snapshot.Metadata.Index
	}
	if n := len(m.Entries); n > 0 {
		c.last = m.Entries[n-1].Index
		c.appending++
	}
	a.commit = c.ownFirst.wrote(m.Commit)
	if a.Snapshot != nil || len(a.Entries) > 0 {
		c.unwritten = append(c.unwritten, a)
	}
	c.outstanding.add()
	return a
}

// noteOf is what an answer says beside raft's words.
func (a *Append) noteOf(m *raftpb.Message) octopiipb.Note {
	switch {
	case m.Type == raftpb.MsgVoteResp:
		return octopiipb.Note{Commit: a.note.Commit}
	case m.Type == raftpb.MsgPreVoteResp && m.Reject:
		return octopiipb.Note{Commit: a.note.Commit, CommitTerm: a.note.CommitTerm}
	case m.Type == raftpb.MsgAppResp && !m.Reject:
		return octopiipb.Note{Applied: a.note.Applied, Room: a.note.Room}
	}
	return octopiipb.Note{}
}

// note compares raft's state with what it was at the last Step.
func (c *Core) note() {
	now := c.rn.BasicStatus()
	if now.Lead != raft.None {
		c.campaigns = 0
	}
	if now.Lead != c.status.Lead || now.Term != c.status.Term {
		c.effects.LeaderChanged = true
		// A round that the old leader had may never be answered.
		c.reads.retry()
		c.tryReturned()
		// What another leader appended, or cut off, raft itself looks after.
		c.confIndex = 0
		c.leadership = leadership{}
		c.held, c.backlog = 0, backlog{}
		c.peers.forgetReign()
	}
	elected := now.RaftState == raft.StateLeader && c.status.RaftState != raft.StateLeader
	c.status = now
	if !elected {
		return
	}
	c.elected()
	c.backlog.since = c.last
}

// refuse answers a local caller that failed.
func (c *base) refuse(w Waiter, err error) {
	c.effects.Outcomes = append(c.effects.Outcomes, Outcome{Waiter: w, Err: err})
}

// refuseAll answers every local caller that waits for a read or to be proposed.
func (c *requests) refuseAll(err error) {
	for _, w := range c.reads.all() {
		c.refuse(w, err)
	}
	c.keepWaiting(func(it *request) bool {
		if it.from == 0 && it.Waiter != nil {
			c.refuse(it.Waiter, err)
		}
		return false
	})
}

// Status is what a member knows of itself and, as the leader, of others.
type Status struct {
	Term, Leader, Commit, Applied uint64
	Role                          raft.StateType
	// Last is the last index; its end may not be durable yet.
	Last uint64
	// Unwritten is for how many ticks the oldest append has been out.
	Unwritten  int
	Membership *octopiipb.Membership
}

// Status returns what is true behind the last Step.
func (c *Core) Status() Status {
	return Status{
		Term:       c.status.Term,
		Leader:     c.status.Lead,
		Commit:     c.status.Commit,
		Applied:    c.applied,
		Role:       c.status.RaftState,
		Last:       c.last,
		Unwritten:  c.outstanding.ticks(),
		Membership: c.handed.Membership,
	}
}

// led is what the last heartbeat said: that the log of its leader was durable up to an
// index, of which so much is committed.
type led struct {
	from, term, durable, committed uint64
	// tight: the state machines of a majority have little room.
	tight bool
}

// LeaderLog returns how far the log of the leader that this member follows is durable,
// as that said last, and how much of it is committed.
func (c *guard) LeaderLog() (durable, committed uint64) {
	if l := &c.led; l.from == c.status.Lead && l.term == c.status.Term {
		return l.durable, l.committed
	}
	return 0, 0
}
