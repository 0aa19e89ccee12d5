package node

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/selfheal"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// A member without a log asks every time that it starts, whatever files are there: only a
// log shows that it belongs to a cluster. What it learned meanwhile, and what it promised,
// is in its origin file before it acts on it.

// foundTicks is the pause between two rounds of asking all expected members.
const foundTicks = 3

// soughtMax bounds the addresses of seekers that are kept.
const soughtMax = 8

// founding decides how a member without a log gets one. It belongs to the loop.
type founding struct {
	loop   *loop
	origin octopiipb.Origin
	// listen is for how many ticks more a member that would found alone listens first.
	listen int
	// seen: an expected member belongs to a cluster, which this one joins.
	seen bool
	// wait is for how many ticks no round begins; asking counts the calls of this one.
	wait, asking int
	answers      []selfheal.Answer
	// own are addresses in Join that are this member's.
	own map[string]bool
	// said is what was logged last, so that it is said once.
	said string
}

// begin reads what an earlier process learned.
func (f *founding) begin(l *loop) {
	f.loop, f.origin, f.listen = l, l.store.Origin(), l.cfg.FoundAfterTicks
	f.origin.Member = f.origin.Member || !l.store.Initialized() && hasState(l.cfg.StateMachine)
	f.own = map[string]bool{l.cfg.Transport.Address(): true}
	if f.origin.Member && l.cfg.Bootstrap && !l.store.Initialized() {
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
		if !slices.Contains(list, a) && (cfg.Expect == 0 || !f.own[a]) {
			list = append(list, a)
		}
	}
	return list
}

// tick goes on with founding, if this member may found.
func (f *founding) tick(ticks int) {
	cfg := &f.loop.cfg
	switch {
	case f.origin.Member || f.loop.core != nil:
	case cfg.Bootstrap:
		if f.listen -= ticks; f.listen <= 0 {
			f.found(randomID())
		}
	case cfg.Expect > 0:
		if f.wait = max(0, f.wait-ticks); f.wait == 0 && f.asking == 0 {
			f.survey()
		}
	}
}

// sought notes that a member of a cluster takes this one for a member of its own. It is
// durable before anything follows from it, and this member founds nothing from then on.
func (f *founding) sought(peer transport.Hello) {
	l := f.loop
	// The founder of the round that this one promised is no news.
	if l.core != nil || peer.Cluster == f.origin.Round {
		return
	}
	o := f.origin
	o.Addresses = slices.Clone(o.Addresses)
	o.Member = true
	if o.Replaces == 0 && peer.To != l.id {
		o.Replaces = peer.To
	}
	if peer.Address != "" && !slices.Contains(o.Addresses, peer.Address) && len(o.Addresses) < soughtMax {
		o.Addresses = append(o.Addresses, peer.Address)
	}
	if f.origin.Member && o.Replaces == f.origin.Replaces && len(o.Addresses) == len(f.origin.Addresses) {
		return
	}
	if !f.keep(o) {
		return
	}
	l.log.Warn("a cluster seeks a member at this address; joining in its place",
		zap.String("cluster", hex(peer.Cluster)), zap.String("member", hex(o.Replaces)), zap.Strings("asking", f.toJoin()))
	l.join.hurry()
}

// keep makes an origin durable. It returns false if this member stops for it.
func (f *founding) keep(o octopiipb.Origin) bool {
	if err := f.loop.store.SetOrigin(o); err != nil {
		f.loop.fatal(err)
		return false
	}
	f.origin = o
	return true
}

// survey asks every expected member what it is.
func (f *founding) survey() { f.ask(0, nil, f.surveyed) }

// ask calls all expected members; then gets their answers when all are in.
func (f *founding) ask(round uint64, members []octopiipb.Member, then func()) {
	l := f.loop
	var others []string
	for _, a := range l.cfg.Join {
		if !f.own[a] && !slices.Contains(others, a) {
			others = append(others, a)
		}
	}
	f.answers, f.asking = nil, len(others)
	for _, address := range others {
		l.call(address, kindFound, &octopiipb.FoundRequest{Member: l.self(), Round: round, Members: members}, func(payload []byte, err error) {
			a := readFound(address, payload, err, round != 0)
			l.inbox.call(func() {
				if f.asking--; a.Member.ID == l.id {
					f.own[address] = true
				} else {
					f.answers = append(f.answers, a)
				}
				if f.asking == 0 && l.core == nil && !f.origin.Member {
					f.wait = foundTicks
					then()
				}
			})
		})
	}
	if len(others) == 0 {
		f.wait = foundTicks
		then()
	}
}

