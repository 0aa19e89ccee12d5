package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// lonelyNode is a Node without its parts, for what a handler does at once.
func lonelyNode(cluster uint64, ms *octopiipb.Membership, join ...string) handler {
	n := newHandler(bareGroupOn(deaf{}))
	n.events = &events{}
	n.cluster.Store(cluster)
	n.members.Store(ms)
	n.cfg.Join, n.cfg.Transport = join, deaf{}
	return n
}

// deaf is a transport that does nothing.
type deaf struct{ transport.Transport }

func (deaf) SetPeer(uint64, string) {}
func (deaf) RemovePeer(uint64)      {}
func (deaf) Address() string        { return "m1" }

var threeMembers = &octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{
	{ID: 1, Address: "m1", Incarnation: 101, Kind: octopiipb.Voter}, {ID: 2, Address: "m2", Incarnation: 102, Kind: octopiipb.Voter}, {ID: 3, Address: "m3", Incarnation: 103, Kind: octopiipb.Voter}, {ID: 4, Address: "m4", Kind: octopiipb.Learner}}}

// What a handshake of a stranger says never reaches the loop, whatever it makes up.
func TestStrangersRemindNobody(t *testing.T) {
	much := transport.Memory{Term: 9, Match: 1 << 40, Commit: 1 << 40}
	for name, c := range map[string]struct {
		peer   transport.Hello
		proven bool
	}{
		"a joiner":                       {transport.Hello{Node: 9}, false},
		"another cluster's":              {transport.Hello{Node: 2, Cluster: 8, Incarnation: 102}, false},
		"no member, of the cluster":      {transport.Hello{Node: 9, Cluster: 7, Incarnation: 102}, false},
		"a member without incarnation":   {transport.Hello{Node: 2, Cluster: 7}, false},
		"a member of another one":        {transport.Hello{Node: 2, Cluster: 7, Incarnation: 103}, false},
		"a member without cluster":       {transport.Hello{Node: 2, Incarnation: 102}, false},
		"a learner of no recorded disk":  {transport.Hello{Node: 4, Cluster: 7, Incarnation: 104}, false},
		"a member that proves to be one": {transport.Hello{Node: 2, Cluster: 7, Incarnation: 102}, true},
	} {
		c.peer.Remembers = much
		n := lonelyNode(7, threeMembers)
		_ = n.Accept(c.peer)
		if n.err() != nil {
			t.Errorf("%s: the handshake stops the member: %v", name, n.err())
		}
		if got := isProven(7, threeMembers, c.peer); got != c.proven {
			t.Errorf("%s: proven %v, want %v", name, got, c.proven)
		}
	}
}

// A member that has no log has no vote to lose. It believes whom it called itself, and
// if it only waits, a member of a cluster.
func TestWhoTellsAnEmptyMember(t *testing.T) {
	for name, c := range map[string]struct {
		peer  transport.Hello
		join  []string
		stops bool
	}{
		"a joiner calls a joiner":       {transport.Hello{Node: 2}, []string{"m2"}, false},
		"a stranger calls a joiner":     {transport.Hello{Node: 2, Cluster: 7}, []string{"m2"}, false},
		"a joiner calls a member":       {transport.Hello{Node: 2, Cluster: 7, Dialed: "m2"}, []string{"m2"}, true},
		"a member calls one that waits": {transport.Hello{Node: 2, Cluster: 7}, nil, true},
		"one address of two":            {transport.Hello{Node: 2, Cluster: 7, Dialed: "m2"}, []string{"m2", "m3"}, false},
		"an address of nobody":          {transport.Hello{Node: 2, Cluster: 7, Dialed: "m9"}, []string{"m2"}, false},
	} {
		c.peer.Remembers = transport.Memory{Term: 9, Match: 9}
		n := lonelyNode(0, nil, c.join...)
		_ = n.Accept(c.peer)
		if got := errors.Is(n.err(), ErrAmnesia); got != c.stops {
			t.Errorf("%s, reminded: it ends with %v", name, n.err())
		}
		n = lonelyNode(0, nil, c.join...)
		n.Refused(c.peer, transport.Refusal{Code: refusedDisk, Reason: "another disk"})
		if got := errors.Is(n.err(), ErrAmnesia); got != c.stops {
			t.Errorf("%s, refused: it ends with %v", name, n.err())
		}
	}
	n := lonelyNode(0, nil, "m2", "m3", "m4")
	for i, from := range []string{"m2", "m2", "m3"} { // once is as good as twice
		n.Refused(transport.Hello{Node: 2, Cluster: 7, Dialed: from}, transport.Refusal{Code: refusedDisk, Reason: "another disk"})
		if got, want := errors.Is(n.err(), ErrAmnesia), i == 2; got != want {
			t.Errorf("after %d of three words at three addresses: it ends with %v", i+1, n.err())
		}
	}
	n = lonelyNode(0, nil, "m2", "m3", "m4")
	for i, from := range []string{"m2", "", "m3", "m2"} { // an address that leads elsewhere says so no more
		if from == "" {
			_ = n.Accept(transport.Hello{Node: 5, Cluster: transport.SomeCluster, Dialed: "m2", Call: true})
			continue
		}
		n.Refused(transport.Hello{Node: 2, Cluster: 7, Dialed: from}, transport.Refusal{Code: refusedDisk, Reason: "another disk"})
		if got, want := errors.Is(n.err(), ErrAmnesia), i == 3; got != want {
			t.Errorf("after %d words, of which one was taken back: it ends with %v", i+1, n.err())
		}
	}
}

