package node

import (
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// laterStranger is a peer that names the cluster, and that nobody's records have.
const laterStranger = 9

// says has a peer answer what it has alone, sealed under keys, and waits for the read that
// follows, if there is one. It returns whether a majority answered that in time.
func (r *later) says(t *testing.T, n *Node, reply octopiipb.CompareReply, keys ...uint64) bool {
	t.Helper()
	onLoop(t, n, func(l *loop) {
		q := &octopiipb.CompareRequest{Alone: true, Nonce: newNonce()}
		var seals [][]byte
		for _, key := range keys {
			seals = append(seals, sealOf(key, q, &reply))
		}
		reply.Seals = seals
		payload, err := reply.Marshal()
		if err != nil {
			t.Error(err)
		}
		r.met(transport.Hello{Node: laterStranger, Cluster: l.cluster.Load(), Host: transport.Host{Address: "nowhere"}})
		r.find(laterStranger).asking = true
		r.answered(laterStranger, q, payload, nil)
	})
	asking, alone := true, false
	for asking { // until the read has ended
		onLoop(t, n, func(*loop) {
			p := r.find(laterStranger)
			asking, alone = p != nil && p.asking && p.answer != nil, p != nil && p.alone > 0
		})
	}
	return !alone
}

// proves has a peer say what it has until a majority has answered, which a busy machine may keep
// from doing that in time.
func (r *later) proves(t *testing.T, n *Node, reply octopiipb.CompareReply, keys ...uint64) {
	t.Helper()
	for !r.says(t, n, reply, keys...) {
		onLoop(t, n, func(*loop) { r.find(laterStranger).alone = 0 })
		reply.Seals = nil
	}
}

// Only a peer that proves that it knows the voters stops a member, and only by what it has
// committed.
func TestWhatAPeerOfLaterProves(t *testing.T) {
	n := threeVoters(t)[1]
	keys := []uint64{n.identity.Incarnation}
	keys = append(keys, n.MemberKeys()...)
	cluster := n.cluster.Load()
	has := octopiipb.CompareReply{Cluster: cluster, Index: 50, Term: 9, Terms: []octopiipb.TermStart{{First: 1, Term: 1}, {First: 2, Term: 2}, {First: 4, Term: 9}}}
	r := &n.loop.later
	other, nothing := has, has
	other.Cluster, nothing.Index = 77, 0
	for name, c := range map[string]struct {
		reply octopiipb.CompareReply
		keys  []uint64
	}{
		"no seal":        {has, nil},
		"keys of nobody": {has, []uint64{1, 2, 3}},
		"the key of this member, which those that name the cluster are told":  {has, keys[:1]},
		"two of three, as one hears that listens at the address of the third": {has, keys[:2]},
		"the same key three times":       {has, []uint64{keys[0], keys[0], keys[0]}},
		"a member of another cluster":    {other, keys},
		"one that has committed nothing": {nothing, keys},
	} {
		r.says(t, n, c.reply, c.keys...)
		onLoop(t, n, func(l *loop) {
			if p := r.find(laterStranger); l.suspension() != nil || p.answer != nil || l.rivals.warning != nil {
				t.Errorf("%s: it is suspended: %v; it believes %+v, and warns: %v", name, l.suspension(), p.answer, l.rivals.warning)
			}
			r.peers = nil
		})
	}
	r.proves(t, n, has, keys...)
	onLoop(t, n, func(l *loop) {
		if err := l.suspension(); !errors.Is(err, ErrSuspect) {
			t.Errorf("the keys of all voters: suspended: %v", err)
		}
		if from, to := r.missing(r.find(laterStranger)); from != 4 || to != 50 {
			t.Errorf("entries %d to %d are missing, want 4 to 50", from, to)
		}
	})
}

// How many voters a peer must know.
func TestKnowsVoters(t *testing.T) {
	for _, c := range []struct {
		known, voters int
		sure, want    bool
	}{{3, 3, false, true}, {2, 3, false, false}, {2, 3, true, true}, {1, 3, true, false}, {1, 2, true, false}, {2, 4, true, false}, {3, 4, true, true}, {2, 2, false, true}} {
		if got := knowsVoters(c.known, c.voters, c.sure); got != c.want {
			t.Errorf("%d of %d, with certificates %v: %v", c.known, c.voters, c.sure, got)
		}
	}
}

// A former member, and one whose history an operator gave up, prove nothing.
func TestWhoIsNoPeerOfLater(t *testing.T) {
	n := threeVoters(t)[1]
	r := &n.loop.later
	onLoop(t, n, func(l *loop) {
		if r.isLater(1) || !r.isLater(laterStranger) {
			t.Error("members are taken for peers of later, or none are")
		}
		ms := *l.membership
		ms.Removed = append(slices.Clone(ms.Removed), octopiipb.RemovedMember{ID: laterStranger})
		l.membership = &ms
		if r.isLater(laterStranger) {
			t.Error("a member that was removed is taken for a peer of later")
		}
		ms.Removed = nil
		r.loop.guests.giveUp([]uint64{laterStranger})
		if r.isLater(laterStranger) {
			t.Error("a member that was given up is taken for a peer of later")
		}
	})
	if err := newHandler(n.group).refuse(transport.Hello{Node: laterStranger, Cluster: n.cluster.Load()}); !errors.Is(err, errHistoryGivenUp) {
		t.Errorf("one that was given up is refused with %v", err)
	}
}

// An operator gives up what such a peer has, once there was time for a majority to answer. That is
// durable.
func TestGivingUpAPeerOfLater(t *testing.T) {
	n := threeVoters(t)[1]
	r := &n.loop.later
	onLoop(t, n, func(l *loop) { l.cfg.AcceptLoss = true })
	r.proves(t, n, octopiipb.CompareReply{Cluster: n.cluster.Load(), Index: 50, Term: 9}, append(n.MemberKeys(), n.identity.Incarnation)...)
	onLoop(t, n, func(l *loop) {
		if l.suspension() == nil || len(l.store.Origin().GivenUp) > 0 {
			t.Errorf("at once it is suspended: %v; given up: %x", l.suspension(), l.store.Origin().GivenUp)
		}
		r.accept(acceptTimeouts * l.cfg.ElectionTicks)
		if l.suspension() != nil || !slices.Equal(l.store.Origin().GivenUp, []uint64{laterStranger}) {
			t.Errorf("suspended: %v; given up: %x", l.suspension(), l.store.Origin().GivenUp)
		}
	})
}

// A member whose majority forgot a voter that another member has committed learns it from that
// one's question, and does not answer: that one would be put aside. Where it has all of them, or
// the other one is no member, it answers.
func TestQuestionOfOneThatKnowsMore(t *testing.T) {
	ns := threeVoters(t)
	n := ns[1]
	from := transport.Hello{Node: 1, Cluster: n.cluster.Load(), Incarnation: ns[0].identity.Incarnation}
	ask := func(voters ...uint64) error {
		t.Helper()
		q := &octopiipb.CompareRequest{Index: 2, Nonce: newNonce(), Voters: voters}
		payload, err := q.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 1)
		newHandler(n.group).answerCompare(from, payload, func(_ transport.Message, err error) { told <- err })
		return <-told
	}
	if err := ask(1, 2, 3); err != nil {
		t.Errorf("it has all voters, and answers: %v", err)
	}
	if err := ask(1, 2, 3, laterStranger); err == nil {
		t.Error("it answers one that has committed more voters")
	}
	onLoop(t, n, func(l *loop) {
		if err := l.suspension(); !errors.Is(err, ErrSuspect) || l.store.Origin().ForgotBy != laterStranger {
			t.Errorf("suspended: %v, noted: %x", err, l.store.Origin().ForgotBy)
		}
	})
}

