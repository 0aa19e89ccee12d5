package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

var (
	// ErrOtherCluster: the address of this member belongs to a member of another cluster, and
	// this cluster has no other voter: it was founded where a member of the other one lost its
	// disk. OtherClusterError has the details.
	ErrOtherCluster = errors.New("node: this address belongs to a member of another cluster")
	// ErrClaimed: a member of another cluster says that this member's address is that of one
	// of its own, and it is not settled which of the two clusters is right. Until then this
	// member serves nothing. ClaimedError has the details.
	ErrClaimed = errors.New("node: another cluster says that this address is that of one of its members")
)

// OtherClusterError is an ErrOtherCluster, proven by a majority of the other cluster.
type OtherClusterError struct {
	// Mine is the cluster that stopped serving.
	Mine uint64
	// Proof is the statement of the other one.
	Proof Proof
}

// Error names both clusters.
func (e *OtherClusterError) Error() string {
	if e.Mine == e.Proof.Cluster {
		return fmt.Sprintf("%v: a majority of cluster %x of %d members remembers more of member %x than this disk has, which has no other voter: it is an image from before they joined; this member stopped serving; put its directory aside and let it join the others",
			ErrOtherCluster, PublicClusterID(e.Mine), len(e.Proof.Members), e.Proof.AtAddress)
	}
	return fmt.Sprintf("%v: this is cluster %x, of this member alone, and cluster %x of %d members has member %x at this address: this one stopped serving; put its directory aside and let it join the other",
		ErrOtherCluster, PublicClusterID(e.Mine), PublicClusterID(e.Proof.Cluster), len(e.Proof.Members), e.Proof.AtAddress)
}

// Unwrap makes it an ErrOtherCluster.
func (e *OtherClusterError) Unwrap() error { return ErrOtherCluster }

// ClaimedError is an ErrClaimed.
type ClaimedError struct {
	// Mine is this member's cluster, and Other the one that claims its address, for the
	// member Member.
	Mine, Other, Member uint64
	// Addresses are those of members of the other cluster, as far as they are known.
	Addresses []string
	// Why says what it waits for.
	Why string
	// Operator: a majority of the other cluster that claims the address settles nothing, as
	// other members depend on this member's cluster, or nothing proves that majority.
	Operator bool
}

// Error names both clusters and says what to do.
func (e *ClaimedError) Error() string {
	mine, other := PublicClusterID(e.Mine), PublicClusterID(e.Other)
	text := fmt.Sprintf("%v: this is cluster %x, and cluster %x has member %x at this address; %s.", ErrClaimed, mine, other, e.Member, e.Why)
	join := fmt.Sprintf("stop it, empty its data directory, and start it with --join %s", strings.Join(e.Addresses, ","))
	if mine == other {
		return fmt.Sprintf("%v: members of this cluster, %x, remember more of this member than its disk has, which names no other voter: it may be an image from before they joined; %s. To settle it: start the others, whose majority decides; or %s",
			ErrClaimed, mine, e.Why, join)
	}
	if e.Operator {
		return fmt.Sprintf("%s Settle it: if cluster %x is the right one, start this member with --not-of %x (Config.NotOf), once; if cluster %x is, first stop the other members of cluster %x and empty their data directories, and then this one: %s",
			text, mine, other, other, mine, join)
	}
	return fmt.Sprintf("%s To settle it: start the other members of cluster %x, whose majority decides; or, if cluster %x is the right one, start this member with --not-of %x (Config.NotOf); or %s",
		text, other, mine, other, join)
}

// Unwrap makes it an ErrClaimed.
func (e *ClaimedError) Unwrap() error { return ErrClaimed }

// kindTestify asks one member of another cluster what its own records say of an address.
// Nobody else is asked, so that it needs no majority.
const kindTestify transport.Kind = 33

// Bounds of what is kept of other clusters, whoever calls.
const (
	dialersMax        = 8
	rivalAddressMax   = 16
	addressBytesMax   = 256
	notOfMax          = 16
	refutedMax        = 16
	warningQuietTicks = 600
)

