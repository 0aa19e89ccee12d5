// Package memnet is a network inside one process, for tests. It loses,
// duplicates and delays messages by a seed, and can be cut between any two
// addresses.
package memnet

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/octopii/octopii/transport"
)

// Faults are what a link does to the messages of Send, each a probability from
// 0 to 1 drawn for every message. Snapshots and calls suffer only from cuts.
type Faults struct {
	Drop      float64
	Duplicate float64
	// Delay holds a message back for up to DelayMax, so that later ones overtake
	// it.
	Delay float64
	// DelayMax of 0 is 10 ms.
	DelayMax time.Duration
}

// Network connects the transports that it makes. All methods may be called from
// any goroutine.
type Network struct {
	seed uint64

	mu sync.Mutex
	// listening holds the transports between Start and Close.
	listening map[string]*endpoint
	cuts      map[direction]bool
	faults    Faults
	// links overrides faults.
	links map[direction]Faults
}

// direction is one of the two between a pair of addresses.
type direction struct{ from, to string }

// New returns a network without faults. Every link draws from a source of its
// own, seeded by seed and by its two ends, so that what befalls the n-th message
// of a link does not depend on the others.
func New(seed uint64) *Network {
	return &Network{
		seed:      seed,
		listening: make(map[string]*endpoint),
		cuts:      make(map[direction]bool),
		links:     make(map[direction]Faults),
	}
}

// Transport returns a transport that will listen at address once it is started.
// An address may be used again after Close: so a member restarts.
func (n *Network) Transport(address string) transport.Transport {
	return newEndpoint(n, address)
}

// SetFaults sets what all links do that SetLinkFaults does not name.
func (n *Network) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// SetLinkFaults sets what the link from one address to another does.
func (n *Network) SetLinkFaults(from, to string, f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[direction{from, to}] = f
}

// Partition cuts both directions between two addresses. Messages vanish without
// a trace, as on a real network; handshakes, calls and snapshots fail.
func (n *Network) Partition(a, b string) {
	n.Cut(a, b)
	n.Cut(b, a)
}

// Cut cuts one direction only. Messages need just their own direction, their
// handshake included; calls, probes and snapshots need both.
func (n *Network) Cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[direction{from, to}] = true
}

// Heal mends every cut. Faults stay.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// Break ends the connections between two addresses, as a reset would: both
// sides are told PeerDown, and the next message makes a new connection. Nobody is
// told PeerGone, as both listen.
func (n *Network) Break(a, b string) {
	n.mu.Lock()
	ends := [...]*endpoint{n.listening[a], n.listening[b]}
	n.mu.Unlock()
	for i, e := range ends {
		if e != nil {
			e.breakLinks([...]string{b, a}[i])
		}
	}
}

func (n *Network) isCut(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[direction{from, to}]
}

func (n *Network) faultsOf(from, to string) Faults {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f, ok := n.links[direction{from, to}]; ok {
		return f
	}
	return n.faults
}

// listen makes e reachable.
func (n *Network) listen(e *endpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listening[e.address] != nil {
		return fmt.Errorf("memnet: listen at %s: address in use: close the transport that listens there", e.address)
	}
	n.listening[e.address] = e
	return nil
}

func (n *Network) forget(e *endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listening[e.address] == e {
		delete(n.listening, e.address)
	}
}

// find returns who listens at an address that can be reached.
func (n *Network) find(from, to string, bothWays bool) (*endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cuts[direction{from, to}] || bothWays && n.cuts[direction{to, from}] {
		return nil, fmt.Errorf("%s is cut off from %s", to, from)
	}
	if e := n.listening[to]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("nobody listens at %s", to)
}

// refuses says whether an attempt to connect is answered with a refusal, as by a
// machine on which nobody listens at that address.
func (n *Network) refuses(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listening[to] == nil && !n.cuts[direction{from, to}] && !n.cuts[direction{to, from}]
}

// source is the source of chance of one link.
func (n *Network) source(from string, to uint64) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", from, to)
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}