// suspendedByLater is a member that a peer of later suspended, and the keys of its voters.
func suspendedByLater(t *testing.T) (n *Node, keys []uint64) {
	t.Helper()
	n = threeVoters(t)[1]
	keys = append(n.MemberKeys(), n.identity.Incarnation)
	n.loop.later.proves(t, n, octopiipb.CompareReply{Cluster: n.cluster.Load(), Index: 50, Term: 9}, keys...)
	onLoop(t, n, func(l *loop) {
		if !errors.Is(l.suspension(), ErrSuspect) {
			t.Fatalf("suspended: %v", l.suspension())
		}
	})
	return n, keys
}

// A member that is suspended serves again when its records have the peer that suspended it, or its
// removal: what was missing has come. Another change does not end it.
func TestSuspensionEndsWithTheRecords(t *testing.T) {
	for name, c := range map[string]struct {
		change func(ms *octopiipb.Membership)
		ends   bool
	}{
		"the peer is a member": {func(ms *octopiipb.Membership) {
			ms.Members = append(ms.Members, octopiipb.Member{ID: laterStranger, Kind: octopiipb.Learner, Address: "nowhere"})
		}, true},
		"the peer was removed": {func(ms *octopiipb.Membership) {
			ms.Removed = append(ms.Removed, octopiipb.RemovedMember{ID: laterStranger})
		}, true},
		"another one was added": {func(ms *octopiipb.Membership) {
			ms.Removed = append(ms.Removed, octopiipb.RemovedMember{ID: laterStranger + 1})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, _ := suspendedByLater(t)
			onLoop(t, n, func(l *loop) {
				ms := *l.membership
				ms.Members, ms.Removed = slices.Clone(ms.Members), slices.Clone(ms.Removed)
				c.change(&ms)
				l.setMembership(&ms)
				if ended := l.suspension() == nil; ended != c.ends {
					t.Errorf("suspended: %v", l.suspension())
				}
			})
			_, err := n.ReadBarrier(t.Context(), Linearizable)
			if c.ends && err != nil || !c.ends && !errors.Is(err, ErrSuspect) {
				t.Errorf("a read: %v", err)
			}
		})
	}
}

