package main

import (
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

// The member that was asked for something may lose the answer: the change removed it, it
// lost its leader, or it ended. What came of it is asked of the other endpoints then.

const (
	// outcomeTimeout bounds the question what came of a change, to all endpoints together.
	outcomeTimeout = 2 * time.Second
	outcomePoll    = 50 * time.Millisecond
	// clientURLsTimeout bounds what is asked before a change, and is not needed for it.
	clientURLsTimeout = time.Second
)

// isOutcomeLost says whether err leaves open what came of a change: it is no refusal.
func isOutcomeLost(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists, codes.NotFound, codes.ResourceExhausted, codes.Unimplemented:
		return false
	}
	return true
}

// clientURLs returns where the members serve clients, beside the endpoints; nil if nobody
// says it. It is to be asked before a change: the member that is asked may be gone then.
func (o *options) clientURLs(ctx context.Context, c *clientv3.Client) (urls []string) {
	ctx, cancel := context.WithTimeout(ctx, clientURLsTimeout)
	defer cancel()
	resp, err := c.MemberList(ctx)
	if err != nil {
		return nil
	}
	for _, m := range resp.Members {
		for _, u := range m.ClientURLs {
			if !slices.Contains(o.endpoints, u) && !slices.Contains(o.endpoints, hostOf(u)) {
				urls = append(urls, u)
			}
		}
	}
	return urls
}

// elsewhere asks endpoints one by one, until one knows what came of a change. If one says
// that the change is under way, they are asked again.
func (o *options) elsewhere(endpoints []string, ask func(ctx context.Context, c *clientv3.Client, endpoint string) (known, underWay bool)) bool {
	ctx, cancel := context.WithTimeout(context.Background(), outcomeTimeout)
	defer cancel()
	for {
		again := false
		for _, endpoint := range endpoints {
			known, underWay := o.askOne(ctx, endpoint, outcomeTimeout/time.Duration(len(endpoints)), ask)
			if known {
				return true
			}
			again = again || underWay
		}
		if !again {
			return false
		}
		select {
		case <-time.After(outcomePoll):
		case <-ctx.Done():
			return false
		}
	}
}

func (o *options) askOne(ctx context.Context, endpoint string, timeout time.Duration, ask func(ctx context.Context, c *clientv3.Client, endpoint string) (known, underWay bool)) (known, underWay bool) {
	c, err := o.client([]string{endpoint})
	if err != nil {
		return false, false
	}
	defer c.Close()
	// A dead endpoint must not use up the time of the others.
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return ask(ctx, c, endpoint)
}

// outcome returns the answer to a change that is in force by the word of a quorum, nil if
// it is not, or nobody knows.
func (o *options) outcome(endpoints []string, r *adminpb.ChangeMembershipRequest, before *adminpb.MembershipInfo) *adminpb.ChangeMembershipResponse {
	var resp *adminpb.ChangeMembershipResponse
	o.elsewhere(endpoints, func(ctx context.Context, c *clientv3.Client, _ string) (bool, bool) {
		got, err := adminpb.NewAdminClient(c.ActiveConnection()).Membership(ctx, &adminpb.MembershipRequest{})
		if err != nil {
			return false, false
		}
		after := got.Membership
		if after.Joint || !isInForce(r, after) {
			return false, after.Joint
		}
		resp = &adminpb.ChangeMembershipResponse{Before: before, After: after, Member: r.Member.ID}
		if m := changedMember(r, after); m != nil {
			resp.Member = m.ID
		}
		return true, false
	})
	return resp
}

// changedMember returns the member that a change is about; nil if it is not there.
func changedMember(r *adminpb.ChangeMembershipRequest, ms *adminpb.MembershipInfo) *adminpb.MemberInfo {
	for _, m := range ms.Members {
		if m.ID == r.Member.ID || r.Member.ID == 0 && m.Address == r.Member.Address {
			return m
		}
	}
	return nil
}

// isInForce says whether a membership is as a change was to make it.
func isInForce(r *adminpb.ChangeMembershipRequest, ms *adminpb.MembershipInfo) bool {
	m := changedMember(r, ms)
	switch node.Verb(r.Verb) {
	case node.VerbRemove:
		return m == nil
	case node.VerbAddLearner:
		return m != nil
	case node.VerbAddVoter, node.VerbPromote:
		return m != nil && !m.Learner
	case node.VerbDemote:
		return m != nil && m.Learner
	case node.VerbReplace:
		old := changedMember(&adminpb.ChangeMembershipRequest{Member: &adminpb.MemberInfo{ID: r.Old}}, ms)
		return m != nil && !m.Learner && old == nil
	case node.VerbUpdateAddress:
		return m != nil && m.Address == r.Member.Address
	case node.VerbSetPriority:
		return m != nil && m.Priority == r.Member.Priority
	}
	return false
}

// leads says whether a member leads, by the word of an endpoint.
func (o *options) leads(endpoints []string, id uint64) bool {
	return id != 0 && o.elsewhere(endpoints, func(ctx context.Context, c *clientv3.Client, endpoint string) (bool, bool) {
		resp, err := c.Status(ctx, endpoint)
		return err == nil && resp.Leader == id, false
	})
}
