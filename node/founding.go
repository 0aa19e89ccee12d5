package node

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// A member without a log asks every time that it starts, whatever files are there: only a
// log shows that it belongs to a cluster. What it learned meanwhile, and what it promised,
// is in its origin file before it acts on it.

// foundTicks is the pause between two rounds of asking all expected members.
const foundTicks = 3

const (
	// soughtMax bounds the addresses of seekers that are kept.
	soughtMax = 8
	// roundsMax bounds the promises that are kept, and roundBytesMax each of them.
	roundsMax     = 8
	roundBytesMax = 6 << 10
)

// founding decides how a member without a log gets one. It belongs to the loop.
type founding struct {
	loop   *loop
	origin octopiipb.Origin
	// listen is for how many ticks more a member that would found alone listens first.
	listen int
	// seen: an expected member belonged to a cluster when all were asked last. This one joins it.
	seen bool
	// wait is for how many ticks nobody is asked; asking counts the calls under way.
	wait, asking int
	answers      []foundAnswer
	// met are the answers of the last time that everybody was asked and had answered.
	met []foundAnswer
	// proposed is the round of this member, as long as it promised no other one since.
	proposed octopiipb.Round
	// gave counts the promises that this process gave.
	gave int
	// said is what was logged last, so that it is said once.
	said string
}

// foundAnswer is what an expected member said, with its record.
type foundAnswer struct {
	selfheal.Answer
	record octopiipb.Member
	// formats are the levels that its program reads.
	formats core.Formats
	// founded is the promised cluster that it belongs to; 0: none.
	founded uint64
}

// begin reads what an earlier process learned.
func (f *founding) begin(l *loop) {
	f.loop, f.origin, f.listen = l, l.store.Origin(), l.cfg.FoundAfterTicks
	f.origin.Member = f.origin.Member || !l.view.Initialized() && hasState(l.cfg.StateMachine)
	if l.cfg.Bootstrap && len(f.origin.Rounds) > 0 && !l.view.Initialized() {
		f.origin.Member = true // what it promised to take part in may be founded
	}
	if f.origin.Member && l.cfg.Bootstrap && !l.view.Initialized() {
		l.log.Warn("this directory belonged to a member of a cluster: it founds none, and asks the others until one answers; to found a new cluster, empty the whole data directory",
			zap.Strings("asking", f.toJoin()))
	}
}

// toJoin are the addresses to ask to be let in; none while this member may found yet.
func (f *founding) toJoin() []string {
	cfg := &f.loop.cfg
	if !f.origin.Member && (cfg.Bootstrap || cfg.Expect > 0 && !f.seen) {
		return nil
	}
	var list []string
	for _, a := range slices.Concat(cfg.Join, f.origin.Addresses) {
		if !slices.Contains(list, a) && (cfg.Expect == 0 || a != cfg.Transport.Address()) {
			list = append(list, a)
		}
	}
	return list
}

// tick goes on with founding, if this member may found, or promised to take part.
func (f *founding) tick(ticks int) {
	cfg := &f.loop.cfg
	switch {
	case f.loop.core != nil, f.origin.Member && len(f.origin.Rounds) == 0:
	case cfg.Bootstrap:
		if !f.origin.Member {
			f.listenTick(ticks)
		}
	case cfg.Expect > 0 || len(f.origin.Rounds) > 0:
		if f.listen = max(0, f.listen-ticks); f.listen > 0 && len(f.others()) == 0 {
			return // it would found alone, and others may know this address
		}
		if f.wait = max(0, f.wait-ticks); f.wait == 0 && f.asking == 0 {
			f.ask(octopiipb.Round{}, f.surveyed)
		}
	}
}