// A member that is suspended asks the peer for a majority. One that has what is committed here
// ends it, and what another member said of the peer does not suspend it again. One that has
// another log ends the member. One that cannot know, or does not prove itself, changes nothing.
func TestSuspensionEndsByAMajority(t *testing.T) {
	for name, c := range map[string]struct {
		last   uint64
		term   func(l *loop) uint64
		sealed bool
		want   error
	}{
		"it has the same":        {50, func(l *loop) uint64 { return l.core.CommittedPlace().Term }, true, nil},
		"it has another log":     {50, func(*loop) uint64 { return 99 }, true, ErrDiverged},
		"its log is shorter":     {1, func(l *loop) uint64 { return 0 }, true, ErrDiverged},
		"it cannot look that up": {50, func(*loop) uint64 { return 0 }, true, ErrSuspect},
		"it does not seal it":    {50, func(l *loop) uint64 { return l.core.CommittedPlace().Term }, false, ErrSuspect},
	} {
		t.Run(name, func(t *testing.T) {
			n, keys := suspendedByLater(t)
			if !c.sealed {
				keys = keys[1:]
			}
			r := &n.loop.later
			onLoop(t, n, func(l *loop) {
				r.told = laterStranger
				at := l.core.CommittedPlace()
				q := &octopiipb.CompareRequest{Index: at.Index, Commit: at.Index, Nonce: newNonce()}
				reply := octopiipb.CompareReply{Cluster: l.cluster.Load(), Index: c.last, Term: c.term(l)}
				var seals [][]byte
				for _, key := range keys {
					seals = append(seals, sealOf(key, q, &reply))
				}
				reply.Seals = seals
				payload, err := reply.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				r.answeredByMajority(&octopiipb.Member{ID: laterStranger, Address: "nowhere"}, q, payload, nil)
				if err := l.suspension(); !errors.Is(err, c.want) {
					t.Errorf("suspended: %v, want %v", err, c.want)
				}
				if c.want == nil && r.told != 0 {
					t.Error("the word of another member suspends it again")
				}
			})
		})
	}
}

// An answer is sealed for the voters that the asker names, whether they are members or were
// removed, and for nobody else.
func TestSealsForTheAskersVoters(t *testing.T) {
	n := lonelyNode(7, &octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{{ID: 1, Incarnation: 101}, {ID: 4, Incarnation: 104}},
		Removed: []octopiipb.RemovedMember{{ID: 2, Incarnation: 102}, {ID: 3, Incarnation: 103}, {ID: 5}}})
	q, reply := &octopiipb.CompareRequest{Voters: []uint64{2, 4, 5, 6}, Nonce: newNonce()}, &octopiipb.CompareReply{Cluster: 7}
	n.sealAll(q, reply)
	bare := octopiipb.CompareReply{Cluster: 7}
	if !slices.EqualFunc(reply.Seals, [][]byte{sealOf(102, q, &bare), sealOf(104, q, &bare)}, slices.Equal) {
		t.Errorf("%d seals, or not for 2 and 4 alone", len(reply.Seals))
	}
	q.Voters = slices.Repeat([]uint64{2}, sealsMax+1)
	if n.sealAll(q, reply); len(reply.Seals) != sealsMax {
		t.Errorf("%d seals, want %d at most", len(reply.Seals), sealsMax)
	}
}

