package core

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// ghosts is the core of a leader in a membership of before the rules of places: members 2
// and 3 vote at one address, and 3 is silent.
func ghosts(t *testing.T) *bench {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.c.handed.Membership.Members[2].Address = "addr2"
	b.elect(2)
	b.ack(2)
	return b
}

// underHeartbeats lets ticks pass in which member 2 answers.
func (b *bench) underHeartbeats(ticks int) {
	for range ticks {
		b.run(Input{Ticks: 1, Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeatResp, From: 2, To: 1, Term: b.c.Status().Term}})})
		b.ack(2)
	}
}

// A leader removes a silent voter at whose address it reached another one, and not before
// that was silent for as long as one that is to vote may be, or where it only knows what records say.
func TestGhostIsRemoved(t *testing.T) {
	b := ghosts(t)
	b.underHeartbeats(2 * b.c.cfg.JoinTimeoutTicks)
	if find(b.c.handed.Membership, 3) == nil {
		t.Fatal("member 3 was removed, and nobody has shown that another one is there")
	}
	b = ghosts(t)
	b.run(Input{PeersUp: []PeerUp{{ID: 2, Incarnation: 9, Address: "addr2"}}})
	b.underHeartbeats(b.c.cfg.JoinTimeoutTicks - 1)
	if find(b.c.handed.Membership, 3) == nil {
		t.Fatal("member 3 was removed, and may have moved, and live")
	}
	b.underHeartbeats(5)
	if ms := b.c.handed.Membership; find(ms, 3) != nil || find(ms, 2) == nil {
		t.Fatalf("members %v, want 1 and 2", ms.Members)
	}
}

// Two that exchange their addresses are corrected one after the other, and no two voters
// have one address meanwhile. A change that gives a voter the address of another is
// refused; one that finds it so before it is not.
func TestPlacesInMemberships(t *testing.T) {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{
		{ID: 1, Address: "a", Kind: octopiipb.Voter}, {ID: 2, Address: "b", Kind: octopiipb.Voter}, {ID: 3, Address: "c", Kind: octopiipb.Voter}, {ID: 4, Address: "b", Kind: octopiipb.Learner}}}
	cs := raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}
	at := func(ms *octopiipb.Membership, id uint64) string { return find(ms, id).Address }

	moved, err := Preview(ms, []Change{{Op: UpdateAddress, Member: octopiipb.Member{ID: 1, Address: "c"}}})
	if err != nil || at(moved, 1) != "c" || at(moved, 3) != "a" {
		t.Errorf("member 1 moved to the address of 3: %v, %v; want them exchanged", moved.Members, err)
	}
	promote := Change{Op: Promote, Member: octopiipb.Member{ID: 4}}
	if err := checkChanges(ms, cs, []Change{promote}); !errors.Is(err, ErrUnsafeMembership) {
		t.Errorf("a second voter at b: %v, want ErrUnsafeMembership", err)
	}
	after, err := Preview(ms, []Change{promote})
	if err != nil || find(after, 2) != nil || find(after, 4).Kind == octopiipb.Learner {
		t.Errorf("a leader makes of it: %v, %v; want 4 in the place of 2", after.Members, err)
	}
	before := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{{ID: 1, Address: "a", Kind: octopiipb.Voter}, {ID: 2, Address: "a", Kind: octopiipb.Voter}}}
	priority := Change{Op: SetPriority, Member: octopiipb.Member{ID: 1, Priority: 3}}
	if err := checkChanges(before, raftpb.ConfState{Voters: []uint64{1, 2}}, []Change{priority}); err != nil {
		t.Errorf("a change where two voters have one address already: %v", err)
	}
}

