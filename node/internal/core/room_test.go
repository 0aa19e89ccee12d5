package core

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// roomy is a leader of three whose state machines say how much room they have. What
// begins with "+" makes them grow.
func roomy(t *testing.T) *bench {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.room = RoomFor(1 << 20)
	b.elect(2)
	b.heard(3)
	return b
}

// heard lets the leader hear of a member that says nothing of its room: it voted late.
func (b *bench) heard(id uint64) {
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgVoteResp, From: id, To: 1, Term: b.c.Status().Term}})})
}

// told is what members say: that they have the whole log, what they have applied, and
// how much room they have behind it.
func (b *bench) told(applied uint64, room Room, who ...uint64) {
	st := b.c.Status()
	for _, id := range who {
		note := octopiipb.Note{Applied: applied, Room: uint64(room)}
		b.run(Input{Messages: append(
			noted(raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: id, To: 1, Term: st.Term}, note),
			noted(raftpb.Message{Type: raftpb.MsgAppResp, From: id, To: 1, Term: st.Term, Index: st.Last}, note)...,
		)})
	}
}

// put proposes something of so many bytes, and returns what became of it: applied or refused
// at once, or waiting.
func (b *bench) put(first byte, bytes int) string {
	data := make([]byte, bytes)
	data[0] = first
	b.all = nil
	last := b.c.Status().Last
	b.run(Input{Requests: []Request{NewProposal(data, &call{})}})
	switch {
	case len(b.all) > 0 && errors.Is(b.all[0].Err, ErrNoSpace):
		return "refused"
	case b.c.Status().Last > last:
		return "appended"
	case b.c.More():
		return "spins"
	}
	return "waits"
}

// What makes state machines grow needs room at a majority of the voters; what does not grow
// them never does.
func TestGrowthNeedsRoomAtAMajority(t *testing.T) {
	for _, c := range []struct {
		name             string
		own, two, three  Room
		silent           uint64
		growth, deletion string
	}{
		{name: "all have room", own: RoomFor(1e6), two: RoomFor(1e6), three: RoomFor(1e6), growth: "appended", deletion: "appended"},
		{name: "one has none", own: RoomFor(1e6), two: RoomFor(0), three: RoomFor(1e6), growth: "appended", deletion: "appended"},
		{name: "two have none", own: RoomFor(1e6), two: RoomFor(0), three: RoomFor(0), growth: "refused", deletion: "appended"},
		{name: "the leader and one have none", own: RoomFor(0), two: RoomFor(1e6), three: RoomFor(0), growth: "refused", deletion: "appended"},
		{name: "one does not say", own: RoomFor(1e6), two: RoomFor(0), three: NoLimit, growth: "appended", deletion: "appended"},
		{name: "one has none, and one is silent", own: RoomFor(1e6), two: RoomFor(0), silent: 3, growth: "refused", deletion: "appended"},
		{name: "one is silent", own: RoomFor(1e6), two: RoomFor(1e6), silent: 3, growth: "appended", deletion: "appended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := roomy(t)
			if c.silent != 0 {
				for range 12 {
					b.told(b.c.Status().Last, c.two, 2)
					b.run(Input{Ticks: 1})
				}
			} else {
				b.told(b.c.Status().Last, c.three, 3)
			}
			b.told(b.c.Status().Last, c.two, 2)
			b.room = c.own
			if got := b.put('+', 100); got != c.growth {
				t.Errorf("growth is %s, want %s", got, c.growth)
			}
			if got := b.put('-', 100); got != c.deletion {
				t.Errorf("a deletion is %s, want %s", got, c.deletion)
			}
		})
	}
}

// A leader appends no more than what a majority has room for behind what it has applied. The
// rest waits, in order, and without turning the loop.
func TestGrowthWaitsForWhatIsApplied(t *testing.T) {
	b := roomy(t)
	if got := b.put('+', 100); got != "waits" {
		t.Fatalf("before anybody said how much room there is, growth %s", got)
	}
	applied := b.c.Status().Last
	b.told(applied, RoomFor(2*(1000+CommandOverhead)), 2, 3)
	if b.c.Status().Last != applied+1 {
		t.Fatalf("what waited is not appended: the log ends at %d, and did at %d", b.c.Status().Last, applied)
	}
	applied++
	room := RoomFor(2*(1001+CommandOverhead) + 600)
	b.told(applied, room, 2, 3)
	for i, c := range []struct {
		bytes int
		want  string
	}{{1000, "appended"}, {1000, "appended"}, {1000, "waits"}, {1, "waits"}} { // the last one would fit
		if got := b.put('+', c.bytes); got != c.want {
			t.Errorf("growth %d %s, want %s", i, got, c.want)
		}
		// Their disks have it, and their state machines have not.
		b.told(applied, room, 2, 3)
	}
	if got := b.put('-', 1000); got != "appended" {
		t.Errorf("a deletion %s behind growth that waits", got)
	}
	last := b.c.Status().Last
	b.told(last, room, 3)
	if got := b.c.Status().Last; got != last+2 {
		t.Errorf("a majority has applied all, and %d of 2 that waited are appended", got-last)
	}
	// One command has room where there is any.
	b.told(b.c.Status().Last, RoomFor(10), 2, 3)
	if got := b.put('+', 5000); got != "appended" {
		t.Errorf("a command that is larger than the room of members with nothing to apply %s", got)
	}
	if got := b.put('+', 1); got != "waits" {
		t.Errorf("a command behind it %s", got)
	}
	b.told(b.c.Status().Last, RoomFor(0), 2, 3)
	if n := len(b.all); n == 0 || !errors.Is(b.all[n-1].Err, ErrNoSpace) {
		t.Errorf("there is no room any more, and what waits hears %v", b.all)
	}
}