// A member that follows the peer takes nobody's word that a majority forgot. It is suspended where
// the peer has committed other entries than are committed here.
func TestPeerOfLaterThatLeads(t *testing.T) {
	n := threeVoters(t)[1]
	r := &n.loop.later
	onLoop(t, n, func(l *loop) {
		r.peers = []laterPeer{{Hello: transport.Hello{Node: laterStranger}}}
		p, at := &r.peers[0], l.core.CommittedPlace()
		p.question = &octopiipb.CompareRequest{Index: at.Index, Alone: true}
		for name, c := range map[string]struct {
			last uint64
			at   core.Place
			want bool
		}{
			"the same":                 {at.Index, at, false},
			"not committed there":      {at.Index - 1, core.Place{Term: 99}, false},
			"it cannot look that up":   {at.Index, core.Place{}, false},
			"another term":             {at.Index, core.Place{Term: 99}, true},
			"the term, but other sums": {at.Index, core.Place{Term: at.Term, Sums: otherSums(at.Sums)}, true},
		} {
			p.answer = &octopiipb.CompareReply{Index: c.last, Term: c.at.Term, Sums: c.at.Sums[:]}
			if got := r.contradicts(p); got != c.want {
				t.Errorf("%s: contradicts: %v", name, got)
			}
		}
	})
}

func otherSums(s core.Sums) core.Sums {
	for i := range s {
		s[i]++
	}
	return s
}

// A peer by which a member is suspended is not forgotten for others that call.
func TestTheProofIsKept(t *testing.T) {
	n, _ := suspendedByLater(t)
	r := &n.loop.later
	onLoop(t, n, func(l *loop) {
		for id := range uint64(2 * laterMax) {
			r.met(transport.Hello{Node: 100 + id, Cluster: l.cluster.Load(), Host: transport.Host{Address: "elsewhere"}})
		}
		if r.find(laterStranger) == nil || len(r.peers) > laterMax {
			t.Errorf("of %d peers none is the one that suspended it", len(r.peers))
		}
	})
}

// Without a majority a peer of later stops nobody: this member may be merely behind. What a
// member found out that had one counts.
func TestPeerOfLaterWithoutAMajority(t *testing.T) {
	ns := threeVoters(t)
	n := ns[1]
	keys := append(n.MemberKeys(), n.identity.Incarnation)
	ns[0].Kill()
	ns[2].Kill()
	r := &n.loop.later
	has := octopiipb.CompareReply{Cluster: n.cluster.Load(), Index: 50, Term: 9}
	for range laterWarns {
		r.says(t, n, has, keys...)
	}
	onLoop(t, n, func(l *loop) {
		if l.suspension() != nil || l.rivals.warning == nil {
			t.Errorf("suspended: %v; it says: %v", l.suspension(), l.rivals.warning)
		}
		l.doubt.heard(transport.Hello{Node: 1}, &octopiipb.CompareRequest{Later: laterStranger})
	})
	r.says(t, n, has, keys...)
	onLoop(t, n, func(l *loop) {
		if !errors.Is(l.suspension(), ErrSuspect) {
			t.Errorf("another member says that it proved the same there: suspended: %v", l.suspension())
		}
	})
}

// What a member was told that it may have forgotten is over when its records have the member
// that said so: it was merely behind.
func TestWarningEndsWithTheRecords(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		last, err := l.view.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		l.rivals.later(transport.Hello{Node: laterStranger, Cluster: l.cluster.Load(), Host: transport.Host{Address: "elsewhere"},
			Remembers: transport.Memory{Match: last + 10, Term: l.core.Status().Term, Commit: last + 10}})
		if l.rivals.warning == nil {
			t.Error("it does not say what it was told")
		}
		l.setMembership(l.membership)
		if l.rivals.warning == nil {
			t.Error("the same records end the warning")
		}
		ms := *l.membership
		ms.Members = append(slices.Clone(ms.Members), octopiipb.Member{ID: laterStranger, Kind: octopiipb.Learner, Address: "elsewhere"})
		l.setMembership(&ms)
		if l.rivals.warning != nil {
			t.Errorf("the records have it, and it still warns: %v", l.rivals.warning)
		}
	})
}

