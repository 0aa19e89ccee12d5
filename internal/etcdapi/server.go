// Package etcdapi serves etcd's v3 gRPC API from a Node and its kv.Store, and beside
// it the administration of the cluster.
package etcdapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"math"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/proto/adminpb"
)

const (
	// requestBytesMax bounds a command, as in etcd.
	requestBytesMax = 3 << 19
	// messageOverheadBytes is what a message may have beyond its command.
	messageOverheadBytes = 512 << 10
	// requestTimeout bounds a request, as in etcd.
	requestTimeout = 7 * time.Second

	// Clients that ping more often than keepaliveMin are sent away.
	keepaliveMin      = 5 * time.Second
	keepaliveInterval = 2 * time.Hour
	keepaliveTimeout  = 20 * time.Second

	// headerBytesMax bounds the headers of a request, of which gRPC allows 16 MiB.
	headerBytesMax = 64 << 10
	// handshakeTimeout bounds the time until a connection has had its handshakes.
	handshakeTimeout = 15 * time.Second
	// streamsMax bounds the requests of one connection.
	streamsMax = 1000
	// stallTimeout is for how long a client may take nothing of its answers.
	stallTimeout = 30 * time.Second
	// answerBytesMax and answerMemoryPart bound what answers may take in memory: so
	// many bytes, and this part of the memory that there is.
	answerBytesMax   = 1 << 30
	answerMemoryPart = 4
	// incomingBytesMax, incomingMemoryPart and incomingTimeout are the same for requests
	// that are on their way in, and how long that may take.
	incomingBytesMax   = 512 << 20
	incomingMemoryPart = 8
	incomingTimeout    = 10 * time.Second
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
	// HandshakeFailed is told of connections that ended before TLS was agreed on, from
	// several goroutines. nil: nobody is.
	HandshakeFailed func(remote net.Addr, err error)
	// Stats is told of connections and requests. nil: nobody is.
	Stats stats.Handler
	// RequestBytesMax bounds a command. 0: 1.5 MiB.
	RequestBytesMax int
	// RequestTimeout bounds every request, whatever the deadline of its client. 0: 7 s.
	// Changes that are made by the administration take as long as their client waits.
	RequestTimeout time.Duration
	// StreamsMax bounds the requests that are under way on one connection; more of
	// them wait at the client. 0: 1000.
	StreamsMax uint32
	// AnswerBytesMax bounds what answers take in memory in all, from the moment they
	// are read until clients have taken them. 0: a quarter of the memory of this
	// machine or container, of 1 GiB at most.
	AnswerBytesMax int64
	// StallTimeout is for how long a client may take nothing of an answer before its
	// connection is closed. 0: 30 s.
	StallTimeout time.Duration
	// IncomingBytesMax bounds what requests that did not arrive as a whole take in memory
	// in all: the oldest ones give way. 0: an eighth of the memory, of 512 MiB at most.
	IncomingBytesMax int64
	// IncomingTimeout is for how long a request may take to arrive. 0: 10 s.
	IncomingTimeout time.Duration
	// stuck stands for Store.Stuck in tests.
	stuck func() string
}

// orDefaults returns c with all limits set.
func (c Config) orDefaults() Config {
	c.RequestBytesMax = cmp.Or(c.RequestBytesMax, requestBytesMax)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, requestTimeout)
	c.StreamsMax = cmp.Or(c.StreamsMax, streamsMax)
	c.StallTimeout = cmp.Or(c.StallTimeout, stallTimeout)
	c.IncomingTimeout = cmp.Or(c.IncomingTimeout, incomingTimeout)
	if c.IncomingBytesMax == 0 {
		c.IncomingBytesMax = min(incomingBytesMax, memoryBytes()/incomingMemoryPart)
	}
	if c.AnswerBytesMax == 0 {
		c.AnswerBytesMax = min(answerBytesMax, memoryBytes()/answerMemoryPart)
	}
	return c
}

// server implements those services that there are.
type server struct {
	cfg      Config
	answers  *answers
	requests *requests
	// scans are reads, and scanWrites writes, that are about many keys: a write waits for
	// a majority, and no read shall wait for that.
	scans, scanWrites scans
	// largeReads has a token for each large answer that is read or encoded.
	largeReads chan struct{}
}

// NewServer returns a server of the whole API: what Octopii does not have
// answers codes.Unimplemented. The caller serves and stops it.
func NewServer(cfg Config) *grpc.Server {
	_, g := newServer(cfg)
	return g
}

func newServer(cfg Config) (*server, *grpc.Server) {
	cfg = cfg.orDefaults()
	s := &server{
		cfg:      cfg,
		answers:  &answers{bytesMax: cfg.AnswerBytesMax, stallTimeout: cfg.StallTimeout},
		requests: newRequests(cfg.IncomingBytesMax, int64(cfg.RequestBytesMax+messageOverheadBytes), cfg.IncomingTimeout),

		largeReads: make(chan struct{}, largeReadsMax()),
	}
	g := grpc.NewServer(s.options()...)
	pb.RegisterKVServer(g, &kvServer{server: s})
	pb.RegisterClusterServer(g, &clusterServer{server: s})
	pb.RegisterMaintenanceServer(g, &maintenanceServer{server: s})
	adminpb.RegisterAdminServer(g, &adminServer{server: s})
	pb.RegisterWatchServer(g, &pb.UnimplementedWatchServer{})
	pb.RegisterLeaseServer(g, &pb.UnimplementedLeaseServer{})
	pb.RegisterAuthServer(g, &pb.UnimplementedAuthServer{})
	return s, g
}

