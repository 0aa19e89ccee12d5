package tcp

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// peerIPsMax is how many IP addresses of one peer are known at most.
const peerIPsMax = 4

// route is the way to a peer: the addresses where it may be, and the connection or attempt at
// one of them.
type route struct {
	hurry chan struct{} // the peer was moved, or has just dialed us: do not wait with dialing

	mu sync.Mutex
	// address is where SetPeer says that the peer is, said where the peer itself, or a hint,
	// said so last, which is tried in turn with it where it is another one; at is where
	// the last attempt to connect went, and astray counts those that failed.
	address, said, at string
	astray            int
	// mistaken: who is connected is somebody else, as the peer said. doubted: who is at address
	// may have forgotten something, and who comes from elsewhere is preferred.
	mistaken, doubted bool
	// abort ends the attempt to connect, or the connection, that is under way.
	abort context.CancelFunc
	// up: there is a connection. wanted: one is to be made, though nothing waits for it.
	up, wanted bool
	// ips are where the peer has spoken from, the newest first.
	ips []netip.Addr
}

func newRoute(address string) route {
	return route{address: address, abort: func() {}, hurry: make(chan struct{}, 1)}
}

// next is where to look for the peer. Call it with mu held.
func (r *route) next() string {
	if r.said != "" && r.astray%2 == 1 {
		return r.said
	}
	return r.address
}

// found is where the peer is, or else where to look for it.
func (r *route) found() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up {
		return r.at
	}
	return r.next()
}

// recorded is where SetPeer says that the peer is, and whether who is there is doubted.
func (r *route) recorded() (address string, doubted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address, r.doubted
}

// says takes notice of where a peer says that it is. Who is preferred, while this side is
// connected to another one, is connected instead.
func (r *route) says(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if preferred := (address == r.address) != r.doubted; !preferred {
		if !r.doubted {
			r.lookAt(address)
		}
		return
	}
	r.lookAt(address)
	if r.up && r.at != address {
		r.mistaken, r.astray = true, 0
		if r.doubted {
			r.astray = 1
		}
		r.abort()
	}
}

// doubt prefers who comes from elsewhere than address from now on.
func (r *route) doubt() {
	r.mu.Lock()
	r.doubted = true
	r.mu.Unlock()
}

// mayBeAt takes notice of where somebody else met the peer.
func (r *route) mayBeAt(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookAt(address)
}

// lookAt has the peer looked for at an address, in turn with its record's. Call it with mu held.
func (r *route) lookAt(address string) {
	if address != r.said {
		r.said = address
		signal(r.hurry)
	}
}

// move changes the address: what goes on at the old one ends.
func (r *route) move(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.address == address {
		return
	}
	r.address, r.astray, r.doubted = address, 0, false
	if r.up && r.at == address {
		return // it was found there before
	}
	r.abort()
	signal(r.hurry)
}

// attempt begins an attempt to connect that abort ends, and says where: at the next address, or
// once more at the last one.
func (r *route) attempt(abort context.CancelFunc, onceMore bool) (address, record string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !onceMore {
		r.at = r.next()
	}
	r.abort, r.wanted = abort, false
	select { // what was told before this attempt is no reason to hurry after it
	case <-r.hurry:
	default:
	}
	return r.at, r.address
}

// failed notes that nobody could be reached at the last address.
func (r *route) failed() {
	r.mu.Lock()
	r.astray++
	r.mu.Unlock()
}

func (r *route) setUp(up bool) {
	r.mu.Lock()
	r.up, r.wanted = up, false
	r.mu.Unlock()
}

// want has a connection made, if there is none.
func (r *route) want() {
	r.mu.Lock()
	r.wanted = !r.up
	r.mu.Unlock()
}

func (r *route) isWanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted
}

// wasMistaken says, once, that the last connection was to somebody else.
func (r *route) wasMistaken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.mistaken
	r.mistaken = false
	return was
}

// metAt remembers from which IP address a peer has spoken.
func (r *route) metAt(remote net.Addr) {
	ip, ok := ipOf(remote)
	if !ok || r.isAt(ip) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ips = append([]netip.Addr{ip}, r.ips[:min(len(r.ips), peerIPsMax-1)]...)
}

func (r *route) isAt(ip netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.ips, ip) {
		return true
	}
	host, _, err := net.SplitHostPort(r.address)
	if err != nil {
		return false
	}
	recorded, err := netip.ParseAddr(host)
	return err == nil && recorded.Unmap() == ip
}

func ipOf(a net.Addr) (netip.Addr, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	return ip.Unmap(), ok
}
