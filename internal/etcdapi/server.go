// Package etcdapi serves etcd's v3 gRPC API from a Node and its kv.Store, and beside
// it the administration of the cluster.
package etcdapi

import (
	"context"
	"crypto/tls"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

const (
	// requestBytesMax bounds a command, as in etcd.
	requestBytesMax = 3 << 19
	// messageOverheadBytes is what a message may have beyond its command.
	messageOverheadBytes = 512 << 10
	// requestTimeout bounds a request whose client sets no deadline.
	requestTimeout = 7 * time.Second

	// Clients that ping more often than keepaliveMin are sent away.
	keepaliveMin      = 5 * time.Second
	keepaliveInterval = 2 * time.Hour
	keepaliveTimeout  = 20 * time.Second
)

// Node is what the API needs of a *node.Node.
type Node interface {
	Propose(ctx context.Context, data []byte) (node.Result, error)
	ReadBarrier(ctx context.Context, level node.ReadLevel) (uint64, error)
	Status() node.Status
	Change(ctx context.Context, c node.Change) (node.Membership, error)
	Plan(ctx context.Context, c node.Change) (node.Plan, error)
	TransferLeadership(ctx context.Context, to uint64) error
	SetFailoverByTimeout(ctx context.Context, on bool) (node.Membership, error)
}

// Config is what a server needs. The zero value of every field that is not
// named as required is a good choice.
type Config struct {
	// Node replicates Store. Both are required; the caller closes them after the
	// server has stopped.
	Node  Node
	Store *kv.Store
	// TLS for clients. nil: none.
	TLS *tls.Config
	// PeerTLS says how peers are to be named in the list of members.
	PeerTLS bool
	// RequestBytesMax bounds a command. 0: 1.5 MiB.
	RequestBytesMax int
	// RequestTimeout bounds a request whose client sets no deadline. 0: 7 s.
	RequestTimeout time.Duration
}

// server implements those services that there are.
type server struct {
	cfg Config
}

// NewServer returns a server of the whole API: what Octopii does not have
// answers codes.Unimplemented. The caller serves and stops it.
func NewServer(cfg Config) *grpc.Server {
	if cfg.RequestBytesMax == 0 {
		cfg.RequestBytesMax = requestBytesMax
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = requestTimeout
	}
	s := &server{cfg: cfg}
	g := grpc.NewServer(s.options()...)
	pb.RegisterKVServer(g, &kvServer{server: s})
	pb.RegisterClusterServer(g, &clusterServer{server: s})
	pb.RegisterMaintenanceServer(g, &maintenanceServer{server: s})
	adminpb.RegisterAdminServer(g, &adminServer{server: s})
	pb.RegisterWatchServer(g, &pb.UnimplementedWatchServer{})
	pb.RegisterLeaseServer(g, &pb.UnimplementedLeaseServer{})
	pb.RegisterAuthServer(g, &pb.UnimplementedAuthServer{})
	return g
}

func (s *server) options() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.UnaryInterceptor(s.intercept),
		grpc.MaxRecvMsgSize(s.cfg.RequestBytesMax + messageOverheadBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveInterval, Timeout: keepaliveTimeout}),
	}
	if s.cfg.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(s.cfg.TLS)))
	}
	return opts
}

// intercept gives every request a deadline, and makes every error one that
// etcd's clients know.
func (s *server) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if requiresLeader(ctx) && s.cfg.Node.Status().Leader == 0 {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	inner := ctx
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		inner, cancel = context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
	}
	resp, err := handle(inner, req)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	return resp, nil
}

// requiresLeader: the client would rather have an error than wait for one.
func requiresLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(values) > 0 && values[0] == rpctypes.MetadataHasLeader
}

// barrier waits until a read of the store is linearizable.
func (s *server) barrier(ctx context.Context) error {
	_, err := s.cfg.Node.ReadBarrier(ctx, node.Linearizable)
	return err
}

// initialized refuses what would show the empty state of a member that is not
// yet part of a cluster.
func (s *server) initialized() error {
	if s.cfg.Node.Status().Role == node.Uninitialized {
		return node.ErrUninitialized
	}
	return nil
}

// fill completes a header. Its revision is kept if it has one.
func (s *server) fill(h *pb.ResponseHeader) *pb.ResponseHeader {
	if h == nil {
		h = &pb.ResponseHeader{}
	}
	st := s.cfg.Node.Status()
	h.ClusterId, h.MemberId, h.RaftTerm = st.Cluster, st.ID, st.Term
	if h.Revision == 0 {
		h.Revision = s.cfg.Store.Revision()
	}
	return h
}
