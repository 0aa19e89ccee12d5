package core

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// The format level is a setting of the cluster: up to which kinds of entries, and of parts of
// snapshots, its members write. Each program reads a range of levels. The leader raises the
// level by one when all members have just said that they read the next one. The raise stands
// in the log before everything that is written at its level, so a program that reads the
// log from the start meets it before it meets what it does not know.

// Formats is the range of format levels that a program reads.
type Formats struct{ Oldest, Newest uint32 }

// Reads says whether a level is one of them.
func (f Formats) Reads(level uint32) bool { return f.Oldest <= level && level <= f.Newest }

// Check returns a *LevelError for a level that the program of a member does not read.
func (f Formats) Check(member uint64, level uint32) error {
	if f.Reads(level) {
		return nil
	}
	return &LevelError{member, level, f}
}

// LevelError is why a member cannot be one of its cluster.
type LevelError struct {
	Member uint64
	// Level is the one that its program does not read, and Reads those that it does.
	Level uint32
	Reads Formats
}

func (e *LevelError) Error() string {
	advice := "a newer"
	if e.Level < e.Reads.Oldest {
		advice = "an older"
	}
	return fmt.Sprintf("the cluster's format level is %d, and the program of member %x reads %d to %d; run %s octopii there",
		e.Level, e.Member, e.Reads.Oldest, e.Reads.Newest, advice)
}

// These are the levels from which on something is written: each kind of entry, each setting
// and each operation of a change. What is new gets the next level here, and is refused below it.
var (
	frameLevels   = [...]uint32{frameCommand: 1, frameBarrier: 1, frameForwarded: 1, frameSetting: 1}
	settingLevels = [...]uint32{FailoverByTimeout: 1, FormatLevel: 1}
	opLevels      = [...]uint32{AddLearner: 1, Promote: 1, Remove: 1, Demote: 1, UpdateAddress: 1, SetPriority: 1}
)

// levelOf is the level that the entry needs which a request wants. Both are of known kinds.
func levelOf(it *request) uint32 {
	level := uint32(1)
	for _, c := range it.Changes {
		level = max(level, opLevels[c.Op])
	}
	if it.Kind == ChangeMembership {
		return level
	}
	_, frame := unwrap(it.frame())
	level = frameLevels[frame[0]]
	if frame[0] == frameSetting {
		if change, err := decodeSetting(frame); err == nil {
			level = max(level, settingLevels[change.Setting])
		}
	}
	return level
}

// mayWrite refuses what is of a higher level than the cluster. The level counts that this
// leader has applied: its raise is in the log already.
func (c *changes) mayWrite(it *request) error {
	if need, level := levelOf(it), c.level(); need > level {
		return fmt.Errorf("%w: it is written from format level %d on, and the cluster's is %d, which rises when all members run a program that reads more", ErrNotCommitted, need, level)
	}
	return nil
}

func (c *members) level() uint32 { return c.handed.Membership.Settings.Level() }

// behindLevel are the members that have not just said that they read a level, ordered by ID:
// their program does not, or they are away. What one said counts while it is heard: whatever
// a later process of it sends comes behind the handshake in which that says what it reads.
func (c *members) behindLevel(level uint32) (ids []uint64) {
	for i := range c.handed.Membership.Members {
		id := c.handed.Membership.Members[i].ID
		reads := c.cfg.Formats
		if id != c.cfg.ID {
			reads = Formats{}
			if notes := c.peers.find(id); notes != nil && c.alive(id) {
				reads = notes.formats
			}
		}
		if !reads.Reads(level) {
			ids = append(ids, id)
		}
	}
	return ids
}

// BehindLevel are the members that keep this leader from raising the format level, although
// its own program reads the next one.
func (c *members) BehindLevel() []uint64 {
	next := c.level() + 1
	if c.status.RaftState != raft.StateLeader || !c.cfg.Formats.Reads(next) {
		return nil
	}
	return c.behindLevel(next)
}

// mayRaise says why the format level does not rise.
func (c *changes) mayRaise(level uint32) error {
	if ids := c.behindLevel(level); len(ids) > 0 {
		return fmt.Errorf("%w: members %x have not just said that they read format level %d", ErrUnsafeMembership, ids, level)
	}
	if len(c.handed.Membership.UnderWay) > 0 {
		return fmt.Errorf("%w: a change of members is half done", ErrMembershipBusy)
	}
	return nil
}

// tendLevel raises the format level by one if it may.
func (c *changes) tendLevel() {
	next := c.level() + 1
	if !c.cfg.Formats.Reads(next) || c.busy() || c.mayRaise(next) != nil {
		return
	}
	c.wait(request{Request: NewSettingChange(FormatLevel, uint64(next), nil)})
}

// entryReadable refuses an entry that raises the level above what the program of a member reads.
// No leader appends one if a member has said that of its program. It may run an older one since.
func entryReadable(e *raftpb.Entry, member uint64, reads Formats) error {
	if e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
		return nil
	}
	_, frame := unwrap(e.Data)
	if frame[0] != frameSetting {
		return nil
	}
	change, err := decodeSetting(frame)
	if err != nil || Setting(change.Setting) != FormatLevel || change.Value <= uint64(reads.Newest) {
		return nil
	}
	return reads.Check(member, uint32(change.Value))
}

// readableMessage does the same for what a leader sends to this member.
func (c *base) readableMessage(m *octopiipb.PeerMessage) error {
	if m.Type != raftpb.MsgApp || m.Term < c.status.Term {
		return nil
	}
	for i := range m.Entries {
		if err := entryReadable(&m.Entries[i], c.cfg.ID, c.cfg.Formats); err != nil {
			return err
		}
	}
	return nil
}
