package core

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// settingFrame is the data of an entry that changes a setting.
func settingFrame(s Setting, value uint64) []byte {
	r := NewSettingChange(s, value, nil)
	return r.frame()
}

// A setting is of no member, is not lost by changes of members, and takes nothing from them,
// also not what is under way.
func TestSettingIsPartOfTheMembership(t *testing.T) {
	c := newCluster(1)
	set := func(value, index uint64) error {
		next, err := withSetting(c.ms, index, octopiipb.SettingChange{Setting: uint32(FailoverByTimeout), Value: value})
		c.ms = next
		return err
	}
	if err := set(1, 2); err != nil || c.ms.Index != 2 || !c.ms.Settings.FailoverByTimeout {
		t.Fatalf("it was set: %v, %v", c.ms, err)
	}
	c.change(t, 3, []Change{{Op: AddLearner, Member: octopiipb.Member{ID: 2, Address: "b"}}, {Op: SetPriority, Member: octopiipb.Member{ID: 1, Priority: 2}}})
	if !c.ms.Settings.FailoverByTimeout || len(c.ms.Members) != 2 || c.ms.Members[0].Priority != 2 {
		t.Errorf("after changes of members: %v", c.ms)
	}
	if err := set(1, 4); !errors.Is(err, errNoChange) || c.ms.Index == 4 {
		t.Errorf("it was set again: %v, index %d; want that there is nothing to change", err, c.ms.Index)
	}
	before := withChanges(c.ms, 5, []Change{{Op: Promote, Member: octopiipb.Member{ID: 2}}, {Op: SetPriority, Member: octopiipb.Member{ID: 1}}})
	c.ms = before
	if err := set(0, 6); err != nil || c.ms.Settings.FailoverByTimeout || len(c.ms.UnderWay) != 2 {
		t.Errorf("it was taken back while changes are under way: %v, %v", c.ms, err)
	}
	if !before.Settings.FailoverByTimeout {
		t.Error("the membership before it has changed")
	}
	if after := left(c.ms, 7); after.Settings.FailoverByTimeout || find(after, 2).Kind != octopiipb.Voter || after.Members[0].Priority != 0 {
		t.Errorf("after what was under way: %v", after)
	}
}

// A snapshot that is taken between two changes has the setting of its place.
func TestSettingHasALabel(t *testing.T) {
	b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{})
	one, two := &call{}, &call{}
	b.run(Input{Requests: []Request{NewSettingChange(FailoverByTimeout, 1, one)}})
	at := b.c.Status().Applied
	b.run(Input{Requests: []Request{NewProposal([]byte("x"), &call{})}})
	b.run(Input{Requests: []Request{NewSettingChange(FailoverByTimeout, 0, two)}})
	for index, on := range map[uint64]bool{at - 1: false, at: true, at + 1: true, at + 2: false} {
		if l, err := b.c.LabelAt(index); err != nil || l.Membership.Settings.FailoverByTimeout != on {
			t.Errorf("the label of index %d: %v, %v; want the setting to be %v", index, l.Membership, err, on)
		}
	}
	if len(b.all) != 3 || b.all[0].Err != nil || b.all[0].Membership.Index != at || b.all[2].Err != nil {
		t.Errorf("outcomes: %+v", b.all)
	}
}

// A new leader may have a change of the one before it in its log that it has not applied: it
// cannot know yet whether there is something to change.
func TestNewLeaderWaitsWithSettings(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1},
		raftpb.Entry{Index: 2, Term: 1, Data: settingFrame(FailoverByTimeout, 1)})
	b.elect(2)
	early := &call{name: "early"}
	b.run(Input{Requests: []Request{NewSettingChange(FailoverByTimeout, 0, early)}})
	if len(b.all) != 1 || !errors.Is(b.all[0].Err, ErrMembershipBusy) {
		t.Fatalf("before the first entry of its term is committed: %+v, want ErrMembershipBusy", b.all)
	}
	b.ack(2)
	b.run(Input{Requests: []Request{NewSettingChange(FailoverByTimeout, 0, &call{})}})
	b.ack(2)
	if now := b.c.Status(); now.Membership.Settings.FailoverByTimeout || len(b.all) != 2 || b.all[1].Err != nil {
		t.Errorf("after it: %v, %+v", now.Membership, b.all)
	}
}

