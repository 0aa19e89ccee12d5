package core

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// remote is what arrives of a proposal that a member forwarded.
func remote(from, term, id uint64, data []byte) Input {
	return Input{Remote: []RemoteRequests{{From: from, Term: term, Requests: []octopiipb.Request{{ID: id, Proposal: forwardedFrame(from, id, data)}}}}}
}

func forwardedFrame(from, id uint64, data []byte) []byte {
	it := request{Request: NewProposal(data, nil)}
	return it.wrap(origin{from, id})
}

func (b *bench) lastReply() octopiipb.Reply {
	b.t.Helper()
	if len(b.reps) == 0 {
		b.t.Fatal("nothing was replied")
	}
	rs := b.reps[len(b.reps)-1].Replies
	return rs[len(rs)-1]
}

// sent returns what was forwarded since the last look.
func (b *bench) sent() []Forward {
	f := b.fwd
	b.fwd = nil
	return f
}

// follow makes a leader known in its term.
func (b *bench) follow(leader, term uint64) {
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: leader, To: b.c.cfg.ID, Term: term, Commit: 0}})})
}

// append has a leader append entries behind index, and commit them.
func (b *bench) append(leader, term, index, logTerm uint64, entries ...raftpb.Entry) {
	for i := range entries {
		entries[i].Index = index + 1 + uint64(i)
	}
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgApp, From: leader, To: b.c.cfg.ID, Term: term, Index: index, LogTerm: logTerm,
		Commit: index + uint64(len(entries)), Entries: entries}})})
}

// follower is one that has sent a proposal of w to member 2 in term 2.
func follower(t *testing.T, w Waiter) (*bench, octopiipb.Request) {
	t.Helper()
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.follow(2, 2)
	b.run(Input{Requests: []Request{NewProposal([]byte("p"), w)}})
	f := b.sent()
	if len(f) != 1 || f[0].To != 2 || f[0].Term != 2 || len(f[0].Requests) != 1 {
		t.Fatalf("forwarded: %+v", f)
	}
	return b, f[0].Requests[0]
}

func (b *bench) quiet() {
	b.t.Helper()
	if len(b.all) > 0 || len(b.fwd) > 0 {
		b.t.Fatalf("outcomes %v, forwarded %v; want nothing", b.all, b.fwd)
	}
}

// The entry names who waits for it: no reply is needed.
func TestForwardedIsAnsweredByItsEntry(t *testing.T) {
	w := &call{name: "p"}
	b, q := follower(t, w)
	b.append(2, 2, 1, 1,
		raftpb.Entry{Term: 2},
		raftpb.Entry{Term: 2, Data: FrameProposal([]byte("of another"))},
		raftpb.Entry{Term: 2, Data: forwardedFrame(3, q.ID, []byte("of another's caller"))},
		raftpb.Entry{Term: 2, Data: forwardedFrame(1, q.ID-1, []byte("of an earlier life"))})
	b.quiet()
	b.append(2, 2, 5, 2, raftpb.Entry{Term: 2, Data: q.Proposal})
	if len(b.all) != 1 || b.all[0].Waiter != w || b.all[0].Index != 6 || b.all[0].Err != nil {
		t.Fatalf("answered: %v", b.all)
	}
	b.all = nil
	b.run(Input{Ticks: 9})
	b.quiet()
}