// sought notes that a member of a cluster takes this one for a member of its own. It is
// durable before anything follows from it, and this member founds nothing from then on.
// What came while it founded is a claim.
func (f *founding) sought(peer transport.Hello) {
	l := f.loop
	if l.core != nil {
		l.rivals.dialed(peer)
		return
	}
	if f.promised(peer.Cluster) >= 0 {
		f.askFounded() // anybody could say so
		return
	}
	o := f.origin
	o.Addresses = slices.Clone(o.Addresses)
	o.Member = true
	if o.Replaces == 0 && peer.To != l.id {
		o.Replaces = peer.To
	}
	if peer.Host.Address != "" && !slices.Contains(o.Addresses, peer.Host.Address) && len(o.Addresses) < soughtMax {
		o.Addresses = append(o.Addresses, peer.Host.Address)
	}
	if f.origin.Member && o.Replaces == f.origin.Replaces && len(o.Addresses) == len(f.origin.Addresses) {
		return
	}
	f.origin.Member = true // also if it cannot be noted
	if !f.keep(o) {
		return
	}
	if o.Replaces == 0 {
		l.log.Info("a cluster called at this address; joining it", zap.String("cluster", clusterHex(peer.Cluster)), zap.Strings("asking", f.toJoin()))
	} else {
		l.log.Warn("a cluster seeks a member at this address; joining in its place",
			zap.String("cluster", clusterHex(peer.Cluster)), zap.String("replaces", hex(o.Replaces)), zap.Strings("asking", f.toJoin()))
	}
	l.join.hurry()
}

// keep makes an origin durable. It returns false if there is no space for it, or this
// member stops for it.
func (f *founding) keep(o octopiipb.Origin) bool {
	err := f.loop.store.SetOrigin(o)
	switch {
	case vfs.Refused(err):
		f.loop.log.Warn("cannot note what this member learned; it goes on when it can", zap.String("advice", vfs.Advice(err)), zap.Error(err))
		return false
	case err != nil:
		f.loop.fatal(err)
		return false
	}
	f.origin = o
	return true
}

// promised is the place of a cluster's round among those that this member promised; -1:
// it promised none.
func (f *founding) promised(cluster uint64) int {
	return slices.IndexFunc(f.origin.Rounds, func(r octopiipb.Round) bool { return r.Cluster == cluster })
}