// rivals is what this member does about other clusters, members of which dial its address
// for a member of theirs. selfheal.Facing decides; here the evidence is got, and what was
// decided is carried out. It belongs to the loop.
//
// A call of a stranger is no evidence. This member calls back, at the address that the
// stranger named, and acts on the answer.
type rivals struct {
	loop *loop
	// dialers called since the last round of questions. wait is for how many ticks no
	// round begins, and asking are the questions that are not answered yet.
	dialers []transport.Hello
	wait    int
	asking  map[rivalQuestion]bool

	// rival is the one for which this member serves nothing, and err says so; nil: there is
	// none. unsaved: the origin file does not say it yet.
	rival   *octopiipb.Rival
	err     error
	unsaved bool
	// warning says what a rival claims from which nothing follows; quiet is for how many
	// ticks it was not heard again. unknown is the member that it is about, if it is that the
	// records here do not have it; 0: it is about something else.
	warning error
	unknown uint64
	quiet   int
	// heard are the addresses of each other cluster at which one of its members claimed this
	// address, and was trusted, and when by clock, which counts ticks.
	heard map[uint64]map[string]int
	clock int
	// refuted is the index at which a majority of a cluster claimed nothing: what one of its
	// members says that has not got as far is old.
	refuted map[uint64]uint64
}

// rivalQuestion is a question to a member of another cluster.
type rivalQuestion struct {
	kind    transport.Kind
	cluster uint64
	address string
}

// begin reads what an earlier process knew: a member that served nothing serves nothing
// when it comes back. Config.NotOf settles it.
func (r *rivals) begin(l *loop) error {
	r.loop, r.asking, r.refuted = l, map[rivalQuestion]bool{}, map[uint64]uint64{}
	r.heard = map[uint64]map[string]int{}
	if !l.view.Initialized() {
		return nil
	}
	o, other := l.store.Origin(), l.cfg.NotOf
	if other != 0 && other == PublicClusterID(l.cluster.Load()) {
		return fmt.Errorf("node: Config.NotOf is %x, and this is a member of that cluster; name the other one", other)
	}
	if r.rival = o.Rival; r.rival != nil && PublicClusterID(r.rival.Cluster) == other {
		r.rival = nil
	}
	if other != 0 && !slices.Contains(o.NotOf, other) {
		o.NotOf = append(slices.Clone(o.NotOf), other)
		o.NotOf = o.NotOf[max(0, len(o.NotOf)-notOfMax):]
		o.Rival = r.rival
		if err := l.store.SetOrigin(o); err != nil {
			return err
		}
		l.log.Warn("an operator says that this member is not of another cluster, whose claims count no more",
			zap.String("cluster", clusterHex(l.cluster.Load())), zap.String("other cluster", hex(other)))
	}
	if r.rival != nil {
		start := l.view.Start().Membership // the newest one is read later, when this runs
		others := len(publicMembership(&start).Voters()) > 1
		r.suspend("no majority of the other cluster has answered since this member started", others)
	}
	return nil
}

// settled says whether an operator settled the claims of a cluster.
func (r *rivals) settled(cluster uint64) bool {
	public := PublicClusterID(cluster)
	return public == r.loop.cfg.NotOf || slices.Contains(r.loop.store.Origin().NotOf, public)
}

// dialed takes note of a member of another cluster that dials this address for a member of
// its own. One of this cluster, which this member joined meanwhile, is none.
func (r *rivals) dialed(peer transport.Hello) {
	same := func(o transport.Hello) bool { return o.Cluster == peer.Cluster && o.Host.Address == peer.Host.Address }
	switch {
	case r.loop.core == nil || peer.Cluster == r.loop.cluster.Load() || peer.Host.Address == "" || len(peer.Host.Address) > addressBytesMax || r.settled(peer.Cluster):
		return
	case len(r.dialers) == dialersMax || slices.ContainsFunc(r.dialers, same):
		return
	}
	r.dialers = append(r.dialers, peer)
	if r.wait == 0 {
		r.ask()
	}
}

// later takes note of a peer that names this cluster, and remembers more of this member than it
// has, while the records here do not have it: this member's disk may be an image from before
// others joined. If it knows no other voter it would elect itself, and serve a branch. So what
// they know is a rival's claim, though their cluster is the same: it asks the peer what that has
// of this member, and then its majority. If it knows other voters, only a proof stops it (see
// later), and until then it says what it was told.
func (r *rivals) later(peer transport.Hello) {
	l := r.loop
	if l.core == nil {
		return
	}
	had := peer.Remembers
	last, err := l.view.LastIndex()
	if err != nil || !contradicts(had, l.core.Status().Term, last, l.core.TermOf) {
		return
	}
	if !l.later.isOnlyVoter() {
		r.warn(fmt.Errorf("member %x at %s, which the records here do not have, names this cluster and remembers that this member had its log up to index %d in term %d, of which %d is committed, and it ends at index %d: if the disks of a majority were set back to before that one joined, what was acknowledged since is missing here: stop them, and put newer copies back, or empty their directories one after the other and let them join that one",
			peer.Node, peer.Host.Address, had.Match, had.Term, had.Commit, last), "a majority may have forgotten what it acknowledged")
		r.unknown = peer.Node
		return
	}
	r.askLater(peer)
}

