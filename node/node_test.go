package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
	"github.com/octopii/octopii/wal"
)

func TestUninitializedAnswersNothing(t *testing.T) {
	m := newMember(t, 2).start()
	ctx := timeout(t)
	_, proposeErr := m.Propose(ctx, []byte("x"))
	_, readErr := m.ReadBarrier(ctx, node.Linearizable)
	_, addErr := m.AddVoter(ctx, node.Member{ID: 3, Address: "127.0.0.1:1"})
	_, learnErr := m.AddLearner(ctx, node.Member{ID: 3, Address: "127.0.0.1:1"})
	_, removeErr := m.Remove(ctx, 3)
	_, snapshotErr := m.TakeSnapshot(ctx)
	for i, err := range []error{proposeErr, readErr, addErr, learnErr, removeErr, snapshotErr, m.TransferLeadership(ctx, 0)} {
		if !errors.Is(err, node.ErrUninitialized) {
			t.Errorf("verb %d: got %v, want ErrUninitialized", i, err)
		}
	}
	select {
	case <-m.Initialized():
		t.Error("Initialized is closed on a member with an empty disk")
	default:
	}
}

func TestProposalTooLarge(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.cfg.ProposalBytesMax = true, 10
	m.start()
	if _, err := m.Propose(timeout(t), make([]byte, 11)); !errors.Is(err, node.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if _, err := m.Propose(timeout(t), make([]byte, 10)); err != nil {
		t.Errorf("a proposal of exactly the bound: %v", err)
	}
}

// TestEmptyProposal: raft's own entries are empty, and must not be mixed up
// with a user's.
func TestEmptyProposal(t *testing.T) {
	m := founder(t)
	r := propose(t, m, "")
	if got := string(r.Data); got != "1:" {
		t.Errorf("result %q, want %q", got, "1:")
	}
}

func TestOverloaded(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap, m.cfg.PendingBytesMax = true, 100
	m.start()
	m.Pend(60)
	if _, err := m.Propose(timeout(t), make([]byte, 41)); !errors.Is(err, node.ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", err)
	}
	m.Pend(-60)
	propose(t, m, "there is room again")
}

func TestCancelled(t *testing.T) {
	ms := cluster(t, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := ms[0].Propose(ctx, []byte("never"))
	if !errors.Is(err, node.ErrNotCommitted) || !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: got %v, want ErrNotCommitted and context.Canceled", err)
	}

	// With the others gone nothing commits, and nobody can say what will.
	for _, m := range ms[1:] {
		m.kill()
	}
	ctx, cancel = context.WithCancel(context.Background())
	result := make(chan error)
	go func() {
		_, err := ms[0].Propose(ctx, []byte("perhaps"))
		result <- err
	}()
	eventually(t, "the proposal is in the leader's log", func() bool { return ms[0].Status().LastIndex > ms[0].Status().Commit })
	cancel()
	err = <-result
	if !errors.Is(err, node.ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("with a proposal in the log: got %v, want ErrUnknownOutcome and context.Canceled", err)
	}

	// Without a leader the proposal goes nowhere: it is certainly not committed.
	eventually(t, "the leader notices that it is alone", func() bool { return ms[0].Status().Leader == 0 })
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = ms[0].Propose(ctx, []byte("never"))
	if !errors.Is(err, node.ErrNotCommitted) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a leader: got %v, want ErrNotCommitted and context.DeadlineExceeded", err)
	}
}

