package core

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	octopiipb "github.com/octopii/octopii/proto"
)

// guard keeps from raft what would break it, and notices who contradicts this log.
type guard struct {
	reading
	// forgot counts heartbeats that name more of this log than there is, and short those
	// of a leader whose log ends before what is committed here.
	forgot, short counter
	// leaderEnd is how far the log of the leader goes, as it said.
	leaderEnd leaderEnd
	led       led
	told      told
}

// admit says whether a message from a peer may be given to raft. raft trusts
// its messages and panics on what an honest cluster cannot send; but a disk
// that was wiped or rolled back, or a peer of another making, can. What is
// refused here is dropped, as a network might, and reported.
//
// lastIndex and commit are this member's own.
func admit(m *raftpb.Message, self, lastIndex, commit uint64) error {
	if m.To != self {
		return fmt.Errorf("%s for member %x arrived at %x", m.Type, m.To, self)
	}
	if err := admitSender(m); err != nil {
		return err
	}
	switch m.Type {
	case raftpb.MsgApp:
		return admitAppend(m)
	case raftpb.MsgHeartbeat:
		// A leader tells a follower only of what that follower acknowledged.
		if m.Commit > lastIndex {
			return fmt.Errorf("heartbeat with commit %d, but the last index here is %d: %w", m.Commit, lastIndex, errForgot)
		}
	case raftpb.MsgAppResp:
		if !m.Reject && m.Index > lastIndex {
			return fmt.Errorf("member %x acknowledged index %d, but the last index here is %d", m.From, m.Index, lastIndex)
		}
	case raftpb.MsgSnap:
		return admitSnapshot(m, commit)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.Entries) != 1 {
			return fmt.Errorf("%s with %d entries instead of 1", m.Type, len(m.Entries))
		}
	case raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
	default:
		return fmt.Errorf("%s is not a message that members send each other", m.Type)
	}
	return nil
}

// errForgot: a leader remembers more of this member's log than there is.
var errForgot = errors.New("this log lost what it acknowledged")

// counter counts messages in a row that say the same of this member's log. One could
// be anything; the third, with none between that says otherwise, and none much later
// than the one before, is what a leader says that knows.
type counter struct {
	times int
	// age is how many ticks ago the last one came, and lasted how many the first.
	age, lasted int
}

const forgotMax = 3

func (f *counter) again()     { f.times, f.age = f.times+1, 0 }
func (f *counter) sure() bool { return f.times >= forgotMax }

func (f *counter) tick(limit int) {
	f.age++
	f.lasted++
	if f.times == 0 || f.age > limit {
		*f = counter{}
	}
}

// numberMax bounds terms and indexes: raft counts on from them.
const numberMax = math.MaxUint64 >> 1

// termJumpMax bounds by how much a message raises the term here. An election takes longer
// than a millisecond, so a member that was away for a month is behind by less; and where
// one message could use up the terms that there are, nobody could be elected any more.
const termJumpMax = 1 << 32

// validID says whether a member can have that ID: raft keeps 0, and the highest
// two for its local threads.
func validID(id uint64) bool { return id != raft.None && !raft.IsLocalMsgTarget(id) }

// admitSender checks who speaks, and in which term.
func admitSender(m *raftpb.Message) error {
	switch {
	case !validID(m.From) || m.From == m.To:
		return fmt.Errorf("%s from %x, which cannot be another member", m.Type, m.From)
	case m.Type == raftpb.MsgReadIndex && m.Term != 0:
		return fmt.Errorf("%s with term %d; it has none", m.Type, m.Term)
	case m.Type != raftpb.MsgReadIndex && m.Term == 0:
		return fmt.Errorf("%s without a term", m.Type)
	case m.Term > numberMax || m.Index > numberMax:
		return fmt.Errorf("%s of term %d and index %d, which no cluster reaches", m.Type, m.Term, m.Index)
	}
	return nil
}

// admitNote checks the indexes that a message names beside raft's.
func admitNote(m *octopiipb.PeerMessage) error {
	if n := &m.Note; max(n.Durable, n.Last, n.Applied, n.Commit) > numberMax {
		return fmt.Errorf("%s with a note about an index that no cluster reaches: %v", m.Type, n)
	}
	return nil
}

// admitAppend checks that the entries continue (Index, LogTerm) in one log.
func admitAppend(m *raftpb.Message) error {
	term := m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index != m.Index+1+uint64(i) {
			return fmt.Errorf("append behind %d has index %d in place %d", m.Index, e.Index, i)
		}
		if e.Term < term || e.Term > m.Term {
			return fmt.Errorf("append of term %d has entry %d of term %d behind term %d", m.Term, e.Index, e.Term, term)
		}
		term = e.Term
		if err := admitEntry(e); err != nil {
			return err
		}
	}
	return nil
}