// readFound reads what an expected member said of itself.
func readFound(address string, payload []byte, err error, promise bool) selfheal.Answer {
	a := selfheal.Answer{Asked: address}
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
	if err != nil {
		a.Failure = err.Error()
		return a
	}
	a.Member = selfheal.Member{ID: r.Member.ID, Address: r.Member.Address}
	a.Cluster, a.WasMember = r.Cluster, r.WasMember
	a.Promise = selfheal.Promise{Round: r.Round, Founder: selfheal.Member{ID: r.Founder, Address: r.FounderAddress}}
	return a
}

// surveyed goes on when every expected member was asked.
func (f *founding) surveyed() {
	step, why := f.decide()
	f.say(why)
	switch step {
	case selfheal.Join:
		f.joinSeen()
	case selfheal.Found:
		f.propose()
	}
}

func (f *founding) decide() (selfheal.Step, string) {
	l := f.loop
	self := selfheal.Answer{Member: selfheal.Member{ID: l.id, Address: l.self().Address}, WasMember: f.origin.Member, Promise: f.promise()}
	slices.SortFunc(f.answers, func(a, b selfheal.Answer) int {
		return slices.Index(l.cfg.Join, a.Asked) - slices.Index(l.cfg.Join, b.Asked)
	})
	return selfheal.Round(self, f.answers, l.cfg.Expect)
}

func (f *founding) promise() selfheal.Promise {
	return selfheal.Promise{Round: f.origin.Round, Founder: selfheal.Member{ID: f.origin.Founder, Address: f.origin.FounderAddress}}
}

// joinSeen asks those to be let in that belong to a cluster.
func (f *founding) joinSeen() {
	f.seen = true
	addresses := f.toJoin()
	for _, a := range f.answers {
		if a.Cluster != 0 {
			f.loop.join.next = max(0, slices.Index(addresses, a.Asked))
			break
		}
	}
	f.loop.join.hurry()
}

// propose asks all for their promise, its own first.
func (f *founding) propose() {
	l := f.loop
	o := f.origin
	if o.Round == 0 || o.Founder != l.id {
		o.Round, o.Founder, o.FounderAddress = randomID(), l.id, l.self().Address
		if !f.keep(o) {
			return
		}
	}
	members := []octopiipb.Member{l.self()}
	for _, a := range f.answers {
		members = append(members, octopiipb.Member{ID: a.Member.ID, Address: a.Member.Address})
	}
	f.ask(o.Round, members, func() {
		if f.origin.Round != o.Round || f.origin.Founder != l.id {
			return // this one promised another round meanwhile
		}
		switch step, why := f.decide(); step {
		case selfheal.Found:
			f.found(o.Round)
		case selfheal.Join:
			f.joinSeen()
		default:
			f.say(why)
		}
	})
}

// say logs what is waited for, once.
func (f *founding) say(why string) {
	if f.said != why {
		f.said = why
		f.loop.log.Info("this member has no log yet", zap.String("because", why))
	}
}

// found makes the log of a new cluster, with this member as its only one.
func (f *founding) found(cluster uint64) {
	l := f.loop
	header, err := l.foundLog(cluster)
	if errors.Is(err, wal.ErrNoSpace) {
		l.log.Warn("no space for the log of a new cluster; trying again", zap.Error(err))
		f.wait = foundTicks
		return
	}
	if err == nil {
		l.applier.jobs.put(applyJob{restore: &header})
		err = l.startCore(header, 0)
	}
	if err != nil {
		l.fatal(err)
		return
	}
	l.log.Info("founded a cluster", zap.String("cluster", hex(cluster)))
}

