package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/octopii/octopii/internal/etcdapi"
	"github.com/octopii/octopii/internal/kv"
	"github.com/octopii/octopii/internal/loglimit"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/node/comeback"
	"github.com/octopii/octopii/transport/tcp"
)

const (
	// drainTimeout bounds how long requests that are under way may take at the
	// end.
	drainTimeout = 3 * time.Second
	// promotionTimeout is for how long a member that joins is not ready because
	// it does not vote yet. votePoll is how often it looks.
	promotionTimeout = 15 * time.Second
	// promotionSoon is the same for one that was part of the cluster before it started: it may
	// have ended before it was promoted.
	promotionSoon = 3 * time.Second
	votePoll      = 20 * time.Millisecond
	// advertisedDelay is when a member first looks whether it answers where it says, and
	// advertisedEvery how often it does until it is so; advertisedTimeout bounds each time.
	advertisedDelay   = 3 * time.Second
	advertisedEvery   = 30 * time.Second
	advertisedTimeout = 5 * time.Second
	// These bound what a client of the metrics address may take.
	httpReadTimeout    = 5 * time.Second
	httpWriteTimeout   = 30 * time.Second
	httpIdleTimeout    = time.Minute
	httpHeaderBytesMax = 16 << 10
	// failuresMax is how many parts of a member may end by themselves: two servers, the
	// database, and a comparison of it.
	failuresMax = 4
)

// member is one running member with everything it serves.
type member struct {
	cfg config
	lg  *zap.Logger
	// back has it come back in another life, and from is how this one begins.
	back *comeback.Member
	from comeback.Origin

	registry *prometheus.Registry
	store    *kv.Store
	node     *node.Node
	peers    *tcp.Transport // node closes it

	// clientAddr and peerAddr are where others reach this member.
	clientAddr, peerAddr string
	// ready is closed when this member serves linearizable reads and is known to
	// its cluster.
	ready chan struct{}
	// failed gets the error of a server that ended by itself. It has room for
	// all of them.
	failed chan error

	// cancel ends the helpers, which wg counts.
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// closers undo, last one first, what startMember did.
	closers []func() error
}

// startMember starts everything. cfg was checked, and the caller has the lock of its data
// directory. Being ready comes later.
func startMember(cfg config, lg *zap.Logger, back *comeback.Member, from comeback.Origin) (*member, error) {
	m := &member{cfg: cfg, lg: lg, back: back, from: from, ready: make(chan struct{}), failed: make(chan error, failuresMax)}
	if err := m.start(); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *member) start() error {
	conns, err := clientConns(m.cfg.ClientConnsMax)
	if err != nil {
		return err
	}
	var certs *certificates
	if m.cfg.ClientCertFile != "" {
		if certs, err = clientTLS(m.cfg, m.lg); err != nil {
			return err
		}
	}
	clients, err := m.listen("client-addr", m.cfg.ClientAddr)
	if err != nil {
		return err
	}
	m.clientAddr = advertise(m.cfg.AdvertiseClientAddr, m.cfg.ClientAddr, clients)
	var metrics net.Listener
	if m.cfg.MetricsAddr != "" {
		if metrics, err = m.listen("metrics-addr", m.cfg.MetricsAddr); err != nil {
			return err
		}
	}
	if err := m.startNode(); err != nil {
		return err
	}
	if metrics != nil {
		m.serveHTTP(capConns(metrics, "the metrics address", metricsConnsMax, m.lg))
	}
	m.serveClients(capConns(clients, "clients", conns, m.lg), certs)
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.publish(ctx) })
	m.wg.Go(func() { m.back.Keep(ctx, m.node) })
	m.wg.Go(func() { m.handOverWhenFull(ctx) })
	m.wg.Go(func() { m.watchDatabase(ctx) })
	if m.cfg.AdvertisePeerAddr != "" {
		m.wg.Go(func() { m.checkAdvertised(ctx) })
	}
	if m.cfg.ScrubInterval > 0 {
		m.wg.Go(func() { m.scrub(ctx) })
		m.wg.Go(func() { m.compare(ctx) })
	}
	return nil
}

// onClose adds what close does before everything that was added so far.
func (m *member) onClose(f func() error) { m.closers = append(m.closers, f) }

// close ends everything. A disk that does not answer ends it early, with
// node.ErrDiskStalled: what is left would wait for it, and ends with the process.
func (m *member) close() error {
	if m.cancel != nil {
		m.cancel()
	}
	var err error
	for _, f := range slices.Backward(m.closers) {
		err = errors.Join(err, f())
		if errors.Is(err, node.ErrDiskStalled) {
			return err
		}
	}
	m.wg.Wait()
	return err
}

