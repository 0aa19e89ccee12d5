package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
)

// rival is a member of another cluster, or pretends to be one: it dials a member for one
// of its own, and answers as it is told to.
type rival struct {
	transport.Transport
	t       *testing.T
	cluster uint64
	id      uint64
	address string
	mu      sync.Mutex
	// says is what it says of the address alone, and vouches what a majority says; nil: it
	// refuses.
	says, vouches *octopiipb.VouchReply
	// asked counts the calls for what it says.
	asked int
	// refuses is what it says to all who call; nil: it lets them.
	refuses error
}

const rivalCluster = 0xabc

// newRival is at the address "r", and answers nothing yet.
func newRival(t *testing.T, network *localnet.Network) *rival {
	t.Helper()
	return newRivalAt(t, network, "r", 5)
}

func newRivalAt(t *testing.T, network *localnet.Network, address string, id uint64) *rival {
	t.Helper()
	r := &rival{Transport: network.Transport(address), t: t, cluster: rivalCluster, id: id, address: address}
	if err := r.Start(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// claim is a statement of three voters, of which one is at an address.
func claim(address string, commit uint64) *octopiipb.VouchReply {
	return &octopiipb.VouchReply{Cluster: rivalCluster, Term: 3, Commit: commit, AtAddress: 99, Members: []octopiipb.Member{
		{ID: 99, Address: address, Kind: octopiipb.Voter}, {ID: 5, Address: "r", Kind: octopiipb.Voter}, {ID: 6, Address: "r6", Kind: octopiipb.Voter}}}
}

// noClaim is a statement that there is nobody at this address.
func noClaim(commit uint64) *octopiipb.VouchReply {
	return &octopiipb.VouchReply{Cluster: rivalCluster, Term: 3, Commit: commit, Members: []octopiipb.Member{
		{ID: 98, Address: "elsewhere", Kind: octopiipb.Voter}, {ID: 5, Address: "r", Kind: octopiipb.Voter}, {ID: 6, Address: "r6", Kind: octopiipb.Voter}}}
}

// answers changes what it says.
func (r *rival) answers(says, vouches *octopiipb.VouchReply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.says, r.vouches = says, vouches
}

func (r *rival) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// dials an address until ok holds.
func (r *rival) dials(address, what string, ok func() bool) {
	r.t.Helper()
	r.SetPeer(99, address)
	defer r.RemovePeer(99)
	eventually(r.t, what, func() bool {
		r.Send(99, node.KindTestify, &octopiipb.Replies{})
		return ok()
	})
}

func (r *rival) Hello(uint64) transport.Hello {
	return transport.Hello{Cluster: r.cluster, Node: r.id, Incarnation: 55, Host: transport.Host{Address: r.address}}
}

func (r *rival) HandleCall(_ context.Context, from transport.Hello, in transport.Inbound) (transport.Message, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// It may be a stranger who named this address to hear who calls it.
	if r.cluster == rivalCluster && (from.Cluster != transport.SomeCluster || from.Incarnation != 0 || from.Remembers != transport.Memory{}) {
		r.t.Errorf("a caller says to a member of another cluster: %+v", from)
	}
	if in.Kind == node.KindTestify {
		r.asked++
	}
	switch {
	case in.Kind == node.KindTestify && r.says != nil:
		return r.says, nil
	case in.Kind == node.KindVouch && r.vouches != nil:
		return r.vouches, nil
	}
	return nil, errors.New("it says nothing")
}

func (r *rival) Accept(transport.Hello) error                 { return r.refuses }
func (*rival) HandleMessages(uint64, []transport.Inbound)     {}
func (*rival) HandleSnapshot(uint64, []byte, io.Reader) error { return errors.New("no") }
func (*rival) Refused(transport.Hello, transport.Refusal)     {}
func (*rival) PeerDown(uint64)                                {}
func (*rival) PeerGone(uint64)                                {}

// alone is a cluster of one at the address "a", whose log can be looked at.
func alone(t *testing.T, network *localnet.Network) (*member, *observer.ObservedLogs) {
	t.Helper()
	m := newMember(t, 1)
	m.network, m.addr, m.cfg.Bootstrap = network, "a", true
	seen, logs := observer.New(zap.DebugLevel)
	m.cfg.Logger = zap.New(seen)
	m.start()
	propose(t, m, "mine")
	return m, logs
}

// serves says whether a member serves reads and writes.
func serves(m *member) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, read := m.ReadBarrier(ctx, node.Linearizable)
	_, write := m.Propose(ctx, []byte("again"))
	return read == nil && write == nil && m.Status().Suspended == nil
}

// three is a cluster that its first member founded alone, at the addresses a, b and c.
func three(t *testing.T, network *localnet.Network) []*member {
	t.Helper()
	m, _ := alone(t, network)
	ms := []*member{m}
	for i, address := range []string{"b", "c"} {
		o := newMember(t, uint64(i+2))
		o.network, o.addr = network, address
		add(t, m, o.start())
		ms = append(ms, o)
	}
	leader(t, ms...)
	return ms
}

// isClaimed says whether it serves nothing and names both clusters.
func isClaimed(m *member) bool {
	_, read := m.ReadBarrier(context.Background(), node.Linearizable)
	_, write := m.Propose(context.Background(), []byte("phantom"))
	for _, err := range []error{read, write, m.Status().Suspended} {
		if !errors.Is(err, node.ErrClaimed) || !strings.Contains(err.Error(), fmt.Sprintf("%x", node.PublicClusterID(rivalCluster))) ||
			!strings.Contains(err.Error(), fmt.Sprintf("%x", node.PublicClusterID(m.Status().Cluster))) {
			return false
		}
	}
	return errors.Is(write, node.ErrNotCommitted)
}

func suspended(m *member) func() bool { return func() bool { return m.Status().Suspended != nil } }

// A stranger that only calls, and one whose records name this address by mistake, stop
// nobody.
func TestNoClaimStopsNobody(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	m, logs := alone(t, network)
	r := newRival(t, network)
	r.dials("a", "it called back and heard nothing", func() bool { return logs.FilterMessageSnippet("does not answer").Len() > 0 })
	r.answers(noClaim(7), noClaim(7))
	r.dials("a", "it called back and heard of no claim", func() bool { return logs.FilterMessageSnippet("does not claim").Len() > 0 })
	if !serves(m) {
		t.Errorf("it does not serve: %v", m.Status().Suspended)
	}
}

// A record that somebody added by mistake, of a member that never came, is no claim; a
// real cluster has it here.
func TestMistakenRecordIsNoClaim(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	other := newMember(t, 2)
	other.network, other.addr, other.cfg.Bootstrap = network, "o", true
	other.start()
	if _, err := other.AddLearner(timeout(t), node.Member{ID: 99, Name: "mistaken", Address: "a"}); err != nil {
		t.Fatal(err)
	}
	m, logs := alone(t, network)
	eventually(t, "it called back and heard of no claim", func() bool { return logs.FilterMessageSnippet("does not claim").Len() > 0 })
	if !serves(m) || !serves(other) {
		t.Errorf("it does not serve: %v", m.Status().Suspended)
	}
}

// One member's word suspends a cluster of one, durably. A majority that has nobody at the
// address lets it serve again, and what is older than that counts no more.
func TestClaimSuspendsUntilRefuted(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	m, _ := alone(t, network)
	r := newRival(t, network)
	r.answers(claim("a", 7), nil)
	r.dials("a", "it is suspended", suspended(m))
	if !isClaimed(m) {
		t.Errorf("it serves, or does not name both clusters: %v", m.Status().Suspended)
	}
	m.kill()
	m.start()
	if !isClaimed(m) {
		t.Error("it serves after a restart")
	}
	r.answers(claim("a", 7), noClaim(8))
	eventually(t, "it serves again", func() bool { return serves(m) })
	asked := r.calls() + 2 // the second call begins when the answer to the first one was taken
	r.dials("a", "it called back", func() bool { return r.calls() >= asked })
	if !serves(m) {
		t.Error("what a member says that is behind its majority suspends it again")
	}
	m.kill()
	r.answers(nil, nil)
	m.start()
	eventually(t, "it serves after a restart", func() bool { return serves(m) })
}

// An operator settles it, for good.
func TestNotOf(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	m, _ := alone(t, network)
	r := newRival(t, network)
	r.answers(claim("a", 7), nil)
	r.dials("a", "it is suspended", suspended(m))
	mine := m.Status().Cluster
	m.kill()
	m.cfg.NotOf = node.PublicClusterID(mine)
	if err := m.tryStart(); err == nil {
		t.Fatal("it takes its own cluster for another one")
	}
	m.Node = nil
	for _, other := range []uint64{node.PublicClusterID(rivalCluster), 0} {
		m.cfg.NotOf = other
		m.start()
		// The same member of the other cluster is asked nothing, whatever it would say.
		eventually(t, "it serves", func() bool { return serves(m) })
		m.kill()
	}
}

// age makes a cluster as old as that.
func age(t *testing.T, m *member, d time.Duration) {
	t.Helper()
	m.kill()
	s, _, _, err := raftstore.Open(raftstore.Options{Dir: m.cfg.Dir, Backend: smallLog})
	if err != nil {
		t.Fatal(err)
	}
	o := s.Origin()
	o.Founded = time.Now().Add(-d).UnixNano()
	if err := errors.Join(s.SetOrigin(o), s.Close()); err != nil {
		t.Fatal(err)
	}
	m.start()
}

// A majority that nothing but its own word proves moves the files of a young cluster only,
// or one that this member's configuration names.
func TestMajorityOfStrangersMovesNoOldFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		age    time.Duration
		join   []string
		stands bool
	}{
		"young":              {0, nil, false},
		"old":                {2 * time.Hour, nil, true},
		"from the future":    {-time.Hour, nil, true},
		"old and configured": {2 * time.Hour, []string{"r"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := localnet.New()
			m, _ := alone(t, network)
			r := newRival(t, network)
			m.cfg.Join = c.join
			age(t, m, c.age)
			r.answers(claim("a", 7), claim("a", 7))
			r.dials("a", "it stopped, or waits for an operator", func() bool {
				select {
				case <-m.Done():
					return true
				default:
				}
				err := m.Status().Suspended
				return err != nil && strings.Contains(err.Error(), "an operator decides")
			})
			if stopped := errors.Is(m.Err(), node.ErrOtherCluster); stopped == c.stands {
				t.Errorf("it ended with %v, and is suspended by %v", m.Err(), m.Status().Suspended)
			}
		})
	}
}

