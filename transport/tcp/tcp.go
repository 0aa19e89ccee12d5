package tcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/loglimit"
	"github.com/octopii/octopii/transport"
)

// Transport implements transport.Transport. Close must not be called from
// inside a Handler: it waits for the Handler to return.
type Transport struct {
	config    Config
	tls       *credentials // nil: plain TCP
	log       *zap.Logger
	listener  net.Listener
	address   string
	host      uint64 // this process, in the handshakes
	keepAlive net.KeepAliveConfig
	counters  counters

	// life ends with Close. Everything that waits on behalf of the Transport
	// itself, rather than of a caller, waits under it.
	life context.Context
	end  context.CancelFunc
	// wg counts every goroutine of the Transport, and callers while they shake
	// hands. It grows only from goroutines
	// that it counts, or under mu while closed is false.
	wg sync.WaitGroup

	// handler is set by Start and read only after ready succeeded or by
	// goroutines that Start or a later call began.
	handler transport.Handler

	mu      sync.RWMutex
	started bool
	closed  bool
	peers   map[uint64]*peer
	// conns holds every open connection.
	conns map[*conn]struct{}
	// Of those that came in, shaking have not shaken hands yet, shakingPeers of them come
	// from the machine of a peer, strangers have shaken hands and are of no peer, and
	// established counts those of peers.
	shaking, shakingPeers, strangers place
	established                      int
	// flows is the newest incoming message connection of each sender and lane.
	flows map[flow]*conn

	// strangerBudget and memberBudget bound the memory of frames that are being read.
	strangerBudget, memberBudget budget
	strangerWarnings             loglimit.Limit
	// order makes HandleMessages one call at a time for each sender, whose lanes arrive in
	// goroutines of their own. A sender has the place of its ID modulo the length.
	order [64]sync.Mutex
}

// flow names an incoming message connection.
type flow struct {
	id   uint64
	lane uint32
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
	life, end := context.WithCancel(context.Background())
	t := newTransport(cfg, life, end)
	t.tls, t.listener, t.address = credentials, listener, address
	if credentials != nil {
		credentials.warnFaults(address)
	}
	return t, nil
}

// newTransport makes one that listens nowhere.
func newTransport(cfg Config, life context.Context, end context.CancelFunc) *Transport {
	t := &Transport{
		config:    cfg,
		log:       cfg.Logger,
		host:      rand.Uint64(),
		keepAlive: keepAlive(cfg.StallTimeout),
		life:      life,
		end:       end,
		peers:     make(map[uint64]*peer),
		conns:     make(map[*conn]struct{}),
		flows:     make(map[flow]*conn),
	}
	t.strangerBudget.max = int64(cfg.FrameBytesMax) + strangerBytes
	t.memberBudget.max = memberFrames * int64(cfg.FrameBytesMax)
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return transport.ErrClosed
	}
	if t.started {
		return errors.New("tcp: Start was called before: call it once")
	}
	t.started = true
	t.handler = h
	t.wg.Go(t.acceptLoop)
	for _, p := range t.peers {
		t.wg.Go(p.run)
	}
	return nil
}

// ready is nil between Start and Close.
func (t *Transport) ready() error {
	err := t.enter()
	if err == nil {
		t.wg.Done()
	}
	return err
}

// enter has Close wait until the caller calls t.wg.Done. It fails unless the
// Transport is between Start and Close.
func (t *Transport) enter() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return transport.ErrClosed
	}
	if !t.started {
		return errors.New("tcp: not started: call Start first")
	}
	t.wg.Add(1)
	return nil
}

// SetPeer makes a member reachable, or moves it.
func (t *Transport) SetPeer(id uint64, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if p := t.peers[id]; p != nil {
		p.move(address)
		return
	}
	p := newPeer(t, id, address)
	// Whom a member knows when it starts it calls at once: what it has to say, such as that
	// its place is taken, should not wait for the first message.
	p.wanted = !t.started
	t.peers[id] = p
	for f, c := range t.flows { // it was a stranger until now
		if f.id == id {
			t.promote(c)
		}
	}
	if t.started {
		t.wg.Go(p.run)
	}
}

// Hint implements transport.Hinted.
func (t *Transport) Hint(id uint64, address string) {
	if p := t.peer(id); p != nil {
		p.mayBeAt(address)
	}
}

// Doubt implements transport.Hinted.
func (t *Transport) Doubt(id uint64) {
	if p := t.peer(id); p != nil {
		p.doubt()
	}
}

func (t *Transport) peer(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

// RemovePeer forgets a member and closes its connections. It does not wait for
// their goroutines.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	p := t.peers[id]
	delete(t.peers, id)
	var doomed []*conn
	for c := range t.conns {
		if id != 0 && c.peer == id {
			c.removed = true
			doomed = append(doomed, c)
		}
	}
	t.mu.Unlock()
	if p != nil {
		p.remove()
	}
	for _, c := range doomed {
		c.close()
	}
}

// Send queues a message for a peer's sender, or for a stranger that has a message
// connection to this member.
func (t *Transport) Send(to uint64, kind transport.Kind, m transport.Message) bool {
	t.mu.RLock()
	p := t.peers[to]
	closed := t.closed
	back := t.flows[flow{to, 0}]
	t.mu.RUnlock()
	if closed {
		return false
	}
	if p != nil {
		return p.enqueue(kind, m)
	}
	if back != nil && back.guest != nil {
		return back.guest.send(kind, m)
	}
	return false
}

// addressOf returns where a peer was last said to be.
func (t *Transport) addressOf(id uint64) (string, error) {
	p := t.peer(id)
	if p == nil {
		return "", fmt.Errorf("tcp: member %x: %w", id, transport.ErrUnknownPeer)
	}
	return p.found(), nil
}

// Close ends all connections and waits for all goroutines of the Transport.
func (t *Transport) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	doomed := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		doomed = append(doomed, c)
	}
	peers := t.peers
	t.peers = nil
	t.mu.Unlock()

	t.end()
	var err error
	if first {
		err = t.listener.Close()
	}
	for _, p := range peers {
		p.remove()
	}
	for _, c := range doomed {
		c.close()
	}
	t.wg.Wait()
	return err
}

// scope is ctx, ended by Close as well.
func (t *Transport) scope(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(t.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// explain turns the error of an operation under ctx into what its caller gets:
// what the other side said, else that the Transport was closed, else that ctx
// ended, else err.
func (t *Transport) explain(ctx context.Context, operation string, err error) error {
	var remote *transport.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		return remote
	case t.life.Err() != nil:
		return transport.ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return fmt.Errorf("tcp: %s: %w", operation, err)
}