// tailed is the first of three voters, with entries in its log that are not committed: the others
// are gone.
func tailed(t *testing.T) *Node {
	t.Helper()
	ns := threeVoters(t)
	var proposed atomic.Int64
	for range 4 { // as long as there is a majority
		go func() {
			for _, err := ns[0].Propose(t.Context(), []byte("x")); err == nil; _, err = ns[0].Propose(t.Context(), []byte("x")) {
				proposed.Add(1)
			}
		}()
	}
	for proposed.Load() < 100 {
		runtime.Gosched()
	}
	ns[1].Kill()
	ns[2].Kill()
	for all, leads := true, true; all; {
		if !leads { // it gave up before it appended anything more
			return tailed(t)
		}
		onLoop(t, ns[0], func(l *loop) { all, leads = l.core.HandedAll(), l.core.Status().Leader == l.id })
	}
	return ns[0]
}

// A member that was just started has the records of its last snapshot: what its log says of more
// voters may not be known to be committed yet.
func TestNobodyIsTheOnlyVoterOfAnUnreadLog(t *testing.T) {
	onLoop(t, tailed(t), func(l *loop) {
		l.public.Members = l.public.Members[:1]
		if l.later.isOnlyVoter() {
			t.Error("it takes itself for the only voter")
		}
	})
}

// A member tells of its log what is committed: a tail that nobody acknowledged is no loss.
func TestUncommittedTailIsNoProof(t *testing.T) {
	n := tailed(t)
	var at core.Place
	onLoop(t, n, func(l *loop) { at = l.core.HandedPlace() })
	said := make(chan uint64, 1)
	newHandler(n.group).answerAlone(&octopiipb.CompareRequest{Alone: true}, func(m transport.Message, err error) {
		if err != nil {
			t.Error(err)
			said <- 0
			return
		}
		said <- m.(*octopiipb.CompareReply).Index
	})
	if got := <-said; got != at.Index {
		t.Errorf("it says that index %d is committed, and %d is", got, at.Index)
	}
}

// A member says that it takes nothing of its leader when that goes on, and no more when something
// was committed, or nothing is refused any more.
func TestMemberThatTakesNothing(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		b, leads := &l.behind, l.core.Status().Leader
		says := func(what string, want bool) {
			t.Helper()
			if got := errors.Is(b.err, ErrBehind); got != want {
				t.Errorf("%s: it says so: %v, want %v", what, got, want)
			}
		}
		for range behindTimes {
			b.refused(leads+100, "no leader")
		}
		b.tick(2 * l.cfg.ElectionTicks)
		says("messages of others", false)
		for range behindTimes {
			b.refused(leads, "it is another log")
		}
		b.tick(1)
		says("for one tick", false)
		b.tick(2 * l.cfg.ElectionTicks)
		says("for two election timeouts", true)
		b.tick(behindQuietTicks)
		says("and then no more", false)
		for range behindTimes {
			b.refused(leads, "it is another log")
		}
		b.tick(2 * l.cfg.ElectionTicks)
		says("again", true)
		b.commit-- // something was committed since
		b.tick(1)
		says("when something was committed", false)
	})
}

// The only voter of a cluster asks each peer that its records do not have, also one that remembers
// nothing of it, and that leads in the term in which this member leads itself.
func TestLoneFounderAsksWhoIsLater(t *testing.T) {
	n, err := Start(Config{ID: 1, Dir: t.TempDir(), Bootstrap: true, StateMachine: blank{}, Transport: localnet.New().Transport("a"), TickInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	if _, err := n.Propose(t.Context(), []byte("alone")); err != nil {
		t.Fatal(err)
	}
	onLoop(t, n, func(l *loop) {
		l.later.met(transport.Hello{Node: laterStranger, Cluster: l.cluster.Load(), Host: transport.Host{Address: "nowhere"}})
		l.later.wait = 0
		l.later.tick(1)
		if !l.rivals.asking[rivalQuestion{kindTestify, l.cluster.Load(), "nowhere"}] {
			t.Error("it does not ask")
		}
	})
}