// Whoever dials while a cluster is founded, which takes some fsyncs, is heard at once: it
// need not dial again.
func TestDialedWhileItFounds(t *testing.T) {
	t.Parallel()
	peer := transport.Hello{Cluster: rivalCluster, Node: 5, Incarnation: 55, Host: transport.Host{Address: "r"}}
	for name, dial := range map[string]func(*member){
		"for a member with its ID": func(m *member) {
			if err := m.Met(peer); err != nil {
				t.Error(err)
			}
		},
		"for another member": func(m *member) {
			seeks := peer
			seeks.To = 99
			m.Sought(seeks)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := localnet.New()
			newRival(t, network).answers(claim("a", 7), nil)
			m, h := newMember(t, 1), newHeld()
			m.network, m.addr, m.around = network, "a", h.around
			m.cfg.Bootstrap, m.cfg.FoundAfterTicks = true, 1
			h.write.Store(true) // the first snapshot of the cluster
			m.start()
			<-h.begun
			dial(m)
			close(h.let)
			eventually(t, "it serves nothing", suspended(m))
			if !isClaimed(m) {
				t.Errorf("it serves, or does not name both clusters: %v", m.Status().Suspended)
			}
		})
	}
}

// sure is a transport whose peers proved who they are.
type sure struct{ transport.Transport }

