package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
)

// Verb is one of the ways to change the membership. Each is also a method of Node.
type Verb string

// The verbs.
const (
	VerbAddLearner    Verb = "add-learner"
	VerbAddVoter      Verb = "add-voter"
	VerbPromote       Verb = "promote"
	VerbDemote        Verb = "demote"
	VerbRemove        Verb = "remove"
	VerbReplace       Verb = "replace"
	VerbUpdateAddress Verb = "update-address"
	VerbSetPriority   Verb = "set-priority"
)

// Change is a verb and what it is about.
type Change struct {
	Verb Verb
	// Member is the new member, as AddLearner takes it; of one that is there already
	// its ID, and what is to be new.
	Member Member
	// Old is whom VerbReplace replaces.
	Old uint64
}

// Change makes a change of membership, as the method that its verb names does. Any
// member may be asked, also one that leaves.
func (n *Node) Change(ctx context.Context, c Change) (Membership, error) {
	ms, err := n.verb(ctx, c)
	if errors.Is(err, ErrRemoved) {
		if after, ok := n.afterRemoval(c); ok {
			return after, nil
		}
	}
	return ms, err
}

// afterRemoval returns the membership without this member, which was removed, if c is in
// force in it. What is under way in a joint configuration is: nothing takes it back.
func (v verbs) afterRemoval(c Change) (Membership, bool) {
	ms := v.members.Load()
	if ms == nil {
		return Membership{}, false
	}
	ms = core.Settled(ms)
	// It may have been told of its removal before it applied that.
	if after, err := core.Preview(ms, []core.Change{{Op: core.Remove, Member: octopiipb.Member{ID: v.id}}}); err == nil {
		ms = after
	}
	switch c.Verb {
	case VerbRemove:
		return publicMembership(ms), c.Member.ID == v.id
	case VerbReplace:
		return publicMembership(ms), c.Old == v.id && slices.ContainsFunc(ms.Members, func(m octopiipb.Member) bool {
			return m.Kind == octopiipb.Voter && (m.ID == c.Member.ID || c.Member.ID == 0 && m.Address == c.Member.Address)
		})
	}
	return Membership{}, false
}

// Plan is what a change of membership leads to.
type Plan struct{ Before, After Membership }

// Plan asks the leader whether it would make a change now, and returns what it would
// lead to; it changes nothing. The errors are those of the verb. Any member may be
// asked.
func (n *Node) Plan(ctx context.Context, c Change) (Plan, error) {
	if err := n.ready(ctx, "Plan"); err != nil {
		return Plan{}, err
	}
	first, then, err := n.steps(ctx, c)
	if err != nil {
		return Plan{}, err
	}
	_, err = n.submit(ctx, func(w core.Waiter) core.Request {
		return core.Request{Kind: core.ChangeMembership, Changes: []core.Change{first}, DryRun: true, Waiter: w}
	})
	if err != nil {
		return Plan{}, err
	}
	ms := n.members.Load()
	after, err := core.Preview(ms, []core.Change{first})
	if err == nil && len(then) > 0 {
		after, err = core.Preview(after, then)
	}
	if err != nil {
		return Plan{}, publicError(err)
	}
	return Plan{Before: publicMembership(ms), After: publicMembership(after)}, nil
}

// verb makes a change, and returns when all of it is done and a majority knows.
func (v verbs) verb(ctx context.Context, c Change) (Membership, error) {
	if err := v.ready(ctx, "a change of membership"); err != nil {
		return Membership{}, err
	}
	first, then, err := v.steps(ctx, c)
	if err != nil {
		return Membership{}, err
	}
	ms, err := v.change(ctx, first)
	if err == nil && len(then) > 0 {
		ms, err = v.untilVoter(ctx, first.Member, ms.Index)
	}
	if err != nil {
		return ms, err
	}
	return ms, v.spread(ctx)
}

