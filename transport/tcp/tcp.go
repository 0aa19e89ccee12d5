package tcp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// Transport implements transport.Transport. Close must not be called from
// inside a Handler: it waits for the Handler to return.
type Transport struct {
	config   Config
	tls      *credentials // nil: plain TCP
	log      *zap.Logger
	address  string
	host     uint64 // this process, in the handshakes
	counters counters

	life     lifetime
	registry registry
	acceptor acceptor
	// handler is set by Start and read only after life.ready succeeded or by
	// goroutines that Start or a later call began.
	handler transport.Handler
	// order makes HandleMessages one call at a time for each sender, whose lanes arrive in
	// goroutines of their own. A sender has the place of its ID modulo the length.
	order [64]sync.Mutex

	memory    frameMemory
	strangers strangerLog
}

var _ transport.Transport = (*Transport)(nil)

// New listens at once, so that an address in use is known before anything else
// begins; connections wait for Start.
func New(cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	credentials, err := newCredentials(cfg.TLS, cfg.Logger)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("tcp: listen on %s: %w", cfg.Listen, err)
	}
	address, err := advertised(cfg, listener)
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	t := newTransport(cfg)
	t.tls, t.acceptor.listener, t.address = credentials, listener, address
	if credentials != nil {
		credentials.warnFaults(address)
	}
	return t, nil
}

// newTransport makes one that listens nowhere.
func newTransport(cfg Config) *Transport {
	t := &Transport{config: cfg, log: cfg.Logger, host: rand.Uint64(), strangers: strangerLog{log: cfg.Logger}}
	t.life.started = make(chan struct{})
	t.life.ctx, t.life.end = context.WithCancel(context.Background())
	t.registry = newRegistry(cfg, &t.life)
	t.acceptor = acceptor{t: t, keepAlive: keepAlive(cfg.StallTimeout)}
	t.memory.strangers.max = int64(cfg.FrameBytesMax) + strangerBytes
	t.memory.members.max = memberFrames * int64(cfg.FrameBytesMax)
	return t
}

// keepAlive ends an idle connection whose other side was silent for so long. Of a probe and its
// answer one may be lost, so there are many: on a network that loses a third of its
// packets three in a row are no sign of death.
func keepAlive(silence time.Duration) net.KeepAliveConfig {
	const idle = 2 * time.Second
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: time.Second, Count: max(3, int((silence-idle)/time.Second))}
}

// advertised is Advertise, or the host of Listen with the port that it got: a
// host name stays one, because certificates may name it.
func advertised(cfg Config, listener net.Listener) (string, error) {
	if cfg.Advertise != "" {
		return cfg.Advertise, nil
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return "", fmt.Errorf("tcp: Listen %q is no host:port: %w", cfg.Listen, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("tcp: Listen %q names no host that other members could dial: set Advertise", cfg.Listen)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "", fmt.Errorf("tcp: listen on %s: %w", cfg.Listen, err)
	}
	return net.JoinHostPort(host, port), nil
}

// Address is where other members reach this one.
func (t *Transport) Address() string { return t.address }

// Start begins to accept connections and to call h.
func (t *Transport) Start(h transport.Handler) error {
	return t.life.start(func() {
		t.handler = h
		t.life.wg.Go(t.acceptor.run)
	})
}

// SetPeer makes a member reachable, or moves it.
func (t *Transport) SetPeer(id uint64, address string) { t.registry.setPeer(t, id, address) }

// RemovePeer forgets a member and closes its connections. It does not wait for
// their goroutines.
func (t *Transport) RemovePeer(id uint64) { t.registry.removePeer(id) }

// Hint implements transport.Hinted.
func (t *Transport) Hint(id uint64, address string) {
	if p := t.registry.peer(id); p != nil {
		p.route.mayBeAt(address)
	}
}

// Doubt implements transport.Hinted.
func (t *Transport) Doubt(id uint64) {
	if p := t.registry.peer(id); p != nil {
		p.route.doubt()
	}
}

// Send queues a message for a peer's sender, or for a stranger that has a message
// connection to this member.
func (t *Transport) Send(to uint64, kind transport.Kind, m transport.Message) bool {
	if t.life.closed() {
		return false
	}
	p, back := t.registry.wayTo(to)
	if p != nil {
		return p.enqueue(kind, m)
	}
	return back != nil && back.send(kind, m)
}

// Close ends all connections and waits for all goroutines of the Transport.
func (t *Transport) Close() (err error) {
	if first := t.life.close(); first {
		err = t.acceptor.listener.Close()
	}
	t.registry.close()
	t.life.wg.Wait()
	return err
}