// A member without a log cannot join, by the word of more than half of the addresses that it
// was told to join. One of them may be a stranger, who says so while a cluster is founded.
func TestWhoRefusesAJoiner(t *testing.T) {
	for name, c := range map[string]struct {
		join  []string
		says  map[string]error // of the addresses that a survey found to be of one cluster
		stops bool
	}{
		"the only address":                  {[]string{"m2"}, map[string]error{"m2": ErrRemoved}, true},
		"one of two, while one founds, too": {[]string{"m1", "m2", "m3"}, map[string]error{"m3": ErrRemoved}, false},
		"both":                              {[]string{"m1", "m2", "m3"}, map[string]error{"m2": ErrRemoved, "m3": ErrRemoved}, true},
		"the other one does not":            {[]string{"m1", "m2", "m3"}, map[string]error{"m2": ErrMembershipBusy, "m3": ErrRemoved}, false},
		"two of four of another history":    {[]string{"m2", "m3", "m4", "m5"}, map[string]error{"m2": ErrAmnesia, "m3": ErrIDReused}, false},
		"three of four":                     {[]string{"m2", "m3", "m4", "m5"}, map[string]error{"m2": ErrAmnesia, "m3": ErrIDReused, "m5": ErrRemoved}, true},
	} {
		n := lonelyNode(0, nil, c.join...)
		l := &loop{group: n.group}
		l.founding.loop, l.join.loop = l, l
		for round := range 3 {
			l.join.wait = 1 // nothing is asked
			left := len(c.says)
			for address, err := range c.says {
				left--
				l.join.round = make([]string, left)
				l.join.asked(address, err)
			}
			if got := n.err() != nil; got != c.stops {
				t.Errorf("%s, round %d: it ends with %v", name, round, n.err())
			}
		}
	}
}

// That it was removed, a member hears only from an address that it called itself, and from a
// majority of the other voters, or while no leader speaks to it for long.
func TestWhoTellsOfARemoval(t *testing.T) {
	for name, c := range map[string]struct {
		peer        transport.Hello
		heard, says bool
	}{
		"a stranger calls":                   {transport.Hello{Node: 2, Cluster: 7, Incarnation: 102}, false, false},
		"somebody at an address of nobody":   {transport.Hello{Node: 2, Cluster: 7, Dialed: "elsewhere"}, false, false},
		"another cluster at a known address": {transport.Hello{Node: 2, Cluster: 8, Dialed: "m2"}, false, false},
		"a member at its address":            {transport.Hello{Node: 2, Cluster: 7, Dialed: "m2"}, true, true},
		"somebody at an address of --join":   {transport.Hello{Node: 9, Dialed: "m9"}, true, false},
	} {
		n := lonelyNode(7, threeMembers, "m9")
		l := (&loop{group: n.group, core: new(core.Core)}).link()
		l.membership, l.public = threeMembers, publicMembership(threeMembers)
		n.Refused(c.peer, transport.Refusal{Code: refusedRemoved, Reason: "removed"})
		for _, call := range n.inbox.calls {
			call(l)
		}
		if heard := l.leaving.dismissal.by != nil; heard != c.heard || l.leaving.dismissal.by[c.peer.Node] != c.says || n.err() != nil {
			t.Errorf("%s: heard: %v, counted: %v; it ends with %v", name, heard, l.leaving.dismissal.by, n.err())
		}
		l.leaving.dismissal.hear(transport.Hello{Node: 3, Dialed: "m3"}, nil)
		if got := errors.Is(n.err(), ErrRemoved); got != c.says {
			t.Errorf("%s, and so does another member: it ends with %v", name, n.err())
		}
		n = lonelyNode(7, threeMembers, "m9")
		n.Refused(c.peer, transport.Refusal{Code: refusedDisk, Reason: "another disk"})
		if n.err() != nil {
			t.Errorf("%s: a single one makes a member that has a log put it aside: %v", name, n.err())
		}
	}
}

