package node_test

import (
	"errors"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport"
)

// A member with a log stops for another disk only when a majority of the voters says so,
// each at its recorded address.
func TestRefusedByAMajority(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	l := leader(t, ms...)
	var others []*member
	for _, m := range ms {
		if m != l {
			others = append(others, m)
		}
	}
	elsewhere := others[1].Hello()
	elsewhere.Dialed = "127.0.0.1:1"
	other := others[1].Hello()
	other.Cluster++
	for _, peer := range []transport.Hello{others[0].Hello(), others[0].Hello(), elsewhere, other} {
		l.RefusedAsForgetful(peer)
		propose(t, l, "x") // the loop has heard of it
	}
	l.RefusedAsForgetful(others[1].Hello())
	<-l.Done()
	if err := l.Err(); !errors.Is(err, node.ErrAmnesia) {
		t.Errorf("it stopped with %v, want ErrAmnesia", err)
	}
	l.kill()
}

// A leader that was elected after it started has lost nothing that a majority has. The
// member that reminds it of more is on another branch: the leader serves on, says what
// that member has, and does not listen to it until it reminds it of nothing.
func TestEstablishedMemberIsReminded(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	l := leader(t, ms...)
	l.kill() // the next leader is elected in a later term than the one it started in
	var rest []*member
	for _, m := range ms {
		if m != l {
			rest = append(rest, m)
		}
	}
	now := leader(t, rest...)
	l.start()
	propose(t, now, "x")
	peer := rest[0]
	if peer == now {
		peer = rest[1]
	}
	plain := peer.Hello()
	reminds := plain
	reminds.Remembers = transport.Memory{Term: 1 << 20, Match: 1 << 30, Commit: 1 << 30}

	meet := func(h transport.Hello) {
		t.Helper()
		if err := now.Met(h); err != nil {
			t.Fatal(err)
		}
	}
	last := now.Status().Applied
	if meet(reminds); !now.Branched(peer.cfg.ID) {
		t.Errorf("member %d is listened to", peer.cfg.ID)
	}
	if err := now.Status().Suspended; err != nil {
		t.Errorf("the leader is suspended: %v", err)
	}
	propose(t, now, "y") // with the third member
	eventually(t, "the branch is told of", func() bool { return len(now.Status().Branches) == 1 })
	if b := now.Status().Branches[0]; b.ID != peer.cfg.ID || b.First <= last || b.Last != 1<<30 {
		t.Errorf("the branch is %+v, want one of member %d from behind %d to %d", b, peer.cfg.ID, last, 1<<30)
	}
	if meet(plain); now.Branched(peer.cfg.ID) {
		t.Errorf("member %d reminds of nothing, and is not listened to", peer.cfg.ID)
	}
	converged(t, ms...)
}

// A newcomer whose addresses are of two clusters joins neither until an operator names the
// one that is wrong.
func TestJoinsNoneOfTwoClusters(t *testing.T) {
	t.Parallel()
	one, two := founder(t), founder(t)
	core, logs := observer.New(zapcore.ErrorLevel)
	m := newMember(t, 2)
	m.cfg.Join, m.cfg.Logger = []string{one.addr, two.addr}, zap.New(core)
	m.start()
	eventually(t, "it says that there are two clusters", func() bool { return logs.FilterMessageSnippet("different clusters").Len() >= 2 })
	for _, f := range []*member{one, two} {
		if n := len(f.Status().Membership.Members); n != 1 {
			t.Errorf("the cluster at %s has %d members, want its founder alone", f.addr, n)
		}
	}
	m.kill()
	m.cfg.NotOf = node.PublicClusterID(two.Status().Cluster)
	m.start()
	eventually(t, "it is a member of the other one", func() bool { return len(one.Status().Membership.Members) == 2 })
	if n := len(two.Status().Membership.Members); n != 1 {
		t.Errorf("the cluster that it is not of has %d members", n)
	}
}

// A founder that finds a member of a cluster at an address that it was told of founds
// none, and joins it; that is durable.
func TestFounderJoinsTheClusterThatIsThere(t *testing.T) {
	t.Parallel()
	there := founder(t)
	m := newMember(t, 2)
	m.cfg.Bootstrap, m.cfg.Join = true, []string{there.addr}
	m.start()
	eventually(t, "it is a member", func() bool { return len(m.Status().Membership.Members) == 2 })
	if got, want := m.Status().Cluster, there.Status().Cluster; got != want {
		t.Errorf("it is of cluster %x, want %x", got, want)
	}
	if !m.WasMember() {
		t.Error("it did not note that a cluster is there")
	}
}
