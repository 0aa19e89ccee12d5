package core

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// bench is one core whose disk and state machine are as fast as can be.
type bench struct {
	t    *testing.T
	c    *Core
	d    *memoryDisk
	last *Effects
	all  []Outcome
	reps []Reply
	fwd  []Forward
	msgs []octopiipb.PeerMessage
	// room is what the state machine has in every Step.
	room Room
	// stuck: the state machine applies nothing.
	stuck bool
}

// bare are messages of raft that say nothing beside it.
func bare(messages []raftpb.Message) (list []octopiipb.PeerMessage) {
	for i := range messages {
		list = append(list, octopiipb.PeerMessage{Message: messages[i]})
	}
	return list
}

// noted is one message of raft, and what it says beside it.
func noted(m raftpb.Message, note octopiipb.Note) []octopiipb.PeerMessage {
	return []octopiipb.PeerMessage{{Message: m, Note: note}}
}

func newBench(t *testing.T, id uint64, voters []uint64, hs raftpb.HardState, ents ...raftpb.Entry) *bench {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1}
	for _, v := range voters {
		ms.Members = append(ms.Members, octopiipb.Member{ID: v, Address: fmt.Sprint("addr", v), Kind: octopiipb.Voter})
	}
	return benchFrom(t, id, Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: voters}, Membership: ms}, hs, ents...)
}

// benchFrom is newBench for a log that begins at start.
func benchFrom(t *testing.T, id uint64, start Label, hs raftpb.HardState, ents ...raftpb.Entry) *bench {
	d := newDisk(start, hs)
	_ = d.Append(ents)
	c, err := New(Config{ID: id, Start: start, Founded: true, Storage: d, ElectionTicks: 10, HeartbeatTicks: 1,
		MessageBytesMax: 1 << 20, InflightMessagesMax: 256, PromoteLagMax: 10, PromoteStableTicks: 3, JoinTimeoutTicks: 30, ProposalBytesMax: 1 << 20, WaitingBytesMax: 1 << 20, UncommittedBytesMax: 1 << 22, UnappliedBytesMax: 16 << 20, ReadSeed: 99, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, c: c, d: d}
}

func (b *bench) step(in Input) *Effects {
	in.Room = b.room
	if b.last != nil {
		for _, command := range b.last.Unsorted {
			in.Grows = append(in.Grows, len(command) > 0 && command[0] == '+')
		}
	}
	e := b.c.Step(&in)
	b.last = e
	b.all = append(b.all, e.Outcomes...)
	b.reps = append(b.reps, e.Replies...)
	b.msgs = append(b.msgs, e.Messages...)
	b.fwd = append(b.fwd, e.Forwards...)
	return e
}

// run steps and completes everything.
func (b *bench) run(in Input) {
	e := b.step(in)
	for {
		var next Input
		if a := e.Append; a != nil {
			if a.Snapshot != nil {
				b.t.Fatal("snapshot")
			}
			_ = b.d.Append(a.Entries)
			next.Appended = append(next.Appended, a)
		}
		if a := e.Apply; a != nil && !b.stuck {
			next.Applied = append(next.Applied, a)
			for _, x := range a.Entries {
				if x.Waiter != nil {
					b.all = append(b.all, Outcome{Waiter: x.Waiter, Index: x.Index})
				}
			}
		}
		if len(next.Appended)+len(next.Applied) == 0 && !b.c.More() {
			return
		}
		e = b.step(next)
	}
}

func (b *bench) elect(other uint64) {
	for range 40 {
		b.run(Input{Ticks: 1})
		if b.c.Status().Role != raft.StateFollower {
			break
		}
	}
	st := b.c.Status()
	if st.Role == raft.StatePreCandidate {
		b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgPreVoteResp, From: other, To: b.c.cfg.ID, Term: st.Term + 1}})})
	}
	st = b.c.Status()
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgVoteResp, From: other, To: b.c.cfg.ID, Term: st.Term}})})
	if b.c.Status().Role != raft.StateLeader {
		b.t.Fatalf("not elected: %+v", b.c.Status())
	}
}