// A single member ends another one as removed by a seal, once no leader has spoken to that one
// for long. What nobody seals, or somebody else, only reaches the log.
func TestSealedRemovalEndsAlone(t *testing.T) {
	for name, c := range map[string]struct {
		seal []byte
		ends bool
	}{
		"without a seal":             {nil, false},
		"a member's":                 {sealOfRemoval(102, 7, 1), true},
		"this member's own":          {sealOfRemoval(101, 7, 1), false},
		"of another one's removal":   {sealOfRemoval(102, 7, 3), false},
		"of another cluster":         {sealOfRemoval(102, 8, 1), false},
		"under no key":               {sealOfRemoval(0, 7, 1), false},
		"of somebody who guesses":    {sealOfRemoval(1, 7, 1), false},
		"a member's, and one more b": {append(sealOfRemoval(102, 7, 1), 'b'), false},
	} {
		l := bareLoop()
		l.core = new(core.Core)
		l.id, l.cfg.ElectionTicks = 1, 10
		l.membership, l.public = threeMembers, publicMembership(threeMembers)
		l.leaving.dismissal.removed = ErrRemoved // as it is noted, and there is no disk here
		l.leaving.dismissal.hear(transport.Hello{Node: 2, Dialed: "m2"}, c.seal)
		l.leaving.dismissal.hear(transport.Hello{Node: 9, Dialed: "m9"}, nil) // of Config.Join
		l.leaving.dismissal.tick(dismissTimeouts*10 - 1)
		if l.err() != nil {
			t.Errorf("%s: it ends at once: %v", name, l.err())
		}
		l.leaving.dismissal.tick(1)
		if got := errors.Is(l.err(), ErrRemoved); got != c.ends {
			t.Errorf("%s: it ends with %v", name, l.err())
		}
	}
}

// Where all that a member knows were rebuilt and nobody can seal the word, those who are at most of
// the addresses that it knows end it, once no leader has spoken to it for long.
func TestRemovalAtMostAddressesEnds(t *testing.T) {
	for name, c := range map[string]struct {
		at         []string
		acceptLoss bool
		seal       []byte // of the first word
		ends       bool
	}{
		"at both":                            {[]string{"m2", "m3"}, false, nil, true},
		"at both, and losses are accepted":   {[]string{"m2", "m3"}, true, nil, true},
		"at both, of which one seals it":     {[]string{"m2", "m3"}, true, sealOfRemoval(102, 7, 1), true},
		"at one of two":                      {[]string{"m2"}, false, nil, false},
		"at one of two, twice":               {[]string{"m2", "m2"}, false, nil, false},
		"at one, and where no voter is":      {[]string{"m2", "m4"}, false, nil, false},
		"at one, and its own":                {[]string{"m2", "m1"}, false, nil, false},
		"at one, which seals it in vain":     {[]string{"m2"}, true, sealOfRemoval(102, 7, 1), false},
		"at one of two, which seals it":      {[]string{"m2"}, false, sealOfRemoval(102, 7, 1), true},
		"at addresses that it does not know": {[]string{"m8", "m9"}, false, nil, false},
	} {
		l := bareLoop()
		l.core = new(core.Core)
		l.id, l.cfg.ElectionTicks, l.cfg.AcceptLoss = 1, 10, c.acceptLoss
		l.membership, l.public = threeMembers, publicMembership(threeMembers)
		l.leaving.dismissal.removed = ErrRemoved // as it is noted, and there is no disk here
		for i, at := range c.at {
			l.leaving.dismissal.hear(transport.Hello{Node: uint64(12 + i), Dialed: at}, c.seal)
			c.seal = nil
		}
		l.leaving.dismissal.tick(dismissTimeouts*10 - 1)
		if l.err() != nil {
			t.Errorf("%s: it ends at once: %v", name, l.err())
		}
		l.leaving.dismissal.tick(1)
		if got := errors.Is(l.err(), ErrRemoved); got != c.ends {
			t.Errorf("%s: it ends with %v", name, l.err())
		}
	}
}

