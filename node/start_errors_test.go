package node_test

import (
	"errors"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport"
)

// deaf is a transport that cannot start.
type deaf struct {
	transport.Transport
	err error
}

func (d deaf) Start(transport.Handler) error { return d.err }

// A Start that fails gives everything back: the directory, whose lock the next Start takes, and
// the goroutines, of which the leak check knows.
func TestStartThatFailsGivesTheDirectoryBack(t *testing.T) {
	odd := errors.New("no network")
	network := localnet.New()
	cfg := node.Config{WAL: smallLog, ID: 1, Dir: t.TempDir(), Bootstrap: true, StateMachine: &history{}}
	cfg.Transport = deaf{network.Transport("a"), odd}
	if _, err := node.Start(cfg); !errors.Is(err, odd) {
		t.Errorf("a transport that cannot start: %v", err)
	}
	registry := prometheus.NewRegistry()
	taken := newMember(t, 1)
	taken.cfg.Metrics = registry
	taken.start()
	cfg.Transport, cfg.Metrics = network.Transport("a"), registry
	var twice prometheus.AlreadyRegisteredError
	if _, err := node.Start(cfg); !errors.As(err, &twice) {
		t.Errorf("metrics of another member of that ID: %v, want AlreadyRegisteredError", err)
	}
	cfg.Transport, cfg.Metrics = network.Transport("a"), nil // a failed Start has closed the other
	n, err := node.Start(cfg)
	if err != nil {
		t.Fatalf("after Starts that failed: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// A directory in which an identity cannot be written gives a new member no identity, and so no start: two members
// could have one.
func TestStartWithoutAnIdentity(t *testing.T) {
	m := newMember(t, 1)
	why := without(m, "identity")
	broken := error(syscall.EIO)
	why.Store(&broken)
	if err := m.tryStart(); !errors.Is(err, syscall.EIO) {
		t.Errorf("start: %v, want EIO", err)
	}
	why.Store(nil)
	m.cfg.Bootstrap = true
	m.start()
	propose(t, m, "x")
}