func (sure) Authenticated() bool { return true }

// A cluster of three is not stopped by strangers, with or without a majority: it says what
// it heard. Nor by one that its configuration names, or certificates prove, whatever that
// says of a majority, such as a disk of an earlier cluster. A majority of the other cluster's
// voters, all of whom are known so, suspends the member, whose files stay; so does anybody the
// founder of a young cluster, as its members may have joined a second one. The others go on.
func TestThreeAreNotStoppedByStrangers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		join          []string
		authenticated bool
		age           time.Duration
		both          bool
		suspends      bool
	}{
		"stranger":                  {nil, false, 2 * time.Hour, true, false},
		"configured":                {[]string{"r", "r6"}, false, 2 * time.Hour, true, true},
		"one of three configured":   {[]string{"r"}, false, 2 * time.Hour, true, false},
		"one of three speaks":       {[]string{"r", "r6"}, false, 2 * time.Hour, false, false},
		"certificate":               {nil, true, 2 * time.Hour, true, true},
		"certificate, one of three": {nil, true, 2 * time.Hour, false, false},
		"stranger, young cluster":   {nil, false, 0, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := localnet.New()
			ms := three(t, network)
			m := ms[0]
			m.cfg.Join, m.sure = c.join, c.authenticated
			age(t, m, c.age)
			leader(t, ms...)
			r := newRival(t, network)
			r.answers(claim("a", 7), claim("a", 7))
			if c.both {
				newRivalAt(t, network, "r6", 6).answers(claim("a", 7), claim("a", 7))
			}
			if !c.suspends {
				r.dials("a", "it reports the claim", func() bool { return m.Status().Claimed != nil })
				for _, o := range ms {
					if !serves(o) {
						t.Errorf("member %d does not serve: %v", o.cfg.ID, o.Status().Suspended)
					}
				}
				return
			}
			r.dials("a", "it waits for an operator", func() bool {
				err := m.Status().Suspended
				return err != nil && strings.Contains(err.Error(), "an operator decides")
			})
			if !isClaimed(m) {
				t.Errorf("it serves: %v", m.Status().Suspended)
			}
			if err := m.Status().Suspended; strings.Contains(err.Error(), "whose majority decides") || !strings.Contains(err.Error(), fmt.Sprintf("--not-of %x", node.PublicClusterID(rivalCluster))) {
				t.Errorf("it advises to wait for a majority, which decides nothing here: %v", err)
			}
			eventually(t, "the others go on", func() bool { return serves(ms[1]) && serves(ms[2]) })
			r.answers(nil, noClaim(8))
			eventually(t, "it serves again", func() bool { return serves(m) })
		})
	}
}

