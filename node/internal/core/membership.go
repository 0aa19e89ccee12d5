package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	octopiipb "github.com/octopii/octopii/proto"
)

// Change is what becomes of one member. Several of them in one request are one
// change of membership, by way of a joint configuration (paper, section 6): they
// take effect together, or not at all.
type Change = octopiipb.MemberChange

// ChangeOp is what a Change does.
type ChangeOp = octopiipb.ChangeOp

// The operations.
const (
	AddLearner    = octopiipb.AddLearner
	Promote       = octopiipb.Promote
	Remove        = octopiipb.Remove
	Demote        = octopiipb.Demote
	UpdateAddress = octopiipb.UpdateAddress
	SetPriority   = octopiipb.SetPriority
)

// confTypes are raft's words for the operations.
var confTypes = [...]raftpb.ConfChangeType{
	AddLearner:    raftpb.ConfChangeAddLearnerNode,
	Promote:       raftpb.ConfChangeAddNode,
	Remove:        raftpb.ConfChangeRemoveNode,
	Demote:        raftpb.ConfChangeAddLearnerNode,
	UpdateAddress: raftpb.ConfChangeUpdateNode,
	SetPriority:   raftpb.ConfChangeUpdateNode,
}

// changesMax bounds how many members one change may be about.
const changesMax = 64

func confChange(changes []Change) raftpb.ConfChangeV2 {
	var cc raftpb.ConfChangeV2
	for _, c := range changes {
		cc.Changes = append(cc.Changes, raftpb.ConfChangeSingle{Type: confTypes[c.Op], NodeID: c.Member.ID})
	}
	return cc
}

// encodeChanges returns the data of the conf change entry: raft reads the changes,
// every member reads the records in its context.
// by is who forwarded them.
func encodeChanges(changes []Change, by origin) ([]byte, error) {
	context := octopiipb.MembershipChange{Changes: slices.Clone(changes), Origin: by.member, ID: by.id}
	for i := range context.Changes {
		context.Changes[i].Member.Kind = octopiipb.NoKind // the operation says it
	}
	data, err := context.Marshal()
	if err != nil {
		return nil, err
	}
	cc := confChange(changes)
	cc.Context = data
	return cc.Marshal()
}

// changeEntry is what a conf change entry says: to raft and to every member, and who forwarded
// it. There are no changes in the one by which raft leaves a joint configuration.
type changeEntry struct {
	conf    raftpb.ConfChangeV2
	changes []Change
	by      origin
}

// decodeChanges reads the data of a conf change entry.
func decodeChanges(data []byte) (e changeEntry, err error) {
	if err := e.conf.Unmarshal(data); err != nil {
		return e, fmt.Errorf("conf change cannot be read: %w", err)
	}
	if e.conf.Transition != raftpb.ConfChangeTransitionAuto {
		return e, fmt.Errorf("conf change with the transition %s", e.conf.Transition)
	}
	var context octopiipb.MembershipChange
	if err := context.Unmarshal(e.conf.Context); err != nil {
		return e, fmt.Errorf("conf change's context cannot be read: %w", err)
	}
	e.changes, e.by = context.Changes, origin{context.Origin, context.ID}
	if err := checkKnown(e.changes); err != nil {
		return e, err
	}
	if len(e.changes) != len(e.conf.Changes) || len(e.changes) > changesMax {
		return e, fmt.Errorf("conf change of %d members describes %d", len(e.conf.Changes), len(e.changes))
	}
	for i, c := range e.changes {
		if one := e.conf.Changes[i]; !validID(c.Member.ID) || one.NodeID != c.Member.ID || one.Type != confTypes[c.Op] {
			return e, fmt.Errorf("conf change %s of member %x describes change %d of %x", one.Type, one.NodeID, c.Op, c.Member.ID)
		}
	}
	return e, nil
}