func (b *bench) ack(other uint64) {
	st := b.c.Status()
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgAppResp, From: other, To: b.c.cfg.ID, Term: st.Term, Index: st.Last}})})
}

func noPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panicked: %v", r)
		}
	}()
	f()
}

// A MsgReadIndex that carries a term reaches raft.send of a follower.
func TestReadIndexWithTerm(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
	noPanic(t, func() {
		b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgReadIndex, From: 3, To: 1, Term: 2, Entries: []raftpb.Entry{{Data: []byte("x")}}}})})
	})
}

// A snapshot whose ConfState names one voter twice.
func TestSnapshotNamesAVoterTwice(t *testing.T) {
	for name, cs := range map[string]raftpb.ConfState{
		"twice":             {Voters: []uint64{1, 2, 2}},
		"voter and learner": {Voters: []uint64{1, 2}, Learners: []uint64{2}},
		"zero":              {Voters: []uint64{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
			m := raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 2,
				Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 10, Term: 2, ConfState: cs}}}
			if IsSnapshotFor(&m, 1) {
				t.Error("IsSnapshotFor takes it: the store is founded on it, and New panics at this and every later start")
			}
			noPanic(t, func() { b.step(Input{Messages: bare([]raftpb.Message{m})}) })
		})
	}
}

// A transfer and a change in one batch: both are served, and nothing is busy
// afterwards.
func TestConfIndexAfterTransferInSameBatch(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	b.run(Input{Requests: []Request{
		{Kind: Transfer, To: 2, Waiter: &call{name: "transfer"}},
		{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: &call{name: "proposal"}},
		{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 3, Address: "a"}}}, Waiter: &call{name: "change"}},
	}})
	for _, o := range b.all {
		t.Logf("%s: %v", o.Waiter.(*call).name, o.Err)
	}
	b.all = nil
	for range 12 { // the transfer is given up
		b.run(Input{Ticks: 1, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: b.c.Status().Term}})})
	}
	if b.c.Status().Role != raft.StateLeader || b.c.rn.BasicStatus().LeadTransferee != 0 {
		t.Fatal("not the scenario")
	}
	b.ack(2)
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "a"}}}, Waiter: &call{name: "again"}}}})
	for _, o := range b.all {
		if errors.Is(o.Err, ErrMembershipBusy) {
			t.Errorf("%s: %v; last %d applied %d", o.Waiter.(*call).name, o.Err, b.c.Status().Last, b.c.Status().Applied)
		}
	}
}

// A leader appends a change at a high index, is deposed, its log is cut, and
// it leads again. Those that asked wait, and ask again, or have given up.
func TestConfIndexAfterLostLeadership(t *testing.T) {
	for name, gone := range map[string]bool{"asked again": false, "given up": true} {
		t.Run(name, func(t *testing.T) { confIndexAfterLostLeadership(t, gone) })
	}
}

func confIndexAfterLostLeadership(t *testing.T, gone bool) {
	change := &call{name: "change"}
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	proposal := &call{name: "p"}
	for range 20 {
		b.run(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: proposal}}})
	}
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "a"}}}, Waiter: change}}})
	if gone {
		b.run(Input{Gone: []Waiter{change, proposal}})
	}
	term := b.c.Status().Term
	// 3 leads in the next term and has only the first entry of ours.
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgApp, From: 3, To: 1, Term: term + 1, Index: 2, LogTerm: term, Commit: 2,
		Entries: []raftpb.Entry{{Index: 3, Term: term + 1}}}})})
	if l := b.c.Status().Last; l != 3 {
		t.Fatalf("last %d", l)
	}
	for range 25 { // 3 falls silent
		b.run(Input{Ticks: 1})
		if b.c.Status().Role != raft.StateFollower {
			break
		}
	}
	b.elect(2)
	b.ack(2)
	b.ack(2) // what was lost is proposed again
	st := b.c.Status()
	if st.Applied != st.Last {
		t.Fatalf("not the scenario: %+v", st)
	}
	b.all = nil
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "a"}}}, Waiter: &call{name: "again"}}}})
	for _, o := range b.all {
		if errors.Is(o.Err, ErrMembershipBusy) {
			t.Errorf("%v; last %d applied %d: busy until %d proposals more", o.Err, st.Last, st.Applied, b.c.confIndex-st.Applied)
		}
	}
}

