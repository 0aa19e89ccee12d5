package core

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	octopiipb "github.com/octopii/octopii/proto"
)

// Change is one change of membership.
type Change struct {
	Op ChangeOp
	// Member is the record as it will be; for Remove only its ID counts.
	Member octopiipb.Member
}

// ChangeOp is what a Change does.
type ChangeOp uint8

// The operations.
const (
	AddLearner ChangeOp = iota + 1
	Promote
	Remove
)

// confTypes are raft's words for the operations.
var confTypes = [...]raftpb.ConfChangeType{
	AddLearner: raftpb.ConfChangeAddLearnerNode,
	Promote:    raftpb.ConfChangeAddNode,
	Remove:     raftpb.ConfChangeRemoveNode,
}

// encodeChange returns the data of the conf change entry: raft reads the
// change, every member reads the record in its context.
func encodeChange(c Change) ([]byte, error) {
	change := octopiipb.MemberChange{Member: c.Member}
	context, err := change.Marshal()
	if err != nil {
		return nil, err
	}
	cc := raftpb.ConfChangeV2{
		Changes: []raftpb.ConfChangeSingle{{Type: confTypes[c.Op], NodeID: c.Member.ID}},
		Context: context,
	}
	return cc.Marshal()
}

// decodeChange reads the data of a conf change entry. A change without a
// member is the one by which raft leaves a joint configuration.
func decodeChange(data []byte) (Change, error) {
	var cc raftpb.ConfChangeV2
	if err := cc.Unmarshal(data); err != nil {
		return Change{}, fmt.Errorf("conf change cannot be read: %w", err)
	}
	if len(cc.Changes) != 1 {
		return Change{}, fmt.Errorf("conf change with %d members instead of 1", len(cc.Changes))
	}
	if cc.Transition != raftpb.ConfChangeTransitionAuto {
		return Change{}, fmt.Errorf("conf change with the transition %s", cc.Transition)
	}
	var mc octopiipb.MemberChange
	if err := mc.Unmarshal(cc.Context); err != nil {
		return Change{}, fmt.Errorf("conf change's context cannot be read: %w", err)
	}
	if !validID(mc.Member.ID) || mc.Member.ID != cc.Changes[0].NodeID {
		return Change{}, fmt.Errorf("conf change for member %x describes %x", cc.Changes[0].NodeID, mc.Member.ID)
	}
	for op := AddLearner; op <= Remove; op++ {
		if confTypes[op] == cc.Changes[0].Type {
			return Change{Op: op, Member: mc.Member}, nil
		}
	}
	return Change{}, fmt.Errorf("conf change of the unknown type %s", cc.Changes[0].Type)
}

// find returns the record of a member, or nil.
func find(ms *octopiipb.Membership, id uint64) *octopiipb.Member {
	i := slices.IndexFunc(ms.Members, func(m octopiipb.Member) bool { return m.ID == id })
	if i < 0 {
		return nil
	}
	return &ms.Members[i]
}

// errNoChange: the membership is already as it was asked to be.
var errNoChange = errors.New("nothing to change")

// checkChange says whether a change can be applied to a membership. It is pure
// and the same on every member, so a change that was refused by one at apply
// time is refused by all.
func checkChange(ms *octopiipb.Membership, cs raftpb.ConfState, c Change) error {
	id := c.Member.ID
	if !validID(id) {
		return fmt.Errorf("%w: no member can have the ID %x", ErrUnsafeMembership, id)
	}
	if c.Op != Remove && slices.Contains(ms.Removed, id) {
		return fmt.Errorf("%w: %x", ErrIDReused, id)
	}
	old := find(ms, id)
	switch c.Op {
	case AddLearner:
		if old != nil && !old.Learner {
			if c.Member.Promote {
				return errNoChange
			}
			return fmt.Errorf("%w: member %x is a voter already", ErrUnsafeMembership, id)
		}
		if old != nil && *old == merged(*old, c.record()) {
			return errNoChange
		}
	case Promote:
		if old == nil {
			return fmt.Errorf("%w: there is no learner %x", ErrUnsafeMembership, id)
		}
		if !old.Learner {
			return errNoChange
		}
	case Remove:
		if old == nil {
			return errNoChange
		}
		if len(cs.Voters) == 1 && cs.Voters[0] == id {
			return fmt.Errorf("%w: %x is the last voter", ErrUnsafeMembership, id)
		}
	}
	return tryChange(cs, c)
}

// tryChange runs a change through raft's own rules, which panic when they are
// broken at apply time.
func tryChange(cs raftpb.ConfState, c Change) error {
	cfg, progress, err := restoreConf(cs, 1)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
	}
	t := tracker.MakeProgressTracker(1, 0)
	t.Config, t.Progress = cfg, progress
	_, _, err = confchange.Changer{Tracker: t, LastIndex: 1}.Simple(
		raftpb.ConfChangeSingle{Type: confTypes[c.Op], NodeID: c.Member.ID})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
	}
	return nil
}

// record is a member's record as the change wants it.
func (c Change) record() octopiipb.Member {
	m := c.Member
	m.Learner = c.Op == AddLearner
	m.Promote = m.Promote && m.Learner
	return m
}

// merged is a member's record after another one for it: what the new one leaves
// open stays as it was, so that joining again, or adding a member that joined
// by itself, takes nothing away.
func merged(old, m octopiipb.Member) octopiipb.Member {
	if m.Name == "" {
		m.Name = old.Name
	}
	if m.Address == "" {
		m.Address = old.Address
	}
	if m.Priority == 0 {
		m.Priority = old.Priority
	}
	if m.Incarnation == 0 {
		m.Incarnation = old.Incarnation
	}
	m.Promote = m.Learner && (m.Promote || old.Promote)
	return m
}

// withChange returns the membership after a change that checkChange allowed.
func withChange(ms *octopiipb.Membership, index uint64, c Change) *octopiipb.Membership {
	next := &octopiipb.Membership{
		Cluster: ms.Cluster,
		Index:   index,
		Members: slices.Clone(ms.Members),
		Removed: slices.Clone(ms.Removed),
	}
	id := c.Member.ID
	if c.Op == Remove {
		next.Members = slices.DeleteFunc(next.Members, func(m octopiipb.Member) bool { return m.ID == id })
		next.Removed = append(next.Removed, id)
		return next
	}
	m := c.record()
	if old := find(next, id); old != nil {
		*old = merged(*old, m)
		return next
	}
	next.Members = append(next.Members, m)
	slices.SortFunc(next.Members, func(a, b octopiipb.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return next
}
