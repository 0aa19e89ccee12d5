package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// onLoop calls f in a turn of a member's loop, and returns when it has. f may end the member.
func onLoop(t *testing.T, n *Node, f func(l *loop)) {
	t.Helper()
	begun, done := make(chan struct{}), make(chan struct{})
	n.inbox.call(func(l *loop) {
		close(begun)
		defer close(done)
		f(l)
	})
	select {
	case <-begun:
	case <-n.Done():
		select {
		case <-begun:
		default:
			t.Fatalf("the member ended: %v", n.Err())
		}
	}
	<-done
}

// threeVoters are members of one cluster with a few entries in their logs, of which the first leads.
func threeVoters(t *testing.T) []*Node {
	t.Helper()
	network := localnet.New()
	var ns []*Node
	for id := uint64(1); id <= 3; id++ {
		address := fmt.Sprint("m", id)
		n, err := Start(Config{ID: id, Dir: t.TempDir(), Bootstrap: id == 1, StateMachine: blank{}, Transport: network.Transport(address), TickInterval: 5 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		ns = append(ns, n)
		if id > 1 {
			if _, err := ns[0].AddVoter(t.Context(), Member{ID: id, Address: address}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := ns[0].Propose(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, n := range ns {
		if _, err := n.ReadBarrier(t.Context(), Linearizable); err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

// suspected makes a member one of which others said something, without asking anybody.
func (d *doubt) suspected(claims ...claim) {
	d.claims, d.inquiry.asking = claims, 1<<20
	d.suspend()
}

// A majority's answer decides what becomes of each claim: what it has not is on a branch of the
// one that said so, what it has is refuted, and what a member remembers that is not at its record
// stays, as the length of a log does not refute it.
func TestClaimsByAMajoritysAnswer(t *testing.T) {
	ns := threeVoters(t)
	n := ns[1]
	remembers := transport.Memory{Match: 99, Term: 9, Commit: 99}
	for name, c := range map[string]struct {
		claim  claim
		left   int
		branch Branch
	}{
		"a member has more than the majority":          {claim{by: 3, kind: core.Ahead, at: 50, last: 4}, 0, Branch{ID: 3, Last: 50}},
		"a member has no more than the majority":       {claim{by: 3, kind: core.Ahead, at: 2, last: 1}, 0, Branch{}},
		"a leader has another log, and it is the same": {claim{by: 3, kind: core.Diverged, at: 2}, 0, Branch{}},
		"a leader says that it forgot":                 {claim{by: 3, kind: core.Forgot, at: 2}, 0, Branch{}},
		"a member that is elsewhere remembers more":    {claim{by: 3, kind: core.Forgot, at: 2, memory: remembers}, 1, Branch{}},
	} {
		onLoop(t, n, func(l *loop) {
			d, st := &l.doubt, l.core.Status()
			d.losses.branches = nil
			d.suspected(c.claim)
			if l.suspension() == nil {
				t.Errorf("%s: it is not suspended", name)
			}
			d.vouched(&octopiipb.Member{ID: 1, Address: "m1", Kind: octopiipb.Voter}, st.Commit, st.Commit, l.core.PlaceAt(2))
			if c.branch.ID != 0 {
				c.branch.First = st.Commit + 1
			}
			if len(d.claims) != c.left || (l.suspension() != nil) != (c.left > 0) {
				t.Errorf("%s: %d claims are left, suspended: %v", name, len(d.claims), l.suspension())
			}
			if got := append(d.losses.branches, Branch{})[0]; got != c.branch {
				t.Errorf("%s: branch %+v, want %+v", name, got, c.branch)
			}
			d.drop(func(*claim) bool { return true })
			d.inquiry.asking = 0
		})
	}
	if _, err := n.Propose(t.Context(), []byte("y")); err != nil {
		t.Errorf("when all is refuted: %v", err)
	}
}

// Where a majority can look up no more what a leader said of this log, that leader is believed, and
// the member ends as one on another branch. Where it can, and has the same, it goes on: see above.
func TestDivergedWhereNobodyCanLookItUp(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		st := l.core.Status()
		l.doubt.suspected(claim{by: 3, kind: core.Diverged, at: 3, text: "leader 3 has another entry"})
		l.doubt.vouched(&octopiipb.Member{ID: 1, Address: "m1", Kind: octopiipb.Voter}, st.Commit, st.Commit, core.Place{Index: 3})
		l.doubt.inquiry.asking = 0
	})
	<-n.Done()
	if err := n.Err(); !errors.Is(err, ErrDiverged) {
		t.Errorf("it ended with %v, want ErrDiverged", err)
	}
}

// An answer of a member of another cluster decides nothing, nor one of somebody who does not
// prove to be a member, or changed the answer of one.
func TestAnswersThatDecideNothing(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		d, st := &l.doubt, l.core.Status()
		asked := &octopiipb.CompareRequest{Index: st.Commit, Nonce: newNonce()}
		key := recordOf(l.membership, 1).Incarnation
		for _, c := range []struct {
			name    string
			cluster uint64
			seal    func(reply *octopiipb.CompareReply) []byte
			decides bool
		}{
			{"another cluster", 9, func(r *octopiipb.CompareReply) []byte { return sealOf(key, asked, r) }, false},
			{"no seal", l.cluster.Load(), func(*octopiipb.CompareReply) []byte { return nil }, false},
			{"the key of nobody", l.cluster.Load(), func(r *octopiipb.CompareReply) []byte { return sealOf(key+1, asked, r) }, false},
			{"its own key", l.cluster.Load(), func(r *octopiipb.CompareReply) []byte { return sealOf(l.identity.Incarnation, asked, r) }, false},
			{"an answer to another question", l.cluster.Load(), func(r *octopiipb.CompareReply) []byte {
				return sealOf(key, &octopiipb.CompareRequest{Index: st.Commit, Nonce: newNonce()}, r)
			}, false},
			{"a changed answer", l.cluster.Load(), func(r *octopiipb.CompareReply) []byte {
				other := *r
				other.Index++
				return sealOf(key, asked, &other)
			}, false},
			{"a member", l.cluster.Load(), func(r *octopiipb.CompareReply) []byte { return sealOf(key, asked, r) }, true},
		} {
			d.suspected(claim{by: 3, kind: core.Forgot, at: 2})
			reply := octopiipb.CompareReply{Cluster: c.cluster, Index: st.Commit}
			reply.Seal = c.seal(&reply)
			payload, err := reply.Marshal()
			if err != nil {
				t.Error(err)
			}
			d.inquiry.answered(&octopiipb.Member{ID: 1, Address: "m1", Kind: octopiipb.Voter}, st.Commit, asked, payload, nil)
			if c.decides != (l.suspension() == nil) {
				t.Errorf("%s: suspended: %v", c.name, l.suspension())
			}
		}
	})
}

// An operator's word makes a member go on without what it is remembered for, and not where it is
// told that its log is another one: that is found out, and is lost to nobody.
func TestLossIsAcceptedForWhatIsMissingOnly(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		d := &l.doubt
		d.suspected(claim{by: 1, kind: core.Forgot, at: 2}, claim{by: 3, kind: core.Diverged, at: 2})
		if d.accept(); d.accepted || len(d.claims) != 2 || l.suspension() == nil {
			t.Errorf("accepted: %v, %d claims, suspended: %v", d.accepted, len(d.claims), l.suspension())
		}
		d.claims = d.claims[:1]
		if d.accept(); !d.accepted || len(d.claims) != 0 || l.suspension() != nil {
			t.Errorf("accepted: %v, %d claims, suspended: %v", d.accepted, len(d.claims), l.suspension())
		}
		for _, kind := range []core.Claim{core.Forgot, core.Ahead} {
			if d.add(claim{by: 1, kind: kind, at: 2}); len(d.claims) > 0 {
				t.Error("what was accepted suspends it again")
			}
		}
	})
	for c, want := range map[*claim][2]uint64{
		{kind: core.Ahead, at: 9, last: 6}:                                           {7, 9},
		{kind: core.Forgot, at: 11, memory: transport.Memory{Match: 21, Commit: 19}}: {12, 21},
		{kind: core.Forgot, at: 11, memory: transport.Memory{Match: 15, Commit: 19}}: {12, 19},
	} {
		if from, to := c.missing(); from != want[0] || to != want[1] {
			t.Errorf("%+v: from %d to %d, want %v", c, from, to, want)
		}
	}
}

// Somebody whom the records do not name is asked about, and then called where a majority has it.
// If there is no such member, or it remembers nothing that is missing here, what it said is
// forgotten.
func TestStrangerThatAMajorityIntroduces(t *testing.T) {
	n := threeVoters(t)[1]
	at := octopiipb.Member{ID: 9, Address: "m9", Kind: octopiipb.Voter}
	more := claim{by: 9, kind: core.Forgot, at: 2, memory: transport.Memory{Match: 99, Term: 9, Commit: 99}}
	begin := func(l *loop) *doubt {
		d := &l.doubt
		d.suspected(more)
		d.inquiry.newer = newer{claim: more, left: 1 << 20}
		return d
	}
	ended := func(what string, l *loop, want bool) {
		d := &l.doubt
		if got := d.inquiry.newer.by == 0 && len(d.claims) == 0 && l.suspension() == nil; got != want {
			t.Errorf("%s: asked about %d at %q, %d claims, suspended: %v", what, d.inquiry.newer.by, d.inquiry.newer.record.Address, len(d.claims), l.suspension())
		}
	}
	onLoop(t, n, func(l *loop) {
		one := &octopiipb.Member{ID: 1, Address: "m1", Kind: octopiipb.Voter}
		d := begin(l)
		d.inquiry.introduced(one, 7, &octopiipb.CompareReply{})
		ended("an answer about somebody else", l, false)
		d.inquiry.introduced(one, 9, &octopiipb.CompareReply{})
		ended("it is no member", l, true)

		d = begin(l)
		d.inquiry.introduced(one, 9, &octopiipb.CompareReply{Stranger: &at})
		ended("it is a member", l, false)
		if d.inquiry.newer.record != at {
			t.Errorf("it is called at %q, want m9", d.inquiry.newer.record.Address)
		}
		d.inquiry.introduced(&octopiipb.Member{ID: 9, Address: "m8", Kind: octopiipb.Voter}, 9, &octopiipb.CompareReply{Stranger: &at})
		ended("it answers elsewhere", l, false)
		d.inquiry.introduced(&at, 9, &octopiipb.CompareReply{})
		ended("it remembers nothing", l, true)
		d.inquiry.introduced(&at, 9, &octopiipb.CompareReply{Remembered: toMemory(more.memory)})
		ended("it says so, and nobody asks any more", l, true)

		d = begin(l)
		d.inquiry.newer.record = at
		d.inquiry.introduced(&at, 9, &octopiipb.CompareReply{Remembered: toMemory(more.memory), Index: 99})
	})
	<-n.Done()
	if err := n.Err(); !errors.Is(err, ErrAmnesia) {
		t.Errorf("a member that a majority has remembers more: %v, want ErrAmnesia", err)
	}
}

// A suspended member answers no read, also one that was answered in the turn in which it was
// suspended. What is in the log, and what failed, is told as it is.
func TestSuspendedMemberWithholdsReads(t *testing.T) {
	n := threeVoters(t)[1]
	odd := errors.New("odd")
	onLoop(t, n, func(l *loop) {
		outcomes := func() *core.Effects {
			return &core.Effects{CampaignSoon: 1, Outcomes: []core.Outcome{{Index: 3}, {Index: 4, Membership: l.membership}, {Err: odd}}}
		}
		eff := outcomes()
		if l.doubt.withhold(eff); eff.Outcomes[0].Err != nil || eff.CampaignSoon != 1 {
			t.Errorf("a member that serves withholds %+v", eff.Outcomes[0])
		}
		l.doubt.suspected(claim{by: 3, kind: core.Forgot, at: 2})
		if l.doubt.withhold(eff); !errors.Is(eff.Outcomes[0].Err, ErrSuspect) || eff.Outcomes[1].Err != nil || eff.Outcomes[2].Err != odd || eff.CampaignSoon != 0 {
			t.Errorf("a suspended member tells %+v", eff.Outcomes)
		}
		l.doubt.drop(func(*claim) bool { return true })
		l.doubt.inquiry.asking = 0
	})
}

// A branch is of a member that there is, and has entries.
func TestBranchOfNobody(t *testing.T) {
	n := threeVoters(t)[1]
	onLoop(t, n, func(l *loop) {
		for _, b := range []Branch{{ID: 9, First: 3, Last: 4}, {ID: 3, First: 0, Last: 4}, {ID: 3, First: 5, Last: 4}} {
			if l.doubt.losses.branched(b, true); len(l.doubt.losses.branches) > 0 {
				t.Errorf("%+v is a branch", b)
			}
		}
		if l.doubt.losses.branched(Branch{ID: 3, First: 4, Last: 4}, true); len(l.doubt.losses.branches) != 1 {
			t.Error("a branch of one entry is none")
		}
	})
}

// Voters that are connected and have another history are missing for a majority, and the text
// says that they have one, as nobody has to start them.
func TestMissingOfAnotherHistory(t *testing.T) {
	n := threeVoters(t)[1]
	why := ""
	for deadline := time.Now().Add(30 * time.Second); why == "" && time.Now().Before(deadline); why = n.Status().NoMajority() {
		onLoop(t, n, func(l *loop) {
			l.guests.branch(1, true) // again, as a new connection says that it is not
			l.guests.branch(3, true)
			l.doubt.losses.branched(Branch{ID: 3, First: 4, Last: 6}, true)
		})
	}
	for _, want := range []string{"1 of 3 voters", "(1) at m1, silent for ", ", which has another history than this member",
		", which has entries 4 to 6 of another history than this member", "A majority forgot"} {
		if !strings.Contains(why, want) {
			t.Errorf("it says %q, and not %q", why, want)
		}
	}
}

// A member without a log has nothing that others could know better, and says nothing of theirs.
func TestNothingIsDoubtedWithoutALog(t *testing.T) {
	n, err := Start(Config{ID: 1, Dir: t.TempDir(), StateMachine: blank{}, Transport: localnet.New().Transport("a"), TickInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	peer := transport.Hello{Node: 2, Cluster: 7, Host: transport.Host{Address: "b"}, Dialed: "b", Remembers: transport.Memory{Match: 9, Term: 9, Commit: 9}}
	onLoop(t, n, func(l *loop) {
		l.doubt.met(peer)
		l.doubt.refused(peer, "another disk")
		l.doubt.heard(peer, &octopiipb.CompareRequest{Commit: 9})
		l.doubt.heard(peer, &octopiipb.CompareRequest{Commit: 9, Branch: octopiipb.Branch{First: 1, Last: 2}})
		if d := &l.doubt; len(d.claims)+len(d.refusals)+len(d.losses.branches) > 0 {
			t.Errorf("%+v", d)
		}
	})
	if err := n.Err(); err != nil {
		t.Error(err)
	}
}

// A member that applied its own removal, and that nobody refuses, stops by itself after a while.
func TestRemovedMemberThatNobodyRefuses(t *testing.T) {
	n := threeVoters(t)[2]
	onLoop(t, n, func(l *loop) {
		l.leaving.begin()
		l.leaving.refused[1] = true
		l.leaving.begin() // told again
		if !l.leaving.refused[1] {
			t.Error("what it knew is forgotten")
		}
		l.leaving.tick(leaveTimeouts*l.cfg.ElectionTicks - 1)
		if n.Err() != nil {
			t.Errorf("it stops too early: %v", n.Err())
		}
		l.leaving.tick(1)
	})
	<-n.Done()
	if err := n.Err(); !errors.Is(err, ErrRemoved) {
		t.Errorf("it ended with %v, want ErrRemoved", err)
	}
}

// What was refuted is kept of so many clusters: anybody may name another.
func TestRefutedClustersAreBounded(t *testing.T) {
	n := threeVoters(t)[0]
	onLoop(t, n, func(l *loop) {
		for cluster := range uint64(3 * refutedMax) {
			l.rivals.refute(Proof{Cluster: cluster + 100, Commit: 7}, "a test says so")
			if got := len(l.rivals.refuted); got == 0 || got > refutedMax || l.rivals.refuted[cluster+100] != 7 {
				t.Errorf("after %d clusters %d are kept", cluster+1, got)
			}
		}
	})
}