// others are the expected addresses but the one that this member has. Another one that leads
// to it, through a proxy, may lead to another member in the next round.
func (f *founding) others() (list []string) {
	for _, a := range f.loop.cfg.Join {
		if a != f.loop.cfg.Transport.Address() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// ask asks all expected members what they are, and to promise a round if it has a
// cluster; then is called when all have answered.
func (f *founding) ask(round octopiipb.Round, then func()) {
	l := f.loop
	others := f.others()
	f.answers, f.asking = nil, len(others)
	for _, address := range others {
		f.call(address, round, func(a foundAnswer) {
			if f.asking--; a.Member.ID != l.id { // else it called itself
				f.answers = append(f.answers, a)
			}
			if f.asking == 0 && l.core == nil {
				f.wait = foundTicks
				f.met = f.answers
				then()
			}
		})
	}
	if len(others) == 0 {
		f.wait = foundTicks
		then()
	}
}

// askFounded asks only whether a cluster was founded that this member promised to take
// part in.
func (f *founding) askFounded() {
	for _, address := range f.others() {
		f.call(address, octopiipb.Round{}, func(foundAnswer) {})
	}
}

// call asks one expected member. If it belongs to a cluster that this member promised to
// take part in, this one does, too. done is called on the loop.
func (f *founding) call(address string, round octopiipb.Round, done func(foundAnswer)) {
	l, gave := f.loop, f.gave
	request := &octopiipb.FoundRequest{Member: l.self(), Round: round}
	for _, r := range f.origin.Rounds {
		request.Promised = append(request.Promised, r.Cluster)
	}
	l.call(address, kindFound, request, func(payload []byte, err error) {
		a := readFound(address, payload, err, round.Cluster != 0)
		l.soon(func() {
			// Whoever has its promise since counts on it that there is no log here yet.
			if at := f.promised(a.founded); at >= 0 && l.core == nil && gave == f.gave {
				f.found(f.origin.Rounds[at])
			}
			done(a)
		})
	})
}

// readFound reads what an expected member said of itself.
func readFound(address string, payload []byte, err error, promise bool) foundAnswer {
	a := foundAnswer{Answer: selfheal.Answer{Asked: address}}
	var r octopiipb.FoundReply
	if err == nil {
		err = r.Unmarshal(payload)
	}
	if err == nil && r.Member.ID == 0 {
		err = errors.New("it does not say who it is")
	}
	if err == nil && promise && !r.Promised && r.Cluster == 0 {
		err = fmt.Errorf("it does not promise: %s", r.Reason)
	}
	a.Member = selfheal.Member{ID: r.Member.ID, Address: r.Member.Address} // also of one that does not promise: it may be this one
	if err != nil {
		a.Failure = err.Error()
		return a
	}
	a.Cluster, a.WasMember = r.Cluster, r.WasMember
	a.record, a.founded = r.Member, r.Founded
	a.formats = formatsOf(transport.Host{OldestFormat: r.OldestFormat, NewestFormat: r.NewestFormat})
	return a
}

// surveyed goes on when every expected member was asked.
func (f *founding) surveyed() {
	if f.origin.Member || f.loop.cfg.Expect == 0 {
		return // it only wanted to know whether what it promised is founded
	}
	step, why := f.decide()
	f.say(why)
	switch f.seen = step == selfheal.Join; step {
	case selfheal.Join:
		f.joinSeen()
	case selfheal.Found:
		f.propose()
	}
}

func (f *founding) decide() (selfheal.Step, string) {
	l := f.loop
	self := selfheal.Answer{Member: selfheal.Member{ID: l.id, Address: l.self().Address}, WasMember: f.origin.Member}
	slices.SortFunc(f.answers, func(a, b foundAnswer) int {
		return slices.Index(l.cfg.Join, a.Asked) - slices.Index(l.cfg.Join, b.Asked)
	})
	answers := make([]selfheal.Answer, 0, len(f.answers))
	for _, a := range f.answers {
		answers = append(answers, a.Answer)
	}
	return selfheal.Round(self, answers, l.cfg.Expect)
}

// joinSeen asks those to be let in that belong to a cluster.
func (f *founding) joinSeen() {
	f.seen = true
	f.loop.join.hurry()
}

// propose asks all for their promise, and founds the cluster if all have given it. It
// is the same round as before as long as the same members take part.
func (f *founding) propose() {
	l := f.loop
	members := []octopiipb.Member{l.self()}
	for _, a := range f.answers {
		if !slices.ContainsFunc(members, func(m octopiipb.Member) bool { return m.ID == a.record.ID }) {
			members = append(members, a.record)
		}
	}
	settings := l.settings()
	var err error
	if settings.Format, err = foundingLevel(l.id, l.cfg.formats, f.answers); err != nil {
		f.say(err.Error())
		return
	}
	if !slices.Equal(f.proposed.Members, members) || f.proposed.Settings != settings {
		f.proposed = octopiipb.Round{Cluster: randomID(), Members: members, Settings: settings}
	}
	round := f.proposed
	if err := checkRound(&round); err != nil {
		f.say(err.Error())
		return
	}
	f.ask(round, func() {
		if f.origin.Member || f.proposed.Cluster != round.Cluster {
			return // it is sought, or promised another round meanwhile
		}
		switch step, why := f.decide(); {
		case step == selfheal.Join:
			f.joinSeen()
		case step == selfheal.Found && f.allPromised(members):
			f.found(round)
		default:
			f.say(why)
		}
	})
}

// allPromised: every member of a round is among those that answered.
func (f *founding) allPromised(members []octopiipb.Member) bool {
	return !slices.ContainsFunc(members, func(m octopiipb.Member) bool {
		return m.ID != f.loop.id && !slices.ContainsFunc(f.answers, func(a foundAnswer) bool { return a.record.ID == m.ID })
	})
}

// checkRound says why no cluster can begin with the members of a round.
func checkRound(round *octopiipb.Round) error {
	for i, m := range round.Members {
		if m.ID == 0 || m.ID > idMax || m.Kind != octopiipb.Voter {
			return fmt.Errorf("member %x cannot be a first voter", m.ID)
		}
		for _, o := range round.Members[:i] {
			switch {
			case o.ID == m.ID:
				return fmt.Errorf("member %x is there twice", m.ID)
			case o.Name == m.Name:
				return fmt.Errorf("members %x at %s and %x at %s have the name %q: give each its own", o.ID, o.Address, m.ID, m.Address, m.Name)
			case o.Address == m.Address:
				return fmt.Errorf("members %x and %x both say that they are at %s: give each its own peer address", o.ID, m.ID, m.Address)
			}
		}
	}
	if round.Size() > roundBytesMax {
		return fmt.Errorf("names and addresses of %d members are larger than %d bytes", len(round.Members), roundBytesMax)
	}
	return nil
}

// say logs what is waited for, once.
func (f *founding) say(why string) {
	if f.said != why {
		f.said = why
		f.loop.log.Info("this member has no log yet", zap.String("because", why))
	}
}

// foundAlone founds a cluster of this member, unless it was sought meanwhile.
func (f *founding) foundAlone() {
	l := f.loop
	if l.core != nil || f.origin.Member {
		return
	}
	f.found(l.roundAlone())
}

// roundAlone founds a cluster of this member.
func (g *group) roundAlone() octopiipb.Round {
	return octopiipb.Round{Cluster: randomID(), Members: []octopiipb.Member{g.self()}, Settings: g.settings()}
}

// settings are those of a cluster that this member founds alone.
func (g *group) settings() octopiipb.Settings {
	return octopiipb.Settings{FailoverByTimeout: g.cfg.FailoverByTimeout, Format: g.cfg.formats.Newest}
}

// found makes the first log of a cluster from a round: its founder's, or that of a member
// that promised it.
func (f *founding) found(round octopiipb.Round) {
	l := f.loop
	if err := l.readsLevel(round.Settings); err != nil { // it is an older program than the one that promised
		l.fatal(err)
		return
	}
	header, err := l.foundLog(round)
	if errors.Is(err, wal.ErrNoSpace) {
		l.log.Warn("no space for the log of a new cluster; trying again", zap.String("advice", vfs.Advice(err)), zap.Error(err))
		f.wait = foundTicks
		return
	}
	if err == nil {
		l.applies.put(applyJob{restore: &header})
		err = l.startCore(header, 0, true)
	}
	if err != nil {
		l.fatal(err)
		return
	}
	if len(round.Members) > 1 {
		l.campaign.Reset(campaignDelay(1)) // there is no leader to wait for
	}
	l.log.Info("founded a cluster", zap.String("cluster", clusterHex(round.Cluster)),
		zap.String("founder", hex(round.Members[0].ID)), zap.Int("voters", len(round.Members)))
}

// foundLog writes the first snapshot of a cluster, with the data of the state machine,
// which has nothing yet, and the log behind it. The log begins behind a snapshot at index 1
// that names the first members: a first index that is not 0 forces every newcomer through
// a snapshot, so that all start from the same state.
func (g *group) foundLog(round octopiipb.Round) (raftstore.SnapshotHeader, error) {
	if index, ok := g.cfg.StateMachine.Durable(); ok && index > 0 {
		return raftstore.SnapshotHeader{}, g.orphaned(index)
	}
	header := foundHeader(round)
	snapshot, err := g.cfg.StateMachine.Snapshot()
	if err != nil {
		return header, fmt.Errorf("node: the state machine failed to capture its first state: %w", err)
	}
	if _, err := g.writeSnapshot(header, snapshot); vfs.Refused(err) {
		return header, fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
	} else if err != nil {
		return header, err
	}
	if len(round.Members) == 1 {
		if err := g.noteFounded(round.Cluster); err != nil {
			return header, err
		}
	}
	return header, g.store.Found(header, raftpb.HardState{Term: 1, Commit: 1})
}

// isSelf: this member called itself while it looks for others.
func (t trust) isSelf(peer transport.Hello) bool {
	return peer.Node == t.id && peer.Incarnation == t.identity.Incarnation && peer.Cluster == 0 && t.cluster.Load() == 0
}

// dialedBy is told of every member of a cluster that takes this one for a member.
func (t trust) dialedBy(peer transport.Hello) {
	mayFound := t.cfg.Bootstrap || t.cfg.Expect > 0
	if mayFound && t.cluster.Load() != peer.Cluster {
		peer.To = t.id
		t.inbox.call(func(l *loop) { l.founding.sought(peer) })
	}
}

// Sought implements transport.Seeker. One that was removed learns that here, too: its disk may
// have been set back, and by its records somebody else is at this address.
func (h handler) Sought(peer transport.Hello) error {
	h.soughtHere(peer)
	if ms := h.members.Load(); ms != nil && peer.Cluster == ms.Cluster && ms.IsRemoved(peer.Node) {
		return h.refuseRemoved(ms, peer)
	}
	return nil
}

// handleFound answers a member that looks for a cluster, or for others to found one with.
// Anybody may ask, and so it does not name the cluster, nor tell what its members know each
// other by.
func (s service) handleFound(payload []byte, done func(transport.Message, error)) {
	var req octopiipb.FoundRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("found request cannot be read: %w", err))
		return
	}
	if s.cluster.Load() != 0 {
		done(s.foundAlready(&req), nil)
		return
	}
	s.inbox.call(func(l *loop) { done(l.founding.answer(&req), nil) })
}

