package node

import (
	"context"
	"errors"
	"fmt"
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
	if err := n.ready(ctx); err != nil {
		return Membership{}, err
	}
	record, err := n.resolve(ctx, m)
	if err != nil {
		return Membership{}, err
	}
	ms, err := n.change(ctx, core.Change{Op: core.AddLearner, Member: record})
	if err != nil {
		return ms, err
	}
	return ms, n.spread(ctx)
}

// AddVoter adds a member as a learner, brings it up to date and then makes it a
// voter. It returns when that is done. If ctx ends first, the leader goes on by
// itself: the wish is in the membership. A learner that is there already is
// promoted likewise. Any member may be asked.
func (n *Node) AddVoter(ctx context.Context, m Member) (Membership, error) {
	if err := n.ready(ctx); err != nil {
		return Membership{}, err
	}
	record, err := n.resolve(ctx, m)
	if err != nil {
		return Membership{}, err
	}
	record.Promote = true
	added, err := n.change(ctx, core.Change{Op: core.AddLearner, Member: record})
	if err != nil {
		return Membership{}, err
	}
	st, err := n.until(ctx, func(st Status) bool {
		if st.Membership.Index < added.Index {
			return false
		}
		now, ok := st.Membership.Member(record.ID)
		return !ok || !now.Learner
	})
	if err != nil {
		return st.Membership, fmt.Errorf("node: member %x is a learner and is promoted once it has caught up: %w", record.ID, err)
	}
	if _, ok := st.Membership.Member(record.ID); !ok {
		return st.Membership, fmt.Errorf("node: member %x was removed before it was promoted: %w", record.ID, ErrRemoved)
	}
	return st.Membership, n.spread(ctx)
}

// Remove takes a member out of the cluster, for ever: its ID is never used
// again. Removing one that is not there succeeds. A change that would leave a
// majority of voters that are silent is refused with ErrUnsafeMembership. Any
// member may be asked, also the one that leaves.
func (n *Node) Remove(ctx context.Context, id uint64) (Membership, error) {
	if err := n.ready(ctx); err != nil {
		return Membership{}, err
	}
	if st := n.Status(); st.Role == Leader && id == n.id && len(st.Membership.Voters()) > 1 {
		// Another one must lead, and know, before this one is gone.
		if _, err := n.transfer(ctx, 0); err != nil {
			return Membership{}, err
		}
	}
	ms, err := n.change(ctx, core.Change{Op: core.Remove, Member: octopiipb.Member{ID: id}})
	if err == nil {
		err = n.spread(ctx)
	}
	if errors.Is(err, ErrRemoved) && id == n.id {
		return n.Status().Membership, nil
	}
	return ms, err
}

// spread returns when a majority of the membership knows of it. raft puts a
// membership in force where it is applied: if the leader that applied it died
// first, the others would still count by the old one, and might need the vote of
// a member that is gone.
func (n *Node) spread(ctx context.Context) error {
	w := newWaiter()
	n.inbox.request(core.Request{Kind: core.Propose, Data: core.Barrier(), Waiter: w})
	if _, err := n.wait(ctx, w); err != nil {
		return fmt.Errorf("node: the change is applied, but may not be known to a majority yet: %w", err)
	}
	return nil
}

// TransferLeadership lets the member to lead; 0 stands for the best candidate.
// It returns when it does. Any member may be asked. A transfer that raft gives
// up, as it does when the target has not applied a change of membership yet, is
// tried again until ctx ends.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	if err := n.ready(ctx); err != nil {
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
func (n *Node) transfer(ctx context.Context, to uint64) (uint64, error) {
	w := newWaiter()
	n.inbox.request(core.Request{Kind: core.Transfer, To: to, Waiter: w})
	a, err := n.wait(ctx, w)
	if err != nil {
		return to, fmt.Errorf("node: transfer leadership: %w", err)
	}
	target, before := a.Index, n.Status().Leader
	// raft gives a transfer up after an election timeout.
	try, cancel := context.WithTimeout(ctx, n.electionTimeout()*3/2)
	defer cancel()
	st, err := n.until(try, func(st Status) bool {
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

func (n *Node) electionTimeout() time.Duration {
	return time.Duration(n.cfg.ElectionTicks) * n.cfg.TickInterval
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

// changeRetry is how long a change waits for another one that is under way.
const changeRetry = 20 * time.Millisecond

// change has a change of membership applied, behind others that are under way.
func (n *Node) change(ctx context.Context, c core.Change) (Membership, error) {
	for {
		w := newWaiter()
		n.inbox.request(core.Request{Kind: core.ChangeMembership, Change: c, Waiter: w})
		a, err := n.wait(ctx, w)
		if err == nil {
			if a.Membership == nil {
				return n.Status().Membership, nil
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
		case <-n.done:
			return Membership{}, n.stopped()
		}
	}
}

// probeTimeout bounds the look at a new member before it is added. One that
// cannot be reached yet may be added all the same.
const probeTimeout = time.Second

// resolve asks whoever listens at a new member's address who it is, so that a
// member of another cluster, or a wrong address, is told before anything is
// changed.
func (n *Node) resolve(ctx context.Context, m Member) (octopiipb.Member, error) {
	if m.Address == "" {
		return octopiipb.Member{}, errors.New("node: Member.Address is empty; name where the member listens for its peers")
	}
	record := octopiipb.Member{ID: m.ID, Name: m.Name, Address: m.Address, Learner: true, Priority: int32(m.Priority)}
	if m.ID > idMax {
		return record, fmt.Errorf("%w: no member can have the ID %x", ErrUnsafeMembership, m.ID)
	}
	if m.ID == n.id {
		return record, nil
	}
	pctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	peer, err := n.transport.Probe(pctx, m.Address)
	if err != nil {
		if m.ID == 0 {
			return record, fmt.Errorf("node: Member.ID is 0 and %s cannot be asked for it: %w", m.Address, err)
		}
		return record, nil
	}
	return record, n.matches(&record, peer)
}

// matches checks what a new member says of itself against its record.
func (n *Node) matches(record *octopiipb.Member, peer transport.Hello) error {
	if record.ID == 0 {
		record.ID = peer.Node
	}
	if peer.Node != record.ID {
		return fmt.Errorf("node: %s is the address of member %x, not of %x", record.Address, peer.Node, record.ID)
	}
	if err := n.sameCluster(peer); err != nil {
		return err
	}
	if record.Name == "" {
		record.Name = hex(record.ID)
	}
	return nil
}

// sameCluster refuses a member of another cluster.
func (n *Node) sameCluster(peer transport.Hello) error {
	mine := n.cluster.Load()
	if mine != 0 && peer.Cluster != 0 && peer.Cluster != mine {
		return fmt.Errorf("cluster mismatch: member %x at %s belongs to cluster %x, and this is cluster %x; start it with an empty directory to move it",
			peer.Node, peer.Address, peer.Cluster, mine)
	}
	return nil
}
