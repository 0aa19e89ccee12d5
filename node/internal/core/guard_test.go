package core

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	octopiipb "github.com/octopii/octopii/proto"
)

// subject is member 1: a core whose disk and state machine do at once what they
// are told.
type subject struct {
	core *Core
	disk *memoryDisk
}

// newSubject starts member 1 in the given configuration with a log of term 2
// that goes from 2 to last and is committed up to commit.
func newSubject(cs raftpb.ConfState, last, commit uint64) *subject {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1}
	for _, id := range append(slices.Clone(cs.Voters), cs.Learners...) {
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Kind: kindIn(cs, id)})
	}
	start := Label{Index: 1, Term: 1, ConfState: cs, Membership: ms}
	disk := newDisk(start, raftpb.HardState{Term: 2, Commit: commit})
	_ = disk.Append(entriesOf(2, 2, last))
	return subjectOn(start, disk)
}

// kindIn is what a member is in a configuration.
func kindIn(cs raftpb.ConfState, id uint64) octopiipb.MemberKind {
	if slices.Contains(cs.Learners, id) {
		return octopiipb.Learner
	}
	return octopiipb.Voter
}

// subjectOn starts member 1 behind a snapshot.
func subjectOn(start Label, disk *memoryDisk) *subject {
	s := &subject{disk: disk}
	var err error
	s.core, err = New(Config{ID: 1, Start: start, Founded: true, Storage: s.disk, ElectionTicks: 10, HeartbeatTicks: 1,
		MessageBytesMax: 1 << 20, InflightMessagesMax: 16, PromoteLagMax: 2, PromoteStableTicks: 2,
		ReadSeed: 1, Logger: quiet{}})
	if err != nil {
		panic(err)
	}
	s.step(&Input{})
	return s
}

func entriesOf(term, lo, hi uint64) []raftpb.Entry {
	var entries []raftpb.Entry
	for i := lo; i <= hi; i++ {
		entries = append(entries, raftpb.Entry{Term: term, Index: i, Data: FrameProposal([]byte{byte(i)})})
	}
	return entries
}

// step gives an input to the core, and back to it whatever follows from it, and
// returns whom the core suspects.
func (s *subject) step(in *Input) (suspects []Suspect) {
	for range 10_000 {
		e := s.core.Step(in)
		suspects = append(suspects, e.Suspects...)
		in = &Input{}
		if a := e.Append; a != nil {
			s.write(a)
			in.Appended = []*Append{a}
			if a.Snapshot != nil {
				in.Applied = []*Apply{{Label: a.Installed}}
			}
		}
		if e.Apply != nil {
			in.Applied = append(in.Applied, e.Apply)
		}
		if e.Append == nil && e.Apply == nil && !s.core.More() {
			return suspects
		}
	}
	panic("the core goes on and on after one input")
}

func (s *subject) write(a *Append) {
	if a.Snapshot != nil {
		meta := a.Snapshot.Metadata
		_ = s.disk.ApplySnapshot(*a.Snapshot)
		a.Installed = Label{Index: meta.Index, Term: meta.Term, ConfState: meta.ConfState, Membership: s.core.handed.Membership}
		s.disk.snap = a.Installed
	}
	_ = s.disk.Append(a.Entries)
	if !raft.IsEmptyHardState(a.HardState) {
		_ = s.disk.SetHardState(a.HardState)
	}
}

func (s *subject) receive(messages ...raftpb.Message) []Suspect {
	return s.step(&Input{Messages: bare(messages)})
}

// receiveNoted is receive for one message, and what it says beside raft's words.
func (s *subject) receiveNoted(m octopiipb.PeerMessage) {
	s.step(&Input{Messages: []octopiipb.PeerMessage{m}})
}

// live lets time pass and callers come, so that what a message broke shows.
func (s *subject) live() {
	for range 4 * s.core.cfg.ElectionTicks {
		s.step(&Input{Ticks: 1})
	}
	s.step(&Input{Requests: []Request{
		{Kind: Propose, Data: FrameProposal([]byte("after")), Waiter: &call{name: "after"}},
		{Kind: Read, Waiter: &call{name: "read"}},
	}})
}

