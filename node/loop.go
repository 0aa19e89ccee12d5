package node

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// loop owns the core: its goroutine takes what happened from the inbox, lets
// the core decide, and hands out what must be done. It waits for nobody.
type loop struct {
	*group
	// view is what this member has of the log, as far as it is durable.
	view *raftstore.View
	// core is nil while this member is uninitialized: there is no RawNode.
	core *core.Core
	// appends and applies are the ways to the appender and the applier.
	appends *mailbox[appendJob]
	applies *mailbox[applyJob]

	turnWork
	roster
	machineState
	leaderless
	entrance
	standing
	storing
	disk diskState
}

// storing is what this member does with snapshots, and with too little room.
type storing struct {
	snapshots snapshots
	streams   streams
	starving  starving
}

// entrance is what a member without a log does to become part of a cluster.
type entrance struct {
	join     joiner
	founding founding
	// unborn is what would bring this member to life, if there were room for its log; nil:
	// nothing waits for that.
	unborn *raftpb.Message
}

// standing is what others hold against this member, and whether it may serve.
type standing struct {
	doubt  doubt
	rivals rivals
	later  later
	behind behind
	// leaving is set while this member, which was removed, is still needed.
	leaving leaving
}

// turnWork is what goes into the next Step, and what is left of the one before.
type turnWork struct {
	input core.Input
	calls []func(*loop)
	// undelivered is for the next Step, which need not come soon.
	undelivered []core.Forward
	// grows are the state machine's answers to the last Effects.Unsorted.
	grows []bool
	// answers are given to callers when the status is published.
	answers []func()
}

// roster is who belongs to the cluster.
type roster struct {
	// membership is the one in force, and public what callers see of it.
	membership *octopiipb.Membership
	public     Membership
	// peers are those that the transport knows from the membership.
	peers map[uint64]string
}

// machineState is what the loop knows of the state machine.
type machineState struct {
	// durable: it keeps its own data.
	durable bool
	// limited is the state machine, if it is that, room how much it has, tight whether a
	// majority has little, and roomier whether another voter has more, as the last tick found.
	limited        Limited
	room           core.Room
	tight, roomier bool
}

// leaderless is what is done while there is no leader.
type leaderless struct {
	search search
	// campaign fires when this member should campaign for one that is dead.
	campaign stepped.Timer
	majority majority
}

// newLoop prepares the loop, and starts the applier; with a state it starts the core behind it.
func newLoop(g *group, view *raftstore.View, appends *mailbox[appendJob], a *applier, founded bool) (*loop, error) {
	l := (&loop{group: g, view: view, appends: appends, applies: a.jobs}).link()
	_, l.durable = g.cfg.StateMachine.Durable()
	l.peers = map[uint64]string{}
	if l.limited, _ = g.cfg.StateMachine.(Limited); l.limited != nil {
		l.room = core.RoomFor(l.limited.Room())
	}
	l.guests.giveUp(g.store.Origin().GivenUp)
	l.founding.begin(l)
	l.campaign = g.host.timer(func() { g.inbox.add(func(in *core.Input) { in.Campaign = true }) })
	l.later.begin()
	l.leaving.dismissal.begin()
	if err := l.rivals.begin(l); err != nil {
		return nil, err
	}
	if !view.Initialized() {
		a.start(core.Label{}, 0)
		l.publish()
		return l, nil
	}
	start := view.Start()
	has, err := l.recoverStateMachine(start)
	if err != nil {
		return nil, err
	}
	view.Committed(has)
	a.start(labelOf(start), has)
	if !founded && slices.Equal(start.Metadata.ConfState.Voters, []uint64{l.id}) {
		// Its disk may have been set back to before others joined. They call it before an election
		// timeout has passed, or ask it for a vote when it has: its own time begins after that.
		l.doubt.patience = l.cfg.ElectionTicks
	}
	return l, l.startCore(start, start.Metadata.Index, founded)
}

