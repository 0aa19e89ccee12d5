package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// AddLearner adds a member that receives the log and does not vote. It returns
// when the change is applied here; m.Address need not be reachable yet. m.ID
// may be 0 if it is. Any member may be asked.
func (n *Node) AddLearner(ctx context.Context, m Member) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbAddLearner, Member: m})
}

// AddVoter adds a member as a learner, brings it up to date and then makes it a
// voter. It returns when that is done. If ctx ends first, the leader goes on by
// itself: the wish is in the membership, until the member has been silent for
// Config.JoinTimeoutTicks. A learner that is there already is promoted likewise. Any
// member may be asked.
func (n *Node) AddVoter(ctx context.Context, m Member) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbAddVoter, Member: m})
}

// Promote makes a voter of a learner. One that is behind by more than
// Config.PromoteLagMax, or silent, is refused with ErrUnsafeMembership and the
// numbers: a vote is worth something only with the log behind it. Any member may be
// asked.
func (n *Node) Promote(ctx context.Context, id uint64) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbPromote, Member: Member{ID: id}})
}

// Demote makes a learner of a voter; a leader hands leadership over first. A change
// that would leave a majority of voters that are silent is refused with
// ErrUnsafeMembership. Any member may be asked.
func (n *Node) Demote(ctx context.Context, id uint64) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbDemote, Member: Member{ID: id}})
}

// Remove takes a member out of the cluster, for ever: its ID is never used
// again. Removing one that is not there succeeds. A leader hands leadership over
// first. A change that would leave a majority of voters that are silent is refused
// with ErrUnsafeMembership. Any member may be asked, also the one that leaves.
func (n *Node) Remove(ctx context.Context, id uint64) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbRemove, Member: Member{ID: id}})
}

// Replace has a new member take the place of an old one: m is brought up to date as a
// learner, and then one change gives it a vote and removes old, so that there are as
// many voters all the time. It returns when that is done; if ctx ends first, the
// leader goes on by itself, as with AddVoter. old may be dead or alive, and lead. Any
// member may be asked, also old: if that is told of its removal before it has the
// change, it returns ErrRemoved, and another member knows.
func (n *Node) Replace(ctx context.Context, old uint64, m Member) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbReplace, Member: m, Old: old})
}

// UpdateAddress says where a member listens for its peers now. (A member that comes
// back elsewhere calls the others, and its record is corrected without this.) It is
// refused if another member answers there. Any member may be asked.
func (n *Node) UpdateAddress(ctx context.Context, id uint64, addr string) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbUpdateAddress, Member: Member{ID: id, Address: addr}})
}

// SetPriority changes the rank of a member among the candidates for leadership:
// higher is preferred. Any member may be asked.
func (n *Node) SetPriority(ctx context.Context, id uint64, priority int) (Membership, error) {
	return n.Change(ctx, Change{Verb: VerbSetPriority, Member: Member{ID: id, Priority: priority}})
}

// SetFailoverByTimeout changes the setting of the whole cluster: whether members wait
// for an election timeout also where the leader's process seems dead. They should where
// something in the network refuses connections to members that live, and would where
// reads were answered under a lease. Any member may be asked.
func (n *Node) SetFailoverByTimeout(ctx context.Context, on bool) (Membership, error) {
	if err := n.ready(ctx, "SetFailoverByTimeout"); err != nil {
		return Membership{}, err
	}
	value := uint64(0)
	if on {
		value = 1
	}
	ms, err := n.submit(ctx, func(w core.Waiter) core.Request { return core.NewSettingChange(core.FailoverByTimeout, value, w) })
	if err != nil {
		return ms, err
	}
	return ms, n.spread(ctx)
}

// spread returns when a majority of the membership knows of it. raft puts a
// membership in force where it is applied: if the leader that applied it died
// first, the others would still count by the old one, and might need the vote of
// a member that is gone.
func (v verbs) spread(ctx context.Context) error {
	w := newWaiter()
	v.inbox.request(core.Request{Kind: core.Propose, Data: core.Barrier(), Waiter: w})
	if _, err := v.wait(ctx, w); err != nil {
		return fmt.Errorf("node: the change is applied, but may not be known to a majority yet: %w", err)
	}
	return nil
}

// TransferLeadership lets the member to lead; 0 stands for the best voter that is
// alive: one close behind before one that is not, then one to which no transfer failed
// lately, then by room, by priority, and by how much of the log it has. ErrNoTarget says
// that there is none. It returns when it leads. While another voter has a higher priority
// and no less room, that one leads again soon after. Any member may be asked. A transfer that raft gives
// up, as it does when the target has not applied a change of membership yet, is
// tried again until ctx ends.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	if err := n.ready(ctx, "TransferLeadership"); err != nil {
		return err
	}
	for {
		target, err := n.transfer(ctx, to)
		if !errors.Is(err, errGivenUp) || ctx.Err() != nil {
			return err
		}
		n.log.Info("a transfer of leadership was given up; trying again", zap.String("to", hex(target)))
	}
}

// errGivenUp: nobody took over within the time that raft gives a transfer.
var errGivenUp = errors.New("it did not take over in time")