func (m *member) listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, listenError(flag, addr, err)
	}
	m.onClose(func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // its server closed it
	})
	return l, nil
}

// listenError names the flag that is to blame, and what to change.
func listenError(flag, addr string, err error) error {
	var network *net.OpError
	if !errors.As(err, &network) {
		return err // it says what it is about
	}
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("--%s %s: the host %s cannot be resolved (%s); correct the name or the name server, or use an IP address of this machine", flag, addr, name.Name, name.Err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("--%s %s: the address is in use; stop the process that uses it, or choose another", flag, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("--%s %s: this machine has no such address; use one that it has, or 0.0.0.0 together with --advertise-%s", flag, addr, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("--%s %s: this user may not listen there; choose a port above 1023, or give the process CAP_NET_BIND_SERVICE", flag, addr)
	}
	return fmt.Errorf("--%s %s: %w", flag, addr, network)
}

// peerError is listenError for the peer address, or names the flags of the certificates.
func peerError(cfg config, err error) error {
	var network *net.OpError
	if cfg.PeerCertFile != "" && !errors.As(err, &network) {
		return fmt.Errorf("--peer-cert-file, --peer-key-file, --peer-ca-file: %w; name PEM files that this user may read", err)
	}
	return listenError("peer-addr", cfg.PeerAddr, err)
}

// advertise is where others dial: as was asked for, or the host that was listened
// on with the port that was got.
func advertise(asked, listened string, l net.Listener) string {
	if asked != "" {
		return asked
	}
	host, _, _ := net.SplitHostPort(listened)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port)
}

// storeLogger leaves out what etcd's parts have to say when nothing is wrong,
// unless everything is asked for.
func storeLogger(lg *zap.Logger) *zap.Logger {
	lg = lg.Named("kv")
	if lg.Core().Enabled(zap.DebugLevel) || !lg.Core().Enabled(zap.InfoLevel) {
		return lg
	}
	return lg.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
}

func (m *member) startNode() error {
	store, err := kv.OpenWith(m.cfg.storeDir(), storeLogger(m.lg), kv.Options{ReserveBytes: m.cfg.DiskReserve << 20})
	if err != nil {
		return err
	}
	m.store = store
	m.onClose(store.Close)
	peers, err := tcp.New(peerConfig(m.cfg, m.lg))
	if err != nil {
		return peerError(m.cfg, err)
	}
	m.peers, m.peerAddr = peers, peers.Address()
	m.registry = newRegistry()
	nodeConfig := node.Config{
		Name:         m.cfg.Name,
		Dir:          m.cfg.nodeDir(),
		StateMachine: store,
		Transport:    peers,

		FoundAfterTicks: m.cfg.foundAfterTicks(),
		TickInterval:    tickInterval,
		NotOf:           parseID(m.cfg.NotOf),

		FailoverByTimeout: m.cfg.FailoverByTimeout,

		Events:     node.Events{MembershipChanged: m.back.MembershipChanged},
		WAL:        walBackend(m.cfg.WAL, m.lg),
		Logger:     m.lg.Named("node"),
		Metrics:    m.registry,
		StallLimit: m.cfg.stallLimit(),
		AcceptLoss: m.cfg.AcceptLoss,
	}
	m.from.Fill(&nodeConfig)
	if m.node, err = node.Start(nodeConfig); err != nil {
		return walError(m.cfg, err) // it closed the transport
	}
	m.onClose(m.node.Close)
	m.onClose(func() error { store.StopWaiting(); return nil })
	return nil
}

// checkAdvertised says when this member does not answer at --advertise-peer-addr: those who
// notice otherwise are the others, and their logs do not know what was meant. Some networks
// do not lead a host's own packets back to it, so it warns only.
func (m *member) checkAdvertised(ctx context.Context) {
	warned := false
	for wait := advertisedDelay; sleep(ctx, wait); wait = advertisedEvery {
		err := m.answersAt(ctx, m.cfg.AdvertisePeerAddr)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && warned:
			m.lg.Info("this member answers at --advertise-peer-addr now", zap.String("address", m.cfg.AdvertisePeerAddr))
			return
		case err == nil:
			return
		case !warned:
			m.lg.Warn("--advertise-peer-addr: this member does not reach itself there, and the others cannot either unless their way is another one; correct it, or the network",
				zap.String("address", m.cfg.AdvertisePeerAddr), zap.Error(err))
			warned = true
		}
	}
}

// answersAt asks who is at an address of the peers' network, and fails unless it is this
// member.
func (m *member) answersAt(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, advertisedTimeout)
	defer cancel()
	who, err := m.peers.Probe(ctx, address)
	if err != nil {
		return err
	}
	if self := m.node.Status().ID; who.Node != self {
		return fmt.Errorf("member %x answers there, and this one is %x", who.Node, self)
	}
	return nil
}