// What this version cannot read of a setting or a member is refused where it comes in: in a
// peer's append, in a forwarded request, in the log at the start.
func TestUnknownSettingsAndKindsAreRefused(t *testing.T) {
	witness, err := (&octopiipb.MembershipChange{Changes: []octopiipb.MemberChange{{Op: AddLearner,
		Member: octopiipb.Member{ID: 4, Address: "a", Kind: octopiipb.Witness}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	change, err := (&raftpb.ConfChangeV2{Changes: []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 4}}, Context: witness}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for want, e := range map[string]raftpb.Entry{
		"unknown setting 9":        {Data: settingFrame(9, 1)},
		"unknown setting 0":        {Data: []byte{frameSetting}},
		"on or off, and not 2":     {Data: settingFrame(FailoverByTimeout, 2)},
		"no format level 0":        {Data: settingFrame(FormatLevel, 0)},
		"format level 4294967296":  {Data: settingFrame(FormatLevel, 1<<32)},
		"cannot be read":           {Data: []byte{frameSetting, 8}},
		"unknown kind 5":           {Data: []byte{5, 1}},
		"says that it is a WITNES": {Type: raftpb.EntryConfChangeV2, Data: change},
	} {
		e.Index, e.Term = 2, 1
		if err := admitEntry(&e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q of a peer: %v, want %q", e.Data, err, want)
		}
		start := Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}, Membership: &octopiipb.Membership{}}
		d := newDisk(start, raftpb.HardState{Term: 1, Commit: 1})
		_ = d.Append([]raftpb.Entry{e})
		if _, err := New(Config{ID: 1, Start: start, Storage: d, Logger: quiet{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q in the log: %v, want %q", e.Data, err, want)
		}
		by := origin{2, 7}
		forwarded := request{Request: Request{Data: e.Data}}
		q := octopiipb.Request{ID: 7, Proposal: forwarded.wrap(by)}
		if e.Type == raftpb.EntryConfChangeV2 {
			q = octopiipb.Request{ID: 7, ConfChange: e.Data}
		}
		c := new(Core)
		c.cfg.ProposalBytesMax = 1 << 20
		if err := c.decodeRequest(&request{from: 2}, &q); err == nil {
			t.Errorf("%q is taken from a follower", e.Data)
		}
	}
	for _, kind := range []octopiipb.MemberKind{octopiipb.NoKind, octopiipb.Witness, 7} {
		ms := &octopiipb.Membership{Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}, {ID: 0xab, Kind: kind}}}
		cs := raftpb.ConfState{Voters: []uint64{1, 0xab}}
		want := "member ab is of the unknown kind " + kind.String()
		if err := CheckMembership(ms, cs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a snapshot with it: %v, want %q", err, want)
		}
		start := Label{Index: 1, Term: 1, ConfState: cs, Membership: ms}
		if _, err := New(Config{ID: 1, Start: start, Storage: newDisk(start, raftpb.HardState{Term: 1, Commit: 1}), Logger: quiet{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a start with it: %v, want %q", err, want)
		}
	}
}

// The bytes of the entry, as docs/FORMATS.md has them.
func TestSettingEntryGolden(t *testing.T) {
	r := request{Request: NewSettingChange(FailoverByTimeout, 1, nil)}
	if got, want := string(r.frame()), "\x04\x08\x01\x10\x01"; got != want {
		t.Errorf("by the leader: %q, want %q", got, want)
	}
	raise := request{Request: NewSettingChange(FormatLevel, 2, nil)}
	if got, want := string(raise.frame()), "\x04\x08\x02\x10\x02"; got != want {
		t.Errorf("a raise of the format level: %q, want %q", got, want)
	}
	want := "\x03\x02\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x04\x08\x01\x10\x01"
	if got := string(r.wrap(origin{2, 7})); got != want {
		t.Errorf("forwarded: %q, want %q", got, want)
	}
}

// The bytes of a change of a member, as docs/FORMATS.md has them.
func TestChangeEntryGolden(t *testing.T) {
	change := Change{Op: AddLearner, Member: octopiipb.Member{ID: 4, Address: "h:4", Kind: octopiipb.Learner, Promote: true}}
	got, err := encodeChanges([]Change{change}, origin{2, 7})
	if err != nil {
		t.Fatal(err)
	}
	want := "\x08\x00" + "\x12\x04\x08\x03\x10\x04" +
		"\x1a\x13" + "\x0a\x0d\x08\x01" + "\x12\x09\x08\x04\x1a\x03h:4\x38\x01" + "\x10\x02\x18\x07"
	if string(got) != want {
		t.Errorf("%x, want %x", got, want)
	}
}
