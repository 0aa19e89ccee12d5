package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
)

type clusterServer struct {
	pb.UnimplementedClusterServer
	*server
}

func (s *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if err := s.readable(ctx, !r.Linearizable); err != nil {
		return nil, err
	}
	members, err := s.members(s.cfg.Node.Status().Membership)
	if err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: s.fill(nil), Members: members}, nil
}

// MemberAdd adds whoever listens at a peer URL. Nothing is known of a member that does
// not run yet: here members say who they are, and mostly add themselves.
func (s *clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	address, err := peerAddress(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	ctx, cancel := inTime(ctx)
	defer cancel()
	before, err := s.membership(ctx)
	if err != nil {
		return nil, err
	}
	if _, taken := at(address, before); taken {
		return nil, rpctypes.ErrGRPCPeerURLExist
	}
	c := node.Change{Verb: node.VerbAddVoter, Member: node.Member{Address: address}}
	if r.IsLearner {
		c.Verb = node.VerbAddLearner
	}
	after, err := s.cfg.Node.Change(ctx, c)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	m, ok := added(address, before, after)
	if !ok { // it is known by another address
		return nil, rpctypes.ErrGRPCPeerURLExist
	}
	members, err := s.members(after)
	if err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{
		Header:  s.fill(nil),
		Member:  members[slices.Index(after.Members, m)],
		Members: members,
	}, nil
}

func (s *clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	c := node.Change{Verb: node.VerbRemove, Member: node.Member{ID: r.ID}}
	members, err := s.change(ctx, c, nil, rpctypes.ErrGRPCMemberNotEnoughStarted)
	if err != nil {
		return nil, err
	}
	return &pb.MemberRemoveResponse{Header: s.fill(nil), Members: members}, nil
}

func (s *clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	c := node.Change{Verb: node.VerbPromote, Member: node.Member{ID: r.ID}}
	isLearner := func(m node.Member, _ node.Membership) error {
		if !m.Learner {
			return rpctypes.ErrGRPCMemberNotLearner
		}
		return nil
	}
	members, err := s.change(ctx, c, isLearner, rpctypes.ErrGRPCLearnerNotReady)
	if err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: s.fill(nil), Members: members}, nil
}

func (s *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	address, err := peerAddress(r.PeerURLs)
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	c := node.Change{Verb: node.VerbUpdateAddress, Member: node.Member{ID: r.ID, Address: address}}
	isFree := func(m node.Member, ms node.Membership) error {
		if other, taken := at(address, ms); taken && other.ID != m.ID {
			return rpctypes.ErrGRPCPeerURLExist
		}
		return nil
	}
	members, err := s.change(ctx, c, isFree, nil)
	if err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: s.fill(nil), Members: members}, nil
}

// change makes a change of a member that is there, if check lets it, and returns the
// members after it. unsafe is etcd's word for ErrUnsafeMembership.
func (s *clusterServer) change(ctx context.Context, c node.Change, check func(node.Member, node.Membership) error, unsafe error) ([]*pb.Member, error) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	before, err := s.membership(ctx)
	if err != nil {
		return nil, err
	}
	m, ok := before.Member(c.Member.ID)
	if !ok {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	if check != nil {
		if err := check(m, before); err != nil {
			return nil, err
		}
	}
	after, err := s.cfg.Node.Change(ctx, c)
	switch {
	case err == nil:
		return s.members(after)
	case errors.Is(err, node.ErrUnsafeMembership) && unsafe != nil:
		return nil, unsafe
	}
	return nil, s.failed(ctx, err)
}

// members are etcd's words for who belongs to a cluster, in the same order.
func (s *server) members(ms node.Membership) ([]*pb.Member, error) {
	published, err := s.cfg.Store.ClientURLs()
	if err != nil {
		return nil, err
	}
	urls := make(map[uint64][]string, len(published))
	for _, m := range published {
		urls[m.ID] = m.ClientURLs
	}
	scheme := "http"
	if s.cfg.PeerTLS {
		scheme = "https"
	}
	var members []*pb.Member
	for _, m := range ms.Members {
		members = append(members, &pb.Member{
			ID:         m.ID,
			Name:       m.Name,
			PeerURLs:   []string{scheme + "://" + m.Address},
			ClientURLs: urls[m.ID],
			IsLearner:  m.Learner,
		})
	}
	return members, nil
}

// Publish makes urls known to the cluster as where clients reach member id, and
// returns when this member can answer a linearizable read and shows them. It
// writes only what is not known yet.
func Publish(ctx context.Context, n Node, store *kv.Store, id uint64, urls []string) error {
	command, err := kv.MemberCommand(&pb.Member{ID: id, ClientURLs: urls})
	if err != nil {
		return err
	}
	for pause := retryPauseMin; ; pause = min(2*pause, retryPauseMax) {
		err := publish(ctx, n, store, id, urls, command)
		if err == nil {
			return nil
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("etcdapi: publish client URLs: %w", err)
		}
	}
}

func publish(ctx context.Context, n Node, store *kv.Store, id uint64, urls []string, command []byte) error {
	// What a peer's snapshot or the log has of it must have arrived.
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := n.ReadBarrier(ctx, node.Linearizable); err != nil {
		return err
	}
	published, err := store.ClientURLs()
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(published, func(m *pb.Member) bool {
		return m.ID == id && slices.Equal(m.ClientURLs, urls)
	})
	if known {
		return nil
	}
	result, err := propose(ctx, n, command)
	if err != nil {
		return err
	}
	return kv.DecodeResult(result.Data, nil)
}