// link gives its parts their way to the loop.
func (l *loop) link() *loop {
	l.join.loop, l.leaving.loop, l.leaving.dismissal.loop, l.later.loop, l.behind.loop = l, l, l, l, l
	l.snapshots.loop, l.streams.loop, l.starving.loop = l, l, l
	l.search.loop, l.doubt.loop, l.doubt.inquiry.loop, l.doubt.denials.loop, l.doubt.fork.loop, l.doubt.losses.loop = l, l, l, l, l, l
	return l
}

// soon runs f in a later turn. Any goroutine may call it.
func (l *loop) soon(f func()) { l.inbox.call(func(*loop) { f() }) }

// readLog runs what reads the log. raft panics where an entry that must be there
// cannot be read; the view of it remembers why, and that is what is returned.
func (l *loop) readLog(f func() error) (err error) {
	defer func() {
		if readErr := l.view.ReadErr(); readErr != nil { // else a panic stays one
			_ = recover()
			err = readErr
		}
	}()
	return f()
}

// startCore makes this member part of a cluster. applied is what the state
// machine has already; founded: this member has just founded it with others.
func (l *loop) startCore(start raftstore.SnapshotHeader, applied uint64, founded bool) error {
	cfg := core.Config{
		ID:                  l.id,
		Start:               labelOf(start),
		Applied:             applied,
		Storage:             watchedLog{l.view, &l.watchdog.loop},
		ElectionTicks:       l.cfg.ElectionTicks,
		HeartbeatTicks:      l.cfg.HeartbeatTicks,
		MessageBytesMax:     l.cfg.MessageBytesMax,
		InflightMessagesMax: l.cfg.InflightMessagesMax,
		PromoteLagMax:       l.cfg.PromoteLagMax,
		PromoteStableTicks:  l.cfg.PromoteStableTicks,
		JoinTimeoutTicks:    l.cfg.JoinTimeoutTicks,
		StallTicks:          max(0, l.cfg.StallTicks),
		Founded:             founded,
		ProposalBytesMax:    l.cfg.ProposalBytesMax,
		WaitingBytesMax:     forwardsOfPending * l.cfg.PendingBytesMax,
		UncommittedBytesMax: uncommittedOfPending * l.cfg.PendingBytesMax,
		UnappliedBytesMax:   unappliedBytesMax,
		Formats:             l.cfg.formats,
		ReadSeed:            randomID(),
		RequestWindow:       l.cfg.requestWindow,
		Logger:              raftLogger{l.log.Named("raft").Sugar()},
	}
	if err := l.readLog(func() (err error) { l.core, err = core.New(cfg); return err }); err != nil {
		l.core = nil
		return formatError(err)
	}
	// Nobody else tells a leader that it moved.
	l.inbox.add(func(in *core.Input) {
		in.PeersUp = append(in.PeersUp, core.PeerUp{ID: l.id, Incarnation: l.identity.Incarnation, Address: l.cfg.Transport.Address()})
	})
	l.setMembership(labelOf(start).Membership)
	l.publish()
	l.setInitialized(start.Membership.Cluster)
	return nil
}

// ready says whether a turn has something to do; the last one is taken when the node has stopped.
func (l *loop) ready() bool {
	return l.inbox.ready() || l.core != nil && l.core.More() || l.err() != nil
}

// turn takes in what happened since the last one, and that so many ticks passed.
// It returns false once the node has stopped.
func (l *loop) turn(ticks int) bool {
	select {
	case <-l.done: // before anything else: nothing leaves a node that stopped
		l.campaign.Stop()
		return false
	default:
	}
	l.watchdog.loop.begin()
	defer l.watchdog.loop.end()
	<-l.inbox.turn
	defer func() { l.inbox.turn <- struct{}{} }()
	l.calls = l.inbox.take(&l.input, l.calls)
	for _, call := range l.calls {
		call(l)
	}
	l.input.Ticks = ticks
	l.input.Undelivered = append(l.input.Undelivered, l.undelivered...)
	l.input.Grows = append(l.input.Grows, l.grows...)
	empty(&l.undelivered)
	empty(&l.grows)
	l.doubt.tick(ticks)
	l.rivals.tick(ticks)
	l.later.tick(ticks)
	l.leaving.dismissal.tick(ticks) // also while this member is suspended, and its core stands still
	l.behind.tick(ticks)
	l.doubt.filter(&l.input)
	if l.limited != nil && (ticks > 0 || len(l.input.Applied) > 0) {
		l.room = core.RoomFor(l.limited.Room())
	}
	l.input.Room = l.room
	l.input.NoSpace, l.input.Stuck = l.space.full.Load(), l.space.waits.Load()
	l.step()
	if ticks > 0 && l.core != nil {
		l.saveMemorySoon(ticks)
	}
	return true
}

