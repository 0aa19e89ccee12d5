package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
)

// smallSegment lets a few proposals need the next file.
const smallSegment = 64 << 10

// onMem gives a member a disk in memory, whose size a test can change.
func onMem(m *member) *vfstest.Mem {
	disk := vfstest.NewMem()
	m.cfg.Dir = "/data"
	node.OnFS(&m.cfg, disk, smallSegment)
	return disk
}

// memCluster starts three voters on disks in memory; the first one leads.
func memCluster(t *testing.T) ([]*member, []*vfstest.Mem) {
	t.Helper()
	var ms []*member
	var disks []*vfstest.Mem
	for id := uint64(1); id <= 3; id++ {
		m := newMember(t, id)
		m.cfg.Bootstrap = id == 1
		disks = append(disks, onMem(m))
		ms = append(ms, m.start())
		if id > 1 {
			add(t, ms[0], m)
		}
	}
	return ms, disks
}

// hasNext: the log has made the file that it needs next.
func hasNext(disk *vfstest.Mem) bool {
	return slices.ContainsFunc(disk.Names("/data/wal/0000000000000001"), func(name string) bool { return strings.HasSuffix(name, ".spare") })
}

// fill proposes through m until it is refused for want of space, and returns
// what was acknowledged. It waits for the next file before it uses the current
// one, since a file is so small here that a slow attempt to make the next one
// could be overtaken.
func fill(t *testing.T, m *member, disk *vfstest.Mem) []string {
	t.Helper()
	var acknowledged []string
	for i := range 1000 {
		eventually(t, "a next file, or none", func() bool { return hasNext(disk) || m.Status().NoSpace })
		command := fmt.Sprintf("%d %s", i, strings.Repeat("x", 4000))
		_, err := m.Propose(timeout(t), []byte(command))
		if errors.Is(err, node.ErrNoSpace) {
			return acknowledged
		}
		if err != nil {
			t.Fatalf("proposal %d on a disk that fills: %v, want success or ErrNoSpace", i, err)
		}
		acknowledged = append(acknowledged, command)
	}
	t.Fatal("the disk never was full")
	return nil
}

// holds fails if a member does not have all that was acknowledged, in order.
func holds(t *testing.T, m *member, want []string) {
	t.Helper()
	got := m.sm.all()
	if !slices.Equal(got, want) {
		t.Errorf("member %d has %d commands, want the %d that were acknowledged", m.cfg.ID, len(got), len(want))
	}
}

// readable fails if a read barrier does not pass.
func readable(t *testing.T, ms ...*member) {
	t.Helper()
	for _, m := range ms {
		if _, err := m.ReadBarrier(timeout(t), node.Linearizable); err != nil {
			t.Errorf("read barrier on member %d: %v", m.cfg.ID, err)
		}
	}
}

// refuses fails if a member takes a proposal.
func refuses(t *testing.T, ms ...*member) {
	t.Helper()
	for _, m := range ms {
		if _, err := m.Propose(timeout(t), []byte("no")); !errors.Is(err, node.ErrNoSpace) {
			t.Errorf("propose on member %d: %v, want ErrNoSpace", m.cfg.ID, err)
		}
	}
}

// accepts waits until a member takes proposals again, and returns what it took.
func accepts(t *testing.T, m *member) string {
	t.Helper()
	command := fmt.Sprint("again on ", m.cfg.ID)
	eventually(t, "proposals are taken again", func() bool {
		_, err := m.Propose(timeout(t), []byte(command))
		if err != nil && !errors.Is(err, node.ErrNoSpace) {
			t.Fatalf("propose when there is space again: %v", err)
		}
		return err == nil
	})
	return command
}