// Somebody is where one of three members was that is down, and tells all who call that they
// were removed. The others go on, and so do those that start while it is there.
func TestOneWordRemovesNobody(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	ms := three(t, network)
	propose(t, ms[0], "kept")
	ms[2].kill()
	r := &rival{Transport: network.Transport("c"), t: t, id: 3, address: "c", refuses: node.RefuseRemoved}
	if err := r.Start(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	for _, m := range ms[:2] {
		m.kill()
	}
	for _, m := range ms[:2] {
		m.start()
	}
	eventually(t, "both serve", func() bool { return serves(ms[0]) && serves(ms[1]) })
	for _, m := range ms[:2] {
		if err := m.Err(); err != nil {
			t.Errorf("member %d ended: %v", m.cfg.ID, err)
		}
	}
}

// A member began to found a cluster, ended before it had a log of it, and joined another
// one. It is no founder of that, and a stranger's word does not stop it.
func TestFoundedNamesItsCluster(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	ms := three(t, network)
	m := ms[2]
	m.kill()
	s, _, _, err := raftstore.Open(raftstore.Options{Dir: m.cfg.Dir, Backend: smallLog})
	if err != nil {
		t.Fatal(err)
	}
	o := s.Origin()
	o.Founded, o.FoundedCluster = time.Now().UnixNano(), 0x123
	if err := errors.Join(s.SetOrigin(o), s.Close()); err != nil {
		t.Fatal(err)
	}
	m.start()
	leader(t, ms...)
	r := newRival(t, network)
	r.answers(claim("c", 7), claim("c", 7))
	r.dials("c", "it says what it heard", func() bool { return m.Status().Claimed != nil || m.Status().Suspended != nil })
	if err := m.Status().Suspended; err != nil {
		t.Errorf("it counts as the founder of a cluster that it joined: %v", err)
	}
}

// The founder of three loses its disk while the others are down, and founds a second
// cluster: under another ID, or the same one, which its configuration names. It serves
// nothing beside one of the others, and stops when both are back.
func TestSecondClusterOfFounder(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]uint64{"another ID": 0, "the same ID": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := localnet.New()
			ms := three(t, network)
			m := ms[0]
			first := m.Status().Cluster
			for _, o := range ms {
				o.kill()
			}
			m.cfg.Dir, m.cfg.ID = t.TempDir(), id
			m.start()
			propose(t, m, "phantom")
			ms[1].start()
			eventually(t, "it serves nothing", suspended(m))
			if err := m.Status().Suspended; !strings.Contains(err.Error(), fmt.Sprintf("%x", node.PublicClusterID(first))) {
				t.Errorf("it does not name the first cluster %x: %v", first, err)
			}
			ms[2].start()
			<-m.Done()
			if !errors.Is(m.Err(), node.ErrOtherCluster) {
				t.Errorf("it ends with %v", m.Err())
			}
		})
	}
}

// A newcomer has joined the second cluster when one member of the first one is back: the
// founder serves nothing, so both do, and a majority of the first one moves nothing.
func TestSecondClusterThatWasJoined(t *testing.T) {
	t.Parallel()
	network := localnet.New()
	m, _ := alone(t, network)
	ms := []*member{m}
	for i, address := range []string{"b", "c", "d"} {
		o := newMember(t, uint64(i+2))
		o.network, o.addr = network, address
		ms = append(ms, o)
	}
	for _, o := range ms[1:3] {
		add(t, m, o.start())
	}
	leader(t, ms[:3]...)
	for _, o := range ms[:3] {
		o.kill()
	}
	m.cfg.Dir, m.cfg.ID = t.TempDir(), 0
	m.start()
	add(t, m, ms[3].start())
	propose(t, ms[3], "phantom")
	ms[1].start()
	eventually(t, "it serves nothing", suspended(m))
	eventually(t, "nor does the newcomer", func() bool { return ms[3].Status().Leader == 0 })
	if serves(ms[3]) {
		t.Error("the newcomer serves the second cluster")
	}
	ms[2].start()
	eventually(t, "it waits for an operator", func() bool {
		err := m.Status().Suspended
		return err != nil && strings.Contains(err.Error(), "an operator decides")
	})
	eventually(t, "the first cluster serves", func() bool { return serves(ms[1]) && serves(ms[2]) })
	if serves(ms[3]) || m.Err() != nil {
		t.Errorf("the second cluster serves, or its founder ended: %v", m.Err())
	}
}