// campaign brings member 1 to where it asks for votes, and with votes of member
// 2 to leadership.
func (s *subject) campaign(lead bool) *subject {
	for s.core.Status().Role != raft.StatePreCandidate {
		s.step(&Input{Ticks: 1})
	}
	term := s.core.Status().Term + 1
	s.receive(raftpb.Message{Type: raftpb.MsgPreVoteResp, From: 2, To: 1, Term: term})
	if lead {
		s.receive(raftpb.Message{Type: raftpb.MsgVoteResp, From: 2, To: 1, Term: term})
		s.receive(raftpb.Message{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: term, Index: s.core.Status().Last})
	}
	return s
}

var three = raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}

// states are what a member can be in when a message comes. All but the founder
// have a log that ends at 8, in term 2 or 3, of which 5 or more is committed.
var states = []struct {
	name string
	make func() *subject
}{
	{"founder", func() *subject { return newSubject(raftpb.ConfState{Voters: []uint64{1}}, 1, 1) }},
	{"follower", func() *subject {
		s := newSubject(three, 8, 5)
		s.receive(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 5})
		return s
	}},
	{"follower without a leader", func() *subject { return newSubject(three, 8, 5) }},
	{"candidate", func() *subject { return newSubject(three, 8, 5).campaign(false) }},
	{"leader", func() *subject { return newSubject(three, 7, 5).campaign(true) }},
	{"learner", func() *subject {
		s := newSubject(raftpb.ConfState{Voters: []uint64{2, 3}, Learners: []uint64{1}}, 8, 5)
		s.receive(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 5})
		return s
	}},
}

func inState(name string) *subject {
	for _, s := range states {
		if s.name == name {
			return s.make()
		}
	}
	panic("no state " + name)
}

func TestStatesAreWhatTheySay(t *testing.T) {
	want := map[string]raft.StateType{"founder": raft.StateLeader, "follower": raft.StateFollower,
		"follower without a leader": raft.StateFollower, "candidate": raft.StateCandidate,
		"leader": raft.StateLeader, "learner": raft.StateFollower}
	for _, s := range states {
		st := s.make().core.Status()
		if st.Role != want[s.name] {
			t.Errorf("%s is %s", s.name, st.Role)
		}
		if led := st.Leader != 0; led == (s.name == "candidate" || s.name == "follower without a leader") {
			t.Errorf("%s has the leader %d", s.name, st.Leader)
		}
		if s.name != "founder" && st.Last != 8 {
			t.Errorf("%s has a log that ends at %d, want 8", s.name, st.Last)
		}
	}
}

