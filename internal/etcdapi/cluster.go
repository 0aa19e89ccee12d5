package etcdapi

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

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
	resp := &pb.MemberListResponse{Header: s.fill(nil)}
	for _, m := range s.cfg.Node.Status().Membership.Members {
		resp.Members = append(resp.Members, &pb.Member{
			ID:         m.ID,
			Name:       m.Name,
			PeerURLs:   []string{scheme + "://" + m.Address},
			ClientURLs: urls[m.ID],
			IsLearner:  m.Learner,
		})
	}
	return resp, nil
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