// What takes the place of a learner that nobody wants to vote is a learner, too, whichever
// life of it is known, and the old one goes in the same change. What takes the place of a
// voter, or of one that was on its way to be one, gets its vote.
func TestPlaceOfALearner(t *testing.T) {
	ms := func(four octopiipb.Member) *octopiipb.Membership {
		four.ID, four.Address, four.Kind = 4, "addr4", octopiipb.Learner
		return &octopiipb.Membership{Members: []octopiipb.Member{{ID: 1, Address: "addr1", Kind: octopiipb.Voter}, {ID: 2, Address: "addr2", Kind: octopiipb.Voter}, {ID: 3, Address: "addr3", Kind: octopiipb.Voter}, four}, Removed: []octopiipb.RemovedMember{{ID: 9}}}
	}
	plain, wish, took := ms(octopiipb.Member{}), ms(octopiipb.Member{Promote: true}), ms(octopiipb.Member{Replaces: 9})
	for name, c := range map[string]struct {
		ms       *octopiipb.Membership
		asks     octopiipb.Member
		promote  bool
		replaces uint64
		goes     bool
	}{
		"of a learner":                          {plain, octopiipb.Member{ID: 5, Address: "addr4", Replaces: 4}, false, 4, true},
		"of a learner, from elsewhere":          {plain, octopiipb.Member{ID: 5, Address: "addr5", Replaces: 4}, false, 4, true},
		"of a former life of a learner":         {plain, octopiipb.Member{ID: 5, Address: "addr4", Replaces: 9}, false, 4, true},
		"of one that was to vote":               {wish, octopiipb.Member{ID: 5, Address: "addr4", Replaces: 4}, true, 4, false},
		"of a voter":                            {plain, octopiipb.Member{ID: 5, Address: "addr3", Replaces: 3}, true, 3, false},
		"of a former life of a voter":           {plain, octopiipb.Member{ID: 5, Address: "addr3", Replaces: 9}, true, 3, false},
		"of nobody":                             {plain, octopiipb.Member{ID: 5, Address: "addr5"}, true, 0, false},
		"its own, which was added without one":  {plain, octopiipb.Member{ID: 4, Address: "addr4"}, true, 0, false},
		"its own, which took it":                {took, octopiipb.Member{ID: 4, Address: "addr4"}, false, 0, false},
		"its own, which was added to have one":  {wish, octopiipb.Member{ID: 4, Address: "addr4"}, true, 0, false},
		"its own, and it asks with an old self": {took, octopiipb.Member{ID: 4, Address: "addr4", Replaces: 9}, false, 0, false},
	} {
		c.asks.Promote = true
		changes := inPlace(c.ms, []Change{{Op: AddLearner, Member: c.asks, IfSilent: true}})
		changes = inPlace(c.ms, changes) // it may be completed twice
		m := changes[0].Member
		goes := len(changes) == 2 && changes[1].Op == Remove && changes[1].Member.ID == 4
		if m.Promote != c.promote || m.Replaces != c.replaces || goes != c.goes || len(changes) > 2 {
			t.Errorf("%s: %+v; want promote=%v, replaces %d, and the old one goes: %v", name, changes, c.promote, c.replaces, c.goes)
		}
	}
}

// Anybody may ask to be let in, where there are no certificates: of those that do not vote yet
// there are so many at most. An operator may add more, and who is known may ask again.
func TestJoinersAreBounded(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	ms := b.c.handed.Membership
	for id := uint64(10); id < 10+joinersMax; id++ {
		if err := b.c.roomToJoin(Change{Op: AddLearner, Member: octopiipb.Member{ID: id}, IfSilent: true}); err != nil {
			t.Fatalf("joiner %d is refused: %v", id-9, err)
		}
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Address: "x", Kind: octopiipb.Learner, Promote: true})
	}
	for name, c := range map[string]struct {
		id       uint64
		asks, ok bool
	}{"one more": {99, true, false}, "one that is known": {10, true, true}, "one that an operator adds": {99, false, true}} {
		err := b.c.roomToJoin(Change{Op: AddLearner, Member: octopiipb.Member{ID: c.id}, IfSilent: c.asks})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMembershipBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What an operator adds at the address of a voter that is alive would never be reached there.
// Where that voter is silent, or is named as the one that goes, it is added.
func TestPlaceOfALivingVoter(t *testing.T) {
	for name, c := range map[string]struct {
		replaces uint64
		silent   bool
		want     error
	}{
		"of one that is alive":        {0, false, ErrUnsafeMembership},
		"of one that is to go":        {3, false, nil},
		"of one that is silent":       {0, true, nil},
		"of another than that to go":  {2, false, ErrUnsafeMembership},
		"of another, which is silent": {2, true, nil},
	} {
		b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
		b.elect(2)
		b.heard(3)
		b.ack(2)
		if c.silent {
			b.underHeartbeats(15)
		}
		b.run(Input{Requests: []Request{{Kind: ChangeMembership, Waiter: &call{}, Changes: []Change{
			{Op: AddLearner, Member: octopiipb.Member{ID: 9, Address: "addr3", Replaces: c.replaces}}}}}})
		b.ack(2)
		if len(b.all) != 1 || !errors.Is(b.all[0].Err, c.want) || (find(b.c.handed.Membership, 9) != nil) != (c.want == nil) {
			t.Errorf("a member at the address %s: %v, want %v", name, b.all, c.want)
		}
	}
}

// The bound of those that join is the leader's: it refuses one more that asks, and takes one
// that an operator adds.
func TestJoinersAreRefused(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	ms := b.c.handed.Membership
	for id := uint64(10); id < 10+joinersMax; id++ {
		ms.Members = append(ms.Members, octopiipb.Member{ID: id, Address: "x", Kind: octopiipb.Learner, Promote: true})
	}
	ask := Change{Op: AddLearner, Member: octopiipb.Member{ID: 99, Address: "addr99", Promote: true}, IfSilent: true}
	if err := b.c.allowChanges([]Change{ask}); !errors.Is(err, ErrMembershipBusy) {
		t.Errorf("one more asks to join: %v, want ErrMembershipBusy", err)
	}
	ask.IfSilent = false
	if err := b.c.allowChanges([]Change{ask}); err != nil {
		t.Errorf("an operator adds one more: %v", err)
	}
}

// newcomer is a leader of three with a learner that wants to vote and is recorded at the address
// of voter 3, which is silent.
func newcomer(t *testing.T) *bench {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{
		{ID: 1, Address: "addr1", Kind: octopiipb.Voter}, {ID: 2, Address: "addr2", Kind: octopiipb.Voter}, {ID: 3, Address: "addr3", Kind: octopiipb.Voter}, {ID: 4, Address: "addr3", Kind: octopiipb.Learner, Promote: true}}}
	b := benchFrom(t, 1, Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}, Membership: ms},
		raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	return b
}

