package node

import (
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// Kill stops a member without handing leadership over.
func (n *Node) Kill() {
	n.stop(ErrClosed)
	n.closeOnce.Do(func() { n.closeErr = n.shutdown() })
}

// OnFS puts cfg.Dir, and a log in segments of so many bytes, on another disk.
func OnFS(cfg *Config, fs vfs.FS, segmentBytes int64) {
	cfg.fs = fs
	cfg.WAL = wal.New(wal.Options{FS: fs, SegmentBytes: segmentBytes})
}

// Reads has the member pretend that its program reads other format levels.
func Reads(cfg *Config, oldest, newest uint32) {
	cfg.formats = core.Formats{Oldest: oldest, Newest: newest}
}

// Pend counts so many bytes more against Config.PendingBytesMax.
func (n *Node) Pend(bytes int64) { n.pendingBytes.Add(bytes) }

// Stuck says that what this member must append waits for space.
func (n *Node) Stuck() bool { return n.space.stuck.Load() }

// Remembers is up to where this member knows that another one has its log.
func (n *Node) Remembers(id uint64) uint64 { return n.memory.get(id).Match }

// Turns is how many turns the loop has had: one a tick at least, and more where there was
// something to do.
func (n *Node) Turns() uint64 { return n.watchdog.loop.ended.Load() }

// WasMember says whether this member knows, durably, that it was one of a cluster.
func (n *Node) WasMember() bool {
	known := make(chan bool, 1)
	n.inbox.call(func(*loop) { known <- n.store.Origin().Member })
	return <-known
}

// Met is called by the transport for a peer that takes this member for one of its own, and
// Sought for one that wants another member here.
func (n *Node) Met(peer transport.Hello) error { return newHandler(n.group).Accept(peer) }
func (n *Node) Sought(peer transport.Hello)    { _ = newHandler(n.group).Sought(peer) }

// The kinds of questions that members of other clusters may ask.
const (
	KindTestify = kindTestify
	KindVouch   = kindVouch
)

// RefusedAsForgetful is what the transport tells where a peer refused this member for its
// disk, and Branched says whether a peer is on another branch than the majority.
func (n *Node) RefusedAsForgetful(peer transport.Hello) {
	newHandler(n.group).refused(peer, transport.Refusal{Code: refusedDisk, Reason: "another disk"})
}
func (n *Node) Branched(id uint64) bool {
	known := make(chan bool, 1)
	n.inbox.call(func(*loop) { // behind what the loop was told before
		n.guests.mu.Lock()
		defer n.guests.mu.Unlock()
		known <- n.guests.branched[id]
	})
	return <-known
}

// Hello is how this member introduces itself where a peer called it at its address.
func (n *Node) Hello() transport.Hello {
	address := n.cfg.Transport.Address()
	return transport.Hello{Node: n.id, Cluster: n.cluster.Load(), Incarnation: n.identity.Incarnation, Host: transport.Host{Address: address}, Dialed: address}
}

// RefuseRemoved is the refusal of a member that was removed.
var RefuseRemoved = transport.Refuse(refusedRemoved, ErrRemoved)

// Remembered is the index up to which a Node remembers that another member has the log.
func (n *Node) Remembered(id uint64) uint64 { return n.memory.get(id).Match }