// A leader does not know how much the leaders before it appended. Where room is small, it
// appends nothing before a majority has applied all of that.
func TestGrowthAfterAnElection(t *testing.T) {
	for _, room := range []Room{RoomFor(5000), RoomFor(10)} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1}, entriesOf(1, 2, 5)...)
		b.room = RoomFor(backlogMax)
		b.elect(2)
		b.heard(3)
		b.told(3, room, 2, 3)
		if got := b.put('+', 100); got != "waits" {
			t.Errorf("with room %d behind entries that nobody counted, growth is %s", room, got)
		}
		last := b.c.Status().Last
		if b.told(last, room, 2); b.c.Status().Last != last+1 {
			t.Errorf("with room %d, growth waits on when a majority has applied what was there", room)
		}
	}
}

// Of a joint configuration both halves need room.
func TestGrowthInAJointConfiguration(t *testing.T) {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1}
	for id := uint64(1); id <= 5; id++ {
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Address: fmt.Sprint("addr", id), Kind: octopiipb.Voter})
	}
	cs := raftpb.ConfState{Voters: []uint64{1, 2, 3}, VotersOutgoing: []uint64{1, 4, 5}}
	for _, c := range []struct {
		room Room
		want string
	}{{RoomFor(0), "refused"}, {RoomFor(1 << 20), "appended"}} {
		b := benchFrom(t, 1, Label{Index: 1, Term: 1, ConfState: cs, Membership: ms}, raftpb.HardState{Term: 1, Commit: 1})
		b.room = RoomFor(backlogMax)
		for b.c.Status().Role == raft.StateFollower {
			b.run(Input{Ticks: 1})
		}
		for _, typ := range []raftpb.MessageType{raftpb.MsgPreVoteResp, raftpb.MsgVoteResp} {
			term := b.c.Status().Term
			if typ == raftpb.MsgPreVoteResp {
				term++
			}
			for _, id := range []uint64{2, 4} {
				b.run(Input{Messages: bare([]raftpb.Message{{Type: typ, From: id, To: 1, Term: term}})})
			}
		}
		last := b.c.Status().Last
		b.told(last, RoomFor(1<<20), 2, 3)
		b.told(last, c.room, 4, 5)
		if got := b.put('+', 100); got != c.want {
			t.Errorf("where the outgoing half has room %d, growth is %s, want %s", c.room, got, c.want)
		}
	}
}

// A Step may take a voter away for which something was held back in it: that is served by the
// next Step, and does not lie there until a message or a tick.
func TestHeldBackUntilAVoterGoes(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2}, raftpb.HardState{Term: 1, Commit: 1})
	b.room = RoomFor(1 << 20)
	b.elect(2)
	small := RoomFor(600)
	b.told(b.c.Status().Last, small, 2)
	applied := b.c.Status().Last
	if got := b.put('+', 50); got != "appended" {
		t.Fatalf("growth is %s", got)
	}
	if got := b.put('+', 50); got != "waits" {
		t.Fatalf("growth behind it is %s", got)
	}
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Waiter: &call{}, Changes: []Change{{Op: Remove, Member: octopiipb.Member{ID: 2}}}}}})
	st := b.c.Status()
	b.step(Input{Messages: noted(raftpb.Message{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: st.Term, Index: st.Last}, octopiipb.Note{Applied: applied, Room: uint64(small)})})
	for b.last.Apply == nil && b.c.More() {
		b.step(Input{})
	}
	if now := b.c.Status(); len(now.Membership.Members) != 1 || now.Last != st.Last || !b.c.More() {
		t.Fatalf("%d members, the log ends at %d and ended at %d, more to do: %v", len(now.Membership.Members), now.Last, st.Last, b.c.More())
	}
	if b.step(Input{}); b.c.Status().Last != st.Last+1 {
		t.Errorf("the log ends at %d, want %d", b.c.Status().Last, st.Last+1)
	}
}