// The leader says that there is nothing to change, as of an index that this
// follower has not applied.
func TestNoChangeReplyToLaggingFollower(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 3, Address: "a"}}}, Waiter: &call{name: "change"}}}})
	id := b.fwd[0].Requests[0].ID
	b.run(Input{Replies: []RemoteReplies{{From: 2, Replies: []octopiipb.Reply{{ID: id, Index: 50}}}}})
	for _, o := range b.all {
		if o.Err == nil && find(o.Membership, 3) == nil {
			t.Errorf("answered at index %d with success and a membership of index %d without the member", b.c.applied, o.Membership.Index)
		}
	}
}

// c.last is that of the last Ready: a truncation and a heartbeat in one batch.
func TestHeartbeatBehindTruncationInOneBatch(t *testing.T) {
	ents := []raftpb.Entry{}
	for i := uint64(2); i <= 10; i++ {
		ents = append(ents, raftpb.Entry{Index: i, Term: 1, Data: FrameProposal(nil)})
	}
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, ents...)
	noPanic(t, func() {
		b.run(Input{Messages: bare([]raftpb.Message{
			{Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 4, LogTerm: 1, Commit: 1, Entries: []raftpb.Entry{{Index: 5, Term: 2}}},
			{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 9},
		})})
	})
}

// LabelAt of an index that is in the log, durable in the state machine, and
// not handed out yet after a restart.
func TestLabelBeyondHanded(t *testing.T) {
	data, err := encodeChanges([]Change{{Op: AddLearner, Member: octopiipb.Member{ID: 3, Address: "a"}}}, origin{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 2},
		raftpb.Entry{Index: 2, Term: 1, Data: FrameProposal(nil)},
		raftpb.Entry{Index: 3, Term: 1, Type: raftpb.EntryConfChangeV2, Data: data},
		raftpb.Entry{Index: 4, Term: 1, Data: FrameProposal(nil)})
	b.run(Input{})
	l, err := b.c.LabelAt(4) // what StateMachine.Durable() says
	if err == nil && len(l.ConfState.Learners) == 0 {
		t.Errorf("label at 4 has the configuration of %d: %v", b.c.handed.Index, l.ConfState)
	}
}

// Callers that gave up while an append is on its way stay in waiting.
func TestGoneCallersDuringSlowFsync(t *testing.T) {
	b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{})
	for b.c.Status().Role != raft.StateLeader {
		b.run(Input{Ticks: 1})
	}
	b.step(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("first")), Waiter: &call{}}}})
	for range 1000 { // the fsync hangs
		w := &call{}
		b.step(Input{Ticks: 1, Requests: []Request{{Kind: Propose, Data: FrameProposal(make([]byte, 1000)), Waiter: w}}, Gone: []Waiter{w}})
	}
	if n := len(b.c.waiting); n > 100 {
		t.Errorf("%d requests of callers that are gone are kept", n)
	}
}

// The same from a follower: nothing bounds what it may queue here.
func TestRemoteRequestsDuringSlowFsync(t *testing.T) {
	b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{})
	for b.c.Status().Role != raft.StateLeader {
		b.run(Input{Ticks: 1})
	}
	b.step(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("first")), Waiter: &call{}}}})
	for i := uint64(1); i < 20000; i++ { // the fsync hangs
		b.step(remote(2, b.c.Status().Term, i, make([]byte, 1000)))
	}
	if n := len(b.c.waiting); n > 16384 {
		t.Errorf("%d remote requests are kept; ErrOverloaded is never answered", n)
	}
}