// A member whose disk was set back to before all others were rebuilt looks for one of those that
// it knew. Whoever is there now refuses it as removed, and seals that with what that one was
// known by. Nobody else is told that.
func TestRemovalIsSealedForWhoWasSetBack(t *testing.T) {
	now := &octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{{ID: 1, Incarnation: 101, Kind: octopiipb.Voter}, {ID: 4, Incarnation: 104, Kind: octopiipb.Voter}},
		Removed: []octopiipb.RemovedMember{{ID: 2, Incarnation: 102}, {ID: 3, Incarnation: 103}, {ID: 5}}}
	for name, c := range map[string]struct {
		peer transport.Hello
		key  uint64 // 0: it is not sealed
		code uint32
	}{
		"it wants one that was removed":      {transport.Hello{Node: 2, Cluster: 7, To: 3}, 103, refusedRemoved},
		"it wants another member":            {transport.Hello{Node: 2, Cluster: 7, To: 4}, 104, refusedRemoved},
		"it wants one that nobody knew well": {transport.Hello{Node: 2, Cluster: 7, To: 5}, 0, refusedRemoved},
		"it wants one that nobody knows":     {transport.Hello{Node: 2, Cluster: 7, To: 6}, 0, refusedRemoved},
		"it is of another cluster":           {transport.Hello{Node: 2, Cluster: 8, To: 3}, 0, 0},
		"it names no cluster":                {transport.Hello{Node: 2, To: 3}, 0, 0},
		"it is a member":                     {transport.Hello{Node: 4, Cluster: 7, To: 3}, 0, 0},
		"it is none, and was not removed":    {transport.Hello{Node: 6, Cluster: 7, To: 3}, 0, 0},
	} {
		n := lonelyNode(7, now)
		why := transport.RefusalFor(noError(n.Sought(c.peer)))
		if why.Code != c.code || (why.Seal != nil) != (c.key != 0) || c.key != 0 && !isSealedRemoval([]uint64{c.key}, 7, 2, why.Seal) {
			t.Errorf("%s: refused with code %d, seal %x", name, why.Code, why.Seal)
		}
	}
}

// noError stands for what the transport says where the Handler says nothing.
func noError(err error) error { return cmp.Or(err, errors.New("somebody else is here")) }

// One that only names this cluster, and says at an address that the records do not have that
// this member was removed, is heard of in the status.
func TestRemovalByAStrangerIsToldOf(t *testing.T) {
	n := threeVoters(t)[1]
	r := &n.loop.later
	onLoop(t, n, func(l *loop) {
		_ = newHandler(n.group).Sought(transport.Hello{Node: laterStranger, Cluster: l.cluster.Load(), To: 77, Host: transport.Host{Address: "nowhere"}})
	})
	for i := 1; i <= dismissLed; i++ {
		onLoop(t, n, func(l *loop) {
			if l.rivals.warning != nil {
				t.Errorf("it is told of after %d answers", i-1)
			}
			if r.find(laterStranger) == nil {
				t.Error("it was not noted")
			}
			r.answered(laterStranger, &octopiipb.CompareRequest{}, nil, &transport.RemoteError{Code: refusedRemoved, Reason: "removed"})
		})
	}
	onLoop(t, n, func(l *loop) {
		if l.rivals.warning == nil || l.suspension() != nil {
			t.Errorf("told of: %v, suspended: %v", l.rivals.warning, l.suspension())
		}
	})
}

// The word of a member whose history an operator gave up counts no more, sealed or not.
func TestRemovalByOneThatIsGivenUp(t *testing.T) {
	l := bareLoop()
	l.core = new(core.Core)
	l.id, l.cfg.ElectionTicks = 1, 10
	l.membership, l.public = threeMembers, publicMembership(threeMembers)
	l.guests.giveUp([]uint64{2})
	l.leaving.dismissal.hear(transport.Hello{Node: 2, Dialed: "m2"}, sealOfRemoval(102, 7, 1))
	l.leaving.dismissal.tick(dismissTimeouts * 10)
	if err := l.err(); err != nil {
		t.Errorf("it ends with %v", err)
	}
}

