package core

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// The level rises by one, and every member refuses any other change of it in the same way,
// whoever wrote it. One that is not there is 1.
func TestLevelRisesByOne(t *testing.T) {
	ms := &octopiipb.Membership{Index: 1, Settings: octopiipb.Settings{FailoverByTimeout: true}}
	raise := func(to uint64) error {
		next, err := withSetting(ms, 2, octopiipb.SettingChange{Setting: uint32(FormatLevel), Value: to})
		if err != nil && next != ms {
			t.Errorf("refused to raise it to %d, and the membership is another", to)
		}
		ms = next
		return err
	}
	for _, to := range []uint64{3, 4_000_000_000} {
		if err := raise(to); !errors.Is(err, ErrUnsafeMembership) {
			t.Errorf("from 1 to %d: %v", to, err)
		}
	}
	if err := raise(1); !errors.Is(err, errNoChange) || ms.Settings.Format != 0 {
		t.Errorf("from 1 to 1: %v, %v", ms.Settings, err)
	}
	if err := raise(2); err != nil || ms.Settings.Level() != 2 || !ms.Settings.FailoverByTimeout {
		t.Errorf("from 1 to 2: %v, %v", ms.Settings, err)
	}
	if err := raise(1); !errors.Is(err, ErrUnsafeMembership) {
		t.Errorf("from 2 to 1: %v", err)
	}
}

// An entry that no leader of this version appends is applied as one that changes nothing.
func TestCommittedLevelThatDoesNotFollow(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.c.cfg.Formats = Formats{1, 9}
	b.run(Input{Messages: []octopiipb.PeerMessage{{Message: raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1, Index: 1, LogTerm: 1, Commit: 4, Entries: []raftpb.Entry{
		{Index: 2, Term: 1, Data: settingFrame(FormatLevel, 3)},
		{Index: 3, Term: 1, Data: settingFrame(FormatLevel, 2)},
		{Index: 4, Term: 1, Data: settingFrame(FormatLevel, 2)},
	}}}}})
	if st := b.c.Status(); st.Applied != 4 || st.Membership.Settings.Format != 2 || st.Membership.Index != 3 {
		t.Errorf("applied %d, membership %v; want level 2 as of index 3", st.Applied, st.Membership)
	}
}

// A program that does not read the level ends at the start: by the snapshot, or by a raise in
// the log, which stands before what is written at that level.
func TestStartAtALevelThatIsNotRead(t *testing.T) {
	start := func(level uint32, reads Formats, entries ...raftpb.Entry) error {
		l := Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}, Membership: &octopiipb.Membership{Settings: octopiipb.Settings{Format: level}}}
		for i := range entries {
			entries[i].Index, entries[i].Term = uint64(i+2), 1
		}
		d := newDisk(l, raftpb.HardState{Term: 1, Commit: 1})
		_ = d.Append(entries)
		c := Config{ID: 0xab, Start: l, Founded: true, Storage: d, ElectionTicks: 10, HeartbeatTicks: 1, InflightMessagesMax: 1, Logger: quiet{}, Formats: reads}
		_, err := New(c)
		return err
	}
	raise, unknown := raftpb.Entry{Data: settingFrame(FormatLevel, 2)}, raftpb.Entry{Data: []byte{0xee, 1}}
	for _, c := range []struct {
		err  error
		want string
	}{
		{start(0, Formats{1, 1}), ""},
		{start(1, Formats{1, 2}, raise), ""},
		{start(2, Formats{}), "the cluster's format level is 2, and the program of member ab reads 1 to 1; run a newer octopii there"},
		{start(1, Formats{1, 1}, raise, unknown), "the cluster's format level is 2, and the program of member ab reads 1 to 1; run a newer octopii there"},
		{start(1, Formats{2, 3}), "the cluster's format level is 1, and the program of member ab reads 2 to 3; run an older octopii there"},
		{start(2, Formats{2, 3}, raise), ""},
	} {
		var level *LevelError
		if c.want == "" && c.err != nil || c.want != "" && (!errors.As(c.err, &level) || c.err.Error() != c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}

// What is new is not written below its level, whoever asks for it, and is from then on.
func TestNothingIsWrittenBelowItsLevel(t *testing.T) {
	frameLevels[frameBarrier], opLevels[SetPriority], settingLevels[FailoverByTimeout] = 2, 2, 2
	defer func() { frameLevels[frameBarrier], opLevels[SetPriority], settingLevels[FailoverByTimeout] = 1, 1, 1 }()
	b := newBench(t, 1, []uint64{1}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{})
	ask := func() []Outcome {
		b.all = nil
		b.run(Input{Requests: []Request{{Kind: Propose, Data: Barrier(), Waiter: &call{}}}})
		b.run(Input{Requests: []Request{{Kind: ChangeMembership, Changes: []Change{{Op: SetPriority, Member: octopiipb.Member{ID: 1, Priority: 3}}}, Waiter: &call{}}}})
		b.run(Input{Requests: []Request{NewSettingChange(FailoverByTimeout, 1, &call{})}})
		return b.all
	}
	before, _ := b.d.LastIndex()
	for i, o := range ask() {
		if !errors.Is(o.Err, ErrNotCommitted) || !strings.Contains(o.Err.Error(), "from format level 2 on, and the cluster's is 1") {
			t.Errorf("request %d at level 1: %v", i, o.Err)
		}
	}
	if last, _ := b.d.LastIndex(); last != before || len(b.all) != 3 {
		t.Fatalf("the log grew from %d to %d, and %d were answered", before, last, len(b.all))
	}
	b.c.cfg.Formats = Formats{1, 2}
	b.run(Input{Ticks: 1})
	if level := b.c.Status().Membership.Settings.Level(); level != 2 {
		t.Fatalf("the only member reads level 2, and the level is %d", level)
	}
	for i, o := range ask() {
		if o.Err != nil {
			t.Errorf("request %d at level 2: %v", i, o.Err)
		}
	}
	if len(b.all) != 3 {
		t.Errorf("%d were answered", len(b.all))
	}
}

// While several members change at once the level waits, and those that a leader has not heard
// of since it was elected keep it.
func TestLevelWaits(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.c.cfg.Formats = Formats{1, 2}
	b.elect(2)
	b.ack(2)
	reads := Formats{1, 2}
	b.run(Input{PeersUp: []PeerUp{{ID: 2, Formats: reads}, {ID: 3, Formats: reads}}, Ticks: 1})
	if ids := b.c.BehindLevel(); len(ids) != 1 || ids[0] != 3 {
		t.Errorf("members %v keep the level, want 3, of which nothing was heard", ids)
	}
	b.c.peers.heard(3)
	if err := b.c.mayRaise(2); err != nil {
		t.Errorf("all were heard: %v", err)
	}
	b.c.handed.Membership.UnderWay = []octopiipb.MemberChange{{}, {}}
	if err := b.c.mayRaise(2); !errors.Is(err, ErrMembershipBusy) {
		t.Errorf("while a change is half done: %v", err)
	}
	b.c.handed.Membership.UnderWay = nil
	b.run(Input{PeersUp: []PeerUp{{ID: 2, Formats: Formats{1, 1}}}, Ticks: 1})
	if err := b.c.mayRaise(2); err == nil || !strings.Contains(err.Error(), "members [2]") {
		t.Errorf("after 2 came back with an older program: %v", err)
	}
}