// What could not be sent is not taken for ever: it goes in pieces that a
// transport can take, and is forgotten when its caller is gone.
func TestUndeliveredGrows(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
	var undelivered []Forward
	for range 50 {
		w := &call{}
		e := b.step(Input{Ticks: 1, Undelivered: undelivered, Requests: []Request{
			{Kind: Propose, Data: FrameProposal(make([]byte, 600<<10)), Waiter: w},
			{Kind: Propose, Data: FrameProposal(make([]byte, 600<<10)), Waiter: w},
		}, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
		for i := range e.Forwards {
			r := octopiipb.Requests{Requests: e.Forwards[i].Requests}
			if r.Size() > forwardBytesMax {
				t.Fatalf("one Forward of %d bytes: a transport that refuses it once refuses it for ever", r.Size())
			}
		}
		undelivered = e.Forwards // transport.Send said false
		b.step(Input{Gone: []Waiter{w}})
	}
	b.step(Input{Ticks: 1, Undelivered: undelivered})
	if n := len(b.c.waiting) + len(b.c.returned) + len(b.c.forwarded.sent); n > 2 {
		t.Errorf("%d requests of callers that are gone are kept", n)
	}
}

// raft puts an empty entry in the place of a change that it refuses (cockroach
// 105797): whoever forwarded the change must hear of it, as no entry will tell.
func TestChangeThatRaftRefusesIsAnswered(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	change := func(id, member uint64) octopiipb.Request {
		data, err := encodeChanges([]Change{{Op: AddLearner, Member: octopiipb.Member{ID: member, Address: "a"}}}, origin{2, id})
		if err != nil {
			t.Fatal(err)
		}
		return octopiipb.Request{ID: id, ConfChange: data}
	}
	term := b.c.Status().Term
	b.run(Input{Remote: []RemoteRequests{{From: 2, Term: term, Requests: []octopiipb.Request{change(7, 4)}}}})
	if len(b.reps) != 0 {
		t.Fatalf("a change that is appended is answered: %v", b.reps)
	}
	b.c.confIndex = 0 // raft knows better
	b.run(Input{Remote: []RemoteRequests{{From: 2, Term: term, Requests: []octopiipb.Request{change(8, 5)}}}})
	if r := b.lastReply(); r.ID != 8 || r.Code != Code(ErrMembershipBusy) {
		t.Errorf("the change that raft refused is answered with %v", r)
	}
}

// A follower whose leader says that it leads no more sends the same request
// again and again, at the speed of the network.
func TestForwardPingPong(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
	in := Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: &call{}}}}
	sent := 0
	for range 100 { // no tick passes
		e := b.step(in)
		if len(e.Forwards) == 0 {
			break
		}
		sent++
		in = Input{Replies: []RemoteReplies{{From: 2, Replies: []octopiipb.Reply{{ID: e.Forwards[0].Requests[0].ID, Code: Code(errNotLeader), Reason: "x"}}}}}
	}
	if sent > 10 {
		t.Errorf("forwarded %d times within one tick", sent)
	}
}

// IDs that raft keeps for its local threads, asked for by a caller or a
// joiner: messages to that member are taken for appends and applies.
func TestMemberWithIDOfALocalThread(t *testing.T) {
	for _, id := range []uint64{raft.LocalAppendThread, raft.LocalApplyThread} {
		t.Run(fmt.Sprintf("%x", id), func(t *testing.T) {
			b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
			b.run(Input{})
			for b.c.Status().Role != raft.StateLeader {
				b.run(Input{Ticks: 1})
			}
			noPanic(t, func() {
				b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: AddLearner, Member: octopiipb.Member{ID: id, Address: "a"}}}, Waiter: &call{name: "add"}}}})
				for range 30 {
					b.run(Input{Ticks: 1})
				}
				b.all = nil
				b.run(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("p")), Waiter: &call{name: "p"}}}})
				b.run(Input{Ticks: 1})
				b.run(Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("q")), Waiter: &call{name: "q"}}}})
				b.run(Input{Ticks: 1})
				if len(b.all) != 2 || b.c.appending != 0 {
					t.Errorf("%d of 2 proposals answered, appending %d: %v", len(b.all), b.c.appending, b.all)
				}
			})
		})
	}
}