func TestClosed(t *testing.T) {
	m := founder(t)
	n := m.Node
	if n.Err() != nil {
		t.Errorf("Err before Close: %v", n.Err())
	}
	m.close()
	<-n.Done()
	ctx := timeout(t)
	_, proposeErr := n.Propose(ctx, nil)
	_, readErr := n.ReadBarrier(ctx, node.Linearizable)
	_, addErr := n.AddVoter(ctx, node.Member{ID: 3, Address: "127.0.0.1:1"})
	_, snapshotErr := n.TakeSnapshot(ctx)
	for i, err := range []error{proposeErr, readErr, addErr, snapshotErr, n.Err()} {
		if !errors.Is(err, node.ErrClosed) {
			t.Errorf("verb %d: got %v, want ErrClosed", i, err)
		}
	}
	if err := n.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

// TestFollowersForward: every member takes proposals, reads and changes, and a
// caller reads its own write on the member that it asked.
func TestFollowersForward(t *testing.T) {
	ms := cluster(t, 3)
	var wg sync.WaitGroup
	for i, m := range ms {
		for j := range 20 {
			wg.Go(func() {
				command := fmt.Sprintf("%d from member %d", j, i)
				r, err := m.Propose(timeout(t), []byte(command))
				if err != nil {
					t.Errorf("%s: %v", command, err)
					return
				}
				if !strings.HasSuffix(string(r.Data), command) {
					t.Errorf("%s: the result is %q", command, r.Data)
				}
				if st := m.Status(); st.Applied < r.Index && !contains(m, command) {
					t.Errorf("%s: acknowledged at %d before this member applied it", command, r.Index)
				}
			})
		}
	}
	wg.Wait()
	for _, m := range ms {
		index, err := m.ReadBarrier(timeout(t), node.Linearizable)
		if err != nil {
			t.Fatalf("read barrier on member %d: %v", m.cfg.ID, err)
		}
		if got := len(m.sm.all()); got != 60 {
			t.Errorf("behind a barrier at %d member %d has %d commands, want 60", index, m.cfg.ID, got)
		}
	}
	ms0, err := ms[2].AddLearner(timeout(t), node.Member{ID: 9, Address: "127.0.0.1:1"})
	if m, ok := ms0.Member(9); err != nil || !ok || !m.Learner {
		t.Errorf("a learner added by a follower: %v %v", ms0, err)
	}
	ms0, err = ms[1].Remove(timeout(t), 9)
	if _, ok := ms0.Member(9); err != nil || ok {
		t.Errorf("removed by a follower: %v %v", ms0, err)
	}
}

func contains(m *member, command string) bool {
	for _, c := range m.sm.all() {
		if c == command {
			return true
		}
	}
	return false
}

func TestTransferLeadership(t *testing.T) {
	ms := cluster(t, 3)
	for _, to := range []uint64{2, 3, 1} {
		if err := ms[1].TransferLeadership(timeout(t), to); err != nil {
			t.Fatalf("transfer to %d: %v", to, err)
		}
		if l := leader(t, ms...); l.cfg.ID != to {
			t.Fatalf("member %d leads, want %d", l.cfg.ID, to)
		}
	}
	if err := ms[0].TransferLeadership(timeout(t), 0); err != nil {
		t.Fatalf("transfer to the best candidate: %v", err)
	}
	if l := leader(t, ms...); l == ms[0] {
		t.Errorf("the old leader still leads")
	}
	if err := ms[0].TransferLeadership(timeout(t), 77); err == nil {
		t.Errorf("a transfer to a member that does not exist succeeded")
	}
}

// TestCloseHandsOver: a leader that stops does not make the others wait for an
// election timeout.
func TestCloseHandsOver(t *testing.T) {
	ms := cluster(t, 3)
	term := ms[0].Status().Term
	ms[0].close()
	l := leader(t, ms[1:]...)
	if got := l.Status().Term; got != term+1 {
		t.Errorf("leader at term %d, want %d: one clean election", got, term+1)
	}
}

func TestRemove(t *testing.T) {
	ms := cluster(t, 3)
	gone := ms[2].Node
	if _, err := ms[0].Remove(timeout(t), 3); err != nil {
		t.Fatal(err)
	}
	<-gone.Done()
	if !errors.Is(gone.Err(), node.ErrRemoved) {
		t.Errorf("the removed member stopped with %v, want ErrRemoved", gone.Err())
	}
	if _, err := gone.Propose(timeout(t), nil); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("propose on the removed member: %v, want ErrRemoved", err)
	}
	if _, err := ms[0].AddVoter(timeout(t), node.Member{ID: 3, Address: ms[2].addr}); !errors.Is(err, node.ErrIDReused) {
		t.Errorf("the removed member's ID again: %v, want ErrIDReused", err)
	}
	propose(t, ms[1], "two are a quorum of two")

	// The leader may leave, too.
	old := ms[0].Node
	if _, err := ms[0].Remove(timeout(t), 1); err != nil {
		t.Fatalf("the leader removes itself: %v", err)
	}
	<-old.Done()
	leader(t, ms[1])
	propose(t, ms[1], "alone")
	if _, err := ms[1].Remove(timeout(t), 2); !errors.Is(err, node.ErrUnsafeMembership) {
		t.Errorf("the last voter's removal: %v, want ErrUnsafeMembership", err)
	}
}

