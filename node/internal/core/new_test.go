package core

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// brokenDisk is a memoryDisk of which one method fails, or says less than it should.
type brokenDisk struct {
	*memoryDisk
	state, last, entries error
	none                 bool
}

func (d *brokenDisk) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	hs, cs, err := d.memoryDisk.InitialState()
	return hs, cs, errors.Join(err, d.state)
}

func (d *brokenDisk) LastIndex() (uint64, error) {
	last, err := d.memoryDisk.LastIndex()
	return last, errors.Join(err, d.last)
}

func (d *brokenDisk) Entries(lo, hi, size uint64) ([]raftpb.Entry, error) {
	if d.none || d.entries != nil {
		return nil, d.entries
	}
	return d.memoryDisk.Entries(lo, hi, size)
}

// A member does not start on a log that it cannot read to its end, or that does not hold what
// was committed: it would serve what it does not know, and find out in the middle.
func TestNewRefuses(t *testing.T) {
	broken := errors.New("broken")
	odd := entriesOf(1, 2, 5)
	odd[3].Data = []byte{99}
	for name, c := range map[string]struct {
		commit uint64
		ents   []raftpb.Entry
		disk   brokenDisk
		want   string
	}{
		"a log that is whole":                      {commit: 5},
		"a commit index behind the end of the log": {commit: 6, want: "commit 6 is outside of the log, which goes from 1 to 5"},
		"a commit index before its beginning":      {commit: 0, want: "commit 0 is outside of the log"},
		"an entry of a newer version":              {commit: 1, ents: odd, want: "the log cannot be read"},
		"entries that are not there":               {commit: 1, disk: brokenDisk{none: true}, want: "entry 2 of a log up to 5 cannot be read"},
		"entries that cannot be read":              {commit: 1, disk: brokenDisk{entries: broken}, want: "read the log: broken"},
		"a hard state that cannot be read":         {commit: 1, disk: brokenDisk{state: broken}, want: "read the initial state: broken"},
		"an end that cannot be found":              {commit: 1, disk: brokenDisk{last: broken}, want: "read the last index: broken"},
	} {
		start := Label{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1}}, Membership: newCluster(1).ms}
		d := c.disk
		d.memoryDisk = newDisk(start, raftpb.HardState{Term: 1, Commit: c.commit})
		if c.ents == nil {
			c.ents = entriesOf(1, 2, 5)
		}
		if err := d.Append(c.ents); err != nil {
			t.Fatal(err)
		}
		core, err := New(Config{ID: 1, Start: start, Founded: true, Storage: &d, ElectionTicks: 10, HeartbeatTicks: 1,
			MessageBytesMax: 1 << 20, InflightMessagesMax: 16, WaitingBytesMax: 1 << 20, ReadSeed: 1, Logger: quiet{}})
		switch {
		case c.want == "" && (err != nil || core == nil):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// What a state at an index belongs to is not known any more when the log is compacted there,
// nor yet when nothing was handed out there.
func TestLabelOfWhatIsNotThere(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 5}, entriesOf(1, 2, 6)...)
	b.run(Input{})
	if l, err := b.c.LabelAt(3); err != nil || l.Index != 3 || l.Term != 1 {
		t.Fatalf("at 3: %+v, %v", l, err)
	}
	if err := b.d.Compact(4); err != nil {
		t.Fatal(err)
	}
	for index, want := range map[uint64]bool{3: false, 4: true, 5: true, 6: false} {
		if l, err := b.c.LabelAt(index); (err == nil) != want {
			t.Errorf("the label at %d is %+v, %v", index, l, err)
		}
	}
}