// What an operator gave up counts all the same where a majority goes on that says so: this
// member is none of it, and ends, so that it is rebuilt.
func TestRemovalByAMajorityWithOneThatIsGivenUp(t *testing.T) {
	l := bareLoop()
	l.core = new(core.Core)
	l.id, l.cfg.ElectionTicks = 1, 10
	l.membership, l.public = threeMembers, publicMembership(threeMembers)
	l.guests.giveUp([]uint64{2})
	l.leaving.dismissal.hear(transport.Hello{Node: 2, Dialed: "m2"}, sealOfRemoval(102, 7, 1))
	if l.err() != nil || l.suspension() != nil {
		t.Fatalf("one that was given up ends it: %v, %v", l.err(), l.suspension())
	}
	l.leaving.dismissal.hear(transport.Hello{Node: 3, Dialed: "m3"}, nil)
	if err := l.err(); !errors.Is(err, ErrRemoved) {
		t.Errorf("it ends with %v, want ErrRemoved", err)
	}
}

// With Config.AcceptLoss a member waits for a majority to say that it was removed, and serves
// nothing meanwhile. Only when there was time for that it gives up what those have that proved it.
func TestAcceptLossWaitsForAMajority(t *testing.T) {
	ns := threeVoters(t)
	for name, n := range map[string]*Node{"a majority says so": ns[1], "nobody else says so": ns[2]} {
		onLoop(t, n, func(l *loop) {
			l.cfg.AcceptLoss = true
			d := &l.leaving.dismissal
			d.hear(transport.Hello{Node: 1, Dialed: "m1"}, sealOfRemoval(recordOf(l.membership, 1).Incarnation, l.membership.Cluster, l.id))
			if l.suspension() == nil || l.guests.isGivenUp(1) {
				t.Errorf("%s: suspended: %v, given up: %v", name, l.suspension(), l.guests.isGivenUp(1))
			}
			if n == ns[1] {
				d.hear(transport.Hello{Node: 3, Dialed: "m3"}, nil)
				if err := l.err(); !errors.Is(err, ErrRemoved) || l.guests.isGivenUp(1) {
					t.Errorf("%s: it ends with %v", name, err)
				}
				return
			}
			d.tick(acceptTimeouts*l.cfg.ElectionTicks - 1)
			if l.guests.isGivenUp(1) {
				t.Errorf("%s: given up before there was time to", name)
			}
			d.tick(1)
			if d.removed != nil || !l.guests.isGivenUp(1) || l.err() != nil {
				t.Errorf("%s: suspended: %v, given up: %v", name, d.removed, l.guests.isGivenUp(1))
			}
		})
	}
}

// What cannot be written down is not given up: the member goes on to serve nothing.
func TestAcceptLossThatCannotBeNoted(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		l.cfg.AcceptLoss = true
		d := &l.leaving.dismissal
		d.hear(transport.Hello{Node: 1, Dialed: "m1"}, sealOfRemoval(recordOf(l.membership, 1).Incarnation, l.membership.Cluster, l.id))
		origin := filepath.Join(l.cfg.Dir, "origin")
		if err := errors.Join(os.RemoveAll(origin), os.MkdirAll(filepath.Join(origin, "in the way"), 0o700)); err != nil {
			t.Fatal(err)
		}
		d.tick(acceptTimeouts * l.cfg.ElectionTicks)
		if l.suspension() == nil || l.guests.isGivenUp(1) {
			t.Errorf("suspended: %v, given up: %v", l.suspension(), l.guests.isGivenUp(1))
		}
		if err := os.RemoveAll(origin); err != nil {
			t.Fatal(err)
		}
		d.tick(acceptTimeouts * l.cfg.ElectionTicks)
		if d.removed != nil || !l.guests.isGivenUp(1) {
			t.Errorf("tried again: suspended: %v, given up: %v", d.removed, l.guests.isGivenUp(1))
		}
	})
}