// knownFrame says why this version does not know what the data of an entry is.
func knownFrame(data []byte) error {
	_, data = unwrap(data)
	switch {
	case data[0] == frameCommand, data[0] == frameBarrier && len(data) == 1:
		return nil
	case data[0] == frameSetting:
		_, err := decodeSetting(data)
		return err
	}
	return fmt.Errorf("the unknown kind %d: was it written by a newer version?", data[0])
}

// admitEntry refuses an entry that this version could not apply. raft's own
// leaders never append one; once in the log it would stop every member.
func admitEntry(e *raftpb.Entry) error {
	switch e.Type {
	case raftpb.EntryNormal:
		if len(e.Data) == 0 {
			return nil
		}
		if err := knownFrame(e.Data); err != nil {
			return fmt.Errorf("entry %d has %w", e.Index, err)
		}
		return nil
	case raftpb.EntryConfChangeV2:
		_, err := decodeChanges(e.Data)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		return nil
	default:
		return fmt.Errorf("entry %d has the unexpected type %s", e.Index, e.Type)
	}
}

func admitSnapshot(m *raftpb.Message, commit uint64) error {
	if m.Snapshot == nil {
		return errors.New("a snapshot message without a snapshot")
	}
	meta := &m.Snapshot.Metadata
	switch {
	case meta.Index == 0 || meta.Index > numberMax || meta.Term == 0 || meta.Term > m.Term:
		return fmt.Errorf("snapshot at index %d of term %d in a message of term %d", meta.Index, meta.Term, m.Term)
	case meta.Index <= commit:
		return nil // raft answers it with its commit index
	}
	if _, _, err := restoreConf(meta.ConfState, meta.Index); err != nil {
		return fmt.Errorf("snapshot at %d: %w", meta.Index, err)
	}
	return nil
}

// restoreConf turns a ConfState into a configuration, as raft does, and refuses
// one that does not come out as it went in: raft panics on that.
func restoreConf(cs raftpb.ConfState, lastIndex uint64) (tracker.Config, tracker.ProgressMap, error) {
	t := tracker.MakeProgressTracker(1, 0)
	if len(cs.Voters) == 0 {
		return t.Config, nil, errors.New("a configuration without voters")
	}
	for _, ids := range [][]uint64{cs.Voters, cs.Learners, cs.VotersOutgoing, cs.LearnersNext} {
		if i := slices.IndexFunc(ids, func(id uint64) bool { return !validID(id) }); i >= 0 {
			return t.Config, nil, fmt.Errorf("a configuration with member %x", ids[i])
		}
	}
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: t, LastIndex: lastIndex}, cs)
	if err != nil {
		return cfg, progress, err
	}
	t.Config, t.Progress = cfg, progress
	return cfg, progress, cs.Equivalent(t.ConfState())
}

// judge says why a message is not given to raft; nil if it is.
func (c *guard) judge(m *octopiipb.PeerMessage) *Suspect {
	if m.Term > c.status.Term && m.Term-c.status.Term > termJumpMax {
		return &Suspect{ID: m.From, Reason: fmt.Sprintf("%s of term %d, and the term here is %d: no cluster gets there meanwhile", m.Type, m.Term, c.status.Term)}
	}
	if index := c.ahead(m); index > 0 && validID(m.From) && m.To == c.cfg.ID {
		return &Suspect{ID: m.From, Claim: Ahead, Index: index, Last: c.last, Reason: aheadText(m.From, index, c.last)}
	}
	err := admit(&m.Message, c.cfg.ID, c.last, c.handed.Index)
	if err == nil {
		err = admitNote(m)
	}
	if errors.Is(err, errForgot) {
		s := &Suspect{ID: m.From, Reason: err.Error(), Index: m.Commit}
		if m.Term >= c.status.Term {
			c.forgot.again()
		}
		if c.forgot.sure() {
			s.Claim = Forgot
		}
		return s
	}
	if err == nil {
		err = c.contradiction(m)
	}
	if err == nil && m.Type == raftpb.MsgHeartbeat {
		err = c.shorter(m)
	}
	var diverged *divergence
	switch {
	case errors.As(err, &diverged):
		return &Suspect{ID: m.From, Reason: err.Error(), Claim: Diverged, Index: diverged.index}
	case err != nil:
		return &Suspect{ID: m.From, Reason: err.Error()}
	}
	return nil
}
