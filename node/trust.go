package node

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"go.uber.org/zap"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// Who may tell this member something about itself. Everything from outside that stops
// a member, or has octopiid put its disk aside, passes here:
//
//   - A reminder in a handshake, heartbeats that name more than there is, and messages
//     of a leader that contradict what is committed here: only from a member whose
//     incarnation is the recorded one (isProven). They make this member doubt (doubt.go):
//     it serves nothing and asks. It ends by what a majority says just now, asked where members
//     are recorded or were met, or when the member denies it in whose name it was said (denial).
//   - That a majority forgot what a peer has that the records do not name: from one that proves
//     that it knows the voters that are recorded, and from this member's own majority (later).
//     Or from a member that names a voter that this member's own majority does not have, in the
//     question by which it compares its log (later.forgets).
//   - A refusal because it was removed: from an address that this member itself
//     called, of its own records or of Config.Join (mayTell), and from a majority of the
//     other voters (dismissal), or from one member that seals it: by that this one serves
//     nothing at once, and ends while no leader speaks to it. Its disk stays. The only voter by
//     its records serves nothing by the word of a member of its cluster (toldAlone).
//   - A refusal because its disk is another: the same, and from a majority of the
//     voters. If this member has no log, from a majority of the addresses of Config.Join, as
//     is that it had one: there is nothing to lose, but a stranger at one of them would keep
//     it from ever coming in.
//   - A refusal because its program does not read the format level of the cluster: the same
//     as mayTell says, and only while it has no log and waits for a leader. One that asks to
//     join ends when all that it asked say so.
//   - The log, which only a member that leads can extend (maySend).

// trust decides who may tell this member what. It is asked by the transport's goroutines.
type trust struct{ *group }

// isProven says whether a peer proved to be a member: it names the cluster, which is
// told to members only, and the incarnation that is recorded. A member's incarnation is
// recorded before it has a vote.
func isProven(cluster uint64, ms *octopiipb.Membership, peer transport.Hello) bool {
	m := recordOf(ms, peer.Node)
	return m != nil && cluster != 0 && peer.Cluster == cluster && m.Incarnation != 0 && m.Incarnation == peer.Incarnation
}

// atRecord says whether this member called the peer at the address that is recorded.
func atRecord(ms *octopiipb.Membership, peer transport.Hello) bool {
	m := recordOf(ms, peer.Node)
	return m != nil && peer.Dialed != "" && m.Address == peer.Dialed
}

// mayTell says whether a peer may tell this member what became of it.
func (t trust) mayTell(peer transport.Hello) bool {
	mine, ms := t.cluster.Load(), t.members.Load()
	if peer.Cluster != 0 && mine != 0 && peer.Cluster != mine { // to one of its own it is told
		return false
	}
	if ms == nil { // it has no log, and waits for whoever comes, or asks where it was told to
		return peer.Dialed != "" || len(t.cfg.Join) == 0 && peer.Cluster != 0
	}
	recorded := slices.ContainsFunc(ms.Members, func(m octopiipb.Member) bool { return m.ID != t.id && m.Address == peer.Dialed })
	return peer.Dialed != "" && (recorded || slices.Contains(t.cfg.Join, peer.Dialed))
}

// guests are peers that called and named a cluster, and are no members of it that this
// member knows of. They get their answers over the connection that they made; nothing else
// is kept of them than that they may send.
type guests struct {
	mu   sync.Mutex
	list []guest
	// inbound are the clusters that unproven members named when they called last.
	inbound map[uint64]uint64
	// branched are members that remember what the majority does not have.
	branched map[uint64]bool
	// tellers are the addresses of Config.Join at which a member without a log was told last that
	// it lost one.
	tellers []string
	// givenUp are those that have what an operator gave up here, as the origin file has them.
	givenUp []uint64
}

// giveUp notes of whom nothing is taken any more.
func (g *guests) giveUp(ids []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.givenUp = ids
}

// isGivenUp says whether an operator gave up what a peer has.
func (g *guests) isGivenUp(id uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.givenUp, id)
}

// tell notes a teller, and returns how many there are.
func (g *guests) tell(address string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.tellers, address) {
		g.tellers = append(g.tellers, address)
	}
	return len(g.tellers)
}

// untell: who answers at an address now does not say so.
func (g *guests) untell(address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tellers = slices.DeleteFunc(g.tellers, func(a string) bool { return a == address })
}

// guest is one of them, and the cluster that it named last.
type guest struct{ id, cluster uint64 }

// add remembers a guest. The oldest one goes for it if there are too many.
func (g *guests) add(id, cluster uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = slices.DeleteFunc(g.list, func(o guest) bool { return o.id == id })
	if len(g.list) == guestsMax {
		g.list = slices.Delete(g.list, 0, 1)
	}
	g.list = append(g.list, guest{id, cluster})
}

// called notes which cluster an unproven member named when it called.
func (g *guests) called(id, cluster uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.name(id, cluster)
}

func (g *guests) name(id, cluster uint64) {
	if g.inbound == nil {
		g.inbound = map[uint64]uint64{}
	}
	g.inbound[id] = cluster
}

// keep forgets guests that became members, and members that are none any more. What a
// guest named is kept with the unproven member that it became: its connection stays, and
// it does not call again.
func (g *guests) keep(ms *octopiipb.Membership) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = slices.DeleteFunc(g.list, func(o guest) bool {
		if o.cluster == ms.Cluster && isMember(ms, o.id) {
			g.name(o.id, o.cluster)
			return true
		}
		return o.cluster != ms.Cluster
	})
	for id := range g.inbound {
		if m := recordOf(ms, id); m == nil || m.Incarnation != 0 {
			delete(g.inbound, id)
		}
	}
	for id := range g.branched {
		if !isMember(ms, id) {
			delete(g.branched, id)
		}
	}
}