// An entry of a later term proves that it is lost, and one of its own term does not.
func TestForwardedIsTriedAgainUnderTheNextTerm(t *testing.T) {
	w := &call{name: "p"}
	b, q := follower(t, w)
	b.append(2, 2, 1, 1, raftpb.Entry{Term: 2})
	b.quiet()
	b.follow(3, 3) // a new leader alone proves nothing
	b.quiet()
	b.append(3, 3, 2, 2, raftpb.Entry{Term: 3})
	f := b.sent()
	if len(f) != 1 || f[0].To != 3 || f[0].Term != 3 || len(f[0].Requests) != 1 {
		t.Fatalf("forwarded again: %+v", f)
	}
	again := f[0].Requests[0]
	if again.ID == q.ID {
		t.Error("the same number is used for two leaders")
	}
	if of, frame := unwrap(again.Proposal); of != (origin{1, again.ID}) || string(frame[1:]) != "p" {
		t.Errorf("what is sent again says %v %q", of, frame)
	}
	if of, _ := unwrap(q.Proposal); of != (origin{1, q.ID}) {
		t.Errorf("what was sent before, and may be on its way, was changed to %v", of)
	}
	b.quiet()
	b.append(3, 3, 3, 3, raftpb.Entry{Term: 3, Data: again.Proposal})
	if len(b.all) != 1 || b.all[0].Waiter != w || b.all[0].Err != nil {
		t.Errorf("answered: %v", b.all)
	}
}

// What is lost is not sent again for a caller that gave up, and takes no room.
func TestForwardedOfAGoneCallerIsForgotten(t *testing.T) {
	w := &call{name: "p"}
	b, _ := follower(t, w)
	b.run(Input{Gone: []Waiter{w}})
	b.tickUnder(2, 2, 10)
	b.quiet()
	if n := len(b.c.forwarded.sent); n > 0 {
		t.Errorf("%d requests are kept", n)
	}
}

// Whoever gave up is not proposed for a second time.
func TestForwardedOfAGoneCallerIsNotTriedAgain(t *testing.T) {
	w := &call{name: "p"}
	b, _ := follower(t, w)
	b.run(Input{Gone: []Waiter{w}})
	b.append(3, 3, 1, 1, raftpb.Entry{Term: 3})
	b.run(Input{Ticks: 9})
	b.quiet()
}

// The request is lost, and the same leader goes on: it is sent again under its number
// at every election timeout, until the leader says that it has it.
func TestLostRequestIsSentAgain(t *testing.T) {
	b, q := follower(t, &call{name: "p"})
	for range 3 {
		b.tickUnder(2, 2, 9)
		b.quiet()
		b.tickUnder(2, 2, 1)
		f := b.sent()
		if len(f) != 1 || f[0].To != 2 || f[0].Term != 2 || len(f[0].Requests) != 1 || f[0].Requests[0].ID != q.ID || string(f[0].Requests[0].Proposal) != string(q.Proposal) {
			t.Fatalf("sent again: %+v, want %+v", f, q)
		}
	}
	b.run(Input{Replies: []RemoteReplies{{From: 2, Replies: []octopiipb.Reply{{ID: q.ID, Code: Code(errTaken)}}}}})
	b.tickUnder(2, 2, 50)
	b.run(Input{PeersDown: []uint64{2}})
	b.tickUnder(2, 2, 50)
	b.quiet()
}

// A connection broke: what may have been lost with it is sent again at once.
func TestRequestsOfABrokenConnectionAreSentAgain(t *testing.T) {
	b, q := follower(t, &call{name: "p"})
	b.run(Input{PeersDown: []uint64{3}})
	b.tickUnder(2, 2, 1)
	b.quiet()
	b.run(Input{PeersDown: []uint64{2, 2}})
	b.tickUnder(2, 2, 1)
	f := b.sent()
	if len(f) != 1 || len(f[0].Requests) != 1 || f[0].Requests[0].ID != q.ID {
		t.Fatalf("sent again: %+v", f)
	}
	// This copy is certainly not sent, which says nothing of the first. It stays due:
	// at the next tick, or when the leader can be reached again.
	b.run(Input{Undelivered: f})
	b.tickUnder(2, 2, 1)
	if f = b.sent(); len(f) != 1 || f[0].Requests[0].ID != q.ID {
		t.Fatalf("sent again after that: %+v", f)
	}
	b.run(Input{Undelivered: f})
	b.run(Input{PeersUp: []PeerUp{{ID: 3}}})
	b.quiet()
	b.run(Input{PeersUp: []PeerUp{{ID: 2}}})
	if f = b.sent(); len(f) != 1 || f[0].Requests[0].ID != q.ID {
		t.Fatalf("sent again when the leader was there again: %+v", f)
	}
	b.tickUnder(2, 2, 9)
	b.quiet()
}

