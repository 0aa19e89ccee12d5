package node_test

import (
	"context"
	"testing"

	"github.com/octopii/octopii/node"
)

// A transfer whose target hears nothing of it is given up by raft, and tried again for as long as
// its caller waits.
func TestTransferIsTriedAgain(t *testing.T) {
	network, ms := quietCluster(t)
	ms[0].close()
	again := observed(ms[0])
	ms[0].start()
	leader(t, ms...)
	if err := ms[1].TransferLeadership(timeout(t), ms[0].cfg.ID); err != nil {
		t.Fatal(err)
	}
	leads, target := ms[0], ms[1]
	network.Partition(leads.addr, target.addr)
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- leads.TransferLeadership(ctx, target.cfg.ID) }()
	eventually(t, "it is tried again", func() bool { return again("was given up; trying again") })
	select {
	case err := <-done:
		t.Fatalf("it ended before its caller did: %v", err)
	default:
	}
	network.Heal()
	if err := <-done; err != nil {
		t.Errorf("when its target hears of it: %v", err)
	}
	eventually(t, "the target leads", func() bool { return target.Status().Role == node.Leader })
}
