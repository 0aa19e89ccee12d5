package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/internal/localnet"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// What no member of this version sends is dropped with a reason, and changes nothing.
func TestMessagesThatNoMemberSends(t *testing.T) {
	seen, logs := observer.New(zapcore.WarnLevel)
	n, err := Start(Config{ID: 1, Dir: t.TempDir(), Bootstrap: true, StateMachine: blank{}, Transport: localnet.New().Transport("a"),
		Logger: zap.New(seen), TickInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	<-n.Initialized()
	snapshot := octopiipb.PeerMessage{Message: raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 9, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 90, Term: 9, ConfState: raftpb.ConfState{Voters: []uint64{1}}}}}}
	payload, err := snapshot.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	newHandler(n.group).HandleMessages(2, []transport.Inbound{{Kind: kindRaft, Payload: payload}})
	var reasons []string
	for _, l := range logs.FilterMessage("dropped a message").All() {
		reasons = append(reasons, l.ContextMap()["error"].(string))
	}
	if len(reasons) != 1 || !strings.Contains(reasons[0], "must come as a stream") {
		t.Errorf("dropped for %q", reasons)
	}
	self := transport.Hello{Node: n.id, Cluster: n.cluster.Load(), Incarnation: n.identity.Incarnation, Host: transport.Host{Address: "a"}, Call: true}
	if m, err := (newHandler(n.group)).HandleCall(t.Context(), self, transport.Inbound{Kind: 200}); err == nil || !strings.Contains(err.Error(), "not known here") {
		t.Errorf("a call of an unknown kind is answered with %v, %v", m, err)
	}
	if st := n.Status(); st.Term >= 9 || n.Err() != nil {
		t.Errorf("term %d, %v", st.Term, n.Err())
	}
}

// An expected member answers who it is, and whether it promises. What it says counts for nothing
// otherwise.
func TestAnswersOfExpectedMembers(t *testing.T) {
	answer := func(r octopiipb.FoundReply) []byte {
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	two := octopiipb.Member{ID: 2, Name: "n2", Address: "b", Kind: octopiipb.Voter}
	for name, c := range map[string]struct {
		payload []byte
		err     error
		promise bool
		failure string
	}{
		"it says who it is":                     {payload: answer(octopiipb.FoundReply{Member: two})},
		"it promises":                           {payload: answer(octopiipb.FoundReply{Member: two, Promised: true}), promise: true},
		"it has a cluster":                      {payload: answer(octopiipb.FoundReply{Member: two, Cluster: 7}), promise: true},
		"it does not promise":                   {payload: answer(octopiipb.FoundReply{Member: two, Reason: "not now"}), promise: true, failure: "does not promise: not now"},
		"it does not say who it is":             {payload: answer(octopiipb.FoundReply{Promised: true}), promise: true, failure: "does not say who it is"},
		"it does not say so, and was not asked": {payload: answer(octopiipb.FoundReply{}), failure: "does not say who it is"},
		"nobody can read it":                    {payload: []byte{0xff}, failure: "unexpected EOF"},
		"it does not answer":                    {err: errors.New("nobody there"), failure: "nobody there"},
	} {
		a := readFound("b", c.payload, c.err, c.promise)
		if c.failure == "" && (a.Failure != "" || a.Member.ID != 2) || c.failure != "" && (!strings.Contains(a.Failure, c.failure) || a.record.ID != 0) || a.Asked != "b" {
			t.Errorf("%s: %+v, want %q", name, a, c.failure)
		}
	}
	// It may be the asker itself, by another name of its address.
	if a := readFound("b", answer(octopiipb.FoundReply{Member: two, Reason: "not now"}), nil, true); a.Member.ID != 2 {
		t.Errorf("one that does not promise: %+v; want to know who it is", a)
	}
}

// A member that is known gets no promise for a round that no cluster can begin with.
func TestRoundsThatCannotBe(t *testing.T) {
	network := localnet.New()
	a := expectant(t, network, "a", t.TempDir())
	b := expectant(t, network, "b", t.TempDir())
	self, peer := a.self(), b.self()
	round := func(members ...octopiipb.Member) octopiipb.FoundRequest {
		return octopiipb.FoundRequest{Member: peer, Round: octopiipb.Round{Cluster: 77, Members: members}}
	}
	learner := self
	learner.Kind = octopiipb.Learner
	// Who was not met yet is told so, whatever it asks.
	var last octopiipb.FoundReply
	for met := false; !met; {
		last = ask(t, a, round(peer, self, self))
		met = !strings.Contains(last.Reason, "not met")
	}
	newer := round(peer, self)
	newer.Round.Settings.Format = 2
	for want, r := range map[string]octopiipb.FoundRequest{
		"run a newer octopii":      newer,
		"is there twice":           round(peer, self, self),
		"cannot be a first voter":  round(peer, learner),
		"does not take part":       round(peer),
		"cannot be a first voter ": round(peer, self, octopiipb.Member{ID: idMax + 1, Name: "x", Address: "x", Kind: octopiipb.Voter}),
	} {
		if reply := ask(t, a, r); reply.Promised || !strings.Contains(reply.Reason, strings.TrimSpace(want)) {
			t.Errorf("it says %v, want %q", reply, want)
		}
	}
	if reply := ask(t, a, round(peer, self)); !reply.Promised {
		t.Errorf("a round of the two is refused: %v", reply)
	}
}
