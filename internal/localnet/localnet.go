// Package localnet is transports over the loopback interface that go by names, and whose
// connections a test can break and cut. What a network loses, delays and doubles is the
// simulator's.
package localnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/tcp"
)

// Network connects the transports that it makes. Its methods may be called from any
// goroutine.
type Network struct {
	mu sync.Mutex
	// ports are where those listen that were made last under each name.
	ports map[string]string
	cuts  map[pair]bool
	conns map[*conn]bool
}

// pair are two names, in their order.
type pair [2]string

func pairOf(a, b string) pair { return pair{min(a, b), max(a, b)} }

// New returns a network without cuts.
func New() *Network {
	return &Network{ports: map[string]string{}, cuts: map[pair]bool{}, conns: map[*conn]bool{}}
}

// Transport returns a transport that others reach by name. A name may be used again when
// the transport before is closed: so a member restarts.
func (n *Network) Transport(name string) transport.Transport {
	t, err := tcp.New(tcp.Config{Listen: "127.0.0.1:0", Dial: func(ctx context.Context, to string) (net.Conn, error) { return n.dial(ctx, name, to) }})
	if err != nil {
		panic(err) // the loopback interface has no port
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[name] = t.Address()
	return named{t, name}
}

// Lead makes a name lead to another one's transport, as a proxy does, until a transport is made
// under it.
func (n *Network) Lead(name, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[name] = n.ports[to]
}

// named is a transport that says its name for an address.
type named struct {
	*tcp.Transport
	name string
}

func (t named) Address() string { return t.name }

// dial connects two names.
func (n *Network) dial(ctx context.Context, from, to string) (net.Conn, error) {
	n.mu.Lock()
	port, cut := n.ports[to], n.cuts[pairOf(from, to)]
	n.mu.Unlock()
	if cut {
		return nil, fmt.Errorf("%s is cut off from %s: %w", to, from, syscall.ETIMEDOUT)
	}
	if port == "" {
		return nil, fmt.Errorf("nobody listens at %s: %w", to, syscall.ECONNREFUSED)
	}
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, n: n, ends: pairOf(from, to)}
	n.mu.Lock()
	n.conns[c] = true
	n.mu.Unlock()
	return c, nil
}

// conn is a connection that the network knows.
type conn struct {
	net.Conn
	n    *Network
	ends pair
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return c.Conn.Close()
}

// Break ends the connections between two names. They may connect again.
func (n *Network) Break(a, b string) {
	var ended []*conn
	n.mu.Lock()
	for c := range n.conns {
		if c.ends == pairOf(a, b) {
			ended = append(ended, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ended {
		_ = c.Close()
	}
}

// Partition breaks the connections between two names, and lets them make none.
func (n *Network) Partition(a, b string) {
	n.mu.Lock()
	n.cuts[pairOf(a, b)] = true
	n.mu.Unlock()
	n.Break(a, b)
}

// Heal ends every partition.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}
