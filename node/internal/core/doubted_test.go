package core

import (
	"bytes"
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A leader whose confirmed read ends before what was committed here when the read began is
// of another history: that is a claim, and the read has no answer.
func TestReadOfAnotherHistory(t *testing.T) {
	for answer, diverged := range map[uint64]bool{3: true, 4: false, 5: false} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
		b.follow(2, 2)
		b.append(2, 2, 1, 1, entriesOf(2, 2, 4)...)
		b.run(Input{Requests: []Request{{Kind: Read, Waiter: &call{name: "reader"}}}})
		context := bytes.Clone(b.c.reads.context)
		if context == nil || b.c.reads.begun != 4 {
			t.Fatalf("the round has context %x, begun at %d; want one at 4", context, b.c.reads.begun)
		}
		got := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgReadIndexResp, From: 2, To: 1, Term: 2, Index: answer,
			Entries: []raftpb.Entry{{Data: context}}}})}).Suspects
		if (len(got) == 1 && got[0].Claim == Diverged && got[0].ID == 2 && got[0].Index == 4) != diverged || len(got) > 1 {
			t.Errorf("answer %d: claims %+v; diverged should be %v", answer, got, diverged)
		}
		for _, o := range b.all {
			if o.Err == nil && diverged {
				t.Errorf("answer %d: the read is answered with index %d", answer, o.Index)
			}
		}
	}
}

// A majority whose log ends before what is committed here is of another history, and a
// place outside of the log contradicts nothing.
func TestContradictsByTheEnd(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 4}, entriesOf(2, 2, 5)...)
	for _, index := range []uint64{0, 6} {
		if p := b.c.PlaceAt(index); p != (Place{Index: index}) {
			t.Errorf("place %d, outside of the log: %+v", index, p)
		}
	}
	for _, c := range []struct{ commit, last, want uint64 }{{4, 3, 4}, {4, 1, 2}, {4, 4, 0}, {4, 9, 0}} {
		if index, err := b.c.Contradicts(c.commit, c.last, b.c.PlaceAt(6)); index != c.want || (err != nil) != (c.want != 0) {
			t.Errorf("committed up to %d here, the majority's log ends at %d: index %d, %v; want index %d", c.commit, c.last, index, err, c.want)
		}
	}
}

// A leader that answers a proposal as if it were a change of membership says nothing of
// what became of it.
func TestProposalAnsweredAsAChange(t *testing.T) {
	w := &call{name: "p"}
	b, q := follower(t, w)
	b.run(Input{Replies: []RemoteReplies{{From: 2, Replies: []octopiipb.Reply{{ID: q.ID, Index: 1}}}}})
	if len(b.all) != 1 || b.all[0].Waiter != w || !errors.Is(b.all[0].Err, ErrUnknownOutcome) {
		t.Errorf("outcomes %v, want ErrUnknownOutcome for p", b.all)
	}
}

// A leader refuses what a follower forwards beyond its bounds, by a reply that says that it
// is not in the log.
func TestForwardedBeyondTheBounds(t *testing.T) {
	for _, c := range []struct {
		proposalMax int
		waitingMax  int64
		want        error
	}{{4, 1 << 20, ErrNotCommitted}, {1 << 20, 4, ErrOverloaded}} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
		b.elect(2)
		b.c.cfg.ProposalBytesMax, b.c.cfg.WaitingBytesMax = c.proposalMax, c.waitingMax
		st := b.c.Status()
		b.run(remote(2, st.Term, 1, make([]byte, 100)))
		if r := b.lastReply(); r.ID != 1 || r.Code != Code(c.want) {
			t.Errorf("bounds %d and %d: reply %+v, want code %d", c.proposalMax, c.waitingMax, r, Code(c.want))
		}
		if last := b.c.Status().Last; last != st.Last {
			t.Errorf("the log grew from %d to %d", st.Last, last)
		}
	}
}

// Where a term was led twice, index and term are the same on both branches, and the sums tell
// that a majority has others, or that a leader that has just begun to append does.
func TestSumsOfAnotherBranchOfOneTerm(t *testing.T) {
	mine, other := entriesOf(1, 2, 6), entriesOf(1, 2, 6)
	mine[1].Data, other[1].Data = []byte("\x01mine"), []byte("\x01other")
	here := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 6}, mine...)
	there := newBench(t, 2, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 6}, other...)
	here.run(Input{})
	for index, want := range map[uint64]uint64{6: 6, 5: 5, 4: 0, 3: 3, 2: 0} { // sums are of 1 and of 4 entries
		if got, err := here.c.Contradicts(6, 6, there.c.PlaceAt(index)); got != want || (err != nil) != (want != 0) {
			t.Errorf("a majority has another entry 3, and says what it has at %d: %d, %v; want %d", index, got, err, want)
		}
		if got, err := here.c.Contradicts(6, 6, here.c.PlaceAt(index)); err != nil {
			t.Errorf("a majority has the same at %d: %d, %v", index, got, err)
		}
	}
	for _, sums := range []Sums{there.c.sumsAt(6), here.c.sumsAt(6), {}} {
		got := here.step(Input{Messages: noted(raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 6, LogTerm: 1, Commit: 6}, octopiipb.Note{Sums: sums[:]})}).Suspects
		if differs := sums == there.c.sumsAt(6); differs != (len(got) == 1 && got[0].Claim == Diverged && got[0].Index == 6) {
			t.Errorf("an append behind 6 with the sums %v: %+v", sums, got)
		}
	}
}