// branch notes that a member is on another branch than the majority, or that it is not.
// It says whether that is news.
func (g *guests) branch(id uint64, is bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.branched[id] == is {
		return false
	}
	if g.branched == nil {
		g.branched = map[uint64]bool{}
	}
	g.branched[id] = is
	if !is {
		delete(g.branched, id)
	}
	return true
}

// isBranched says whether a member is on another branch than the majority.
func (g *guests) isBranched(id uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.branched[id]
}

var (
	errStranger       = errors.New("it is from nobody that this member knows")
	errHistoryGivenUp = errors.New("node: an operator gave up what that member has and a majority lost (--accept-loss): empty its data directory and let it join again")
)

// maySend says why a message of raft is not taken. Only who named the cluster may lead.
func (t trust) maySend(m *raftpb.Message) error {
	ms := t.members.Load()
	if ms == nil {
		return nil // see core.AnswerUninitialized
	}
	g := &t.guests
	g.mu.Lock()
	defer g.mu.Unlock()
	record := recordOf(ms, m.From)
	switch {
	case slices.Contains(g.givenUp, m.From):
		return errHistoryGivenUp
	case g.branched[m.From]:
		return errors.New("its sender is on another branch than the majority")
	case record == nil && slices.Contains(g.list, guest{m.From, t.cluster.Load()}), record != nil && record.Incarnation != 0:
		return nil
	case record == nil:
		return errStranger
	case g.inbound[m.From] == t.cluster.Load():
		return nil
	}
	switch m.Type {
	case raftpb.MsgHeartbeatResp, raftpb.MsgAppResp: // it has no log yet
		return nil
	}
	return fmt.Errorf("%w: it did not name the cluster", errStranger)
}

// welcome keeps what there is to keep of a peer that was accepted. It returns false for
// one that is no member and only asks.
func (t trust) welcome(peer transport.Hello) (member bool) {
	ms := t.members.Load()
	if ms == nil && peer.Dialed != "" {
		t.guests.untell(peer.Dialed)
	}
	record := recordOf(ms, peer.Node)
	if record == nil {
		mine := t.cluster.Load()
		if peer.Cluster == 0 || mine != 0 && mine != peer.Cluster {
			return false // it asks to join, or what a majority here knows
		}
		if peer.Dialed == "" { // a leader that this member does not know of yet
			t.guests.add(peer.Node, peer.Cluster)
		}
		return ms == nil
	}
	if record.Incarnation == 0 {
		if peer.Dialed == "" {
			t.guests.called(peer.Node, peer.Cluster)
		}
		return peer.Dialed != "" || peer.Cluster == t.cluster.Load()
	}
	return true
}

// toldWithoutLog takes it from a peer that mayTell that this member had a log, and has none. It
// ends when more than half of the addresses that it was told to join say so.
func (t trust) toldWithoutLog(peer transport.Hello, why error) {
	asked := slices.DeleteFunc(slices.Clone(t.cfg.Join), func(a string) bool { return a == t.cfg.Transport.Address() })
	if len(asked) == 0 || slices.Contains(asked, peer.Dialed) && t.guests.tell(peer.Dialed) > len(asked)/2 {
		t.fatal(why)
		return
	}
	t.warnSome(&t.quiet.refusals, "an address says that this member lost its log; it is believed when more than half of those to join say so",
		zap.String("address", peer.Dialed), zap.Int("to join", len(asked)), zap.NamedError("what it says", why))
}

// refuseRemoved refuses a member that was removed, and proves it. If the caller's disk was set
// back, it may know nobody by now but those that were removed, too. So the proof is sealed with
// the incarnation of the member that the caller wants, as the records have it.
func (t trust) refuseRemoved(ms *octopiipb.Membership, peer transport.Hello) error {
	key := t.identity.Incarnation
	if peer.To != 0 && peer.To != t.id {
		key = ms.IncarnationOf(peer.To)
	}
	return transport.RefuseSealed(refusedRemoved, sealOfRemoval(key, ms.Cluster, peer.Node), ErrRemoved)
}

// saysRemoved says whether a call was refused as that of a member that was removed.
func saysRemoved(err error) bool {
	var refused *transport.RemoteError
	return errors.As(err, &refused) && refused.Code == refusedRemoved
}

// refused takes what a peer said as it refused this member.
func (t trust) refused(peer transport.Hello, why transport.Refusal) {
	switch {
	case !t.mayTell(peer):
	case why.Code == refusedRemoved && t.removed.Load(): // it knows, and waits until a majority does
		t.inbox.call(func(l *loop) { l.leaving.confirmed(peer) })
		return
	case why.Code == refusedRemoved && t.cluster.Load() != 0:
		t.inbox.call(func(l *loop) { l.leaving.dismissal.hear(peer, why.Seal) })
	case why.Code == refusedDisk && t.members.Load() == nil:
		t.toldWithoutLog(peer, fmt.Errorf("%w: member %x says: %s", ErrAmnesia, peer.Node, why.Reason))
		return
	case why.Code == refusedFormat:
		t.formatRefused(peer, why.Reason)
	case why.Code == refusedDisk:
		t.inbox.call(func(l *loop) { l.doubt.refused(peer, why.Reason) })
	}
	t.events.peerRefused(peer.Node, errors.New(why.Reason))
}