// A network may deliver a forwarded proposal twice, also when the first copy was
// sent back: it stands in the log once.
func TestForwardedTwice(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	request := func(id uint64) Input { return remote(2, 2, id, []byte("once")) }
	b.run(request(7))
	if code := b.lastReply().Code; code != Code(errNotLeader) {
		t.Fatalf("a member that does not lead answers %d", code)
	}
	b.elect(2)
	before := b.c.Status()
	if before.Term != 2 {
		t.Fatalf("term %d, want the 2 of the requests", before.Term)
	}
	b.run(request(7)) // the late copy
	if last := b.c.Status().Last; last != before.Last {
		t.Errorf("a request that was sent back is appended at %d", last)
	}
	b.run(request(8))
	b.run(request(8))
	if last := b.c.Status().Last; last != before.Last+1 {
		t.Errorf("the log went from %d to %d", before.Last, last)
	}
	if code := b.lastReply().Code; code != Code(errTaken) {
		t.Errorf("the second copy is answered with %d", code)
	}
}

// A candidate asks for votes when its own is durable: it could be elected without
// its own, forget the term in a crash, and lead in it a second time.
func TestVotesAreAskedForWhenTheTermIsDurable(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	asked := func(e *Effects) bool {
		return slices.ContainsFunc(e.Messages, func(m octopiipb.PeerMessage) bool { return m.Type == raftpb.MsgVote })
	}
	for range 40 {
		e := b.step(Input{Ticks: 1})
		for e.Append == nil || e.Append.HardState.Term < 2 {
			if asked(e) {
				t.Fatal("votes are asked for in a term that is on no disk yet")
			}
			next := Input{}
			if e.Append != nil {
				next.Appended = append(next.Appended, e.Append)
			}
			if slices.ContainsFunc(e.Messages, func(m octopiipb.PeerMessage) bool { return m.Type == raftpb.MsgPreVote }) {
				next.Messages = append(next.Messages, bare([]raftpb.Message{{Type: raftpb.MsgPreVoteResp, From: 2, To: 1, Term: 2}})...)
			}
			if len(next.Appended)+len(next.Messages) == 0 && !b.c.More() {
				break
			}
			e = b.step(next)
		}
		if e.Append == nil {
			continue
		}
		if asked(e) {
			t.Fatal("votes are asked for before the term is durable")
		}
		if e = b.step(Input{Appended: []*Append{e.Append}}); !asked(e) {
			t.Fatal("no votes are asked for when the term is durable")
		}
		return
	}
	t.Fatal("no campaign in 40 ticks")
}

// A leader that was just elected by some has not heard of the others yet, and does not
// take them for dead: neither for those whose votes are needed, nor for those who may
// be replaced. Who asks for a place from another address may have a copy of the files of one
// that is only away: it waits for longer.
func TestFreshLeaderWaitsForTheLiving(t *testing.T) {
	remove := Change{Op: Remove, Member: octopiipb.Member{ID: 2}}
	replace := func(address string) Change {
		return Change{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: address, Replaces: 3}, IfSilent: true}
	}
	for name, change := range map[string]Change{"remove": remove, "replace": replace("addr3"), "replace from elsewhere": replace("addr4")} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
			b.elect(2)
			b.ack(2)
			ask := func() error {
				b.all = nil
				b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{change}, DryRun: true, Waiter: &call{name: name}}}})
				if len(b.all) != 1 {
					t.Fatalf("outcomes %v, want one", b.all)
				}
				return b.all[0].Err
			}
			if err := ask(); !errors.Is(err, ErrMembershipBusy) {
				t.Errorf("asked of a leader that has not heard of 3 yet: %v, want ErrMembershipBusy", err)
			}
			for range 11 { // 2 answers, and 3 does not
				b.run(Input{Ticks: 1, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: 2}})})
			}
			want := map[string]error{"remove": ErrUnsafeMembership, "replace": nil, "replace from elsewhere": ErrMembershipBusy}[name]
			if err := ask(); !errors.Is(err, want) {
				t.Errorf("asked of a leader that has waited for 3: %v, want %v", err, want)
			}
			for range 30 {
				b.run(Input{Ticks: 1, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: 2}})})
			}
			if err := ask(); name != "remove" && err != nil {
				t.Errorf("asked of a leader that has waited for 3 for as long as a joiner may be silent: %v", err)
			}
		})
	}
}