// panicOf returns what f panicked with; nil if it did not.
func panicOf(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

// raftPanics are the messages with which a peer could make raft v3.6.0 panic, by
// the place where it does. Its other panics are out of a peer's reach: they stand
// in the storage interface, in transitions that the state machine excludes, and in
// what only local messages lead to, which no peer may send (see TestAdmit).
var raftPanics = []struct {
	where, state string
	m            raftpb.Message
	// suspect is a part of the reason for which the core refuses the message.
	suspect string
}{
	{"raftLog.commitTo", "follower",
		raftpb.Message{Type: raftpb.MsgHeartbeat, Term: 2, Commit: 9}, "lost what it acknowledged"},
	{"raftLog.commitTo, of a learner", "learner",
		raftpb.Message{Type: raftpb.MsgHeartbeat, Term: 3, Commit: 23}, "lost what it acknowledged"},
	{"raftLog.maybeAppend, conflict with a committed entry", "follower",
		raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 5, LogTerm: 2, Entries: entriesOf(3, 4, 4)}, "has index 4 in place 0"},
	{"raftLog.maybeAppend, conflict with a committed entry behind a good one", "follower",
		raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 5, LogTerm: 2,
			Entries: append(entriesOf(2, 6, 6), entriesOf(3, 3, 3)...)}, "has index 3 in place 1"},
	{"raftLog.maybeAppend, index out of range", "follower",
		raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 5, LogTerm: 2, Entries: entriesOf(3, 20, 20)}, "has index 20 in place 0"},
	{"stepLeader, empty MsgProp", "leader",
		raftpb.Message{Type: raftpb.MsgProp, Term: 3}, "not a message that members send"},
	{"stepLeader, conf change that cannot be read", "leader",
		raftpb.Message{Type: raftpb.MsgProp, Term: 3, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChange, Data: []byte{0xff}}}}, "not a message that members send"},
	{"stepLeader, conf change V2 that cannot be read", "leader",
		raftpb.Message{Type: raftpb.MsgProp, Term: 3, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChangeV2, Data: []byte{0xff}}}}, "not a message that members send"},
	{"readOnly.addRequest, no entry", "leader",
		raftpb.Message{Type: raftpb.MsgReadIndex}, "0 entries"},
	{"raft.restore, a configuration that cannot be restored", "follower",
		raftpb.Message{Type: raftpb.MsgSnap, Term: 3, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 20, Term: 3,
			ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{1}}}}}, "removed all voters"},
	{"raftLog.appliedTo, an apply that never was", "follower",
		raftpb.Message{Type: raftpb.MsgStorageApplyResp, From: raft.LocalApplyThread, Term: 2, Entries: entriesOf(2, 30, 30)}, "cannot be another member"},
	{"raftLog.appliedTo, a snapshot that never was", "follower",
		raftpb.Message{Type: raftpb.MsgStorageAppendResp, From: raft.LocalAppendThread, Term: 2,
			Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 30, Term: 2}}}, "cannot be another member"},
}

// The guard stands exactly where raft would panic: the message alone does it,
// and through the core it does nothing but make its sender a suspect.
func TestGuardStandsBeforeRaftsPanics(t *testing.T) {
	for _, c := range raftPanics {
		t.Run(c.where, func(t *testing.T) {
			m := c.m
			m.To = 1
			if m.From == 0 {
				m.From = 2
			}
			bare := inState(c.state)
			p := panicOf(func() {
				_ = bare.core.rn.Step(m)
				bare.live()
			})
			if p == nil {
				t.Errorf("raft does not panic on %s: is the guard still needed?", describeRaft(m))
			}
			guarded := inState(c.state)
			before := guarded.core.Status()
			suspects := guarded.receive(m)
			if len(suspects) != 1 || suspects[0].ID != m.From || !strings.Contains(suspects[0].Reason, c.suspect) {
				t.Errorf("%s makes suspects of %+v, want its sender because of %q", describeRaft(m), suspects, c.suspect)
			}
			if after := guarded.core.Status(); after != before {
				t.Errorf("a refused message changed the status from %+v to %+v", before, after)
			}
			guarded.live()
		})
	}
}

// entry is one entry behind index 7.
func entry(typ raftpb.EntryType, data []byte) []raftpb.Entry {
	return []raftpb.Entry{{Index: 8, Term: 3, Type: typ, Data: data}}
}

