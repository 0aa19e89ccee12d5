package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/localnet"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport/tcp"
)

// boundedBytes is the bound of a transport with small frames.
const boundedBytes = 64 << 10

func TestLimitsAreCompared(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  node.Config
		want []string // all of them in the error; none: it starts
	}{
		"defaults":              {},
		"proposal and frame":    {node.Config{ProposalBytesMax: 70 << 20, PendingBytesMax: 128 << 20}, []string{"ProposalBytesMax 73400320", "takes 67108"}},
		"proposal and pending":  {node.Config{ProposalBytesMax: 101, PendingBytesMax: 100}, []string{"ProposalBytesMax 101", "PendingBytesMax 100"}},
		"pending alone":         {cfg: node.Config{PendingBytesMax: 100}},
		"pending and log":       {node.Config{PendingBytesMax: 1 << 30}, []string{"PendingBytesMax 1073741824", "357913941"}},
		"message and frame":     {node.Config{MessageBytesMax: 64 << 20}, []string{"MessageBytesMax 67108864", "44738"}},
		"election":              {node.Config{ElectionTicks: 3, HeartbeatTicks: 3}, []string{"ElectionTicks 3", "HeartbeatTicks 3"}},
		"tick":                  {node.Config{TickInterval: time.Microsecond}, []string{"TickInterval 1µs"}},
		"negative tick":         {node.Config{TickInterval: -1}, []string{"TickInterval -1"}},
		"negative heartbeat":    {node.Config{HeartbeatTicks: -1}, []string{"HeartbeatTicks -1"}},
		"negative election":     {node.Config{ElectionTicks: -1}, []string{"ElectionTicks -1"}},
		"negative proposal":     {node.Config{ProposalBytesMax: -1}, []string{"ProposalBytesMax -1"}},
		"negative proposals":    {node.Config{PendingProposalsMax: -1}, []string{"PendingProposalsMax -1"}},
		"negative pending":      {node.Config{PendingBytesMax: -1}, []string{"PendingBytesMax -1"}},
		"negative inflight":     {node.Config{InflightMessagesMax: -1}, []string{"InflightMessagesMax -1"}},
		"negative stable":       {node.Config{PromoteStableTicks: -1}, []string{"PromoteStableTicks -1"}},
		"negative join timeout": {node.Config{JoinTimeoutTicks: -1}, []string{"JoinTimeoutTicks -1"}},
		"negative stall limits": {cfg: node.Config{StallTicks: -1, StallLimit: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := test.cfg
			tr, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			cfg.ID, cfg.Dir, cfg.StateMachine, cfg.WAL, cfg.Transport = 1, t.TempDir(), counter{}, smallLog, tr
			n, err := node.Start(cfg)
			if err == nil {
				err = n.Close()
				if len(test.want) > 0 {
					t.Fatalf("it starts, and should not: want %q", test.want)
				}
			}
			if err != nil && len(test.want) == 0 {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

// A transport in memory has a bound, too.
func TestLimitsOfOtherTransports(t *testing.T) {
	_, err := node.Start(node.Config{ID: 1, Dir: t.TempDir(), StateMachine: counter{}, WAL: smallLog,
		ProposalBytesMax: 70 << 20, PendingBytesMax: 128 << 20, Transport: localnet.New().Transport("n1")})
	if !strings.Contains(fmt.Sprint(err), "ProposalBytesMax") {
		t.Errorf("got %v", err)
	}
}

// The largest proposal that Start allows goes through frames of that bound, from the
// leader and from a follower.
func TestLargestProposal(t *testing.T) {
	ms := make([]*member, 3)
	for i := range ms {
		m := newMember(t, uint64(i+1))
		m.cfg.Bootstrap, m.cfg.ProposalBytesMax, m.frameBytes = i == 0, boundedBytes-64-1<<10-16, boundedBytes
		if ms[i] = m.start(); i > 0 {
			add(t, ms[0], m)
		}
	}
	for i, m := range ms {
		data := make([]byte, m.cfg.ProposalBytesMax)
		data[0] = byte(i)
		if _, err := m.Propose(timeout(t), data); err != nil {
			t.Errorf("on member %d: %v", i+1, err)
		}
	}
	over := newMember(t, 4)
	over.cfg.ProposalBytesMax, over.frameBytes = ms[0].cfg.ProposalBytesMax+1, boundedBytes
	if err := over.tryStart(); err == nil {
		t.Error("a member starts whose largest proposal is one byte larger")
	}
}