// A member that was on its way to a vote says so when it was given up.
func TestWhoWasGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		self octopiipb.Member
		want bool
	}{
		"a voter":              {octopiipb.Member{ID: 1, Kind: octopiipb.Voter}, false},
		"a learner for good":   {octopiipb.Member{ID: 1, Kind: octopiipb.Learner}, false},
		"on its way to a vote": {octopiipb.Member{ID: 1, Kind: octopiipb.Learner, Promote: true}, true},
	} {
		l := bareLoop()
		l.core = new(core.Core)
		l.membership = &octopiipb.Membership{Members: []octopiipb.Member{c.self, {ID: 2, Address: "m2", Kind: octopiipb.Voter}}}
		l.public = publicMembership(l.membership)
		l.leaving.dismissal.hear(transport.Hello{Node: 2, Dialed: "m2"}, nil)
		if err := l.err(); !errors.Is(err, ErrRemoved) || errors.Is(err, ErrGivenUp) != c.want {
			t.Errorf("%s: it ends with %v; given up: want %v", name, err, c.want)
		}
	}
}

// A memory of a term before that of what is committed here says nothing against this disk.
func TestOutdatedMemories(t *testing.T) {
	c := claim{memory: transport.Memory{Term: 4, Match: 100, Commit: 90}}
	for term, want := range map[uint64]bool{3: false, 4: false, 5: true} {
		if got := c.outdated(core.Place{Index: 50, Term: term}); got != want {
			t.Errorf("what is committed is of term %d, and the memory of term 4: outdated: %v, want %v", term, got, want)
		}
	}
}

// Nobody can lead this member but a member that named the cluster.
func TestWhoMaySend(t *testing.T) {
	n := lonelyNode(7, threeMembers)
	heartbeat := func(from uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, To: 1, Term: 1 << 40}
	}
	_ = n.Accept(transport.Hello{Node: 9, Host: transport.Host{Address: "m9"}})
	_ = n.Accept(transport.Hello{Node: 4, Host: transport.Host{Address: "m4"}})
	for from, want := range map[uint64]bool{2: true, 3: true, 4: false, 9: false} {
		if got := n.maySend(heartbeat(from)) == nil; got != want {
			t.Errorf("a heartbeat of %d is taken: %v, want %v", from, got, want)
		}
	}
	if err := n.maySend(&raftpb.Message{Type: raftpb.MsgAppResp, From: 4, To: 1}); err != nil {
		t.Errorf("an answer of a learner without a log: %v", err)
	}
	_ = n.Accept(transport.Hello{Node: 4, Cluster: 7, Host: transport.Host{Address: "m4"}, Incarnation: 104})
	_ = n.Accept(transport.Hello{Node: 9, Cluster: 7, Host: transport.Host{Address: "m9"}})
	for _, from := range []uint64{4, 9} {
		if err := n.maySend(heartbeat(from)); err != nil {
			t.Errorf("%d named the cluster, and may lead in a membership that is not here yet: %v", from, err)
		}
	}
}

// A refusal does not tell what the members know each other by.
func TestRefusalsTellNoIncarnation(t *testing.T) {
	n := lonelyNode(7, threeMembers)
	n.identity.Incarnation = 101
	err := n.refuse(transport.Hello{Node: 3, Cluster: 7, Incarnation: 999})
	if !errors.Is(err, ErrAmnesia) {
		t.Fatalf("another incarnation: %v; want %v", err, ErrAmnesia)
	}
	for _, secret := range []uint64{101, 103, 999} {
		if text := fmt.Sprintf("%x", secret); strings.Contains(err.Error(), text) {
			t.Errorf("%q tells incarnation %s", err, text)
		}
	}
}

// Nothing is kept of any number of strangers.
func TestNothingIsKeptOfStrangers(t *testing.T) {
	n := lonelyNode(7, threeMembers)
	for id := uint64(10); id < 1000; id++ {
		_ = n.Accept(transport.Hello{Node: id, Host: transport.Host{Address: "nowhere"}, Remembers: transport.Memory{Term: 1, Match: 1 << 40}})
		_ = n.Accept(transport.Hello{Node: id, Cluster: 8, Host: transport.Host{Address: "nowhere"}})
	}
	if len(n.guests.list)+len(n.guests.inbound)+len(n.whereabouts.of)+len(n.inbox.calls)+len(n.inbox.input.PeersUp) > 0 {
		t.Errorf("something is kept of strangers: %+v, %v, %d calls", n.guests.list, n.whereabouts.of, len(n.inbox.calls))
	}
	for id := uint64(10); id < 1000; id++ {
		_ = n.Accept(transport.Hello{Node: id, Cluster: 7, Host: transport.Host{Address: "nowhere"}})
	}
	if len(n.guests.list) > guestsMax {
		t.Errorf("%d guests are kept", len(n.guests.list))
	}
}