// foundAlready is the answer of a member of a cluster. It names the cluster only to one
// that knows it.
func (g *group) foundAlready(req *octopiipb.FoundRequest) *octopiipb.FoundReply {
	reply := &octopiipb.FoundReply{
		Member:  octopiipb.Member{ID: g.id, Address: g.cfg.Transport.Address()},
		Cluster: transport.SomeCluster,
		Mark:    markOf(req.Nonce, PublicClusterID(g.cluster.Load())),
	}
	if mine := g.cluster.Load(); slices.Contains(req.Promised, mine) {
		reply.Founded = mine
	}
	return reply
}

// answer says what this member is, and promises what it may.
func (f *founding) answer(req *octopiipb.FoundRequest) *octopiipb.FoundReply {
	l := f.loop
	if l.cluster.Load() != 0 {
		return l.foundAlready(req)
	}
	reply := &octopiipb.FoundReply{Member: l.self(), OldestFormat: l.cfg.formats.Oldest, NewestFormat: l.cfg.formats.Newest}
	reply.WasMember = f.origin.Member || l.cfg.Bootstrap || hasState(l.cfg.StateMachine)
	if req.Round.Cluster != 0 {
		reply.Reason = f.give(req, reply.WasMember)
		reply.Promised = reply.Reason == ""
	}
	return reply
}