// checkKnown refuses changes from a log, or a membership, that this version does not know.
func checkKnown(changes []Change) error {
	for _, c := range changes {
		if c.Op < AddLearner || c.Op > SetPriority {
			return fmt.Errorf("change of member %x is of the unknown kind %d: was it written by a newer version?", c.Member.ID, c.Op)
		}
		if c.Member.Kind != octopiipb.NoKind {
			return fmt.Errorf("change of member %x says that it is a %v, which only its operation says: was it written by a newer version?", c.Member.ID, c.Member.Kind)
		}
	}
	return nil
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

// checkChanges says whether changes can be applied to a membership. It is pure and
// the same on every member, so a change that was refused by one at apply time is
// refused by all.
func checkChanges(ms *octopiipb.Membership, cs raftpb.ConfState, changes []Change) error {
	if len(changes) == 0 || len(changes) > changesMax {
		return fmt.Errorf("%w: one change is about 1 to %d members, and not %d", ErrUnsafeMembership, changesMax, len(changes))
	}
	nothing := true
	for i, c := range changes {
		if slices.ContainsFunc(changes[:i], func(o Change) bool { return o.Member.ID == c.Member.ID }) {
			return fmt.Errorf("%w: it changes member %x twice", ErrUnsafeMembership, c.Member.ID)
		}
		switch err := checkChange(ms, c); {
		case err == nil:
			nothing = false
		case !errors.Is(err, errNoChange):
			return err
		case c.Op == AddLearner && find(ms, c.Member.ID).Kind == octopiipb.Voter && len(changes) > 1:
			// Alone it is left out; beside others raft would take the vote away.
			return fmt.Errorf("%w: member %x is a voter already", ErrUnsafeMembership, c.Member.ID)
		}
	}
	if len(ms.UnderWay) > 0 || len(cs.VotersOutgoing) > 0 {
		return fmt.Errorf("%w: the one at index %d is half done", ErrMembershipBusy, ms.Index)
	}
	if nothing {
		return errNoChange
	}
	if _, err := tryChanges(cs, changes); err != nil {
		return err
	}
	return checkPlaces(ms, outcome(ms, changes))
}

// outcome is the membership that changes lead to in the end.
func outcome(ms *octopiipb.Membership, changes []Change) *octopiipb.Membership {
	next := withChanges(ms, ms.Index, changes)
	if len(next.UnderWay) > 0 {
		next = left(next, ms.Index)
	}
	return next
}

// checkChange looks at one of them.
func checkChange(ms *octopiipb.Membership, c Change) error {
	id := c.Member.ID
	if !validID(id) {
		return fmt.Errorf("%w: no member can have the ID %x", ErrUnsafeMembership, id)
	}
	if c.Op != Remove && ms.IsRemoved(id) {
		return fmt.Errorf("%w: %x", ErrIDReused, id)
	}
	old := find(ms, id)
	if old == nil && c.Op != AddLearner && c.Op != Remove {
		return fmt.Errorf("%w: there is no member %x", ErrUnsafeMembership, id)
	}
	switch c.Op {
	case AddLearner:
		if r := c.Member.Replaces; r != 0 && (r == id || find(ms, r) == nil && !ms.IsRemoved(r)) {
			return fmt.Errorf("%w: there is no member %x that %x could replace", ErrUnsafeMembership, r, id)
		}
		if old != nil && old.Kind == octopiipb.Voter && !c.Member.Promote {
			return fmt.Errorf("%w: member %x is a voter already; demote it", ErrUnsafeMembership, id)
		}
	case UpdateAddress:
		if c.Member.Address == "" {
			return fmt.Errorf("%w: no address for member %x", ErrUnsafeMembership, id)
		}
	}
	if changed := changedBy(c, old); old == changed || old != nil && changed != nil && *old == *changed {
		return errNoChange
	}
	return nil
}

// tryChanges runs changes through raft's own rules, which panic when they are broken
// at apply time. It returns the configuration that they lead to.
func tryChanges(cs raftpb.ConfState, changes []Change) (raftpb.ConfState, error) {
	cfg, progress, err := restoreConf(cs, 1)
	if err != nil {
		return cs, fmt.Errorf("%w: %w", ErrUnsafeMembership, err)
	}
	t := tracker.MakeProgressTracker(1, 0)
	t.Config, t.Progress = cfg, progress
	changer := confchange.Changer{Tracker: t, LastIndex: 1}
	cc := confChange(changes)
	if auto, joint := cc.EnterJoint(); joint {
		cfg, progress, err = changer.EnterJoint(auto, cc.Changes...)
	} else {
		cfg, progress, err = changer.Simple(cc.Changes...)
	}
	if err != nil && len(cs.Voters) == 1 && slices.ContainsFunc(changes, func(c Change) bool {
		return (c.Op == Remove || c.Op == Demote) && c.Member.ID == cs.Voters[0]
	}) {
		return cs, fmt.Errorf("%w: member %x is the only voter; add another one first", ErrUnsafeMembership, cs.Voters[0])
	}
	if err != nil {
		return cs, fmt.Errorf("%w: raft does not allow it: %w", ErrUnsafeMembership, err)
	}
	t.Config, t.Progress = cfg, progress
	return t.ConfState(), nil
}

// changedBy returns a member's record after a change; nil: there is none. old is nil if
// there was none, and is not changed.
func changedBy(c Change, old *octopiipb.Member) *octopiipb.Member {
	var m octopiipb.Member
	if old != nil {
		m = *old
	}
	switch c.Op {
	case AddLearner:
		if old != nil && old.Kind == octopiipb.Voter {
			return old // it joins again, and is a voter already
		}
		m = merged(m, c.Member)
		m.Kind = octopiipb.Learner
	case Promote:
		if old != nil && old.Kind == octopiipb.Voter {
			return old
		}
		m = merged(m, c.Member)
		m.Kind, m.Promote, m.Replaces = octopiipb.Voter, false, 0
	case Demote:
		m.Kind, m.Promote, m.Replaces = octopiipb.Learner, false, 0
	case UpdateAddress:
		m.Address = c.Member.Address
	case SetPriority:
		m.Priority = c.Member.Priority
	case Remove:
		return nil
	}
	return &m
}

// merged is a member's record after another one for it: what the new one leaves
// open stays as it was, so that joining again, or adding a member that joined
// by itself, takes nothing away.
func merged(old, m octopiipb.Member) octopiipb.Member {
	m.Name = cmp.Or(m.Name, old.Name)
	m.Address = cmp.Or(m.Address, old.Address)
	m.Priority = cmp.Or(m.Priority, old.Priority)
	m.Incarnation = cmp.Or(m.Incarnation, old.Incarnation)
	m.Replaces = cmp.Or(m.Replaces, old.Replaces)
	m.Promote = m.Promote || old.Promote
	return m
}

// withChanges returns the membership after changes that checkChanges allowed. Those
// of several members are under way until the joint configuration is left: until then
// the votes of those who go may be needed.
func withChanges(ms *octopiipb.Membership, index uint64, changes []Change) *octopiipb.Membership {
	next := clone(ms, index)
	if len(changes) > 1 {
		next.UnderWay = changes
		return next.Membership
	}
	next.change(changes[0])
	return next.Membership
}

// Settled returns the membership when the joint configuration is left; ms, if it is in none.
func Settled(ms *octopiipb.Membership) *octopiipb.Membership {
	if len(ms.UnderWay) == 0 {
		return ms
	}
	return left(ms, ms.Index)
}

// left returns the membership after the joint configuration was left.
func left(ms *octopiipb.Membership, index uint64) *octopiipb.Membership {
	next := clone(ms, index)
	for _, c := range ms.UnderWay {
		next.change(c)
	}
	return next.Membership
}

// draft is a membership that nobody else has yet.
type draft struct{ *octopiipb.Membership }

func clone(ms *octopiipb.Membership, index uint64) draft {
	return draft{&octopiipb.Membership{
		Cluster: ms.Cluster,
		Index:   index,
		Members: slices.Clone(ms.Members),
		Removed: slices.Clone(ms.Removed),

		Settings: ms.Settings,
	}}
}

func (d draft) change(c Change) {
	id := c.Member.ID
	old := find(d.Membership, id)
	if c.Op == UpdateAddress && old != nil {
		d.vacate(c.Member.Address, id, old.Address)
	}
	switch m := changedBy(c, old); {
	case m == nil && old != nil:
		d.Removed = append(d.Removed, octopiipb.RemovedMember{ID: id, Incarnation: old.Incarnation})
		d.Members = slices.DeleteFunc(d.Members, func(m octopiipb.Member) bool { return m.ID == id })
	case m == nil:
	case old != nil:
		*old = *m
	default:
		at, _ := slices.BinarySearchFunc(d.Members, id, func(m octopiipb.Member, id uint64) int { return cmp.Compare(m.ID, id) })
		d.Members = slices.Insert(d.Members, at, *m)
	}
}

// vacate gives those that an address is recorded for, but for the member that is there
// now, the address that this one had: two that exchange theirs are corrected one after the
// other. Where they really are they say themselves.
func (d draft) vacate(address string, now uint64, before string) {
	for i := range d.Members {
		if m := &d.Members[i]; m.ID != now && m.Address == address {
			m.Address = before
		}
	}
}

// CheckMembership says whether a membership is the one of a configuration. What came
// from a peer, or from a disk, need not be.
func CheckMembership(ms *octopiipb.Membership, cs raftpb.ConfState) error {
	want, err := ConfState(ms)
	if err == nil {
		err = want.Equivalent(cs)
	}
	if err != nil {
		return fmt.Errorf("members %v with %d changes under way are not those of the configuration %s: %w", ms.Members, len(ms.UnderWay), cs.String(), err)
	}
	return nil
}

// checkKinds refuses members, and changes under way, of a kind that this version does not know.
func checkKinds(ms *octopiipb.Membership) error {
	for _, m := range ms.Members {
		if m.Kind != octopiipb.Voter && m.Kind != octopiipb.Learner {
			return fmt.Errorf("member %x is of the unknown kind %v: use the program that wrote it, or a newer one", m.ID, m.Kind)
		}
	}
	return checkKnown(ms.UnderWay)
}

// ConfState returns the configuration that belongs to a membership.
func ConfState(ms *octopiipb.Membership) (raftpb.ConfState, error) {
	var plain raftpb.ConfState
	if err := checkKinds(ms); err != nil {
		return plain, err
	}
	for _, m := range ms.Members {
		if m.Kind == octopiipb.Learner {
			plain.Learners = append(plain.Learners, m.ID)
		} else {
			plain.Voters = append(plain.Voters, m.ID)
		}
	}
	if len(ms.UnderWay) == 0 {
		return plain, nil
	}
	changes := ms.UnderWay
	if len(changes) == 1 {
		return plain, fmt.Errorf("the change of %x alone is under way, which takes effect at once", changes[0].Member.ID)
	}
	before := *ms
	before.UnderWay = nil
	if err := checkChanges(&before, plain, changes); err != nil {
		return plain, fmt.Errorf("what is under way cannot be: %w", err)
	}
	return tryChanges(plain, changes)
}

// Preview returns the membership as it would be after changes, or why they break a
// rule. Nothing to change is no error. Who is alive it does not know: see changes.go.
func Preview(ms *octopiipb.Membership, changes []Change) (*octopiipb.Membership, error) {
	cs, err := ConfState(ms)
	if err != nil {
		return ms, err
	}
	changes = inPlace(ms, changes)
	if err := checkChanges(ms, cs, changes); err != nil {
		if errors.Is(err, errNoChange) {
			err = nil
		}
		return ms, err
	}
	return outcome(ms, changes), nil
}