func TestRemoveKeepsQuorum(t *testing.T) {
	ms := cluster(t, 3)
	ms[1].kill()
	eventually(t, "the leader misses the member that died", func() bool {
		for _, p := range ms[0].Status().Progress {
			if p.ID == 2 {
				return !p.Active
			}
		}
		return false
	})
	if _, err := ms[0].Remove(timeout(t), 3); !errors.Is(err, node.ErrUnsafeMembership) {
		t.Errorf("removing the last living follower: %v, want ErrUnsafeMembership", err)
	}
	if _, err := ms[0].Remove(timeout(t), 2); err != nil {
		t.Errorf("removing the dead one: %v", err)
	}
}

// TestSnapshots: the log is cut behind snapshots, files that are no longer
// needed go away, and a newcomer is brought up from a snapshot.
func TestSnapshots(t *testing.T) {
	for name, log := range bothLogs {
		t.Run(name, func(t *testing.T) { testSnapshots(t, log) })
	}
}

func testSnapshots(t *testing.T, log wal.Backend) {
	m := newMember(t, 1)
	m.cfg.WAL = log
	m.cfg.Bootstrap, m.cfg.SnapshotEntries, m.cfg.TrailingEntries = true, 50, 10
	m.start()
	big := strings.Repeat("x", 20_000)
	for i := range 300 {
		propose(t, m, fmt.Sprint(i, big))
	}
	eventually(t, "a snapshot was taken by itself", func() bool { return m.Status().SnapshotIndex > 200 })
	info, err := m.TakeSnapshot(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	st := m.Status()
	if info.Index != st.Applied || info.Bytes < 300*20_000 {
		t.Errorf("snapshot %+v with everything up to %d applied", info, st.Applied)
	}
	if want := info.Index - 10 + 1; st.FirstIndex != want {
		t.Errorf("the log begins at %d, want %d: the snapshot less the trailing entries", st.FirstIndex, want)
	}
	if n := count(t, m.cfg.Dir, "snap", "*.snap"); n != 2 {
		t.Errorf("%d snapshot files, want 2", n)
	}
	if n := count(t, m.cfg.Dir, "wal", "*", "*.*"); n > 8 {
		t.Errorf("%d log segments of 1 MiB are left behind snapshots of 6 MB", n)
	}
	n2 := newMember(t, 2)
	n2.cfg.WAL = log
	n2.start()
	add(t, m, n2)
	converged(t, m, n2)
	hash := m.sm.hash()
	m.close()
	m.start()
	leader(t, m, n2)
	converged(t, m, n2)
	if m.sm.hash() != hash {
		t.Error("the state after a restart is another one")
	}
}

func count(t *testing.T, elem ...string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestFollowerFallsBehind: a follower that missed more than the log holds is
// brought up by a snapshot.
func TestFollowerFallsBehind(t *testing.T) {
	ms := cluster(t, 3)
	ms[2].kill()
	for i := range 50 {
		propose(t, ms[0], fmt.Sprint("missed ", i))
	}
	for _, m := range ms[:2] {
		m.close()
		m.cfg.TrailingEntries = 1
		m.start()
	}
	l := leader(t, ms[:2]...)
	if _, err := l.TakeSnapshot(timeout(t)); err != nil {
		t.Fatal(err)
	}
	ms[2].start()
	leader(t, ms...)
	converged(t, ms...)
}

// TestJoin: members join by the address of any member, in any order, also
// before there is anybody to join.
func TestJoin(t *testing.T) {
	m1 := newMember(t, 1)
	m1.cfg.Bootstrap = true
	tr, err := tcp.New(tcp.Config{Listen: m1.addr})
	if err != nil {
		t.Fatal(err)
	}
	m1.addr = tr.Address()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}

	m2 := newMember(t, 0)
	m2.cfg.Join = []string{m1.addr}
	m2.start()
	m1.start()
	<-m2.Initialized()
	m3 := newMember(t, 0)
	m3.cfg.Join = []string{"127.0.0.1:1", m2.addr} // the second one is a follower
	m3.start()
	<-m3.Initialized()
	eventually(t, "all three are voters", func() bool { return len(m1.Status().Membership.Voters()) == 3 })
	propose(t, m1, "together")
	converged(t, m1, m2, m3)
	if m2.Status().ID == 0 || m2.Status().ID == m3.Status().ID {
		t.Errorf("drawn IDs: %d and %d", m2.Status().ID, m3.Status().ID)
	}

	// The same configuration at every later start: there is nothing to join.
	m3.close()
	m3.start()
	propose(t, m3, "again")
	if got := len(m3.Status().Membership.Members); got != 3 {
		t.Errorf("%d members after a restart, want 3", got)
	}
}

func TestTwoFounders(t *testing.T) {
	a, b := founder(t), newMember(t, 2)
	b.cfg.Bootstrap = true
	b.start()
	_, err := a.AddVoter(timeout(t), node.Member{ID: 2, Address: b.addr})
	if err == nil {
		t.Fatal("a founder was added to another founder's cluster")
	}
	if !strings.Contains(err.Error(), "belongs to another cluster") {
		t.Errorf("the error does not say that the member has another cluster: %v", err)
	}
	if got := len(a.Status().Membership.Members); got != 1 {
		t.Errorf("the membership has %d members, want 1", got)
	}
}

func TestDirectoryInUse(t *testing.T) {
	a := founder(t)
	b := newMember(t, 1)
	b.cfg.Dir = a.cfg.Dir
	if err := b.tryStart(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second member on the same directory: %v", err)
	}
}

func TestAnotherMembersDirectory(t *testing.T) {
	a := founder(t)
	a.close()
	a.cfg.ID = 2
	if err := a.tryStart(); err == nil || !strings.Contains(err.Error(), "belongs to member 1") {
		t.Errorf("member 2 on the directory of member 1: %v", err)
	}
}

// TestDamagedFiles: a file that was changed behind our back is refused by
// name, and left as it is.
func TestDamagedFiles(t *testing.T) {
	for _, pattern := range []string{"identity", "snap/*.snap"} {
		t.Run(pattern, func(t *testing.T) {
			m := founder(t)
			propose(t, m, "something")
			m.close()
			names, err := filepath.Glob(filepath.Join(m.cfg.Dir, pattern))
			if err != nil || len(names) != 1 {
				t.Fatalf("%s: %v, %v", pattern, names, err)
			}
			data, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			flipped := bytes.Clone(data)
			flipped[len(flipped)/2] ^= 1
			for what, bad := range map[string][]byte{"flipped": flipped, "truncated": data[:len(data)-1], "empty": nil} {
				if err := os.WriteFile(names[0], bad, 0o600); err != nil {
					t.Fatal(err)
				}
				err := m.tryStart()
				if !errors.Is(err, node.ErrCorrupt) || !strings.Contains(err.Error(), filepath.Base(names[0])) {
					t.Errorf("%s: got %v, want ErrCorrupt that names %s", what, err, names[0])
				}
				if now, _ := os.ReadFile(names[0]); !bytes.Equal(now, bad) {
					t.Errorf("%s: the file was changed", what)
				}
			}
			if err := os.WriteFile(names[0], data, 0o600); err != nil {
				t.Fatal(err)
			}
			m.start()
			if got := m.sm.all(); len(got) != 1 {
				eventually(t, "the command is back", func() bool { return len(m.sm.all()) == 1 })
			}
		})
	}
}

// TestStateMachineError: a state machine that cannot go on stops its member,
// and only that.
func TestStateMachineError(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	tr, err := tcp.New(tcp.Config{Listen: m.addr})
	if err != nil {
		t.Fatal(err)
	}
	cfg := m.cfg
	cfg.Transport, cfg.StateMachine = tr, broken{}
	n, err := node.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Propose(timeout(t), []byte("x"))
	if !errors.Is(err, node.ErrClosed) || !errors.Is(err, errBroken) {
		t.Errorf("the caller got %v, want ErrClosed and the reason", err)
	}
	<-n.Done()
	if !errors.Is(n.Err(), errBroken) {
		t.Errorf("Err is %v", n.Err())
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

var errBroken = errors.New("broken")

type broken struct{ counter }

func (broken) Apply([]node.Entry) ([][]byte, error) { return nil, errBroken }

// TestEvents: what happened is told, in order.
func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var told []string
	tell := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprintf(format, args...))
	}
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	m.cfg.Events = node.Events{
		LeaderChanged:     func(_, leader uint64) { tell("leader %d", leader) },
		MembershipChanged: func(ms node.Membership) { tell("members %d", len(ms.Members)) },
		SnapshotTaken:     func(s node.SnapshotInfo) { tell("snapshot") },
	}
	m.start()
	propose(t, m, "x")
	if _, err := m.TakeSnapshot(timeout(t)); err != nil {
		t.Fatal(err)
	}
	m.close()
	want := "[members 1 leader 0 leader 1 snapshot]"
	if got := fmt.Sprint(told); got != want {
		t.Errorf("told %s, want %s", got, want)
	}
}