// served lets ticks pass in which members 2 and 4 answer and keep up.
func (b *bench) served(ticks int) {
	for range ticks {
		b.run(Input{Ticks: 1})
		b.told(b.c.Status().Last, NoLimit, 2, 4)
	}
}

// A newcomer takes the place of a voter that nobody named only where its leader reached it
// there, and not before nothing was heard of that voter for as long as one that is to vote may
// be silent.
func TestNewcomerAtTheAddressOfASilentVoter(t *testing.T) {
	votes := func(b *bench) bool { return find(b.c.handed.Membership, 4).Kind == octopiipb.Voter }
	reached := Input{PeersUp: []PeerUp{{ID: 4, Incarnation: 9, Address: "addr3"}}}

	b := newcomer(t)
	b.served(3 * b.c.cfg.JoinTimeoutTicks)
	if votes(b) {
		t.Fatal("it votes in the place of member 3, and nobody has reached it there")
	}
	b.run(reached)
	b.served(10)
	if !votes(b) || find(b.c.handed.Membership, 3) != nil {
		t.Fatalf("members %v, want 4 in the place of 3", b.c.handed.Membership.Members)
	}

	b = newcomer(t)
	b.run(reached)
	b.served(b.c.cfg.JoinTimeoutTicks - 1)
	if votes(b) {
		t.Fatal("it votes in the place of member 3, which may have moved, and live")
	}
	b.served(10)
	if !votes(b) || find(b.c.handed.Membership, 3) != nil {
		t.Errorf("members %v, want 4 in the place of 3", b.c.handed.Membership.Members)
	}
}

// A record that cannot be corrected yet, as two would vote at one address, keeps no other from
// being corrected.
func TestRecordsAreCorrectedBesideOneThatCannotBe(t *testing.T) {
	ms := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{
		{ID: 1, Address: "addr1", Kind: octopiipb.Voter}, {ID: 2, Address: "addr2", Kind: octopiipb.Voter}, {ID: 3, Address: "addr3", Kind: octopiipb.Voter},
		{ID: 4, Address: "addr2", Kind: octopiipb.Learner}, {ID: 5, Address: "addr5", Kind: octopiipb.Learner}}}
	b := benchFrom(t, 1, Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4, 5}}, Membership: ms},
		raftpb.HardState{Term: 1, Commit: 1})
	b.elect(2)
	b.ack(2)
	// Member 3 would get the address that 4 leaves, where 2 votes.
	b.run(Input{PeersUp: []PeerUp{{ID: 4, Incarnation: 9, Address: "addr3"}, {ID: 5, Incarnation: 9, Address: "addr6"}}})
	b.told(b.c.Status().Last, NoLimit, 5)
	b.served(3)
	if got := b.c.handed.Membership; find(got, 4).Address != "addr2" || find(got, 3).Address != "addr3" || find(got, 5).Address != "addr6" {
		t.Errorf("members %v, want 5 at addr6, and the others where they were", got.Members)
	}
}