// foundLog writes a founder's first snapshot, with the data of the state machine, which
// has nothing yet, and the log behind it.
func (n *Node) foundLog(cluster uint64) (octopiipb.SnapshotHeader, error) {
	if index, ok := n.cfg.StateMachine.Durable(); ok && index > 0 {
		return octopiipb.SnapshotHeader{}, n.orphaned(index)
	}
	header := n.foundHeader(cluster)
	snapshot, err := n.cfg.StateMachine.Snapshot()
	if err != nil {
		return header, fmt.Errorf("node: the state machine failed to capture its first state: %w", err)
	}
	if _, err := n.writeSnapshot(header, snapshot); err != nil {
		return header, err
	}
	return header, n.store.Found(header, raftpb.HardState{Term: 1, Commit: 1})
}

// isSelf: this member called itself while it looks for others.
func (n *Node) isSelf(peer transport.Hello) bool {
	return peer.Node == n.id && peer.Incarnation == n.identity.Incarnation && peer.Cluster == 0 && n.cluster.Load() == 0
}

// dialedBy is told of every member of a cluster that takes this one for a member.
func (n *Node) dialedBy(peer transport.Hello) {
	mayFound := n.cfg.Bootstrap || n.cfg.Expect > 0
	if mayFound && n.cluster.Load() == 0 {
		peer.To = n.id
		n.inbox.call(func() { n.snapshots.loop.founding.sought(peer) })
	}
}

// Sought implements transport.Seeker.
func (h handler) Sought(peer transport.Hello) {
	if peer.Cluster == 0 || peer.To == 0 || peer.Node == h.id {
		return
	}
	h.soughtHere(peer)
}

// handleFound answers a member that looks for a cluster, or for others to found one with.
// Anybody may ask, and so it does not name the cluster, nor tell what its members know each
// other by.
func (n *Node) handleFound(payload []byte, done func(transport.Message, error)) {
	var req octopiipb.FoundRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("found request cannot be read: %w", err))
		return
	}
	if n.cluster.Load() != 0 {
		done(n.foundAlready(), nil)
		return
	}
	n.inbox.call(func() { done(n.snapshots.loop.founding.answer(&req), nil) })
}

// foundAlready is the answer of a member of a cluster.
func (n *Node) foundAlready() *octopiipb.FoundReply {
	return &octopiipb.FoundReply{
		Member:  octopiipb.Member{ID: n.id, Address: n.cfg.Transport.Address()},
		Cluster: transport.SomeCluster,
	}
}

// answer says what this member is, and promises what it may.
func (f *founding) answer(req *octopiipb.FoundRequest) *octopiipb.FoundReply {
	l := f.loop
	if l.cluster.Load() != 0 {
		return l.foundAlready()
	}
	reply := &octopiipb.FoundReply{Member: l.self()}
	reply.WasMember = f.origin.Member || l.cfg.Bootstrap || hasState(l.cfg.StateMachine)
	if req.Round != 0 {
		reply.Reason = f.give(req, reply.WasMember)
		reply.Promised = reply.Reason == ""
	}
	reply.Round, reply.Founder, reply.FounderAddress = f.origin.Round, f.origin.Founder, f.origin.FounderAddress
	return reply
}

// give promises a round, durably, or says why not.
func (f *founding) give(req *octopiipb.FoundRequest, wasMember bool) string {
	if wasMember {
		return "this member was one of a cluster"
	}
	members := make([]selfheal.Member, 0, len(req.Members))
	for _, m := range req.Members {
		members = append(members, selfheal.Member{ID: m.ID, Address: m.Address})
	}
	founder := selfheal.Member{ID: req.Member.ID, Address: req.Member.Address}
	if !selfheal.MayPromise(f.promise(), req.Round, founder, members) {
		return fmt.Sprintf("it promised to let member %x at %s found a cluster", f.origin.Founder, f.origin.FounderAddress)
	}
	if f.origin.Round == req.Round {
		return ""
	}
	o := f.origin
	o.Round, o.Founder, o.FounderAddress = req.Round, founder.ID, founder.Address
	if !f.keep(o) {
		return "it cannot write its promise down"
	}
	return ""
}

// hasState: the state machine kept something of an older life.
func hasState(sm StateMachine) bool {
	index, ok := sm.Durable()
	return ok && index > 0
}