// Nor do they fill the log, whatever they send.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	n := lonelyNode(7, threeMembers)
	seen, logs := observer.New(zap.DebugLevel)
	n.log = zap.New(seen)
	n.host = &frozen{}
	for id := uint64(10); id < 1000; id++ {
		_ = n.Accept(transport.Hello{Node: id, Cluster: 8, Host: transport.Host{Address: "nowhere"}})
		n.HandleMessages(id, []transport.Inbound{{Kind: 99}, {Kind: kindRaft, Payload: []byte("no message")}})
	}
	if logs.Len() > 2 {
		t.Errorf("1,980 faults of strangers in one moment make %d lines", logs.Len())
	}
}

// frozen is a machine whose clock stands.
type frozen struct{ machine }

func (frozen) now() time.Time { return time.Unix(1, 0) }

// A member that stops because it was removed, or its disk forgot, does not say so to those
// that ask it something just then: they would take it for their own lot.
func TestWhoStopsSaysNothingOfOthers(t *testing.T) {
	for _, cause := range []error{ErrRemoved, ErrAmnesia, ErrDiverged} {
		n := lonelyNode(0, nil)
		n.stop(cause)
		// Nothing takes the question from the inbox any more.
		_, err := n.HandleCall(t.Context(), transport.Hello{Node: 9, Call: true}, transport.Inbound{Kind: kindFound})
		if err == nil || errors.Is(err, cause) || transport.RefusalFor(err).Code != 0 {
			t.Errorf("a member that stops with %v answers a call with %v", cause, err)
		}
	}
}

// What anybody may ask says neither which cluster this is, nor what its members know each
// other by.
func TestAnswersNameNoCluster(t *testing.T) {
	n := lonelyNode(7, threeMembers)
	n.cfg.Transport = deaf{}
	n.identity.Incarnation = 101
	check := func(what string, m transport.Message, err error) {
		payload := make([]byte, m.Size())
		if _, merr := m.MarshalTo(payload); merr != nil {
			t.Fatal(merr)
		}
		var found octopiipb.FoundReply
		var vouch octopiipb.VouchReply
		switch what {
		case "found":
			err = errors.Join(err, found.Unmarshal(payload))
		default:
			err = errors.Join(err, vouch.Unmarshal(payload))
		}
		if err != nil || found.Cluster == 7 || found.Member.Incarnation != 0 || vouch.Cluster == 7 {
			t.Errorf("%s: a stranger is told %v %v, %v", what, found, vouch, err)
		}
	}
	n.handleFound(nil, func(m transport.Message, err error) { check("found", m, err) })
	closed := make(chan struct{})
	close(closed)
	n.initialized = closed
	other, err := (&octopiipb.VouchRequest{Cluster: 8}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	n.handleVouch(other, func(m transport.Message, err error) { check("vouch, of another cluster", m, err) })
	check("vouch, of any cluster", n.statement(&octopiipb.VouchRequest{}, 5, nil), nil)
	if got := n.statement(&octopiipb.VouchRequest{Cluster: 7}, 5, nil); got.Cluster != 7 || len(got.Members) == 0 || got.Members[1].Incarnation != 0 {
		t.Errorf("a member is told %v", got)
	}
}

// The place of one that lost its disk is where it is: a copy of another member's files, or a
// name, says nothing against who is recorded there. Who is recorded nowhere at its address moved.
func TestPlaceIsTheAddress(t *testing.T) {
	for name, c := range map[string]struct {
		address        string
		replaces, want uint64
	}{
		"another member's files at the address of one": {"m3", 2, 3},
		"its own files":                  {"m2", 2, 2},
		"files at an address of nobody":  {"m9", 2, 2},
		"no files":                       {"m3", 0, 3},
		"no files, an address of nobody": {"m9", 0, 0},
	} {
		m := octopiipb.Member{ID: 9, Address: c.address, Replaces: c.replaces}
		if got := placeOf(threeMembers, &m); got != c.want {
			t.Errorf("%s: it takes the place of %d, want %d", name, got, c.want)
		}
	}
}