func peerConfig(cfg config, lg *zap.Logger) tcp.Config {
	limit, err := filesMax()
	if err != nil {
		limit = 0 // clientConns says so, and nothing starts
	}
	strangers := strangerConns(limit)
	return tcp.Config{
		HandshakesMax: 2 * strangers, StrangersMax: strangers,
		Listen:    cfg.PeerAddr,
		Advertise: cfg.AdvertisePeerAddr,
		TLS:       tcp.TLS{CertFile: cfg.PeerCertFile, KeyFile: cfg.PeerKeyFile, CAFile: cfg.PeerCAFile, AllowedSANs: cfg.PeerAllowedSANs},
		Logger:    lg.Named("transport"),
	}
}

// serveClients answers clients from now on; until this member is part of a
// cluster, with an error that sends them to another one.
func (m *member) serveClients(l *cappedListener, certs *certificates) {
	var clientConfig *tls.Config
	failed := &handshakes{lg: m.lg, limit: loglimit.Limit{Every: refusalsEvery}}
	if certs != nil {
		clientConfig, failed.own = certs.config(), certs.fault
	}
	server := etcdapi.NewServer(etcdapi.Config{
		Node:  m.node,
		Store: m.store,
		TLS:   clientConfig,

		HandshakeFailed: failed.failed,

		PeerTLS: m.cfg.PeerCertFile != "",
		Stats:   requestCounter{l},

		RequestTimeout: m.cfg.RequestTimeout,
		StreamsMax:     m.cfg.MaxConcurrentStreams,
		AnswerBytesMax: m.cfg.AnswerBytesMax,
		StallTimeout:   m.cfg.AnswerStallTimeout,

		IncomingBytesMax: m.cfg.IncomingBytesMax,
		IncomingTimeout:  m.cfg.IncomingTimeout,
	})
	m.wg.Go(func() {
		if err := server.Serve(l); err != nil {
			m.failed <- fmt.Errorf("serve clients: %w", err)
		}
	})
	m.onClose(func() error { drain(server); return nil })
}

// drain lets requests end that are under way, for a while.
func drain(server *grpc.Server) {
	timer := time.AfterFunc(drainTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

func (m *member) serveHTTP(l net.Listener) {
	server := &http.Server{
		Handler:        m.handler(),
		ReadTimeout:    httpReadTimeout,
		WriteTimeout:   httpWriteTimeout,
		IdleTimeout:    httpIdleTimeout,
		MaxHeaderBytes: httpHeaderBytesMax,
	}
	m.wg.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			m.failed <- fmt.Errorf("serve metrics: %w", err)
		}
	})
	m.onClose(server.Close)
}

// publish makes this member's client URL known to its cluster, and says that it
// is ready.
func (m *member) publish(ctx context.Context) {
	joined, err := m.waitInitialized(ctx)
	if err != nil {
		return
	}
	scheme := "http://"
	if m.cfg.ClientCertFile != "" {
		scheme = "https://"
	}
	id := m.node.Status().ID
	if err := etcdapi.Publish(ctx, m.node, m.store, id, []string{scheme + m.clientAddr}); err != nil {
		return // ctx ended
	}
	limit := promotionTimeout
	if !joined {
		limit = promotionSoon
	}
	if !m.waitVote(ctx, limit) {
		return
	}
	close(m.ready) // before the line: who waits for that asks /readyz next
	m.lg.Info("ready to serve clients",
		zap.String("name", m.node.Status().Name),
		zap.String("member", fmt.Sprintf("%x", id)),
		zap.String("cluster", fmt.Sprintf("%x", node.PublicClusterID(m.node.Status().Cluster))),
		zap.String("client-addr", m.clientAddr),
		zap.String("peer-addr", m.peerAddr))
}

// waitInitialized waits until this member is part of a cluster. joined is false
// if it was so from the start.
func (m *member) waitInitialized(ctx context.Context) (joined bool, err error) {
	select {
	case <-m.node.Initialized():
		return false, nil
	default:
	}
	select {
	case <-m.node.Initialized():
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// waitVote waits until this member votes, so that "all are ready" means that
// any minority of them may fail. Whoever is a learner for good is ready without, when the
// limit is over. It returns false when ctx ended first.
func (m *member) waitVote(ctx context.Context, limit time.Duration) bool {
	enough := time.After(limit)
	poll := time.NewTicker(votePoll)
	defer poll.Stop()
	for {
		st := m.node.Status()
		if self, ok := st.Membership.Member(st.ID); ok && !self.Learner {
			return true
		}
		select {
		case <-poll.C:
		case <-enough:
			m.lg.Warn("this member does not vote yet")
			return true
		case <-ctx.Done():
			return false
		}
	}
}
