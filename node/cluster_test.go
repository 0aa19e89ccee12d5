package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/tcp"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// history is a state machine that remembers every command that it saw.
type history struct {
	mu       sync.Mutex
	commands []string
	indexes  []uint64
}

func (h *history) Durable() (uint64, bool) { return 0, false }

func (h *history) Apply(entries []node.Entry) ([][]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	results := make([][]byte, len(entries))
	for i, e := range entries {
		if n := len(h.indexes); n > 0 && h.indexes[n-1] >= e.Index {
			return nil, fmt.Errorf("entry %d came behind %d", e.Index, h.indexes[n-1])
		}
		h.commands = append(h.commands, string(e.Data))
		h.indexes = append(h.indexes, e.Index)
		results[i] = fmt.Appendf(nil, "%d:%s", len(h.commands), e.Data)
	}
	return results, nil
}

func (h *history) Snapshot() (node.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	for i, c := range h.commands {
		b.Write(binary.BigEndian.AppendUint64(nil, h.indexes[i]))
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(c))))
		b.WriteString(c)
	}
	return captured{&b}, nil
}

type captured struct{ *bytes.Buffer }

func (captured) Close() error { return nil }

func (h *history) Restore(_ uint64, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands, h.indexes = nil, nil
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b[8:])
		h.indexes = append(h.indexes, binary.BigEndian.Uint64(b))
		h.commands = append(h.commands, string(b[12:12+n]))
		b = b[12+n:]
	}
	return nil
}

// all returns the commands in order.
func (h *history) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.commands...)
}

// hash is the same for the same commands at the same indexes.
func (h *history) hash() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := fnv.New64a()
	for i, c := range h.commands {
		fmt.Fprintf(f, "%d %q\n", h.indexes[i], c)
	}
	return f.Sum64()
}

// counter is a state machine that costs nothing.
type counter struct{}

func (counter) Durable() (uint64, bool)              { return 0, false }
func (counter) Apply([]node.Entry) ([][]byte, error) { return nil, nil }
func (counter) Snapshot() (node.Snapshot, error)     { return captured{&bytes.Buffer{}}, nil }
func (counter) Restore(uint64, io.Reader) error      { return nil }

// member is one member of a test's cluster, which may be started again.
type member struct {
	*node.Node
	t    testing.TB
	cfg  node.Config
	addr string
	// network has names for addresses; nil: ports.
	network *localnet.Network
	sm      *history
	// around is put around its state machine; nil: nothing.
	around func(*history) node.StateMachine
	// sure: its peers proved who they are.
	sure bool
	// silent: its state machine remembers nothing.
	silent bool
	// frameBytes bounds the transport's frames. 0: its default.
	frameBytes int
	// disk is a durable state machine that outlives the member; nil: none.
	disk *keeper
}

// smallLog is the native log in segments that are quickly made.
var smallLog = wal.New(wal.Options{SegmentBytes: 1 << 20})

// bothLogs are the formats of the write-ahead log.
var bothLogs = map[string]wal.Backend{"native": smallLog, "etcd": etcdwal.New(nil)}

// newMember describes a member on a free port of its own; start starts it.
func newMember(t testing.TB, id uint64) *member {
	t.Helper()
	m := &member{t: t, addr: "127.0.0.1:0"}
	m.cfg = node.Config{WAL: smallLog, ID: id, Name: fmt.Sprintf("n%d", id), Dir: t.TempDir(), TickInterval: 20 * time.Millisecond}
	t.Cleanup(func() { m.close() })
	return m
}

// start starts the member, again on the address that it had.
func (m *member) start() *member {
	m.t.Helper()
	if err := m.tryStart(); err != nil {
		m.t.Fatalf("start member %d: %v", m.cfg.ID, err)
	}
	return m
}

func (m *member) tryStart() error {
	tr, err := m.listen()
	if err != nil {
		return err
	}
	m.addr = tr.Address()
	cfg := m.cfg
	m.sm = &history{}
	if m.sure {
		tr = sure{tr}
	}
	cfg.StateMachine, cfg.Transport = m.sm, tr
	if m.around != nil {
		cfg.StateMachine = m.around(m.sm)
	}
	if m.silent {
		cfg.StateMachine = counter{}
	}
	if m.disk != nil {
		m.disk.crash() // a new process knows what was synced, and no more
		m.sm, cfg.StateMachine = m.disk.history, m.disk
	}
	m.Node, err = node.Start(cfg)
	return err
}

func (m *member) listen() (transport.Transport, error) {
	if m.network != nil {
		return m.network.Transport(m.addr), nil
	}
	return tcp.New(tcp.Config{Listen: m.addr, FrameBytesMax: m.frameBytes})
}

func (m *member) close() {
	if m.Node == nil {
		return
	}
	if err := m.Node.Close(); err != nil {
		m.t.Errorf("close member %d: %v", m.cfg.ID, err)
	}
	m.Node = nil
}

// founder starts a cluster of one.
func founder(t testing.TB) *member {
	t.Helper()
	m := newMember(t, 1)
	m.cfg.Bootstrap = true
	return m.start()
}

// cluster starts n members that are all voters.
func cluster(t testing.TB, n int) []*member {
	t.Helper()
	ms := []*member{founder(t)}
	for id := 2; id <= n; id++ {
		m := newMember(t, uint64(id)).start()
		ms = append(ms, m)
		add(t, ms[0], m)
	}
	return ms
}

// add makes a voter of m.
func add(t testing.TB, by, m *member) {
	t.Helper()
	if _, err := by.AddVoter(timeout(t), node.Member{ID: m.cfg.ID, Name: m.cfg.Name, Address: m.addr}); err != nil {
		t.Fatalf("add member %d: %v", m.cfg.ID, err)
	}
}

// timeout is a context that outlasts whatever a healthy cluster does.
func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("still not true: %s", what)
		}
	}
}

// takesTurns waits until a member's loop has had n turns more, in which what must not happen
// did not happen.
func takesTurns(t testing.TB, m *member, n uint64) {
	t.Helper()
	until := m.Turns() + n
	eventually(t, "the loop goes on", func() bool { return m.Turns() >= until })
}

// propose writes a command through m.
func propose(t testing.TB, m *member, command string) node.Result {
	t.Helper()
	r, err := m.Propose(timeout(t), []byte(command))
	if err != nil {
		t.Fatalf("propose %q on member %d: %v", command, m.cfg.ID, err)
	}
	return r
}

// leader returns the member that leads and that the others know.
func leader(t testing.TB, ms ...*member) *member {
	t.Helper()
	var found *member
	eventually(t, "one member leads and the others know", func() bool {
		found = nil
		for _, m := range ms {
			if m.Status().Role == node.Leader {
				found = m
			}
		}
		for _, m := range ms {
			if found == nil || m.Status().Leader != found.cfg.ID || m.Status().Term != found.Status().Term {
				return false
			}
		}
		return true
	})
	return found
}

// converged waits until all members have applied the same.
func converged(t testing.TB, ms ...*member) {
	t.Helper()
	eventually(t, "all members have applied the same", func() bool {
		for _, m := range ms {
			if m.Status().Applied != ms[0].Status().Applied || m.sm.hash() != ms[0].sm.hash() {
				return false
			}
		}
		return true
	})
}

// kill stops a member as a crash would: it hands nothing over and answers
// nobody any more.
func (m *member) kill() {
	m.t.Helper()
	m.Node.Kill()
	m.Node = nil
}
