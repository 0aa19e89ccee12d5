package etcdapi

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

// adminServer is octopiipb.Admin: what etcd's services have no words for.
type adminServer struct {
	*server
}

func (s *adminServer) Membership(ctx context.Context, _ *adminpb.MembershipRequest) (*adminpb.MembershipResponse, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	ms, err := s.membership(ctx)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	return &adminpb.MembershipResponse{Membership: membershipInfo(ms)}, nil
}

func (s *adminServer) ChangeMembership(ctx context.Context, r *adminpb.ChangeMembershipRequest) (*adminpb.ChangeMembershipResponse, error) {
	c, err := readChange(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := inTime(ctx)
	defer cancel()
	before, err := s.membership(ctx)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	resp := &adminpb.ChangeMembershipResponse{Before: membershipInfo(before), Member: c.Member.ID}
	after, err := s.make(ctx, c, before, r.DryRun)
	if err != nil {
		err = s.failed(ctx, err)
		if !r.DryRun || !refusal(err) {
			return nil, err
		}
		resp.Refused = status.Convert(err).Message()
		return resp, nil
	}
	resp.After, resp.Warning = membershipInfo(after), warnUnreachable(ctx, c)
	if resp.Member == 0 {
		m, ok := added(c.Member.Address, before, after)
		if !ok { // it was there before
			m, _ = at(c.Member.Address, after)
		}
		resp.Member = m.ID
	}
	return resp, nil
}

// make makes a change, or only plans it, and returns what it leads to.
func (s *adminServer) make(ctx context.Context, c node.Change, before node.Membership, dryRun bool) (node.Membership, error) {
	if _, ok := before.Member(c.Member.ID); !ok && needs[c.Verb].id {
		return before, status.Errorf(codes.NotFound, "octopii: there is no member %x", c.Member.ID)
	}
	if !dryRun {
		return s.cfg.Node.Change(ctx, c)
	}
	plan, err := s.cfg.Node.Plan(ctx, c)
	return plan.After, err
}

// dialTimeout bounds the look at an address that a change names.
const dialTimeout = time.Second

// warnUnreachable says that nobody listens at the address that a change names: it is no
// error, as a machine may be moved before it starts. "": somebody does, or it names none.
func warnUnreachable(ctx context.Context, c node.Change) string {
	if !needs[c.Verb].address {
		return ""
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", c.Member.Address)
	if err != nil {
		return fmt.Sprintf("nobody answers at %s (%v); start the member there, or correct its address with octopiictl member update", c.Member.Address, err)
	}
	_ = conn.Close() // nothing was sent
	return ""
}

func (s *adminServer) TransferLeadership(ctx context.Context, r *adminpb.TransferLeadershipRequest) (*adminpb.TransferLeadershipResponse, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	ms, err := s.membership(ctx)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	target, ok := ms.Member(r.To)
	switch {
	case r.To != 0 && !ok:
		return nil, status.Errorf(codes.NotFound, "octopii: there is no member %x", r.To)
	case r.To == 0 && len(ms.Voters()) < 2:
		return nil, status.Error(codes.FailedPrecondition, "octopii: there is no other voter that could lead")
	case target.Learner:
		return nil, status.Errorf(codes.FailedPrecondition, "octopii: member %x is a learner; promote it first", r.To)
	}
	if err := s.cfg.Node.TransferLeadership(ctx, r.To); err != nil {
		return nil, s.failed(ctx, err)
	}
	st := s.cfg.Node.Status()
	leader, _ := st.Membership.Member(st.Leader)
	return &adminpb.TransferLeadershipResponse{Leader: memberInfo(leader)}, nil
}

func (s *adminServer) SetFailover(ctx context.Context, r *adminpb.SetFailoverRequest) (*adminpb.SetFailoverResponse, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	ms, err := s.cfg.Node.SetFailoverByTimeout(ctx, r.ByTimeout)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	return &adminpb.SetFailoverResponse{Membership: membershipInfo(ms)}, nil
}

// needs says what a verb cannot do without: the ID of a member that is there, an
// address, whom to replace.
var needs = map[node.Verb]struct{ id, address, old bool }{
	node.VerbAddLearner:    {address: true},
	node.VerbAddVoter:      {address: true},
	node.VerbReplace:       {address: true, old: true},
	node.VerbPromote:       {id: true},
	node.VerbDemote:        {id: true},
	node.VerbRemove:        {id: true},
	node.VerbSetPriority:   {id: true},
	node.VerbUpdateAddress: {id: true, address: true},
}

// readChange reads a request that says all that its verb needs.
func readChange(r *adminpb.ChangeMembershipRequest) (node.Change, error) {
	m := r.Member
	if m == nil {
		m = &adminpb.MemberInfo{}
	}
	c := node.Change{
		Verb:   node.Verb(r.Verb),
		Member: node.Member{ID: m.ID, Name: m.Name, Address: m.Address, Priority: int(m.Priority)},
		Old:    r.Old,
	}
	need, ok := needs[c.Verb]
	switch {
	case !ok:
		return c, status.Errorf(codes.InvalidArgument, "octopii: there is no verb %q", r.Verb)
	case need.id && m.ID == 0:
		return c, status.Errorf(codes.InvalidArgument, "octopii: %s of which member? Its ID is missing", r.Verb)
	case need.old && r.Old == 0:
		return c, status.Errorf(codes.InvalidArgument, "octopii: %s which member? The ID of the old one is missing", r.Verb)
	}
	if need.address {
		if err := checkAddress(m.Address); err != nil {
			return c, status.Errorf(codes.InvalidArgument, "octopii: %s: %v", r.Verb, err)
		}
	}
	return c, nil
}

// refusal says whether an answer is one to the change, and not one of a cluster that
// cannot answer.
func refusal(err error) bool {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.AlreadyExists, codes.NotFound:
		return true
	}
	return false
}

func membershipInfo(ms node.Membership) *adminpb.MembershipInfo {
	info := &adminpb.MembershipInfo{
		Index:  ms.Index,
		Voters: uint32(len(ms.Voters())),
		Quorum: uint32(ms.Quorum()),
		Joint:  ms.Joint,

		FailoverByTimeout: ms.FailoverByTimeout,
	}
	for _, m := range ms.Members {
		info.Members = append(info.Members, memberInfo(m))
	}
	return info
}

func memberInfo(m node.Member) *adminpb.MemberInfo {
	return &adminpb.MemberInfo{ID: m.ID, Name: m.Name, Address: m.Address, Learner: m.Learner, Priority: int32(m.Priority)}
}