// TestAdmit has every type of message, as it may come and as it may not, at
// member 1 with a log up to 9, handed out up to 4.
func TestAdmit(t *testing.T) {
	change, err := encodeChanges([]Change{{Op: AddLearner, Member: octopiipb.Member{ID: 4}}}, origin{})
	if err != nil {
		t.Fatal(err)
	}
	read := []raftpb.Entry{{Data: []byte("context")}}
	cases := []struct {
		m raftpb.Message
		// want is a part of the error; empty: admitted.
		want string
	}{
		{raftpb.Message{Type: raftpb.MsgHeartbeat, Commit: 9}, ""},
		{raftpb.Message{Type: raftpb.MsgHeartbeat, Commit: 10}, "commit 10, but the last index here is 9"},
		{raftpb.Message{Type: raftpb.MsgHeartbeat, Commit: 1<<64 - 1}, "lost what it acknowledged"},
		{raftpb.Message{Type: raftpb.MsgHeartbeatResp}, ""},
		{raftpb.Message{Type: raftpb.MsgVote, Index: 100, LogTerm: 3}, ""},
		{raftpb.Message{Type: raftpb.MsgVoteResp}, ""},
		{raftpb.Message{Type: raftpb.MsgPreVote}, ""},
		{raftpb.Message{Type: raftpb.MsgPreVoteResp, Reject: true}, ""},
		{raftpb.Message{Type: raftpb.MsgTimeoutNow}, ""},
		{raftpb.Message{Type: raftpb.MsgAppResp, Index: 9}, ""},
		{raftpb.Message{Type: raftpb.MsgAppResp, Index: 10}, "acknowledged index 10"},
		{raftpb.Message{Type: raftpb.MsgAppResp, Index: 10, Reject: true}, ""},
		{raftpb.Message{Type: raftpb.MsgReadIndex, Entries: read}, ""},
		{raftpb.Message{Type: raftpb.MsgReadIndex}, "0 entries"},
		{raftpb.Message{Type: raftpb.MsgReadIndex, Entries: append(read, read...)}, "2 entries"},
		{raftpb.Message{Type: raftpb.MsgReadIndexResp, Entries: read}, ""},
		{raftpb.Message{Type: raftpb.MsgReadIndexResp}, "0 entries"},

		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2}, ""},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Commit: 1 << 40}, ""}, // raft takes no more than it appends
		{raftpb.Message{Type: raftpb.MsgApp, Index: 1 << 40, LogTerm: 2}, ""},            // raft answers that this is not here
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entriesOf(3, 8, 12)}, ""},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: append(entriesOf(2, 8, 9), entriesOf(3, 10, 10)...)}, ""},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entriesOf(3, 9, 9)}, "index 9 in place 0"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entriesOf(3, 7, 7)}, "index 7 in place 0"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: append(entriesOf(3, 8, 8), entriesOf(3, 10, 10)...)}, "index 10 in place 1"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entriesOf(1, 8, 8)}, "behind term 2"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: append(entriesOf(3, 8, 8), entriesOf(2, 9, 9)...)}, "behind term 3"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entriesOf(4, 8, 8)}, "append of term 3"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(raftpb.EntryNormal, nil)}, ""},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(raftpb.EntryNormal, []byte{3})}, "unknown kind 3"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(raftpb.EntryConfChangeV2, change)}, ""},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(raftpb.EntryConfChangeV2, []byte{0xff})}, "cannot be read"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(raftpb.EntryConfChange, change)}, "unexpected type"},
		{raftpb.Message{Type: raftpb.MsgApp, Index: 7, LogTerm: 2, Entries: entry(77, nil)}, "unexpected type"},

		{raftpb.Message{Type: raftpb.MsgSnap, Snapshot: snapshotNaming(1, 2)}, ""},
		{raftpb.Message{Type: raftpb.MsgSnap, Snapshot: snapshotNaming(2, 3)}, ""}, // raft ignores one that does not name it
		{raftpb.Message{Type: raftpb.MsgSnap}, "without a snapshot"},
		{raftpb.Message{Type: raftpb.MsgSnap, Snapshot: &raftpb.Snapshot{}}, "index 0 of term 0"},
		{raftpb.Message{Type: raftpb.MsgSnap, Snapshot: snapshotNaming()}, "without voters"},
		{raftpb.Message{Type: raftpb.MsgSnap, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 4, Term: 1}}}, ""}, // no news
	}
	seen := map[raftpb.MessageType]bool{}
	for _, c := range cases {
		m := c.m
		seen[m.Type] = true
		m.From, m.To = 2, 1
		if m.Type != raftpb.MsgReadIndex {
			m.Term = 3
		}
		err := admit(&m, 1, 9, 4)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s with %d entries: %v, want an error with %q", describeRaft(m), len(m.Entries), err, c.want)
		}
		other := m
		other.To = 3
		if err := admit(&other, 1, 9, 4); err == nil || !strings.Contains(err.Error(), "arrived at 1") {
			t.Errorf("%s arrived at member 1: %v, want it refused", describeRaft(other), err)
		}
		if m.Term = 0; m.Type != raftpb.MsgReadIndex {
			if err := admit(&m, 1, 9, 4); err == nil || !strings.Contains(err.Error(), "without a term") {
				t.Errorf("%s: %v, want it refused for its term", describeRaft(m), err)
			}
		}
	}
	// Whatever has no case above no member sends to another.
	for _, typ := range everyType() {
		m := full(typ)
		if err := admit(&m, 1, 9, 4); !seen[typ] && (err == nil || !strings.Contains(err.Error(), "not a message that members send")) {
			t.Errorf("%s: %v, want it refused for its type", typ, err)
		}
	}
	unknown := full(99)
	if err := admit(&unknown, 1, 9, 4); err == nil {
		t.Error("a message of type 99 is admitted")
	}
}