// askLater asks a peer that joined later what it has of this member.
func (r *rivals) askLater(peer transport.Hello) {
	if len(r.dialers) < dialersMax && !slices.ContainsFunc(r.dialers, func(o transport.Hello) bool { return o.Host.Address == peer.Host.Address }) {
		r.dialers = append(r.dialers, peer)
		if r.wait == 0 {
			r.ask()
		}
	}
}

// tick asks again, and forgets a warning that nobody repeats.
func (r *rivals) tick(ticks int) {
	r.clock += ticks
	r.wait = max(0, r.wait-ticks)
	if r.warning != nil {
		if r.quiet += ticks; r.quiet > warningQuietTicks {
			r.warning = nil
		}
	}
	if ticks > 0 && r.wait == 0 && (len(r.dialers) > 0 || r.rival != nil || r.unsaved) {
		r.ask()
	}
}

// ask begins a round of questions: to those who dialed, what they have to say; to all known
// members of the rival, what a majority says.
func (r *rivals) ask() {
	r.wait = r.loop.cfg.ElectionTicks
	if r.unsaved {
		r.keep()
	}
	for _, peer := range r.dialers {
		r.question(rivalQuestion{kindTestify, peer.Cluster, peer.Host.Address})
	}
	r.dialers = nil
	if r.rival == nil {
		return
	}
	for _, address := range r.rival.Addresses {
		r.question(rivalQuestion{kindVouch, r.rival.Cluster, address})
	}
}

// question asks, unless the same question is not answered yet.
func (r *rivals) question(q rivalQuestion) {
	l := r.loop
	if r.asking[q] {
		return
	}
	r.asking[q] = true
	asked := Question{Cluster: q.cluster, Address: l.cfg.Transport.Address()}
	var m transport.Message = asked.message()
	if q.cluster != l.cluster.Load() { // a stranger may have named that address to hear who calls it
		m = transport.Unnamed{Message: m}
	}
	l.call(q.address, q.kind, m, func(payload []byte, err error) {
		p, err := readProof(asked, q.address, payload, err)
		l.soon(func() { r.answered(q, p, err) })
	})
}

// answered acts on what a member of another cluster said.
func (r *rivals) answered(q rivalQuestion, p Proof, err error) {
	l := r.loop
	delete(r.asking, q)
	vouched := q.kind == kindVouch
	mine := r.rival != nil && r.rival.Cluster == q.cluster
	switch {
	case errors.Is(err, ErrRemoved) && q.cluster == l.cluster.Load() && l.core != nil && l.later.isOnlyVoter():
		l.leaving.dismissal.toldAlone(q.address)
		return
	case err != nil:
		l.log.Debug("another cluster does not answer for this address", zap.String("other cluster", clusterHex(q.cluster)),
			zap.String("asked", q.address), zap.Error(err))
		return
	case r.settled(q.cluster), vouched && !mine, !vouched && p.Commit <= r.refuted[q.cluster]:
		return // it was settled meanwhile, or is old
	}
	r.hear(q, p)
	stand, why := selfheal.Facing(r.evidence(p, vouched))
	switch stand {
	case selfheal.Ignore:
		l.log.Debug("another cluster does not claim this address", zap.String("other cluster", clusterHex(q.cluster)), zap.String("asked", q.address))
	case selfheal.Report:
		if r.rival == nil {
			r.report(p, why)
		}
		r.askWitnesses(p)
	case selfheal.Suspend:
		if r.rival == nil || mine {
			r.claimed(p, why, vouched)
		}
	case selfheal.Serve:
		r.refute(p, why)
	case selfheal.GiveWay:
		l.fatal(&OtherClusterError{Mine: l.cluster.Load(), Proof: p})
	}
}

// heardMax bounds the clusters of which is remembered who claimed this address.
const heardMax = 8

// hear notes who claims this member's address, if it is trusted.
func (r *rivals) hear(q rivalQuestion, p Proof) {
	if p.AtAddress == 0 || !r.trusts(q.address) {
		delete(r.heard[q.cluster], q.address)
		return
	}
	if r.heard[q.cluster] == nil {
		if len(r.heard) == heardMax {
			clear(r.heard)
		}
		r.heard[q.cluster] = map[string]int{}
	}
	r.heard[q.cluster][q.address] = r.clock
}

