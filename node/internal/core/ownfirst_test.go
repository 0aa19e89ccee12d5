package core

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// Behind a change that takes a vote away a leader sends its entries when they are durable on
// its own disk, until that has the commit of the change, too. Otherwise the one that lost its
// vote, which never campaigns any more, may have a longer log than the leader after a crash,
// and refuse it the vote that it asks for, as it does not know of the change yet.
func TestOwnCopyGoesFirst(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	write := func(a *Append) *Append {
		_ = b.d.Append(a.Entries)
		return a
	}
	sends := func(e *Effects) (last uint64) {
		for _, m := range e.Messages {
			if n := len(m.Entries); m.Type == raftpb.MsgApp && n > 0 {
				last = max(last, m.Entries[n-1].Index)
			}
		}
		return last
	}
	propose := func() Request { return Request{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: &call{}} }
	e := b.step(Input{Requests: []Request{propose()}})
	first := e.Append
	if got := sends(e); got != 3 {
		t.Fatalf("without a change entries up to %d are sent at once, want 3", got)
	}
	b.step(Input{Appended: []*Append{write(first)}})
	demote := Request{Kind: ChangeMembership, Changes: []Change{{Op: Demote, Member: octopiipb.Member{ID: 2}}}, Waiter: &call{}}
	e = b.step(Input{Requests: []Request{demote}, Messages: bare([]raftpb.Message{{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: 2, Index: 3}})})
	change := e.Append
	if got := sends(e); got != 4 {
		t.Fatalf("the change itself is sent at once, want entry 4, got %d", got)
	}
	e = b.step(Input{Appended: []*Append{write(change)}, Requests: []Request{propose()}})
	behind := e.Append
	if got := sends(e); got != 0 || behind == nil || len(behind.Entries) == 0 {
		t.Fatalf("entries up to %d are sent behind the change before they are durable here", got)
	}
	e = b.step(Input{Appended: []*Append{write(behind)}})
	if got := sends(e); got != 5 {
		t.Fatalf("when they are durable, entries up to %d are sent, want 5", got)
	}
}