// give promises a round, durably, or says why not. Several promises do no harm: a founder
// that gave one founds nothing with those that it has, and all must answer it again.
func (f *founding) give(req *octopiipb.FoundRequest, wasMember bool) string {
	known := slices.ContainsFunc(f.met, func(a foundAnswer) bool { return a.Failure == "" && a.record == req.Member })
	switch err := checkRound(&req.Round); {
	case wasMember:
		return "this member was one of a cluster"
	case !known:
		return fmt.Sprintf("it has not met member %x at an address of its --join yet", req.Member.ID)
	case err != nil:
		return err.Error()
	case !f.loop.cfg.formats.Reads(req.Round.Settings.Level()):
		return f.loop.readsLevel(req.Round.Settings).Error()
	case !slices.Contains(req.Round.Members[:min(1, len(req.Round.Members))], req.Member) || !slices.Contains(req.Round.Members, f.loop.self()):
		return "it does not take part in that round"
	}
	if f.promised(req.Round.Cluster) < 0 {
		o := f.origin
		o.Rounds = append(slices.Clone(o.Rounds[max(0, len(o.Rounds)-roundsMax+1):]), req.Round)
		if !f.keep(o) {
			return "it cannot write its promise down"
		}
	}
	f.gave++
	f.proposed = octopiipb.Round{}
	return ""
}

// hasState: the state machine kept something of an older life.
func hasState(sm StateMachine) bool {
	index, ok := sm.Durable()
	return ok && index > 0
}
