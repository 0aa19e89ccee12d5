package core

import (
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader that is told in its own term that a member has committed more than it has says
// so, whichever answer tells it, also the vote that it did not need. What was said in an
// earlier term proves nothing.
func TestToldOfMore(t *testing.T) {
	suspects := func(b *bench, m octopiipb.PeerMessage) []Suspect {
		m.From, m.To = 3, 1
		return b.step(Input{Messages: []octopiipb.PeerMessage{m}}).Suspects
	}
	leader := func() *bench {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, entriesOf(1, 2, 5)...)
		b.elect(2)
		return b
	}
	for name, m := range map[string]octopiipb.PeerMessage{
		"acknowledgement": {Message: raftpb.Message{Type: raftpb.MsgAppResp, Index: 9}},
		"heartbeat":       {Message: raftpb.Message{Type: raftpb.MsgHeartbeatResp}, Note: octopiipb.Note{Applied: 9}},
		"vote":            {Message: raftpb.Message{Type: raftpb.MsgVoteResp, Reject: true}, Note: octopiipb.Note{Commit: 9}},
	} {
		b := leader()
		m.Term = b.c.Status().Term
		got := suspects(b, m)
		if len(got) != 1 || got[0].Claim != Ahead || got[0].ID != 3 || got[0].Index != 9 || got[0].Last != 6 {
			t.Errorf("%s: %+v, want member 3 ahead at 9, and the log here ends at 6", name, got)
		}
		m.Term--
		if got := suspects(leader(), m); len(got) == 1 && got[0].Claim == Ahead {
			t.Errorf("%s of an earlier term is believed", name)
		}
	}

	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, entriesOf(1, 2, 5)...)
	for b.c.Status().Role == raft.StateFollower {
		b.run(Input{Ticks: 1})
	}
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgPreVoteResp, From: 2, To: 1, Term: b.c.Status().Term + 1}})})
	term := b.c.Status().Term
	suspects(b, octopiipb.PeerMessage{Message: raftpb.Message{Type: raftpb.MsgVoteResp, Term: term, Reject: true}, Note: octopiipb.Note{Commit: 9}})
	got := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgVoteResp, From: 2, To: 1, Term: term}})}).Suspects
	if b.c.Status().Role != raft.StateLeader || len(got) != 1 || got[0].Claim != Ahead || got[0].Index != 9 || got[0].Last != 5 {
		t.Errorf("elected by 2, after 3 refused with 9 committed: %+v; want member 3 ahead at 9, and the log here ended at 5", got)
	}
}

// Sums tell entries apart that index and term do not, and are of the same entries where one
// log begins later than the other. Another number of them says nothing.
func TestSums(t *testing.T) {
	log := func(data string) *bench {
		ents := entriesOf(1, 2, 40)
		ents[20].Data = []byte(data)
		return newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, ents...)
	}
	a := log("\x01a").c.sumsAt(40)
	if a[0] == 0 || a[1] == 0 || a[2] == 0 {
		t.Fatalf("sums %v of 39 entries; want all three", a)
	}
	if b := log("\x01b").c.sumsAt(40); !a.differ(b) || a[0] != b[0] {
		t.Errorf("%v and %v, of logs that differ at index 22", a, b)
	}
	if b := log("\x01a").c.sumsAt(40); a.differ(b) || SumsFrom(b[:]) != b {
		t.Errorf("%v and %v, of equal logs", a, b)
	}
	late := log("\x01a")
	if err := late.d.Compact(30); err != nil {
		t.Fatal(err)
	}
	if b := late.c.sumsAt(40); a.differ(b) || b[1] == 0 || b[2] != 0 {
		t.Errorf("%v and %v, of equal logs of which one begins at 31", a, b)
	}
	if a.differ(SumsFrom([]uint64{1, 2})) || a.differ(SumsFrom(nil)) {
		t.Error("another number of sums differs")
	}
	if b := log("\x01a").c.sumsAt(99); b != (Sums{}) {
		t.Errorf("%v beyond the log", b)
	}
}