// TestNotesBeyondAnyLog: an index that no cluster reaches is not believed in a note either.
func TestNotesBeyondAnyLog(t *testing.T) {
	for name, note := range map[string]octopiipb.Note{
		"durable": {Durable: numberMax + 1}, "last": {Last: numberMax + 1}, "applied": {Applied: numberMax + 1}, "commit": {Commit: numberMax + 1},
	} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 2, Commit: 1})
		b.follow(2, 2)
		m := raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2}
		if got := b.step(Input{Messages: noted(m, note)}).Suspects; len(got) != 1 || got[0].Claim != NoClaim {
			t.Errorf("%s: %+v", name, got)
		}
		if durable, _ := b.c.LeaderLog(); durable != 0 || b.c.leaderEnd.index > numberMax {
			t.Errorf("%s: the leader is believed to have %d, up to %d", name, durable, b.c.leaderEnd.index)
		}
	}
}

// drawMessage makes messages that are nearly right: near misses are what gets
// past a guard.
func drawMessage(t *rapid.T) raftpb.Message {
	near := rapid.SampledFrom([]uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 1 << 40, 1<<64 - 2, 1<<64 - 1})
	terms := rapid.SampledFrom([]uint64{0, 1, 2, 2, 3, 3, 4, 9})
	ids := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 5), 0, 3, rapid.ID[uint64])
	m := raftpb.Message{
		Type:       rapid.SampledFrom(everyType()).Draw(t, "type"),
		From:       rapid.Uint64Range(2, 5).Draw(t, "from"),
		To:         1,
		Term:       terms.Draw(t, "term"),
		LogTerm:    terms.Draw(t, "log term"),
		Index:      near.Draw(t, "index"),
		Commit:     near.Draw(t, "commit"),
		Reject:     rapid.Bool().Draw(t, "reject"),
		RejectHint: near.Draw(t, "hint"),
		Context:    rapid.SampledFrom([][]byte{nil, []byte("CampaignTransfer"), []byte("x")}).Draw(t, "context"),
	}
	if m.Type == raftpb.MsgReadIndex {
		m.Term = 0
	}
	index := m.Index
	for range rapid.IntRange(0, 4).Draw(t, "entries") {
		index++
		e := raftpb.Entry{Index: index, Term: terms.Draw(t, "entry term"), Data: drawEntry(t)}
		if len(e.Data) > 0 && e.Data[0] != frameCommand {
			e.Type = raftpb.EntryConfChangeV2
		}
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
			e.Index = near.Draw(t, "entry index")
		}
		m.Entries = append(m.Entries, e)
	}
	if m.Type == raftpb.MsgSnap {
		voters := ids.Draw(t, "voters")
		learners := slices.DeleteFunc(ids.Draw(t, "learners"), func(id uint64) bool { return slices.Contains(voters, id) })
		m.Snapshot = &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
			Index:     rapid.Uint64Range(0, 30).Draw(t, "snapshot index"),
			Term:      terms.Draw(t, "snapshot term"),
			ConfState: raftpb.ConfState{Voters: voters, Learners: learners},
		}}
	}
	return m
}