// askWitnesses asks the other voters of a cluster that claims this member's address, as far
// as they are trusted, and one of them said so.
func (r *rivals) askWitnesses(p Proof) {
	if len(r.heard[p.Cluster]) == 0 {
		return
	}
	for _, m := range p.Members {
		if at, heard := r.heard[p.Cluster][m.Address]; !m.Learner && m.Address != r.loop.cfg.Transport.Address() && r.trusts(m.Address) &&
			!(heard && r.clock-at < r.loop.cfg.ElectionTicks) {
			r.question(rivalQuestion{kindTestify, p.Cluster, m.Address})
		}
	}
}

// witnessTimeouts is for how many election timeouts a claim counts that was heard.
const witnessTimeouts = 4

// witnesses counts the addresses of voters of a cluster that claimed this address just now.
// One that is listed twice is one.
func (r *rivals) witnesses(p Proof) int {
	at := map[string]bool{}
	for _, m := range p.Members {
		if heard, ok := r.heard[p.Cluster][m.Address]; ok && !m.Learner && r.clock-heard <= witnessTimeouts*r.loop.cfg.ElectionTicks {
			at[m.Address] = true
		}
	}
	return len(at)
}

// evidence is what Facing decides from.
func (r *rivals) evidence(p Proof, vouched bool) selfheal.Rival {
	l := r.loop
	of := selfheal.Rival{Claims: p.AtAddress != 0, Vouched: vouched, Trusted: r.trusts(p.Witness), Witnesses: r.witnesses(p), Age: -1}
	for _, m := range p.Members {
		if !m.Learner {
			of.Voters++
		}
		of.Shared = of.Shared || slices.ContainsFunc(l.public.Members, func(o Member) bool { return o.Address == m.Address && o.ID != l.id })
	}
	for _, id := range l.public.Voters() {
		if id != l.id {
			of.Others++
		}
	}
	if o := l.store.Origin(); o.Founded != 0 && o.FoundedCluster == l.cluster.Load() {
		claimed := l.host.now()
		if r.rival != nil && r.rival.Cluster == p.Cluster {
			claimed = time.Unix(0, r.rival.Since)
		}
		of.Age = claimed.Sub(time.Unix(0, o.Founded))
	}
	return of
}

// trusts says whether what is heard at an address is not a stranger's word: this member's
// own configuration or records name it, or certificates prove who is a peer.
func (r *rivals) trusts(address string) bool {
	l := r.loop
	if l.authenticated() {
		return true
	}
	recorded := slices.ContainsFunc(l.public.Members, func(m Member) bool { return m.ID != l.id && m.Address == address })
	return recorded || slices.Contains(l.cfg.Join, address)
}

// claimed serves nothing because of a rival, and asks its majority at once.
func (r *rivals) claimed(p Proof, why string, vouched bool) {
	l := r.loop
	news := r.rival == nil
	if news {
		r.rival, r.unsaved = &octopiipb.Rival{Cluster: p.Cluster, Member: p.AtAddress, Since: l.host.now().UnixNano()}, true
	}
	if r.learn(p) || news {
		r.unsaved = true
	}
	if news || vouched { // one member's word is no news behind a majority's
		majority, _ := selfheal.Facing(r.evidence(p, true)) // if it claims the same
		r.suspend(why, majority != selfheal.GiveWay)
	}
	if r.unsaved {
		r.keep()
	}
	if news {
		r.ask()
	}
}

// learn adds the addresses of the rival's members, and says whether there was a new one.
func (r *rivals) learn(p Proof) (news bool) {
	own := r.loop.cfg.Transport.Address()
	addresses := []string{p.Witness}
	for _, m := range p.Members {
		addresses = append(addresses, m.Address)
	}
	for _, a := range addresses {
		known := &r.rival.Addresses
		if a != "" && a != own && len(a) <= addressBytesMax && len(*known) < rivalAddressMax && !slices.Contains(*known, a) {
			*known, news = append(*known, a), true
		}
	}
	return news
}

// suspend serves nothing from now on. operator: a majority of the rival will not settle it.
func (r *rivals) suspend(why string, operator bool) {
	l := r.loop
	err := &ClaimedError{Mine: l.cluster.Load(), Other: r.rival.Cluster, Member: r.rival.Member, Addresses: r.rival.Addresses, Why: why, Operator: operator}
	if r.err == nil || r.err.Error() != err.Error() {
		l.log.Error("this member serves nothing until it is settled which of two clusters is right", zap.Error(err))
	}
	r.err = err
	l.suspensionChanged()
}

// keep makes durable for whom this member serves nothing. It is tried again with the next
// round; until then a restart would serve, until it is claimed again.
func (r *rivals) keep() {
	l := r.loop
	o := l.store.Origin()
	o.Rival = r.rival
	if err := l.store.SetOrigin(o); err != nil {
		r.unsaved = true
		l.log.Error("cannot write down that another cluster claims this member's address; trying again", zap.Error(err))
		return
	}
	r.unsaved = false
}

