package core

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// raft takes no more than so much that is not applied yet, and drops a batch as a whole. Whoever
// waits for one of it is told, nothing of it is in the log, and a change of membership that was
// in it stands in nobody's way.
func TestBatchThatRaftDrops(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	applied := b.c.Status().Last
	big := make([]byte, b.c.cfg.ProposalBytesMax)
	for range 3 { // what members have not acknowledged
		b.run(Input{Requests: []Request{NewProposal(big, &call{})}})
	}
	last := b.c.Status().Last
	if last != applied+3 || len(b.all) > 0 {
		t.Fatalf("the log ends at %d and was applied up to %d; outcomes %v", last, applied, b.all)
	}
	add := Request{Kind: ChangeMembership, Waiter: &call{}, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "addr4"}}}}
	b.run(Input{Requests: []Request{NewProposal(big, &call{}), add}})
	if len(b.all) != 2 || !errors.Is(b.all[0].Err, ErrOverloaded) || !errors.Is(b.all[1].Err, ErrOverloaded) || b.c.Status().Last != last {
		t.Fatalf("the log ends at %d and did at %d; outcomes %v, want two of ErrOverloaded", b.c.Status().Last, last, b.all)
	}
	b.ack(2)
	// raft itself remembers the change that it dropped, and refuses another one into empty
	// entries until it has applied so many: Node tries again for as long.
	for range 2 {
		b.all = nil
		b.run(Input{Requests: []Request{add}})
		if len(b.all) != 1 || !errors.Is(b.all[0].Err, ErrMembershipBusy) {
			break
		}
		b.ack(2)
	}
	b.all = nil
	b.run(Input{Requests: []Request{add}})
	b.ack(2)
	if len(b.all) != 1 || b.all[0].Err != nil || find(b.c.handed.Membership, 4) == nil {
		t.Errorf("when all is applied, the change is asked for again: %v", b.all)
	}
}

// A member that stops serving answers every read that waits here: for a round, for the next
// one, and for its index to be applied.
func TestReadsOfAMemberThatStopsServing(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	term := b.c.Status().Term
	b.run(Input{Requests: []Request{NewProposal([]byte("p"), &call{})}})
	last := b.c.Status().Last
	e := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: term, Index: last}})})
	apply := e.Apply
	if apply == nil {
		t.Fatal("nothing is handed to the state machine")
	}
	read := func(name string) *call {
		w := &call{name: name}
		b.step(Input{Requests: []Request{{Kind: Read, Waiter: w}}})
		return w
	}
	confirmed := read("confirmed")
	b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: term, Context: b.c.reads.context}})})
	if len(b.c.reads.confirmed) != 1 {
		t.Fatalf("reads: %+v, want one that waits for its index", b.c.reads)
	}
	round, waits := read("round"), read("waits")
	b.all = nil
	stops := errors.New("stops")
	b.step(Input{Refuse: stops})
	told := map[Waiter]error{}
	for _, o := range b.all {
		told[o.Waiter] = o.Err
	}
	for _, w := range []*call{confirmed, round, waits} {
		if !errors.Is(told[w], stops) {
			t.Errorf("the read %q is told %v", w.name, told[w])
		}
	}
	if b.all = nil; len(told) == 3 {
		if b.run(Input{Applied: []*Apply{apply}}); len(b.all) > 0 {
			t.Errorf("and then again: %v", b.all)
		}
	}
}
