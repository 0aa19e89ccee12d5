package node_test

import (
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
)

// expecting describes three members with one configuration.
func expecting(t *testing.T) []*member {
	t.Helper()
	network := localnet.New()
	join := []string{"a", "b", "c"}
	var ms []*member
	for i, address := range join {
		m := newMember(t, uint64(i+1))
		m.network, m.addr = network, address
		m.cfg.Join, m.cfg.Expect, m.cfg.Rejoin, m.cfg.ID = join, 3, true, 0
		ms = append(ms, m)
	}
	return ms
}

// voters waits until all are voters of one cluster, and returns it.
func voters(t *testing.T, ms ...*member) uint64 {
	t.Helper()
	eventually(t, "all vote in one cluster", func() bool {
		for _, m := range ms {
			if st := m.Status(); len(st.Membership.Voters()) != len(ms) || st.Cluster != ms[0].Status().Cluster || st.Leader == 0 {
				return false
			}
		}
		return true
	})
	return ms[0].Status().Cluster
}

// Three members with one configuration found one cluster, when the last one is there and
// not before.
func TestExpect(t *testing.T) {
	t.Parallel()
	ms := expecting(t)
	ms[2].start()
	ms[0].start()
	takesTurns(t, ms[0], 60)
	if a, b := ms[0].Status().Cluster, ms[2].Status().Cluster; a != 0 || b != 0 {
		t.Fatalf("two of three founded %x and %x", a, b)
	}
	ms[1].start()
	cluster := voters(t, ms...)
	propose(t, ms[1], "kept")

	// One loses its disk, and comes back with the same configuration.
	ms[0].kill()
	ms[0].cfg.Dir = t.TempDir()
	ms[0].start()
	if again := voters(t, ms...); again != cluster {
		t.Fatalf("the wiped one is in cluster %x, and the others in %x", again, cluster)
	}

	// Two lose theirs: what is left is no majority, and nobody founds beside it.
	for _, m := range ms[:2] {
		m.kill()
		m.cfg.Dir = t.TempDir()
		m.start()
	}
	takesTurns(t, ms[0], 100)
	for _, m := range ms[:2] {
		if st := m.Status(); st.Cluster != 0 && st.Cluster != cluster {
			t.Fatalf("a second cluster %x beside %x", st.Cluster, cluster)
		}
	}

	// All of them: nothing is left, and a new one begins.
	for _, m := range ms {
		m.kill()
		m.cfg.Dir = t.TempDir()
	}
	for _, m := range ms {
		m.start()
	}
	if again := voters(t, ms...); again == cluster {
		t.Fatal("the cluster that was lost is there again")
	}
}

// A member that expects nobody else listens before it founds, as a founder does: it may have been
// wiped, and others may know its address.
func TestExpectsNobodyElse(t *testing.T) {
	t.Parallel()
	m := newMember(t, 1)
	m.network, m.addr = localnet.New(), "a"
	m.cfg.Expect, m.cfg.Join, m.cfg.FoundAfterTicks = 1, []string{"a"}, 1<<20
	m.start()
	takesTurns(t, m, 30)
	if st := m.Status(); st.Cluster != 0 {
		t.Fatalf("it founded %x at once", st.Cluster)
	}
	m.close()
	m.cfg.FoundAfterTicks = 1
	m.start()
	voters(t, m)
}

// An address of --join that led to the member itself leads to another one a moment later, as
// behind a proxy: nothing is remembered of it.
func TestAddressLedToItself(t *testing.T) {
	t.Parallel()
	ms := expecting(t)
	for i, m := range ms {
		m.cfg.ID = uint64(i + 1) // the first one founds
	}
	ms[0].start()
	ms[0].network.Lead("b", "a")
	ms[2].start()
	takesTurns(t, ms[0], 30)
	if st := ms[0].Status(); st.Cluster != 0 {
		t.Fatalf("two of three founded %x", st.Cluster)
	}
	ms[1].start()
	voters(t, ms...)
}

// A founder that listens first is not alone: whoever seeks its old self tells it. It is
// killed before it is back, and nobody is there when it starts again: it waits.
func TestSoughtFounderFoundsNoMore(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	leader(t, ms...)
	cluster := ms[1].Status().Cluster
	ms[0].kill()
	ms[0].cfg = node.Config{WAL: smallLog, Name: "n1", Dir: t.TempDir(), TickInterval: 20 * time.Millisecond,
		Bootstrap: true, FoundAfterTicks: 200, Rejoin: true}
	ms[0].start()
	eventually(t, "it is back", func() bool { return ms[0].Status().Cluster != 0 })
	if now := ms[0].Status().Cluster; now != cluster {
		t.Fatalf("it founded %x beside %x", now, cluster)
	}
	ms[0].kill()
	dir := t.TempDir()
	ms[0].cfg.Dir = dir
	ms[2].kill() // no majority: it cannot come in
	ms[0].start()
	eventually(t, "it noted that it is sought", func() bool { return ms[0].WasMember() })
	ms[0].kill()
	ms[1].kill()
	ms[0].cfg.FoundAfterTicks = 1
	ms[0].start()
	takesTurns(t, ms[0], 30)
	if now := ms[0].Status().Cluster; now != 0 {
		t.Fatalf("alone, it founded %x", now)
	}
}

// All expected members vote from the first entry on. One of them that loses its disk as
// soon as it has a vote takes no majority with it, and comes back.
func TestVoterWipedWhileAllAreFounded(t *testing.T) {
	t.Parallel()
	ms := expecting(t)
	for _, m := range ms {
		m.start()
	}
	var first *member
	eventually(t, "two of them vote", func() bool {
		for _, m := range ms {
			if len(m.Status().Membership.Voters()) > 1 {
				first = m
			}
		}
		return first != nil
	})
	if voters := first.Status().Membership.Voters(); len(voters) != 3 {
		t.Errorf("the cluster begins with the voters %x; want all three", voters)
	}
	for _, m := range ms {
		if m != first {
			m.kill()
			m.cfg.Dir = t.TempDir()
			m.start()
			break
		}
	}
	voters(t, ms...)
	propose(t, ms[2], "kept")
}

// The members of a cluster that one of them founded alone come to life when that one is
// there, each with the promise that it wrote down.
func TestPromiseIsTheBootstrap(t *testing.T) {
	t.Parallel()
	ms := expecting(t)
	network := ms[0].network
	for _, m := range ms {
		m.start()
	}
	// Whoever has founded is cut off at once, and killed.
	var founder *member
	eventually(t, "one has founded", func() bool {
		for _, m := range ms {
			if m.Status().Cluster != 0 {
				founder = m
				return true
			}
		}
		return false
	})
	cluster := founder.Status().Cluster
	for _, m := range ms {
		if m != founder {
			network.Partition(founder.addr, m.addr)
			m.kill() // it may have its log, or only its promise
		}
	}
	founder.kill()
	network.Heal()
	for _, m := range ms {
		m.start()
	}
	if again := voters(t, ms...); again != cluster {
		t.Errorf("after all were killed the cluster is %x; want %x", again, cluster)
	}
	propose(t, ms[0], "kept")
}
