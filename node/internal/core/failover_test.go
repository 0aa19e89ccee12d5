package core

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// Where a cluster wants it, a dead leader is waited for as any other.
func TestFailoverByTimeout(t *testing.T) {
	for _, byTimeout := range []bool{false, true} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
		b.c.handed.Membership.Settings.FailoverByTimeout = byTimeout
		b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
		e := b.step(Input{PeersGone: []uint64{2}})
		if soon := e.CampaignSoon > 0; soon == byTimeout {
			t.Errorf("failover by timeout %v: it wants to campaign soon: %v", byTimeout, soon)
		}
	}
}
