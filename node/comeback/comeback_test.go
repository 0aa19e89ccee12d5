package comeback_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/comeback"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/tcp"
	"github.com/octopii/octopii/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counting is a state machine in memory: how many commands there were.
type counting struct{ n uint64 }

func (*counting) Durable() (uint64, bool) { return 0, false }
func (c *counting) Apply(entries []node.Entry) ([][]byte, error) {
	c.n += uint64(len(entries))
	return make([][]byte, len(entries)), nil
}
func (c *counting) Snapshot() (node.Snapshot, error) {
	return state{bytes.NewBufferString(fmt.Sprint(c.n))}, nil
}
func (c *counting) Restore(_ uint64, r io.Reader) error {
	_, err := fmt.Fscan(r, &c.n)
	return err
}

type state struct{ *bytes.Buffer }

func (state) Close() error { return nil }

// program is what an embedder writes: a member that comes back by itself.
type program struct {
	t     *testing.T
	dir   string
	tcp   tcp.Config
	lives chan *node.Node
	end   context.CancelFunc
	ended chan error
}

func (p *program) start(bootstrap bool, join ...string) {
	ctx, end := context.WithCancel(context.Background())
	p.end, p.ended = end, make(chan error, 1)
	m := comeback.New(comeback.Config{
		Dir: p.dir, Node: "raft", Bootstrap: bootstrap, Join: join,
		Caller: func() (comeback.Caller, error) { return tcp.NewCaller(p.tcp) },
		IsOwn:  func(address string) bool { return address == p.tcp.Listen },
	})
	go func() {
		p.ended <- m.Run(ctx, func(ctx context.Context, from comeback.Origin) error { return p.live(ctx, m, from) })
	}()
}

// live is one life.
func (p *program) live(ctx context.Context, m *comeback.Member, from comeback.Origin) error {
	t, err := tcp.New(p.tcp)
	if err != nil {
		return err
	}
	p.tcp.Listen = t.Address()
	cfg := node.Config{Dir: filepath.Join(p.dir, "raft"), StateMachine: &counting{}, Transport: t, TickInterval: 20 * time.Millisecond}
	from.Fill(&cfg)
	cfg.Events.MembershipChanged = m.MembershipChanged
	n, err := node.Start(cfg)
	if err != nil {
		return err
	}
	beside, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); m.Keep(beside, n) }()
	select {
	case p.lives <- n:
	case <-n.Done():
	}
	select {
	case <-n.Done():
		err = n.Err()
	case <-ctx.Done():
	}
	stop()
	<-kept
	return errors.Join(err, n.Close())
}

func (p *program) stop() {
	p.t.Helper()
	p.end()
	if err := <-p.ended; err != nil {
		p.t.Error(err)
	}
}

// trio starts three members of a cluster.
func trio(t *testing.T) (ps []*program, ns []*node.Node) {
	for i := range 3 {
		p := &program{t: t, dir: t.TempDir(), tcp: tcp.Config{Listen: "127.0.0.1:0"}, lives: make(chan *node.Node)}
		ps = append(ps, p)
		if i == 0 {
			p.start(true)
		} else {
			p.start(false, ps[0].tcp.Listen)
		}
		ns = append(ns, <-p.lives)
		until(t, func() bool {
			ms := ns[0].Status().Membership
			return len(ms.Voters()) == i+1 && len(ms.Members) == i+1
		})
	}
	return ps, ns
}

// A member of an embedding program whose log is damaged is a new one in its old place after
// the same command, and there are as many voters as before.
func TestProgramComesBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ps, ns := trio(t)
	for range 50 {
		if _, err := ns[0].Propose(ctx, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	old, place := ns[2].Status().ID, ps[2].tcp.Listen
	until(t, func() bool { _, err := os.Stat(filepath.Join(ps[2].dir, "peers.json")); return err == nil })
	ps[2].stop()
	damage(t, filepath.Join(ps[2].dir, "raft", "wal", "*", "*.seg"))
	ps[2].start(false, ps[0].tcp.Listen)
	ns[2] = <-ps[2].lives
	until(t, func() bool {
		ms := ns[0].Status().Membership
		now, ok := ms.Member(ns[2].Status().ID)
		return ok && now.ID != old && !now.Learner && now.Address == place && len(ms.Members) == 3
	})
	if _, err := ns[2].Propose(ctx, []byte("again")); err != nil {
		t.Errorf("the member that came back: %v", err)
	}
	if kept, err := os.ReadDir(filepath.Join(ps[2].dir, "quarantine")); err != nil || len(kept) != 1 {
		t.Errorf("%d directories were put aside (%v); want one", len(kept), err)
	}
	for _, p := range ps {
		p.stop()
	}
}

// While no majority answers, a stranger in the place of a member that is down may state what
// he likes: the files of one that is damaged stay where they are. They are put aside when the
// others are there.
func TestNoStrangerProvesIt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ps, ns := trio(t)
	if _, err := ns[0].Propose(ctx, make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	cluster := ns[2].Status().Cluster
	peers := func() (kept struct{ Peers []string }) {
		if data, err := os.ReadFile(filepath.Join(ps[2].dir, "peers.json")); err == nil {
			_ = json.Unmarshal(data, &kept)
		}
		return kept
	}
	until(t, func() bool { return len(peers().Peers) == 2 })
	for _, p := range ps {
		p.stop()
	}
	lie := transporttest.NewHandler(9)
	lie.SetCluster(cluster)
	var asked atomic.Int32
	lie.SetCall(func(context.Context, transport.Hello, transport.Inbound) (transport.Message, error) {
		asked.Add(1)
		return &octopiipb.VouchReply{Cluster: cluster, Term: 99, Leader: 9, Commit: 1 << 40, IsMember: true}, nil
	})
	stranger, err := tcp.New(tcp.Config{Listen: ps[1].tcp.Listen})
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(lie); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(ps[2].dir, "raft", "wal", "*", "*.seg"))
	ps[2].start(false, ps[0].tcp.Listen)
	until(t, func() bool { return asked.Load() >= 3 })
	aside := func() int {
		kept, err := os.ReadDir(filepath.Join(ps[2].dir, "quarantine"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return len(kept)
	}
	if got := aside(); got != 0 {
		t.Fatalf("a stranger stated it, and %d directories are put aside", got)
	}
	if err := stranger.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		ps[i].start(i == 0, ps[0].tcp.Listen)
		ns[i] = <-ps[i].lives
	}
	ns[2] = <-ps[2].lives
	until(t, func() bool {
		m, ok := ns[0].Status().Membership.Member(ns[2].Status().ID)
		return ok && !m.Learner
	})
	if got := aside(); got != 1 {
		t.Errorf("%d directories are put aside, want 1", got)
	}
	for _, p := range ps {
		p.stop()
	}
}

// damage changes bytes of a file that were acknowledged.
func damage(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file is %s (%v)", pattern, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 8 << 10; at < 24<<10; at += 100 {
		data[at] ^= 0x55
	}
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
		<-time.After(5 * time.Millisecond)
	}
}
