package node_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
)

// caller is a state machine, and a Snapshot of it, that calls back wherever it is called.
// A call that waited would wait for ever: the test would not end.
type caller struct {
	*history
	mu   sync.Mutex
	n    *node.Node
	errs map[string][]error
}

// call calls all verbs from inside a method.
func (c *caller) call(method string, verbs ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		return // Start has not returned
	}
	_ = c.n.Status()
	_ = c.n.Err()
	ctx := context.Background()
	all := map[string]func() error{
		"Propose":     func() error { _, err := c.n.Propose(ctx, []byte("inside")); return err },
		"ReadBarrier": func() error { _, err := c.n.ReadBarrier(ctx, node.Linearizable); return err },
		"AddLearner": func() error {
			_, err := c.n.AddLearner(ctx, node.Member{ID: 7, Address: "nowhere:1"})
			return err
		},
		"Plan": func() error {
			_, err := c.n.Plan(ctx, node.Change{Verb: node.VerbRemove, Member: node.Member{ID: 7}})
			return err
		},
		"SetFailoverByTimeout": func() error { _, err := c.n.SetFailoverByTimeout(ctx, true); return err },
		"TransferLeadership":   func() error { return c.n.TransferLeadership(ctx, 0) },
		"TakeSnapshot":         func() error { _, err := c.n.TakeSnapshot(ctx); return err },
		"Close":                func() error { return c.n.Close() },
	}
	for verb, f := range all {
		if len(verbs) == 0 || strings.Contains(strings.Join(verbs, " "), verb) {
			c.errs[method] = append(c.errs[method], f())
		}
	}
}

func (c *caller) Apply(entries []node.Entry) ([][]byte, error) {
	c.call("Apply")
	return c.history.Apply(entries)
}

func (c *caller) Snapshot() (node.Snapshot, error) {
	c.call("Snapshot")
	s, err := c.history.Snapshot()
	return callerSnapshot{s, c}, err
}

type callerSnapshot struct {
	node.Snapshot
	c *caller
}

func (s callerSnapshot) WriteTo(w io.Writer) (int64, error) {
	s.c.call("WriteTo", "TakeSnapshot", "Close")
	return s.Snapshot.WriteTo(w)
}

func (s callerSnapshot) Close() error {
	s.c.call("Snapshot.Close", "TakeSnapshot", "Close")
	return s.Snapshot.Close()
}

// Verbs called from where they would wait for themselves say so, and do nothing.
func TestReentrantCalls(t *testing.T) {
	c := &caller{history: &history{}, errs: map[string][]error{}}
	told := make(chan struct{}, 100)
	n, err := node.Start(node.Config{
		ID: 1, Dir: t.TempDir(), StateMachine: c, Bootstrap: true, WAL: smallLog,
		Transport: localnet.New().Transport("n1"),
		Events: node.Events{SnapshotTaken: func(node.SnapshotInfo) {
			c.call("Events", "Close")
			told <- struct{}{}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.n = n
	c.mu.Unlock()
	ctx := timeout(t)
	if _, err := n.Propose(ctx, []byte("outside")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.TakeSnapshot(ctx); err != nil {
		t.Fatal(err)
	}
	<-told
	c.mu.Lock()
	for _, method := range []string{"Apply", "Snapshot", "WriteTo", "Snapshot.Close", "Events"} {
		if len(c.errs[method]) == 0 {
			t.Errorf("nothing was called inside %s", method)
		}
		for _, err := range c.errs[method] {
			if !errors.Is(err, node.ErrReentrant) {
				t.Errorf("inside %s: got %v, want ErrReentrant", method, err)
			}
		}
	}
	c.n = nil
	c.mu.Unlock()
	if err := n.Close(); err != nil {
		t.Errorf("Close, after one inside of Apply was refused: %v", err)
	}
}

// Apply may call a verb on another goroutine, and not wait for it.
func TestApplyMayProposeBeside(t *testing.T) {
	done := make(chan error, 1)
	var n *node.Node
	var once sync.Once
	sm := applyFunc(func() {
		once.Do(func() {
			go func() {
				_, err := n.Propose(context.Background(), []byte("beside"))
				done <- err
			}()
		})
	})
	n, err := node.Start(node.Config{ID: 1, Dir: t.TempDir(), StateMachine: sm, Bootstrap: true, WAL: smallLog, Transport: localnet.New().Transport("n1")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if _, err := n.Propose(timeout(t), []byte("outside")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("beside: %v", err)
	}
}

// applyFunc is a counter whose Apply calls it.
type applyFunc func()

func (f applyFunc) Durable() (uint64, bool)                 { return counter{}.Durable() }
func (f applyFunc) Snapshot() (node.Snapshot, error)        { return counter{}.Snapshot() }
func (f applyFunc) Restore(index uint64, r io.Reader) error { return counter{}.Restore(index, r) }
func (f applyFunc) Apply(entries []node.Entry) ([][]byte, error) {
	f()
	return counter{}.Apply(entries)
}