// tickUnder lets time pass under a leader that is heard.
func (b *bench) tickUnder(leader, term uint64, n int) {
	for range n {
		b.run(Input{Ticks: 1})
		b.follow(leader, term)
	}
}

// What another leader was sent is not sent to the one that leads now: only the log
// tells what became of it.
func TestRequestsAreNotSentToALaterLeader(t *testing.T) {
	b, _ := follower(t, &call{name: "p"})
	b.follow(3, 3)
	b.tickUnder(3, 3, 30)
	b.quiet()
	b.follow(2, 4) // the first one again, in a later term
	b.run(Input{PeersDown: []uint64{2}})
	b.tickUnder(2, 4, 30)
	b.quiet()
}

// The refusal is lost. What comes again is not judged anew: its sender may have got
// the refusal by then.
func TestLostRefusal(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	last := b.c.Status().Last
	in := remote(2, b.c.Status().Term, 7, []byte("p"))
	in.NoSpace = true
	b.run(in)
	if r := b.lastReply(); r.Code != Code(ErrNoSpace) {
		t.Fatalf("refused with %v", r)
	}
	b.run(remote(2, b.c.Status().Term, 7, []byte("p"))) // and there is space now
	if r := b.lastReply(); r.Code != Code(errNotLeader) || b.c.Status().Last != last {
		t.Errorf("the second copy is answered with %v, and the log went from %d to %d", r, last, b.c.Status().Last)
	}
}

// What a follower wants in the log must name it, and the number: nobody else would
// find the caller, and one who did would be another's.
func TestForwardedMustNameItsSender(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	term, last := b.c.Status().Term, b.c.Status().Last
	change, err := encodeChanges([]Change{{Op: AddLearner, Member: octopiipb.Member{ID: 9, Address: "a"}}}, origin{3, 5})
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range []octopiipb.Request{
		{ID: 1, Proposal: FrameProposal([]byte("nobody's"))},
		{ID: 2, Proposal: forwardedFrame(3, 2, []byte("another member's"))},
		{ID: 3, Proposal: forwardedFrame(2, 4, []byte("another number"))},
		{ID: 4, Proposal: forwardedFrame(2, 4, nil)[:forwardedHead]},
		{ID: 5, ConfChange: change},
	} {
		b.run(Input{Remote: []RemoteRequests{{From: 2, Term: term, Requests: []octopiipb.Request{q}}}})
		if r := b.lastReply(); r.ID != q.ID || r.Code != Code(ErrNotCommitted) {
			t.Errorf("request %d is answered with %v", i, r)
		}
	}
	if now := b.c.Status().Last; now != last {
		t.Errorf("the log went from %d to %d", last, now)
	}
}

// What was sent for one term is never appended in another: its sender may take an
// entry of that for a proof that it is lost.
func TestRequestsForOneTerm(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	st := b.c.Status()
	for i, term := range []uint64{st.Term + 1, st.Term + 5} {
		b.run(remote(2, term, uint64(20+i), []byte("p")))
		if r := b.lastReply(); r.Code != Code(errNotLeader) {
			t.Errorf("what is for term %d is answered in term %d with %v", term, st.Term, r)
		}
	}
	// Two wait here for the append before them, which takes long. One is for a term
	// that is over by the time.
	a := b.step(Input{Requests: []Request{NewProposal([]byte("first"), &call{name: "first"})}}).Append
	b.step(remote(2, st.Term, 30, []byte("late")))
	b.step(remote(2, st.Term, 31, []byte("in time")))
	if len(b.c.waiting) != 2 {
		t.Fatalf("%d wait, want 2", len(b.c.waiting))
	}
	b.c.waiting[0].term--
	_ = b.d.Append(a.Entries)
	b.run(Input{Appended: []*Append{a}})
	if r := b.lastReply(); r.ID != 30 || r.Code != Code(errNotLeader) {
		t.Errorf("it is answered with %v", r)
	}
	if now := b.c.Status().Last; now != st.Last+2 {
		t.Errorf("the log went from %d to %d, want the first and the one in time", st.Last, now)
	}
}