// When the leader's disk is full, proposals are refused wherever they come in,
// and nothing else: members read and keep their leader. When there is space
// again they are taken by themselves.
func TestLeaderOutOfSpace(t *testing.T) {
	ms, disks := memCluster(t)
	leader(t, ms...)
	disks[0].SetCapacity(disks[0].Used())
	commands := fill(t, ms[0], disks[0])
	if !ms[0].Status().NoSpace || ms[1].Status().NoSpace {
		t.Errorf("Status().NoSpace of leader and follower: %t and %t, want true and false", ms[0].Status().NoSpace, ms[1].Status().NoSpace)
	}
	term := ms[0].Status().Term
	refuses(t, ms...)
	readable(t, ms...)
	if _, err := ms[1].AddLearner(timeout(t), node.Member{ID: 9, Address: "127.0.0.1:1"}); err != nil {
		t.Errorf("what is left of the log is for the membership: %v", err)
	}
	if got := ms[0].Status().Term; got != term {
		t.Errorf("term %d, want %d still: the leader stays", got, term)
	}

	disks[0].SetCapacity(0)
	for _, m := range []*member{ms[0], ms[2]} {
		commands = append(commands, accepts(t, m))
	}
	if ms[0].Status().NoSpace {
		t.Error("Status().NoSpace is still true")
	}
	converged(t, ms...)
	for _, m := range ms {
		m.close()
		m.start()
	}
	leader(t, ms...)
	converged(t, ms...)
	for _, m := range ms {
		holds(t, m, commands)
	}
}

// A follower's full disk stops neither the others nor it. What does not fit
// waits, and it catches up when there is space.
func TestFollowerOutOfSpace(t *testing.T) {
	ms, disks := memCluster(t)
	full := ms[2]
	disks[2].SetCapacity(disks[2].Used())
	var commands []string
	for i := 0; !full.Stuck(); i++ {
		commands = append(commands, fmt.Sprintf("%d %s", i, strings.Repeat("x", 4000)))
		propose(t, ms[i%2], commands[i])
	}
	refuses(t, full)
	for i := range 20 {
		commands = append(commands, fmt.Sprint("without it ", i))
		propose(t, ms[1], commands[len(commands)-1])
	}
	eventually(t, "the leader hears of the one whose disk is full", func() bool {
		for _, p := range ms[0].Status().Progress {
			if p.ID == 3 {
				return p.Active && p.Match < ms[0].Status().Commit
			}
		}
		return false
	})
	readable(t, ms[0], ms[1])

	disks[2].SetCapacity(0)
	commands = append(commands, accepts(t, full))
	converged(t, ms...)
	full.close()
	full.start()
	leader(t, ms...)
	converged(t, ms...)
	holds(t, full, commands)
}

// A proposal for which there is no room any more waits, and so does everything
// behind it, in its order. Reads go on: nothing of it is committed.
func TestStuckAppendGoesOn(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	disk := onMem(m)
	m.start()
	commands := []string{"before"}
	propose(t, m, "before")
	eventually(t, "the next file is made", func() bool { return hasNext(disk) })
	disk.SetCapacity(disk.Used())

	// It needs a segment of its own.
	large := strings.Repeat("large", smallSegment)
	result := make(chan error, 1)
	go func() {
		_, err := m.Propose(timeout(t), []byte(large))
		result <- err
	}()
	eventually(t, "it does not fit", m.Stuck)
	refuses(t, m)
	readable(t, m)
	disk.SetCapacity(0)
	if err := <-result; err != nil {
		t.Fatalf("the proposal that waited for space: %v", err)
	}
	commands = append(commands, large, accepts(t, m))
	m.close()
	m.start()
	leader(t, m)
	readable(t, m)
	holds(t, m, commands)
}

// Close does not wait for space, and what was never acknowledged may be gone.
func TestCloseWhileStuck(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	disk := onMem(m)
	n := m.start().Node
	propose(t, m, "before")
	eventually(t, "the next file is made", func() bool { return hasNext(disk) })
	disk.SetCapacity(disk.Used())
	result := make(chan error, 1)
	go func() {
		_, err := n.Propose(timeout(t), make([]byte, 2*smallSegment))
		result <- err
	}()
	eventually(t, "it does not fit", n.Stuck)
	m.close()
	if err := <-result; !errors.Is(err, node.ErrUnknownOutcome) || !errors.Is(err, node.ErrClosed) {
		t.Errorf("the proposal that waited ended with %v, want ErrUnknownOutcome and ErrClosed", err)
	}
	m.start() // the disk is full still
	leader(t, m)
	readable(t, m)
	holds(t, m, []string{"before"})
}