// step is one turn: what happened goes into the core, what it decided is
// carried out.
func (l *loop) step() {
	if l.core == nil {
		l.stepUninitialized()
		return
	}
	for _, a := range l.input.Appended {
		l.appended(a)
	}
	for _, id := range l.input.PeersDown {
		l.streams.broke(id)
	}
	for _, p := range l.input.PeersUp {
		l.streams.again(p.ID)
	}
	var eff *core.Effects
	if err := l.readLog(func() error { eff = l.core.Step(&l.input); return nil }); err != nil {
		l.fatal(err)
		return
	}
	if eff.Unreadable != nil { // before anything of this turn is carried out
		l.fatal(formatError(eff.Unreadable))
		return
	}
	l.host.decided(eff)
	if eff.Membership != nil {
		l.setMembership(eff.Membership)
	}
	for _, s := range eff.Suspects {
		l.suspect(s)
	}
	l.doubt.withhold(eff)
	if l.input.Ticks > 0 {
		l.majority.tick(l, l.input.Ticks)
	}
	// Before anybody gets an answer: a caller may look at the Status then.
	l.publish()
	l.carryOut(eff)
	if l.input.Ticks > 0 {
		l.starving.tick(l.input.Ticks)
		l.streams.tick(l.input.Ticks)
		l.snapshots.maybeTake()
		l.disk.look(l, l.core.Status().Unwritten)
		l.search.tick(l.input.Ticks)
	}
	for _, o := range eff.Outcomes {
		o.Waiter.(*waiter).finish(answer{Outcome: o})
	}
	for _, answer := range l.answers {
		answer()
	}
	empty(&l.answers)
	l.checkRemoved(eff)
}

// appended makes a durable append visible to raft, before raft hears of it.
func (l *loop) appended(a *core.Append) {
	if a.Snapshot != nil {
		l.installed(a.Installed)
	}
	l.view.Appended(a.Entries)
}

// carryOut does what the core decided. The append goes first, so that the disk
// is busy while the rest is sent.
func (l *loop) carryOut(eff *core.Effects) {
	if eff.Append != nil {
		l.appends.put(appendJob{append: eff.Append})
	}
	for i := range eff.Replies {
		r := &eff.Replies[i]
		l.transport.Send(r.To, kindReplies, &octopiipb.Replies{Replies: r.Replies})
	}
	for i := range eff.Messages {
		m := &eff.Messages[i]
		l.transport.Send(m.To, kindRaft, m)
	}
	for i := range eff.Forwards {
		f := &eff.Forwards[i]
		if !l.transport.Send(f.To, kindRequests, &octopiipb.Requests{Term: f.Term, Requests: f.Requests}) {
			l.undelivered = append(l.undelivered, *f)
		}
	}
	if eff.Apply != nil {
		l.applies.put(applyJob{apply: eff.Apply})
	}
	for _, command := range eff.Unsorted {
		l.grows = append(l.grows, l.limited.Grows(command))
	}
	for i := range eff.Snapshots {
		l.streams.send(&eff.Snapshots[i])
	}
	for _, id := range eff.GivenUp {
		l.log.Warn("removing a member that was to become a voter and is not there",
			zap.String("peer", hex(id)), zap.Int("silent for ticks", l.cfg.JoinTimeoutTicks))
	}
	if eff.LeaderChanged {
		l.streams.forget()
		st := l.core.Status()
		l.log.Info("leader changed", zap.Uint64("term", st.Term), zap.String("leader", hex(st.Leader)))
		l.events.leaderChanged(st.Term, st.Leader)
	}
	if eff.CampaignSoon > 0 {
		why := "the leader's process is dead, as its address refuses connections"
		if eff.CampaignSoon > 1 { // for the first leader of a cluster, too
			why = "there is still no leader; campaigning again"
		}
		l.log.Info(why, zap.Int("campaign", eff.CampaignSoon))
		l.campaign.Reset(campaignDelay(eff.CampaignSoon))
	}
	if l.view.SnapshotWanted() {
		l.snapshots.take(nil)
	}
}