// What waits on a leader that is deposed goes back, and is not appended when it leads
// again.
func TestRequestsOnADeposedLeader(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	st := b.c.Status()
	a := b.step(Input{Requests: []Request{NewProposal([]byte("first"), &call{name: "first"})}}).Append
	_ = b.d.Append(a.Entries)
	b.step(remote(2, st.Term, 30, []byte("late")))
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 3, To: 1, Term: st.Term + 1}}), Appended: []*Append{a}})
	if r := b.lastReply(); r.ID != 30 || r.Code != Code(errNotLeader) {
		t.Errorf("it is answered with %v", r)
	}
	b.elect(2)
	b.ack(2)
	now := b.c.Status()
	b.run(remote(2, st.Term, 30, []byte("late")))
	b.run(remote(2, now.Term, 30, []byte("late")))
	if last := b.c.Status().Last; last != now.Last {
		t.Errorf("it is appended at %d", last)
	}
}

// A process that led before may have appended what arrives again after its restart:
// it says nothing of it.
func TestRequestsForAnEarlierLife(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 5, Commit: 1})
	b.run(remote(2, 5, 7, []byte("p")))
	b.run(remote(2, 4, 8, []byte("p")))
	if len(b.reps) > 0 {
		t.Errorf("it is answered: %v", b.reps)
	}
	b.run(remote(2, 6, 9, []byte("p"))) // no process of this member ever led in that term
	if r := b.lastReply(); r.ID != 9 || r.Code != Code(errNotLeader) {
		t.Errorf("what is for a later term is answered with %v", r)
	}
}

// Of what a snapshot covers nobody here can tell. It cannot cover what was sent when
// it was here already.
func TestSnapshotOverForwarded(t *testing.T) {
	install := func(b *bench, index, term uint64) *Append {
		meta := raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}}
		e := b.step(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgSnap, From: 2, To: 1, Term: term, Snapshot: &raftpb.Snapshot{Metadata: meta}}})})
		if e.Append == nil || e.Append.Snapshot == nil {
			b.t.Fatal("the snapshot is not installed")
		}
		_ = b.d.ApplySnapshot(*e.Append.Snapshot)
		e.Append.Installed = Label{Index: index, Term: term, ConfState: meta.ConfState, Membership: b.c.handed.Membership}
		return e.Append
	}
	b, _ := follower(t, &call{name: "before"})
	a := install(b, 9, 2)
	b.step(Input{Requests: []Request{NewProposal([]byte("q"), &call{name: "behind"})}})
	q := b.sent()[0].Requests[0]
	b.run(Input{Appended: []*Append{a}})
	if len(b.all) != 1 || b.all[0].Waiter.(*call).name != "before" || !errors.Is(b.all[0].Err, ErrUnknownOutcome) {
		t.Fatalf("outcomes %v, want an unknown one of what was sent before", b.all)
	}
	b.all = nil
	b.append(2, 2, 9, 2, raftpb.Entry{Term: 2, Data: q.Proposal})
	if len(b.all) != 1 || b.all[0].Waiter.(*call).name != "behind" || b.all[0].Err != nil {
		t.Errorf("outcomes %v, want the answer of what was sent behind it", b.all)
	}

	// Of a term that the snapshot does not reach it decides nothing.
	b, _ = follower(t, &call{name: "before"})
	b.follow(2, 3)
	b.run(Input{Requests: []Request{NewProposal([]byte("q"), &call{name: "later"})}})
	meta := raftpb.SnapshotMetadata{Index: 9, Term: 2}
	b.c.forwarded.replaced(meta.Index, meta.Term, b.c.refuse)
	if s := b.c.forwarded.sent[b.c.forwarded.head]; len(b.c.forwarded.sent)-b.c.forwarded.head != 1 || s.Waiter.(*call).name != "later" {
		t.Errorf("left: %+v", b.c.forwarded.sent)
	}
}