// TestMetrics: several members share one registry, which is theirs only while
// they run.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	a, b := newMember(t, 1), newMember(t, 2)
	a.cfg.Metrics, b.cfg.Metrics = registry, registry
	a.cfg.Bootstrap = true
	a.start()
	b.start()
	propose(t, a, "x")
	eventually(t, "the entry is in the log", func() bool { return a.Status().LastIndex == 3 })
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			values[f.GetName()+" "+m.Label[0].GetValue()] = m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"octopii_node_is_leader 1": 1, "octopii_node_is_leader 2": 0,
		"octopii_node_last_index 1": 3, "octopii_node_members 1": 1,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	a.close()
	b.close()
	if families, err = registry.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Close %d metrics are left: %v", len(families), err)
	}
}

// TestRemovedJoinsAgain: a removed ID stays out, also with an empty directory.
func TestRemovedJoinsAgain(t *testing.T) {
	ms := cluster(t, 3)
	ms[2].kill()
	if _, err := ms[0].Remove(timeout(t), 3); err != nil {
		t.Fatal(err)
	}
	ms[2].start() // with the directory that it had
	<-ms[2].Done()
	if err := ms[2].Err(); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("a removed member that was away stopped with %v, want ErrRemoved", err)
	}
	again := newMember(t, 3)
	again.cfg.Join = []string{ms[1].addr}
	again.start()
	<-again.Done()
	if err := again.Err(); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("a removed member's ID with an empty directory stopped with %v, want ErrRemoved", err)
	}
}