// The bounds of the delay before a member campaigns for a leader whose process is
// dead. Long enough for the others to notice as well, and apart enough that one of
// them is mostly elected before the next one tries; bench/failover measures it.
const (
	campaignDelayMin = 5 * time.Millisecond
	campaignDelayMax = 40 * time.Millisecond
	// campaignAgainMin is for the second time, and twice that for the third, with as
	// much again to draw from: an election that is under way on slow disks should not
	// be disturbed.
	campaignAgainMin = 75 * time.Millisecond
)

func campaignDelay(n int) time.Duration {
	lo, hi := campaignDelayMin, campaignDelayMax
	if n > 1 {
		lo = campaignAgainMin << (n - 2)
		hi = 2 * lo
	}
	return lo + time.Duration(randomID()%uint64(hi-lo))
}

// suspect takes note of a message that was dropped.
func (l *loop) suspect(s core.Suspect) {
	l.warnSome(&l.quiet.suspects, "dropped a message that contradicts what is known here",
		zap.String("from", hex(s.ID)), zap.String("reason", s.Reason))
	l.behind.refused(s.ID, s.Reason)
	if s.Claim == core.NoClaim {
		return
	}
	c := claim{by: s.ID, kind: s.Claim, at: s.Index, last: s.Last, text: s.Reason}
	if !isMember(l.membership, s.ID) {
		l.doubt.inquiry.stranger(c)
		return
	}
	l.doubt.add(c)
}

// setMembership tells the transport who belongs to the cluster now.
func (l *loop) setMembership(ms *octopiipb.Membership) {
	if before := l.membership; before != nil && before.Settings.Level() != ms.Settings.Level() {
		l.log.Info("all members read the next format level, and the cluster writes up to it from here on; an older program does not start any more",
			zap.Uint32("level", ms.Settings.Level()))
	}
	l.membership, l.public = ms, publicMembership(ms)
	for _, m := range ms.Members {
		if m.ID != l.id && l.peers[m.ID] != m.Address {
			l.peers[m.ID] = m.Address
			l.transport.SetPeer(m.ID, m.Address)
		}
	}
	for id := range l.peers {
		if _, ok := l.public.Member(id); !ok {
			delete(l.peers, id)
			l.transport.RemovePeer(id)
		}
	}
	l.members.Store(ms)
	l.memory.keep(ms)
	l.whereabouts.keep(ms)
	l.guests.keep(ms)
	l.doubt.keep(ms)
	l.later.keep()
	l.rivals.caughtUp()
	l.events.membershipChanged(l.public)
}

// checkRemoved notices that this member was removed.
func (l *loop) checkRemoved(eff *core.Effects) {
	if eff.Membership != nil && eff.Membership.IsRemoved(l.id) {
		l.leaving.begin()
	}
	l.leaving.tick(l.input.Ticks)
}