// steps are what a change begins with, and what the leader makes of it by itself when
// the member has caught up.
func (v verbs) steps(ctx context.Context, c Change) (first core.Change, then []core.Change, err error) {
	op, ok := ops[c.Verb]
	if !ok {
		return first, nil, fmt.Errorf("node: there is no verb %q", c.Verb)
	}
	if p := c.Member.Priority; p < math.MinInt32 || p > math.MaxInt32 {
		return first, nil, fmt.Errorf("%w: the priority %d does not fit into 32 bits", ErrUnsafeMembership, p)
	}
	record := octopiipb.Member{ID: c.Member.ID, Name: c.Member.Name, Address: c.Member.Address, Priority: int32(c.Member.Priority)}
	switch c.Verb {
	case VerbAddLearner, VerbAddVoter, VerbReplace:
		if err := v.resolve(ctx, &record); err != nil {
			return first, nil, err
		}
	case VerbUpdateAddress:
		if err := v.reach(ctx, &record); err != nil {
			return first, nil, err
		}
	}
	if c.Verb == VerbAddVoter || c.Verb == VerbReplace {
		record.Promote = true
		then = append(then, core.Change{Op: core.Promote, Member: record})
	}
	if c.Verb == VerbReplace {
		if c.Old == 0 || c.Old == record.ID {
			return first, nil, fmt.Errorf("%w: member %x cannot replace %x", ErrUnsafeMembership, record.ID, c.Old)
		}
		ms := v.members.Load()
		if there := recordOf(ms, record.ID); there != nil && there.Kind == octopiipb.Voter && recordOf(ms, c.Old) != nil {
			return first, nil, fmt.Errorf("%w: member %x at %s votes already, and so would take nobody's place: there would be one voter less; name the address of a new member, or remove member %x without one",
				ErrUnsafeMembership, record.ID, there.Address, c.Old)
		}
		if now, ok := v.status().Membership.Member(record.ID); ok && !now.Learner {
			// It votes already: what is left is to remove the old one.
			return core.Change{Op: core.Remove, Member: octopiipb.Member{ID: c.Old}}, nil, nil
		}
		record.Replaces = c.Old
		then = append(then, core.Change{Op: core.Remove, Member: octopiipb.Member{ID: c.Old}})
	}
	return core.Change{Op: op, Member: record}, then, nil
}

// ops are the core's words for what a verb begins with.
var ops = map[Verb]core.ChangeOp{
	VerbAddLearner:    core.AddLearner,
	VerbAddVoter:      core.AddLearner,
	VerbReplace:       core.AddLearner,
	VerbPromote:       core.Promote,
	VerbDemote:        core.Demote,
	VerbRemove:        core.Remove,
	VerbUpdateAddress: core.UpdateAddress,
	VerbSetPriority:   core.SetPriority,
}

// untilVoter waits until the leader has made a voter of a member, and removed the one
// that it replaces. index is that of the membership with its wish.
func (v verbs) untilVoter(ctx context.Context, m octopiipb.Member, index uint64) (Membership, error) {
	st, err := v.until(ctx, func(st Status) bool {
		now, ok := st.Membership.Member(m.ID)
		return st.Membership.Index >= index && !st.Membership.Joint && (!ok || !now.Learner)
	})
	if errors.Is(err, ErrRemoved) {
		return st.Membership, fmt.Errorf("node: this member cannot tell whether member %x votes yet; ask another one: %w", m.ID, err)
	}
	if err != nil {
		return st.Membership, fmt.Errorf("node: member %x is a learner and is promoted once it has caught up: %w", m.ID, err)
	}
	if _, ok := st.Membership.Member(m.ID); !ok {
		return st.Membership, &newcomerRemovedError{m.ID}
	}
	return st.Membership, nil
}

// newcomerRemovedError: a new member was removed before it was promoted. It is an
// ErrRemoved without the text of that, which is about the member that was asked.
type newcomerRemovedError struct{ id uint64 }

func (e *newcomerRemovedError) Error() string {
	return fmt.Sprintf("node: member %x was removed before it was promoted, as somebody asked for or because it did not show up", e.id)
}

func (e *newcomerRemovedError) Is(target error) bool { return target == ErrRemoved }