// drawNote says anything beside a message.
func drawNote(t *rapid.T) (n octopiipb.Note) {
	near := rapid.SampledFrom([]uint64{0, 0, 0, 1, 2, 3, 4, 5, 6, 9, 20, 1 << 40, 1<<64 - 1})
	for _, field := range []*uint64{&n.Durable, &n.Last, &n.LastTerm, &n.Applied, &n.Room, &n.Commit, &n.CommitTerm} {
		*field = near.Draw(t, "note")
	}
	n.Tight = rapid.Bool().Draw(t, "tight")
	n.Sums = rapid.SampledFrom([][]uint64{nil, {1}, {1, 2, 3}}).Draw(t, "sums")
	return n
}

func drawEntry(t *rapid.T) []byte {
	switch rapid.IntRange(0, 2).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return FrameProposal([]byte("p"))
	}
	data, err := encodeChanges([]Change{drawChange(t)}, origin{})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestNoMessagePanics throws nearly right messages at members in every state.
func TestNoMessagePanics(t *testing.T) {
	for _, state := range states {
		t.Run(state.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := state.make()
				for range rapid.IntRange(1, 8).Draw(t, "messages") {
					s.receiveNoted(octopiipb.PeerMessage{Message: drawMessage(t), Note: drawNote(t)})
					if rapid.IntRange(0, 3).Draw(t, "tick") == 0 {
						s.step(&Input{Ticks: 1})
					}
				}
				s.live()
				st := s.core.Status()
				if st.Applied > st.Commit || st.Commit > st.Last {
					t.Fatalf("applied %d, commit %d, last %d are not in order", st.Applied, st.Commit, st.Last)
				}
			})
		})
	}
}

// FuzzStep decodes two messages and steps them into a core in one of several
// states, one after the other. Who sends a message is not for the message to say:
// the connection does.
func FuzzStep(f *testing.F) {
	for i, typ := range everyType() {
		note := octopiipb.Note{Durable: 3, Last: 4, LastTerm: 2, Tight: true, Applied: 2, Room: 9, Commit: 4, CommitTerm: 2, Sums: []uint64{1, 2, 3}}
		first := octopiipb.PeerMessage{Message: full(typ), Note: note}
		second := octopiipb.PeerMessage{Message: full(everyType()[(i*7+3)%len(everyType())]), Note: note}
		a, errA := first.Marshal()
		b, errB := second.Marshal()
		if errA != nil || errB != nil {
			f.Fatal(errA, errB)
		}
		f.Add(uint8(i), a, b)
	}
	for i, c := range raftPanics {
		b, err := (&octopiipb.PeerMessage{Message: c.m}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b, b)
	}
	f.Fuzz(func(t *testing.T, state uint8, first, second []byte) {
		s := states[int(state)%len(states)].make()
		for i, data := range [][]byte{first, second} {
			var m octopiipb.PeerMessage
			if m.Unmarshal(data) != nil {
				continue
			}
			m.To = 1
			m.From = 2 + uint64(state/8+uint8(i))%4
			s.receiveNoted(m)
		}
		s.live()
		if st := s.core.Status(); st.Applied > st.Commit || st.Commit > st.Last {
			t.Fatalf("applied %d, commit %d, last %d are not in order", st.Applied, st.Commit, st.Last)
		}
	})
}

// An acknowledgement of entries that the leader does not have counts for nothing: the
// entries that later take those places are not committed by it.
func TestAcknowledgementBeyondTheLog(t *testing.T) {
	s := inState("leader")
	before := s.core.Status()
	suspects := s.receive(raftpb.Message{Type: raftpb.MsgAppResp, From: 2, To: 1, Term: before.Term, Index: before.Last + 5})
	if len(suspects) != 1 || suspects[0].ID != 2 {
		t.Errorf("the leader suspects %v, want member 2", suspects)
	}
	s.step(&Input{Requests: []Request{{Kind: Propose, Data: FrameProposal([]byte("alone")), Waiter: &call{name: "alone"}}}})
	if after := s.core.Status(); after.Last != before.Last+1 || after.Commit != before.Commit {
		t.Errorf("the log went from %d to %d and the commit index from %d to %d; want one entry more, not committed", before.Last, after.Last, before.Commit, after.Commit)
	}
}