// stepUninitialized answers for a member without state: see
// core.AnswerUninitialized.
func (l *loop) stepUninitialized() {
	if l.input.Ticks > 0 {
		if l.unborn != nil {
			l.input.Messages = append(l.input.Messages, octopiipb.PeerMessage{Message: *l.unborn})
		}
		l.publish()
	}
	for i := range l.input.Messages {
		m := &l.input.Messages[i].Message
		if core.IsSnapshotFor(m, l.id) {
			err := l.bringToLife(m)
			if errors.Is(err, wal.ErrNoSpace) {
				// Nothing was written but the snapshot, for which there may be no room twice.
				if l.unborn == nil {
					l.log.Warn("no room for the log that a leader's snapshot begins; it is tried again until there is some",
						zap.String("advice", vfs.Advice(err)), zap.Error(err))
				}
				later := *m
				l.unborn = &later
				continue
			}
			if err != nil {
				l.fatal(err)
				return
			}
			l.unborn = nil
			l.input.Messages = l.input.Messages[i:]
			l.step() // the message itself is the first that raft gets
			return
		}
		if reply, ok := core.AnswerUninitialized(m, l.id); ok {
			l.transport.Send(reply.To, kindRaft, &octopiipb.PeerMessage{Message: reply})
		}
	}
	for _, r := range l.input.Requests {
		r.Waiter.(*waiter).finish(answer{Outcome: core.Outcome{Waiter: r.Waiter, Err: ErrUninitialized}})
	}
	if l.input.Ticks > 0 {
		l.founding.tick(l.input.Ticks)
	}
	l.join.tick(l.input.Ticks)
}

// publish makes the status visible to Status and to those that wait for it.
func (l *loop) publish() {
	st := Status{ID: l.id, Name: l.identity.Name}
	st.NoRoomForSnapshot = l.incoming.noRoomAt.Load() == l.committed.Load()+1
	if l.core != nil {
		c := l.core.Status()
		st.Cluster = l.cluster.Load()
		st.Role, st.Term, st.Leader = roles[c.Role], c.Term, c.Leader
		st.Commit, st.Applied = c.Commit, c.Applied
		st.FirstIndex, _ = l.view.FirstIndex()
		st.LastIndex, _ = l.view.LastIndex()
		st.SnapshotIndex = l.view.SnapshotIndex()
		if l.limited != nil && l.input.Ticks > 0 {
			l.tight, l.roomier = l.core.Tight(), l.core.RoomierVoter()
		}
		st.LittleRoom, st.RoomierVoter = l.tight, l.roomier
		st.LevelHeldBy = l.core.BehindLevel()
		st.DiskStalled = time.Duration(c.Unwritten) * l.cfg.TickInterval
		st.Membership = l.public
		st.Suspended, st.Suspects, st.Branches, st.Claimed = l.suspension(), l.doubt.losses.suspects, l.doubt.losses.branches, l.rivals.warning
		st.Behind = l.behind.err
		if st.Suspended != nil {
			st.Role, st.Leader = Follower, 0
		}
		if l.core.Lonely() { // what the last tick found may be over
			st.Missing = l.majority.missing
		}
		if l.input.Ticks > 0 && c.Role == raft.StateLeader {
			if l.core.Leads() {
				l.memory.giveUp(c.Commit)
			}
			l.core.VisitProgress(func(id, match uint64, state string, alive bool) {
				st.Progress = append(st.Progress, Progress{ID: id, Match: match, State: state, Active: alive})
				if match > 0 { // else it is a newcomer, and knows no term yet
					l.memory.note(id, c.Term, match, c.Commit, l.core.TermOf)
				}
			})
		}
		if l.input.Ticks > 0 && c.Role == raft.StateFollower && c.Leader != raft.None {
			// Its vote for itself is durable. Of its log it says so itself: what it commits
			// need not be on its own disk yet (thesis 10.2.1).
			durable, committed := l.core.LeaderLog()
			l.memory.note(c.Leader, c.Term, durable, committed, func(index uint64) uint64 {
				if index > c.Commit {
					return 0 // what the leader has there is not known to be what is here
				}
				return l.core.TermOf(index)
			})
		}
		l.committed.Store(c.Commit)
		if at, was := l.core.CommittedPlace(), l.place.Load(); was == nil || *was != at {
			l.place.Store(&at)
		}
	}
	l.watch.set(st)
}

var roles = map[raft.StateType]Role{
	raft.StateFollower:     Follower,
	raft.StatePreCandidate: PreCandidate,
	raft.StateCandidate:    Candidate,
	raft.StateLeader:       Leader,
}