// transfer tries once, and returns the member that it tried.
func (v verbs) transfer(ctx context.Context, to uint64) (uint64, error) {
	w := newWaiter()
	v.inbox.request(core.Request{Kind: core.Transfer, To: to, Waiter: w})
	a, err := v.wait(ctx, w)
	if errors.Is(err, core.ErrTransferLost) {
		return to, fmt.Errorf("node: transfer leadership: %w: %w", errGivenUp, err)
	}
	if err != nil {
		return to, fmt.Errorf("node: transfer leadership: %w", err)
	}
	target, before := a.Index, v.status().Leader
	// raft gives a transfer up after an election timeout.
	try, cancel := context.WithTimeout(ctx, v.electionTimeout()*3/2)
	defer cancel()
	st, err := v.until(try, func(st Status) bool {
		return st.Leader == target || st.Leader != 0 && before != 0 && st.Leader != before
	})
	switch {
	case err == nil && st.Leader == target:
		return target, nil
	case err == nil:
		return target, fmt.Errorf("node: transfer leadership to %x: member %x was elected instead", target, st.Leader)
	case try.Err() != nil:
		return target, fmt.Errorf("node: transfer leadership to %x: %w: %w", target, errGivenUp, err)
	default:
		return target, err
	}
}

func (v verbs) electionTimeout() time.Duration {
	return time.Duration(v.cfg.ElectionTicks) * v.cfg.TickInterval
}

// handOver lets another voter lead before this member stops, if one can.
func (n *Node) handOver() {
	st := n.Status()
	if st.Role != Leader || len(st.Membership.Voters()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.electionTimeout())
	defer cancel()
	if _, err := n.transfer(ctx, 0); err != nil {
		n.log.Info("stopping without handing leadership over", zap.Error(err))
	}
}

// drain waits until the calls that are under way have their answers: whoever leads
// now has their proposals, and this member goes on applying.
func (n *Node) drain() {
	enough := time.NewTimer(n.electionTimeout())
	defer enough.Stop()
	for n.pending.Load() > 0 {
		select {
		case <-n.drained:
		case <-enough.C:
			return
		case <-n.done:
			return
		}
	}
}

// changeRetry is how long a change waits for another one that is under way.
const changeRetry = 20 * time.Millisecond

// change has a change of membership applied, behind others that are under way.
func (v verbs) change(ctx context.Context, c core.Change) (Membership, error) {
	return v.submit(ctx, func(w core.Waiter) core.Request {
		return core.Request{Kind: core.ChangeMembership, Changes: []core.Change{c}, Waiter: w}
	})
}

// submit has a change made that request makes for each try.
func (v verbs) submit(ctx context.Context, request func(core.Waiter) core.Request) (Membership, error) {
	for {
		w := newWaiter()
		v.inbox.request(request(w))
		a, err := v.wait(ctx, w)
		if err == nil {
			if a.Membership == nil {
				return v.status().Membership, nil
			}
			return publicMembership(a.Membership), nil
		}
		if !errors.Is(err, ErrMembershipBusy) {
			return Membership{}, err
		}
		select {
		case <-time.After(changeRetry):
		case <-ctx.Done():
			return Membership{}, err
		case <-v.done:
			return Membership{}, v.stopped()
		}
	}
}

// probeTimeout bounds the look at a new member before it is added. One that
// cannot be reached yet may be added all the same.
const probeTimeout = time.Second

// resolve asks whoever listens at a new member's address who it is, so that a
// member of another cluster, or a wrong address, is told before anything is
// changed.
func (v verbs) resolve(ctx context.Context, record *octopiipb.Member) error {
	if record.Address == "" {
		return fmt.Errorf("%w: Member.Address is empty; name where the member listens for its peers", ErrUnsafeMembership)
	}
	if record.ID > idMax {
		return fmt.Errorf("%w: no member can have the ID %x", ErrUnsafeMembership, record.ID)
	}
	if err := v.reach(ctx, record); err != nil {
		return err
	}
	if record.ID == 0 {
		return fmt.Errorf("%w: %s; start the member, or name its ID", ErrNobodyThere, record.Address)
	}
	return nil
}

// reach looks who listens at a member's address. Nobody is no error: it may come.
func (v verbs) reach(ctx context.Context, record *octopiipb.Member) error {
	if record.ID == v.id || record.Address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	peer, err := v.transport.Probe(ctx, record.Address)
	if err != nil {
		v.log.Debug("nobody answers at the address of a member", zap.String("address", record.Address), zap.Error(err))
		return nil
	}
	return v.matches(record, peer)
}

// matches checks what a new member says of itself against its record.
func (v verbs) matches(record *octopiipb.Member, peer transport.Hello) error {
	if record.ID == 0 {
		record.ID = peer.Node
	}
	if peer.Node != record.ID {
		return fmt.Errorf("node: %s is the address of member %x, not of %x", record.Address, peer.Node, record.ID)
	}
	if err := cmp.Or(v.sameCluster(peer), v.peerReadsLevel(peer)); err != nil {
		return err
	}
	if ms := v.members.Load(); record.Name == "" && !slices.ContainsFunc(ms.Members, func(o octopiipb.Member) bool { return o.ID == record.ID }) {
		record.Name = hex(record.ID) // who is there already keeps its name
	}
	record.Incarnation = peer.Incarnation // from here on another disk is told
	return nil
}

// sameCluster refuses a member of another cluster. The text reaches that member, which may be
// anybody, so it does not name this cluster.
func (g *group) sameCluster(peer transport.Hello) error {
	mine := g.cluster.Load()
	if mine == 0 || peer.Cluster == 0 || peer.Cluster == mine {
		return nil
	}
	theirs := fmt.Sprintf("cluster %x", PublicClusterID(peer.Cluster))
	if peer.Cluster == transport.SomeCluster {
		theirs = "another cluster"
	}
	return fmt.Errorf("cluster mismatch: member %x at %s belongs to %s and not to this one; start it with an empty directory to move it",
		peer.Node, peer.Host.Address, theirs)
}