// A record follows a member that was met elsewhere, but not to the place of another one that
// was not: a copy of a disk runs in the place of a member that is down, and that one's record
// would have to give way. Two that swapped their addresses are both met.
func TestRecordDoesNotFollowACopy(t *testing.T) {
	records := func(b *bench) [4]string {
		at := [4]string{}
		for _, m := range b.c.handed.Membership.Members {
			at[m.ID] = m.Address
		}
		return at
	}
	up := func(id uint64, address string) Input {
		return Input{PeersUp: []PeerUp{{ID: id, Incarnation: 9, Address: address}}}
	}
	lead := func() *bench {
		ms := &octopiipb.Membership{Cluster: 7, Index: 1, Members: []octopiipb.Member{
			{ID: 1, Address: "addr1", Kind: octopiipb.Voter}, {ID: 2, Address: "addr2", Kind: octopiipb.Voter}, {ID: 3, Address: "addr3", Kind: octopiipb.Voter}}}
		b := benchFrom(t, 1, Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Membership: ms},
			raftpb.HardState{Term: 1, Commit: 1})
		b.elect(2)
		b.ack(2)
		return b
	}
	serve := func(b *bench) {
		for range 3 {
			b.run(Input{Ticks: 1})
			b.told(b.c.Status().Last, NoLimit, 2)
		}
	}

	b := lead()
	b.told(b.c.Status().Last, NoLimit, 2, 3)
	b.run(up(2, "addr9"))
	b.run(Input{Ticks: 1})
	b.told(b.c.Status().Last, NoLimit, 3)
	b.run(Input{Ticks: 1})
	if got := records(b); got != [4]string{"", "addr1", "addr2", "addr3"} {
		t.Errorf("one that answers nothing was met elsewhere, as an older copy is: records %v, want them as they were", got)
	}
	b.told(b.c.Status().Last, NoLimit, 2)
	serve(b)
	if got := records(b); got != [4]string{"", "addr1", "addr9", "addr3"} {
		t.Errorf("a member that moved answers: records %v, want it at addr9", got)
	}
	b.run(up(1, "addr8")) // as a leader learns of itself when it starts
	serve(b)
	if got := records(b); got != [4]string{"", "addr8", "addr9", "addr3"} {
		t.Errorf("the leader moved: records %v, want it at addr8", got)
	}

	b = lead()
	b.run(up(2, "addr3"))
	serve(b)
	if got := records(b); got != [4]string{"", "addr1", "addr2", "addr3"} {
		t.Errorf("a member was met in the place of another: records %v, want them as they were", got)
	}
	b.run(up(3, "addr2"))
	serve(b)
	if got := records(b); got != [4]string{"", "addr1", "addr3", "addr2"} {
		t.Errorf("two were met in each other's place: records %v, want them swapped", got)
	}

	b = lead()
	b.run(up(2, "addr3"))
	for range b.c.cfg.JoinTimeoutTicks + 3 {
		serve(b)
	}
	if got := records(b); got != [4]string{"", "addr1", "addr3", "addr2"} {
		t.Errorf("whoever is recorded there is long gone: records %v, want them swapped", got)
	}

	b = lead()
	b.run(up(2, "addr4"))
	serve(b)
	if got := records(b); got != [4]string{"", "addr1", "addr4", "addr3"} {
		t.Errorf("a member was met where nobody else is recorded: records %v, want it there", got)
	}

	// Another member says so, as somebody with its disk called there.
	b = lead()
	b.run(up(2, "addr2"))
	said := Change{Op: UpdateAddress, Member: octopiipb.Member{ID: 2, Address: "addr4"}, IfSilent: true}
	b.all = nil
	b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{said}, Waiter: &call{name: "said"}}}})
	if len(b.all) != 1 || !errors.Is(b.all[0].Err, ErrUnsafeMembership) {
		t.Errorf("member 2 answers where it is recorded, and is said to be elsewhere: %v, want ErrUnsafeMembership", b.all)
	}
}
