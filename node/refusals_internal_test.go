package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/localnet"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// No cluster begins with members that the others cannot tell apart, or with a round that
// is too large for a promise.
func TestCheckRound(t *testing.T) {
	member := func(id uint64, name, address string) octopiipb.Member {
		return octopiipb.Member{ID: id, Name: name, Address: address, Kind: octopiipb.Voter}
	}
	first := member(1, "a", "h:1")
	for want, second := range map[string]octopiipb.Member{
		"":                           member(2, "b", "h:2"),
		"cannot be a first voter":    {ID: 2, Name: "b", Address: "h:2", Kind: octopiipb.Learner},
		"member 0 cannot be":         member(0, "b", "h:2"),
		"is there twice":             member(1, "b", "h:2"),
		`have the name "a"`:          member(2, "a", "h:2"),
		"both say that they are":     member(2, "b", "h:1"),
		"are larger than 6144 bytes": member(2, strings.Repeat("b", roundBytesMax), "h:2"),
	} {
		err := checkRound(&octopiipb.Round{Cluster: 7, Members: []octopiipb.Member{first, second}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// A state machine that has the entries of another log founds no cluster: its log was lost.
func TestOrphanFoundsNothing(t *testing.T) {
	n := bareGroup()
	n.cfg = Config{Dir: "/data", StateMachine: database{index: 5}}
	if _, err := n.foundLog(octopiipb.Round{Cluster: 7}); !errors.Is(err, ErrAmnesia) || !strings.Contains(err.Error(), "up to index 5") {
		t.Errorf("%v; want ErrAmnesia that names index 5", err)
	}
}

// What a member answers decides only where it can be true.
func TestAnswersThatCannotBe(t *testing.T) {
	marshal := func(m interface{ Marshal() ([]byte, error) }) []byte {
		b, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	unreadable := []byte{0xff}
	whole := octopiipb.VouchReply{Code: vouched, Cluster: 7, Term: 2, Commit: 9}
	change := func(f func(*octopiipb.VouchReply)) []byte {
		r := whole
		f(&r)
		return marshal(&r)
	}
	if p, err := readProof(Question{Cluster: 7}, "h:1", marshal(&whole), nil); err != nil || p.Commit != 9 || p.Witness != "h:1" {
		t.Errorf("a proof: %+v, %v", p, err)
	}
	for name, payload := range map[string][]byte{
		"unreadable":         unreadable,
		"no cluster":         change(func(r *octopiipb.VouchReply) { r.Cluster = 0 }),
		"no term":            change(func(r *octopiipb.VouchReply) { r.Term = 0 }),
		"nothing committed":  change(func(r *octopiipb.VouchReply) { r.Commit = 0 }),
		"of another cluster": change(func(r *octopiipb.VouchReply) { r.Cluster = 8 }),
		"no proof":           change(func(r *octopiipb.VouchReply) { r.Code = vouchNone }),
	} {
		if p, err := readProof(Question{Cluster: 7}, "h:1", payload, nil); err == nil || p.Cluster != 0 || !strings.Contains(err.Error(), "h:1") {
			t.Errorf("%s: %+v, %v; want an error that names the address, and no proof", name, p, err)
		}
	}
	removed := &transport.RemoteError{Code: refusedRemoved, Reason: "removed"}
	if _, err := readProof(Question{}, "h:1", nil, removed); !errors.Is(err, ErrRemoved) {
		t.Errorf("a refusal of a removed member: %v, want ErrRemoved", err)
	}
	if _, err := (&testimony{removed: true}).proof(); !errors.Is(err, ErrRemoved) {
		t.Errorf("the error of a removed member: %v, want ErrRemoved", err)
	}

	for name, c := range map[string]struct {
		payload []byte
		err     error
		want    error // nil: some other error
	}{
		"unreadable":      {unreadable, nil, nil},
		"an ID used":      {marshal(&octopiipb.JoinReply{Code: joinReused}), nil, ErrIDReused},
		"a lost disk":     {marshal(&octopiipb.JoinReply{Code: joinForgot}), nil, ErrAmnesia},
		"another disk":    {nil, &transport.RemoteError{Code: refusedDisk, Reason: "another disk"}, ErrAmnesia},
		"removed":         {nil, removed, ErrRemoved},
		"an unknown code": {marshal(&octopiipb.JoinReply{Code: 99}), nil, nil},
	} {
		if err := joinOutcome("h:1", c.payload, c.err); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("a joiner is answered, %s: %v, want %v", name, err, c.want)
		} else if c.want == nil && errors.Is(err, ErrAmnesia) {
			t.Errorf("a joiner is answered, %s: %v, and gives up its disk", name, err)
		}
	}
}

// A member testifies only to who names its cluster.
func TestTestifiesToItsRivalOnly(t *testing.T) {
	n := service{trust{bareGroup()}, new(voucher)}
	testify := func(payload []byte) (r *octopiipb.VouchReply, err error) {
		n.handleTestify(payload, func(m transport.Message, e error) {
			if err = e; m != nil {
				r = m.(*octopiipb.VouchReply)
			}
		})
		return r, err
	}
	if r, err := testify([]byte{0xff}); err == nil || r != nil {
		t.Errorf("what cannot be read: %v, %v", r, err)
	}
	question, err := (&octopiipb.VouchRequest{Cluster: 8}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []uint64{0, 7} {
		if n.cluster.Store(cluster); cluster != 0 {
			n.members.Store(&octopiipb.Membership{Cluster: cluster, Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}}})
		}
		if r, err := testify(question); err != nil || r.Code != vouchNone || r.Cluster != 0 || len(r.Members) > 0 {
			t.Errorf("a member of cluster %d is asked as one of 8: %v, %v", cluster, r, err)
		}
	}
}

// A warning of another cluster's claim ends when nobody repeats it.
func TestWarningOfARivalEnds(t *testing.T) {
	r := &rivals{loop: bareLoop(), warning: errors.New("claimed")}
	if r.tick(warningQuietTicks); r.warning == nil {
		t.Errorf("it ended after %d ticks", warningQuietTicks)
	}
	if r.tick(1); r.warning != nil {
		t.Errorf("it is there after %d ticks", warningQuietTicks+1)
	}
}

// What no member can be is refused, also before there is a log.
func TestImpossiblePeersAreRefused(t *testing.T) {
	n := newHandler(bareGroup())
	n.id = 3
	n.identity.Incarnation = 33
	for id, refused := range map[uint64]bool{0: true, idMax + 1: true, 3: true, idMax: false, 4: false} {
		if err := n.refuse(transport.Hello{Node: id, Incarnation: 1}); (err != nil) != refused {
			t.Errorf("ID %x: %v; refused should be %v", id, err, refused)
		}
	}
}

// A member on another branch is not listened to until it is known to be on this one, or is
// a member no more.
func TestBranchedMembersAreForgotten(t *testing.T) {
	var g guests
	if g.branch(2, false) {
		t.Error("it is news that a member is on no branch")
	}
	for _, id := range []uint64{2, 3} {
		if !g.branch(id, true) || g.branch(id, true) {
			t.Errorf("member %d: it is news once that it is on a branch", id)
		}
	}
	g.keep(&octopiipb.Membership{Cluster: 7, Members: []octopiipb.Member{{ID: 2, Kind: octopiipb.Voter}}})
	if want := (map[uint64]bool{2: true}); fmt.Sprint(g.branched) != fmt.Sprint(want) {
		t.Errorf("branched are %v, want %v", g.branched, want)
	}
	if !g.branch(2, false) || len(g.branched) != 0 {
		t.Errorf("branched are %v, want none", g.branched)
	}
}

// A leader that this member did not know names the cluster as it calls. It is still known to
// have done so when a snapshot makes it a member here that is not proven yet: its connection
// lasts, and it does not call again.
func TestGuestThatBecomesAMember(t *testing.T) {
	n := service{trust{bareGroup()}, new(voucher)}
	n.cluster.Store(7)
	members := func(ids ...uint64) *octopiipb.Membership {
		ms := &octopiipb.Membership{Cluster: 7}
		for _, id := range ids {
			ms.Members = append(ms.Members, octopiipb.Member{ID: id, Kind: octopiipb.Voter})
		}
		return ms
	}
	n.members.Store(members(1))
	heartbeat := &raftpb.Message{Type: raftpb.MsgHeartbeat, From: 4, To: 1, Term: 3}
	n.welcome(transport.Hello{Node: 4, Cluster: 7})
	if err := n.maySend(heartbeat); err != nil {
		t.Fatalf("a leader that named the cluster is not listened to: %v", err)
	}
	n.members.Store(members(1, 4, 5))
	n.guests.keep(n.members.Load())
	if err := n.maySend(heartbeat); err != nil {
		t.Errorf("it became a member, and is not listened to any more: %v", err)
	}
	if heartbeat.From = 5; n.maySend(heartbeat) == nil {
		t.Error("one that did not name the cluster is listened to")
	}
	n.guests.keep(members(1))
	if len(n.guests.inbound)+len(n.guests.list) > 0 {
		t.Errorf("something is kept of one that is no member any more: %v, %v", n.guests.inbound, n.guests.list)
	}
}

// short is a state machine that forgets its results.
type short struct{ blank }

func (short) Apply([]Entry) ([][]byte, error) { return [][]byte{}, nil }

// Without a result for each entry no caller can be told its own: the member stops, and
// answers nobody with another's.
func TestResultsOfAnotherNumberStopIt(t *testing.T) {
	n, err := Start(Config{Name: "a", Dir: t.TempDir(), StateMachine: short{}, Transport: localnet.New().Transport("a"), Bootstrap: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if r, err := n.Propose(t.Context(), []byte("x")); err == nil {
		t.Errorf("a caller hears %v", r)
	}
	<-n.Done()
	if err := n.Err(); err == nil || !strings.Contains(err.Error(), "0 results for the 1 entries") {
		t.Errorf("it stopped with %v", err)
	}
}