func (s *server) options() []grpc.ServerOption {
	creds := insecure.NewCredentials()
	if s.cfg.TLS != nil {
		creds = credentials.NewTLS(s.cfg.TLS)
	}
	opts := []grpc.ServerOption{
		grpc.Creds(watched{creds, s.cfg.StallTimeout, s.cfg.HandshakeFailed}),
		grpc.StatsHandler(connections{s.answers, s.requests}),
		grpc.InTapHandle(s.requests.begin),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(s.intercept),
		grpc.MaxConcurrentStreams(s.cfg.StreamsMax),
		grpc.MaxHeaderListSize(headerBytesMax),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxRecvMsgSize(s.cfg.RequestBytesMax + messageOverheadBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveInterval, Timeout: keepaliveTimeout}),
	}
	if s.cfg.Stats != nil {
		opts = append(opts, grpc.StatsHandler(s.cfg.Stats))
	}
	return opts
}

// intercept bounds the time of every request and counts the bytes of its answer. It
// makes every error one that etcd's clients know.
func (s *server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if requiresLeader(ctx) && s.cfg.Node.Status().Leader == 0 {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	inner, cancel := s.bounded(ctx, info)
	defer cancel()
	inner, ticket := s.answers.newTicket(inner)
	resp, err := handle(inner, req)
	if err != nil {
		ticket.release()
		return nil, toStatus(ctx, err)
	}
	if _, ok := resp.(gogoMessage); !ok || !ticket.used() {
		ticket.release()
		return resp, nil
	}
	return &counted{resp, ticket}, nil
}

// bounded ends the context of a request in time, so that its client asks another
// member if this one is cut off. An operator who changes the membership may wait for
// longer, and says so by a deadline.
func (s *server) bounded(ctx context.Context, info *grpc.UnaryServerInfo) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok && slow[info.FullMethod] {
		return context.WithCancel(ctx)
	}
	inner, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	return context.WithValue(inner, clientKey{}, ctx), cancel
}

// slow are the calls that may take as long as a new member needs to catch up.
var slow = map[string]bool{
	"/octopiipb.Admin/ChangeMembership":   true,
	"/octopiipb.Admin/TransferLeadership": true,
}

type clientKey struct{}

// clientContext is the context of a request without the bound on its time.
func clientContext(ctx context.Context) context.Context {
	if client, ok := ctx.Value(clientKey{}).(context.Context); ok {
		return client
	}
	return ctx
}

// requiresLeader: the client would rather have an error than wait for one.
func requiresLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(values) > 0 && values[0] == rpctypes.MetadataHasLeader
}

// stuckReadWait is for how long a linearizable read waits while this member applies nothing for
// want of space: it is answered if it needs nothing of what waits.
const stuckReadWait = 500 * time.Millisecond

// barrier waits until a read of the store is linearizable. While this member applies nothing
// for want of space, a read that needs what is not applied fails soon, with the reason and with
// a code on which clients ask another member.
func (s *server) barrier(ctx context.Context) error {
	if s.stuck() != "" {
		soon, cancel := context.WithTimeout(ctx, stuckReadWait)
		defer cancel()
		_, err := s.cfg.Node.ReadBarrier(soon, node.Linearizable)
		if err == nil || soon.Err() == nil || ctx.Err() != nil {
			return err
		}
		if why := s.stuck(); why != "" {
			return status.Error(codes.Unavailable, "octopii: "+why)
		}
	}
	_, err := s.cfg.Node.ReadBarrier(ctx, node.Linearizable)
	return err
}

// stuck says why nothing is applied here; "": nothing waits for space.
func (s *server) stuck() string {
	if s.cfg.stuck != nil {
		return s.cfg.stuck()
	}
	return s.cfg.Store.Stuck()
}

// initialized refuses what would show the empty state of a member that is not
// yet part of a cluster, or a state for which a member may not vouch.
func (s *server) initialized() error {
	st := s.cfg.Node.Status()
	if st.Role == node.Uninitialized {
		return node.ErrUninitialized
	}
	return st.Suspended
}

// fill completes a header. Its revision is kept if it has one.
func (s *server) fill(h *pb.ResponseHeader) *pb.ResponseHeader {
	if h == nil {
		h = &pb.ResponseHeader{}
	}
	st := s.cfg.Node.Status()
	h.ClusterId, h.MemberId, h.RaftTerm = node.PublicClusterID(st.Cluster), st.ID, st.Term
	if h.Revision == 0 {
		h.Revision = s.cfg.Store.Revision()
	}
	return h
}