// No message uses up the terms that there are: nobody could be elected any more.
func TestTermsAreNotUsedUp(t *testing.T) {
	for _, typ := range []raftpb.MessageType{raftpb.MsgHeartbeat, raftpb.MsgVote, raftpb.MsgApp, raftpb.MsgAppResp} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, entriesOf(1, 1, 5)...)
		m := raftpb.Message{Type: typ, From: 2, To: 1, Term: numberMax, Index: 5, LogTerm: 1}
		if got := b.step(Input{Messages: bare([]raftpb.Message{m})}).Suspects; len(got) != 1 {
			t.Errorf("%s of term %d: %+v, want it refused", typ, uint64(numberMax), got)
		}
		if term := b.c.Status().Term; term != 1 {
			t.Errorf("%s raised the term to %d", typ, term)
		}
		m.Type, m.Term = raftpb.MsgVote, termJumpMax
		if b.step(Input{Messages: bare([]raftpb.Message{m})}); b.c.Status().Term != termJumpMax {
			t.Errorf("a vote is asked for in term %d, and the term is %d", m.Term, b.c.Status().Term)
		}
	}
}

// Heartbeats of a leader that name an earlier end of its log than it was heard to have are
// late, however many of them come. Of one that never had more they are proof.
func TestLateHeartbeats(t *testing.T) {
	for _, heard := range []bool{true, false} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 6}, append(entriesOf(1, 2, 3), entriesOf(2, 4, 6)...)...)
		b.follow(2, 2)
		if heard {
			b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 6, LogTerm: 2, Commit: 6}})})
		}
		claimed := false
		for range 40 {
			late := noted(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 3}, octopiipb.Note{Last: 4, LastTerm: 2})
			for _, s := range b.step(Input{Ticks: 1, Messages: late}).Suspects {
				claimed = claimed || s.Claim == Diverged
			}
		}
		if claimed == heard {
			t.Errorf("heard to have it: %t; taken for a shorter log: %t", heard, claimed)
		}
	}
}

// The entries of a term that was led twice may be compacted where they differ. Their sums are
// in the snapshot at which the log begins, and a leader's append that covers its place tells.
func TestSumsOfASnapshot(t *testing.T) {
	entries := func(content string) (list []raftpb.Entry) {
		for i := uint64(2); i <= 6; i++ {
			list = append(list, raftpb.Entry{Index: i, Term: 2, Data: []byte(content)})
		}
		return list
	}
	mine, other := entries("\x01a"), entries("\x01b")
	whole := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 6}, mine...)
	sums := whole.c.sumsAt(5)
	if sums[0] == 0 || sums[1] == 0 || sums[2] != 0 {
		t.Fatalf("sums %v of 4 entries; want two", sums)
	}
	for name, c := range map[string]struct {
		sent  []raftpb.Entry
		sums  Sums
		wrong bool
	}{
		"the same":                     {mine, sums, false},
		"others":                       {other, sums, true},
		"the same from the place on":   {mine[3:], sums, false},
		"others from the place on":     {other[3:], sums, true},
		"others, and nothing is known": {other, Sums{}, false},
	} {
		start := Label{Index: 5, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Membership: whole.c.handed.Membership, Sums: c.sums}
		b := benchFrom(t, 1, start, raftpb.HardState{Term: 2, Commit: 5})
		if c.sums != (Sums{}) && b.c.sumsAt(5) != sums {
			t.Errorf("%s: the sums at the snapshot are %v, want %v", name, b.c.sumsAt(5), sums)
		}
		e := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: c.sent[0].Index - 1, LogTerm: 2, Entries: c.sent, Commit: 5}})})
		if wrong := len(e.Suspects) == 1 && e.Suspects[0].Claim == Diverged && e.Suspects[0].Index == 5; wrong != c.wrong {
			t.Errorf("%s: %+v", name, e.Suspects)
		}
		if b.c.handed.Sums != (Sums{}) {
			t.Errorf("%s: what follows the snapshot has its sums", name)
		}
	}
}

// A member that was just met may acknowledge something without having compared its log: a
// snapshot that it does not need, or what it got on an older connection. The next append has
// the sums all the same.
func TestAcknowledgementWithoutSums(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	sums := func() bool {
		b.msgs = nil
		b.run(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: &call{}}}})
		for _, m := range b.msgs {
			if m.Type == raftpb.MsgApp && len(m.Entries) > 0 {
				return len(m.Note.Sums) > 0
			}
		}
		t.Fatalf("no append: %v", b.msgs)
		return false
	}
	sums()
	b.ack(2)
	if sums() {
		t.Fatal("a member that has compared its log gets sums again")
	}
	b.ack(2)
	b.run(Input{PeersUp: []PeerUp{{ID: 2}}})
	b.ack(2)
	if !sums() {
		t.Error("a member that connected anew, and acknowledged something, gets no sums")
	}
	b.ack(2)
	if sums() {
		t.Error("a member that has compared its log since gets sums again")
	}
}