// A deposed leader proposes again what it had in its log, through its successor, and
// not what is of callers that gave up.
func TestDeposedLeaderProposesAgain(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	st := b.c.Status()
	w, gone := &call{name: "w"}, &call{name: "gone"}
	b.run(Input{Requests: []Request{NewProposal([]byte("w"), w), NewProposal([]byte("gone"), gone)}})
	b.run(Input{Gone: []Waiter{gone}})
	b.append(3, st.Term+1, st.Last, st.Term, raftpb.Entry{Term: st.Term + 1})
	f := b.sent()
	if len(b.all) != 0 || len(f) != 1 || f[0].To != 3 || f[0].Term != st.Term+1 || len(f[0].Requests) != 1 {
		t.Fatalf("outcomes %v, forwarded %+v; want none, and one request", b.all, f)
	}
	b.append(3, st.Term+1, st.Last+1, st.Term+1, raftpb.Entry{Term: st.Term + 1, Data: f[0].Requests[0].Proposal})
	if len(b.all) != 1 || b.all[0].Waiter != w || b.all[0].Err != nil {
		t.Errorf("outcomes %v", b.all)
	}
}

// A follower that becomes the leader appends itself what its predecessor lost.
func TestForwardedIsAppendedByTheNextLeader(t *testing.T) {
	w := &call{name: "p"}
	b, q := follower(t, w)
	b.elect(3)
	b.ack(3)
	b.ack(3)
	if len(b.all) != 1 || b.all[0].Waiter != w || b.all[0].Err != nil {
		t.Fatalf("outcomes %v", b.all)
	}
	entries, err := b.d.Entries(b.all[0].Index, b.all[0].Index+1, 1<<20)
	if err != nil || string(entries[0].Data) != string(FrameProposal([]byte("p"))) {
		t.Errorf("it stands there as %v, %v", entries, err)
	}
	if of, _ := unwrap(q.Proposal); of.id != q.ID {
		t.Error("what was sent before was changed")
	}
}

// Transfers are not in the log. When their leader may be gone their callers are told,
// and try again.
func TestForwardedTransferEnds(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"no answer":        func(b *bench) { b.tickUnder(2, 2, 10) },
		"connection broke": func(b *bench) { b.run(Input{PeersDown: []uint64{2}}); b.tickUnder(2, 2, 1) },
		"another leader":   func(b *bench) { b.append(3, 3, 1, 1, raftpb.Entry{Term: 3}) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
			b.follow(2, 2)
			b.run(Input{Requests: []Request{{Kind: Transfer, To: 3, Waiter: &call{name: "transfer"}}}})
			if len(b.sent()) != 1 {
				t.Fatal("not forwarded")
			}
			b.quiet()
			end(b)
			if len(b.all) != 1 || !errors.Is(b.all[0].Err, ErrTransferLost) {
				t.Errorf("outcomes %v", b.all)
			}
			if len(b.c.forwarded.sent) > 0 {
				t.Error("it is kept")
			}
		})
	}
}

// A member has no more numbers out than a leader knows apart, however long one of
// them takes, and goes on when it is decided.
func TestNumbersThatAreOutAreBounded(t *testing.T) {
	b, first := follower(t, &call{name: "slow"})
	var sent []octopiipb.Request
	put := func(n int) {
		rs := make([]Request, n)
		for i := range rs {
			rs[i] = NewProposal(nil, &call{name: "quick"})
		}
		b.run(Input{Requests: rs})
		for _, f := range b.sent() {
			sent = append(sent, f.Requests...)
		}
	}
	last := uint64(1)
	for len(b.c.waiting) == 0 {
		if last > 4*seenWindow {
			t.Fatal("there is no bound")
		}
		put(1000)
		var entries []raftpb.Entry
		for _, q := range sent {
			entries = append(entries, raftpb.Entry{Term: 2, Data: q.Proposal})
		}
		sent = nil
		if len(entries) > 0 {
			b.append(2, 2, last, min(last, 2), entries...)
			last += uint64(len(entries))
		}
	}
	if out := b.c.forwarded.next - first.ID; out != seenWindow {
		t.Errorf("%d numbers are out, want %d", out, seenWindow)
	}
	waiting := len(b.c.waiting)
	b.append(2, 2, last, 2, raftpb.Entry{Term: 2, Data: first.Proposal})
	b.run(Input{})
	if f := b.sent(); len(f) != 1 || len(f[0].Requests) != waiting || len(b.c.waiting) != 0 {
		t.Errorf("%d wait, and %d waited: they do not go on", len(b.c.waiting), waiting)
	}
}