// A disk that is full already when a member starts is no reason not to.
func TestStartWithoutSpace(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	disk := onMem(m)
	m.start()
	acknowledged := []string{"one"}
	propose(t, m, "one")
	disk.SetCapacity(disk.Used())
	acknowledged = append(acknowledged, fill(t, m, disk)...)
	m.close()
	m.start()
	leader(t, m)
	readable(t, m)
	refuses(t, m)
	disk.SetCapacity(0)
	acknowledged = append(acknowledged, accepts(t, m))
	holds(t, m, acknowledged)
}

// A snapshot that finds no room fails, and nothing else does.
func TestSnapshotWithoutSpace(t *testing.T) {
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	disk := onMem(m)
	m.start()
	big := strings.Repeat("x", 20_000)
	propose(t, m, big)
	disk.SetCapacity(disk.Used())
	if _, err := m.TakeSnapshot(timeout(t)); err == nil {
		t.Fatal("a snapshot of 20,000 bytes was written to a full disk")
	}
	readable(t, m)
	disk.SetCapacity(0)
	if _, err := m.TakeSnapshot(timeout(t)); err != nil {
		t.Errorf("a snapshot when there is space again: %v", err)
	}
	propose(t, m, "on")
	if names := disk.Names("/data/snap"); slices.ContainsFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".snap") }) {
		t.Errorf("the snapshot that failed left %q", names)
	}
}

// A newcomer without space for its first log tries again when the leader sends
// the snapshot again.
func TestJoinWithoutSpace(t *testing.T) {
	a := founder(t)
	propose(t, a, "something")
	b := newMember(t, 2)
	disk := onMem(b)
	disk.SetCapacity(smallSegment / 2) // enough for the snapshot
	b.start()
	added := make(chan error, 1)
	go func() {
		_, err := a.AddVoter(timeout(t), node.Member{ID: 2, Address: b.addr})
		added <- err
	}()
	eventually(t, "the snapshot arrived", func() bool { return slices.ContainsFunc(disk.Names("/data/snap"), isSnapshot) })
	select {
	case <-b.Done():
		t.Fatalf("the newcomer stopped: %v", b.Err())
	case err := <-added:
		t.Fatalf("it was added without space: %v", err)
	case <-time.After(10 * b.cfg.TickInterval):
	}
	disk.SetCapacity(0)
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	converged(t, a, b)
}

func isSnapshot(name string) bool { return strings.HasSuffix(name, ".snap") }

// Callers on every member, while the leader's disk fills and is freed again and
// again: each proposal is either taken once or certainly not, and what was
// acknowledged stays.
func TestDiskThatFillsAndEmpties(t *testing.T) {
	ms, disks := memCluster(t)
	var mu sync.Mutex
	acknowledged, refused := map[string]bool{}, map[string]bool{}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i, m := range ms {
		for j := range 3 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					command := fmt.Sprintf("%d of %d on %d %s", n, j, i, strings.Repeat("x", 1000))
					_, err := m.Propose(timeout(t), []byte(command))
					mu.Lock()
					switch {
					case err == nil:
						acknowledged[command] = true
					case errors.Is(err, node.ErrNoSpace), errors.Is(err, node.ErrNotCommitted):
						refused[command] = true
					case !errors.Is(err, node.ErrUnknownOutcome):
						t.Errorf("propose: %v", err)
					}
					mu.Unlock()
				}
			})
		}
	}
	for range 2 {
		disks[0].SetCapacity(disks[0].Used())
		eventually(t, "the disk is full", func() bool { return ms[0].Status().NoSpace })
		disks[0].SetCapacity(0)
		eventually(t, "there is space", func() bool { return !ms[0].Status().NoSpace })
	}
	stop()
	wg.Wait()
	converged(t, ms...)
	seen := map[string]int{}
	for _, c := range ms[0].sm.all() {
		seen[c]++
	}
	for c := range acknowledged {
		if seen[c] != 1 {
			t.Errorf("%.30q was acknowledged and is there %d times", c, seen[c])
		}
	}
	for c := range refused {
		if seen[c] != 0 {
			t.Errorf("%.30q was refused and is there", c)
		}
	}
	if len(acknowledged) == 0 || len(refused) == 0 {
		t.Errorf("%d acknowledged and %d refused: the test did not test", len(acknowledged), len(refused))
	}
}