// A leader says in its heartbeats that a majority has little room, and members believe the
// one that they follow.
func TestTight(t *testing.T) {
	for _, c := range []struct {
		two, three Room
		tight      bool
	}{{RoomFor(1 << 40), RoomFor(0), false}, {RoomFor(1000), RoomFor(0), true}} {
		b := roomy(t)
		b.room = RoomFor(1 << 40)
		b.told(b.c.Status().Last, c.two, 2)
		b.told(b.c.Status().Last, c.three, 3)
		b.msgs = nil
		b.run(Input{Ticks: 1})
		beats := 0
		for _, m := range b.msgs {
			if m.Type == raftpb.MsgHeartbeat {
				if beats++; m.Note.Tight != c.tight {
					t.Errorf("with %d and %d a heartbeat says %v, want %v", c.two, c.three, m.Note.Tight, c.tight)
				}
			}
		}
		if beats == 0 || b.c.Tight() != c.tight {
			t.Errorf("%d heartbeats; the leader itself says %v, want %v", beats, b.c.Tight(), c.tight)
		}
		f := newBench(t, 3, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
		f.run(Input{Messages: noted(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 1, To: 3, Term: 2, Commit: 1}, octopiipb.Note{Tight: c.tight})})
		if f.c.Tight() != c.tight {
			t.Errorf("a follower says %v, want %v", f.c.Tight(), c.tight)
		}
		for range 30 {
			f.run(Input{Ticks: 1})
		}
		if f.c.Tight() {
			t.Error("a member without a leader knows of its word")
		}
	}
}

// A backlog forgets what is too far back to matter, and never says less than there is.
func TestBacklog(t *testing.T) {
	var b backlog
	for i := range uint64(1000) {
		b.add(10+2*i, 1<<20)
	}
	if len(b.ends) > 200 {
		t.Errorf("%d places are kept", len(b.ends))
	}
	for index, want := range map[uint64]int64{10 + 2*999: 0, 10 + 2*998: 1 << 20, 10 + 2*998 - 1: 2 << 20, 3000: 0} {
		if got := b.behind(index); got != want {
			t.Errorf("behind %d stand %d bytes, want %d", index, got, want)
		}
	}
	if got := b.behind(5); got < backlogMax {
		t.Errorf("behind 5 stand %d bytes, want %d at least", got, backlogMax)
	}
}

// A leader without room hands over to a voter that has some, and knows whether there is one;
// a voter that applies nothing is the last choice.
func TestWhoHasRoomLeads(t *testing.T) {
	for _, c := range []struct {
		name            string
		own, two, three Room
		twoApplies      bool
		successor       uint64
		roomier         bool
	}{
		{name: "three has room", own: RoomFor(0), two: RoomFor(0), three: RoomFor(1e6), twoApplies: true, successor: 3, roomier: true},
		{name: "two has room", own: RoomFor(0), two: RoomFor(1e6), three: RoomFor(0), twoApplies: true, successor: 2, roomier: true},
		{name: "none has room", own: RoomFor(0), two: RoomFor(0), three: RoomFor(0), twoApplies: true, successor: 2},
		{name: "two applies nothing", own: RoomFor(0), two: RoomFor(0), three: RoomFor(0), successor: 3},
		{name: "all have room", own: RoomFor(1e6), two: RoomFor(1e6), three: RoomFor(1e6), twoApplies: true, successor: 2},
		{name: "no word of room", own: NoLimit, two: NoLimit, three: NoLimit, twoApplies: true, successor: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := roomy(t)
			b.room = c.own
			last := b.c.Status().Last
			b.told(last, c.three, 3)
			if c.twoApplies {
				b.told(last, c.two, 2)
			} else {
				b.told(last-1, c.two, 2)
			}
			b.run(Input{Ticks: 1})
			if got := b.c.RoomierVoter(); got != c.roomier {
				t.Errorf("another voter has more room: %v, want %v", got, c.roomier)
			}
			b.all = nil
			b.run(Input{Requests: []Request{{Kind: Transfer, Waiter: &call{name: "transfer"}}}})
			if len(b.all) != 1 || b.all[0].Index != c.successor || b.c.rn.BasicStatus().LeadTransferee != c.successor {
				t.Errorf("the transfer ends with %+v, want one to %d", b.all, c.successor)
			}
		})
	}
}

// What was held back, and given up by its callers, holds nothing up that needs no room.
func TestNothingIsHeldForThoseThatGaveUp(t *testing.T) {
	b := roomy(t)
	w := &call{name: "grows"}
	b.run(Input{Requests: []Request{NewProposal([]byte("+"), w)}})
	if len(b.c.waiting) != 1 || b.c.More() {
		t.Fatalf("%d wait, more to do: %v; want one that is held back", len(b.c.waiting), b.c.More())
	}
	b.run(Input{Ticks: 1, Gone: []Waiter{w}})
	last := b.c.Status().Last
	b.c.wait(request{Request: NewProposal([]byte("-"), &call{})}) // as behind a transfer that ends in a Ready
	if !b.c.More() {
		t.Error("a deletion waits, and no Step serves it")
	}
	b.step(Input{}) // asks whether it grows
	if b.step(Input{}); b.c.Status().Last != last+1 {
		t.Errorf("the log ends at %d, want %d", b.c.Status().Last, last+1)
	}
}