// A number that a leader does not know apart any more is answered: nothing waits for
// ever.
func TestForgottenNumberIsAnswered(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	term := b.c.Status().Term
	b.run(remote(2, term, 3*seenWindow, []byte("new")))
	last := b.c.Status().Last
	b.run(remote(2, term, 2*seenWindow, []byte("old")))
	if r := b.lastReply(); r.Code != Code(ErrUnknownOutcome) || b.c.Status().Last != last {
		t.Errorf("answered with %v", r)
	}
}

// A removed member gets no log any more, and what is left of its messages counts no
// more: nobody knows which of its numbers were taken.
func TestRequestsOfARemovedMember(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	term := b.c.Status().Term
	b.run(remote(3, term, 7, []byte("p")))
	b.ack(2)
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: term}})})
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: Remove, Member: octopiipb.Member{ID: 3}}}, Waiter: &call{name: "remove"}}}})
	b.ack(2)
	if !b.c.Status().Membership.IsRemoved(3) {
		t.Fatalf("not the scenario: %v", b.all)
	}
	last := b.c.Status().Last
	b.run(remote(3, term, 7, []byte("p")))
	if now := b.c.Status().Last; now != last {
		t.Errorf("a copy of what it sent is appended at %d", now)
	}
}

// docs/FORMATS.md draws this one.
func TestForwardedFrameGolden(t *testing.T) {
	got := forwardedFrame(0x1122334455667788, 0x0102030405060708, []byte("x"))
	want := "\x03\x88\x77\x66\x55\x44\x33\x22\x11\x08\x07\x06\x05\x04\x03\x02\x01\x01x"
	if string(got) != want {
		t.Errorf("the frame is %q, want %q", got, want)
	}
	by, frame := unwrap(got)
	if by != (origin{0x1122334455667788, 0x0102030405060708}) || string(frame) != "\x01x" {
		t.Errorf("read back: %x %q", by, frame)
	}
	for _, odd := range []string{"\x03", want[:forwardedHead], want[:forwardedHead] + "\x03", want[:forwardedHead] + "\x02x", want[:forwardedHead] + want} {
		if knownFrame([]byte(odd)) == nil {
			t.Errorf("%q is taken for a frame", odd)
		}
	}
}

// What a Step gives back, as the leader changes, is refused in the same Step while the
// disk is full: nothing may be under way that has the next one come.
func TestGivenBackIsRefusedWithoutSpace(t *testing.T) {
	w := &call{name: "p"}
	b, q := follower(t, w)
	b.run(Input{Undelivered: []Forward{{To: 2, Term: 2, Requests: []octopiipb.Request{q}}}})
	b.quiet()
	e := b.step(Input{NoSpace: true, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 3, To: 1, Term: 3, Commit: 1}})})
	if len(e.Outcomes) != 1 || e.Outcomes[0].Waiter != w || !errors.Is(e.Outcomes[0].Err, ErrNoSpace) {
		t.Fatalf("answered: %+v, want ErrNoSpace", e.Outcomes)
	}
	if e = b.step(Input{NoSpace: true}); len(e.Outcomes)+len(e.Forwards) > 0 {
		t.Errorf("a Step in which nothing happened brings %+v", e)
	}
}