// refute serves again: a majority of the rival has nobody at this address.
func (r *rivals) refute(p Proof, why string) {
	l := r.loop
	if len(r.refuted) == refutedMax {
		clear(r.refuted)
	}
	r.refuted[p.Cluster] = p.Commit
	r.rival, r.err, r.warning = nil, nil, nil
	r.keep()
	l.log.Warn("this member serves again: "+why, zap.String("cluster", clusterHex(l.cluster.Load())),
		zap.String("other cluster", clusterHex(p.Cluster)), zap.String("says", p.Witness))
	l.suspensionChanged()
}

// report says what a rival claims, and does nothing.
func (r *rivals) report(p Proof, why string) {
	l := r.loop
	other := PublicClusterID(p.Cluster)
	err := fmt.Errorf("a member at %s says that cluster %x has member %x at this address, and this is cluster %x: nothing follows from it, as %s; find out which of the two is right: start this member with --not-of %x (Config.NotOf), or remove member %x from cluster %x",
		p.Witness, other, p.AtAddress, PublicClusterID(l.cluster.Load()), why, other, p.AtAddress, other)
	r.warn(err, "another cluster claims this member's address")
}

// warn says something from which nothing follows, in the log once.
func (r *rivals) warn(err error, message string) {
	if r.warning == nil {
		r.loop.log.Error(message, zap.Error(err))
	}
	r.warning, r.quiet, r.unknown = err, 0, 0
}

// caughtUp drops the warning that the records did not have a member, once they do or it is
// removed: this member was behind, and has caught up.
func (r *rivals) caughtUp() {
	if r.unknown != 0 && !r.loop.later.isLater(r.unknown) {
		r.warning, r.unknown = nil, 0
	}
}

// noteFounded makes durable when this member founds a cluster, before it does: see
// selfheal.Rival.Age. It names the cluster: if the process ends before there is a log of
// it, this member may join another one, which it did not found.
func (g *group) noteFounded(cluster uint64) error {
	o := g.store.Origin()
	o.Founded, o.FoundedCluster = g.host.now().UnixNano(), cluster
	err := g.store.SetOrigin(o)
	if vfs.Refused(err) {
		return fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
	}
	return err
}

// handleTestify answers a member of another cluster with this one's records.
func (s service) handleTestify(payload []byte, done func(transport.Message, error)) {
	var req octopiipb.VouchRequest
	if err := req.Unmarshal(payload); err != nil {
		done(nil, fmt.Errorf("testify request cannot be read: %w", err))
		return
	}
	mine, ms := s.cluster.Load(), s.members.Load()
	if ms == nil || mine == 0 || req.Cluster != mine || s.removed.Load() {
		// Anybody may ask, and so it does not name this cluster.
		done(&octopiipb.VouchReply{Code: vouchNone, Reason: "this is no member of the cluster that was asked"}, nil)
		return
	}
	reply := &octopiipb.VouchReply{Cluster: mine, Term: s.status().Term, Commit: s.committed.Load()}
	s.describe(reply, &req, ms)
	done(reply, nil)
}

// wasThere says whether a member was really at the address of its record: it came at least
// once, and was not met elsewhere since.
func (t trust) wasThere(m *octopiipb.Member) bool {
	at := t.whereabouts.get(m.ID)
	return m.Incarnation != 0 && (at == "" || at == m.Address)
}

// asksFromOutside: a member of another cluster calls, or was called: it may ask what this
// one knows of its address, and nothing else. See rivals.
func (t trust) asksFromOutside(peer transport.Hello) bool {
	mine := t.cluster.Load()
	return peer.Call && mine != 0 && peer.Cluster != 0 && peer.Cluster != mine && peer.Node != t.id
}

// soughtHere is told of every member of a cluster that wants another member here. One of this
// cluster that the records do not have may have joined later, in the place of whoever is
// recorded for its address.
func (t trust) soughtHere(peer transport.Hello) {
	mine := t.cluster.Load()
	switch {
	case peer.Cluster == 0 || peer.To == 0 || peer.Node == t.id:
	case mine == peer.Cluster:
		t.fromLater(t.members.Load(), peer)
	case mine == 0 && (t.cfg.Rejoin || t.cfg.Bootstrap || t.cfg.Expect > 0) && PublicClusterID(peer.Cluster) != t.cfg.NotOf:
		t.inbox.call(func(l *loop) { l.founding.sought(peer) })
	case mine != 0:
		t.inbox.call(func(l *loop) { l.rivals.dialed(peer) })
	}
}
