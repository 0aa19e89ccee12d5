package node

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
)

// blank is a state machine without a state.
type blank struct{}

func (blank) Durable() (uint64, bool)         { return 0, false }
func (blank) Apply([]Entry) ([][]byte, error) { return nil, nil }
func (blank) Snapshot() (Snapshot, error)     { return nothing{&bytes.Buffer{}}, nil }
func (blank) Restore(uint64, io.Reader) error { return nil }

// expectant starts a member that expects two more at b and c.
func expectant(t *testing.T, network *localnet.Network, address, dir string) *Node {
	t.Helper()
	n, err := Start(Config{Name: address, Dir: dir, StateMachine: blank{}, Transport: network.Transport(address),
		Join: []string{"a", "b", "c"}, Expect: 3, TickInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// ask makes a call of kindFound, as anybody may.
func ask(t *testing.T, n *Node, req octopiipb.FoundRequest) octopiipb.FoundReply {
	t.Helper()
	payload, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newHandler(n.group).HandleCall(t.Context(), transport.Hello{Node: req.Member.ID, Call: true}, transport.Inbound{Kind: kindFound, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	return *m.(*octopiipb.FoundReply)
}

// A promise is given only to one that this member met at an address that it was told to
// ask, and only for a round that names both as they are. What a stranger makes up is
// refused, whatever it is, and brings nobody to life.
func TestStrangersGetNoPromise(t *testing.T) {
	network := localnet.New()
	a := expectant(t, network, "a", t.TempDir())
	b := expectant(t, network, "b", t.TempDir())
	self, peer := a.self(), b.self()
	stranger := octopiipb.Member{ID: 9, Name: "s", Address: "c", Incarnation: 9, Kind: octopiipb.Voter}
	learner := self
	learner.Kind = octopiipb.Learner
	round := func(members ...octopiipb.Member) octopiipb.Round {
		return octopiipb.Round{Cluster: 77, Members: members}
	}
	other := peer
	other.Address = "d"
	for name, r := range map[string]octopiipb.FoundRequest{
		"of a stranger":            {Member: stranger, Round: round(stranger, self)},
		"of nobody":                {Round: round(self)},
		"without members":          {Member: peer, Round: round()},
		"without this one":         {Member: peer, Round: round(peer)},
		"this one as a learner":    {Member: peer, Round: round(peer, learner)},
		"this one twice":           {Member: peer, Round: round(peer, self, self)},
		"of another founder":       {Member: peer, Round: round(self, peer)},
		"of one that is elsewhere": {Member: other, Round: round(other, self)},
		"with an ID of raft's":     {Member: peer, Round: round(peer, self, octopiipb.Member{ID: idMax + 1, Name: "x", Address: "x", Kind: octopiipb.Voter})},
	} {
		if reply := ask(t, a, r); reply.Promised || reply.Reason == "" {
			t.Errorf("%s: it promises: %v", name, reply)
		}
	}
	_ = newHandler(a.group).Accept(transport.Hello{Node: peer.ID, Cluster: 77, Incarnation: peer.Incarnation, Host: transport.Host{Address: "b"}})
	// The loop has heard of it when it answers.
	if reply := ask(t, a, octopiipb.FoundRequest{Member: peer}); !reply.WasMember || reply.Cluster != 0 {
		t.Errorf("after a made-up hello it says %v", reply)
	}
}

// A member that promised a round, and runs an older program when that is founded, makes no log
// of it.
func TestPromiseThatIsNotReadAnyMore(t *testing.T) {
	dir := t.TempDir()
	n := expectant(t, localnet.New(), "a", dir)
	n.inbox.call(func(l *loop) {
		l.founding.found(octopiipb.Round{Cluster: 77, Members: []octopiipb.Member{n.self()}, Settings: octopiipb.Settings{Format: 2}})
	})
	<-n.Done()
	if err := n.Err(); !errors.Is(err, ErrFormatLevel) || raftstore.HasLog(dir) {
		t.Errorf("%v, want ErrFormatLevel; has a log: %v", err, raftstore.HasLog(dir))
	}
}
