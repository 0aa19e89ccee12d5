// Package transport is the contract between a Node and whatever carries its
// messages: transport/tcp is the real one, and internal/sim has a seeded lossy one
// for tests.
//
// A transport moves opaque messages. It knows who speaks to whom, and not what
// they say, so that a change of the raft library never reaches it.
//
// Three ways lead to another member. Send is for everything that raft or the
// next retry makes good when it is lost. SendSnapshot streams what would not
// fit into memory, on a connection of its own, and knows whether it arrived.
// Call asks an address, rather than a member, and waits for its answer: it is
// for those that do not know each other yet.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Kind tells the receiver how to read a payload. Its values belong to the user
// of the transport; a transport carries it unread.
type Kind uint8

// Message is one outgoing payload. It is encoded by the goroutine that writes
// it to the wire, so it must not change after it was handed over. Every
// message that gogo/protobuf generates has these two methods.
type Message interface {
	// Size is the number of bytes that MarshalTo will write.
	Size() int
	// MarshalTo writes the payload to the start of b, which has room for Size
	// bytes, and returns how many it wrote.
	MarshalTo(b []byte) (int, error)
}

// Unnamed is a Message of a Call in whose handshake the caller is Hello.Unnamed.
type Unnamed struct{ Message }

// Inbound is one received payload. It belongs to the receiver, which may keep
// slices of it: the transport never touches its bytes again.
type Inbound struct {
	Kind    Kind
	Payload []byte
}

// SomeCluster stands for the cluster of a member in what it says of itself to a stranger: it
// is part of one, and does not say of which. No cluster has that ID.
const SomeCluster uint64 = 1<<64 - 1

// Host is one process: it may speak for several members.
type Host struct {
	// ID tells processes apart, also those that run one after the other at one address. A
	// Transport draws it when it is made, and sets it in whatever its Handler says.
	ID uint64
	// Address is where the process listens for its peers.
	Address string
	// OldestFormat and NewestFormat are the range of formats that the process reads. The
	// transport carries them unread.
	OldestFormat, NewestFormat uint32
}

// Hello is what the two sides of a connection tell each other first: which process speaks, and
// for which of its members.
type Hello struct {
	Host Host
	// Cluster is 0 for a member that is not yet part of one, and SomeCluster in the answer of
	// a member to somebody who is not of its cluster.
	Cluster uint64
	Node    uint64
	// Incarnation is drawn when a data directory is first used: the same node
	// with another incarnation has lost its disk.
	Incarnation uint64
	// Remembers is what the sender knows of the receiver's log.
	Remembers Memory
	// To is whom the sender wants, 0 whoever listens; known of a sender that called. Of a
	// Handler whose own Hello has a Node, the transport judges it.
	To uint64
	// At is where the sender was reached; empty if it called. It is not sent.
	At string
	// Dialed is the address at which this side called the sender, whoever it wanted
	// there; empty if the sender called. It is not sent.
	Dialed string
	// Call: the connection is for one call, in either direction. It is not sent.
	Call bool
}

// For returns what a member that is called tells the caller: no more than that must know. A
// stranger learns neither the cluster nor the incarnation, by which members know each other,
// nor what is remembered of anybody. A member that is part of no cluster yet tells its
// incarnation: the leader that adds it records it.
func (h Hello) For(caller Hello) Hello {
	if h.Cluster == 0 || h.Cluster == caller.Cluster {
		return h
	}
	return Hello{Host: h.Host, Cluster: SomeCluster, Node: h.Node, At: h.At, Dialed: h.Dialed, Call: h.Call}
}

// Unnamed returns what a member says of itself where it calls an address that a stranger
// named: that it is part of a cluster, and not of which, and nothing by which members know
// each other.
func (h Hello) Unnamed() Hello {
	if h.Cluster != 0 {
		h.Cluster = SomeCluster
	}
	h.Incarnation, h.Remembers = 0, Memory{}
	return h
}

// Refusing returns what a member tells a caller that it refuses: less than For, as one that
// is refused has no use for what members know each other by.
func (h Hello) Refusing(caller Hello) Hello {
	h = h.For(caller)
	h.Incarnation, h.Remembers = 0, Memory{}
	return h
}

// Memory is what one member knows of another one's disk: that it knew of Term, and
// had its log up to Match, in that term, of which Commit is committed. MatchTerm and
// CommitTerm are the terms of the entries there; 0: not known.
// A member whose log ends before that, or has other entries there, has lost what it
// promised. Zero: nothing.
type Memory struct{ Term, Match, Commit, MatchTerm, CommitTerm uint64 }

// Handler is the side of a Node that a transport calls. Calls come from the
// transport's goroutines, several at once for different peers and purposes,
// but for one peer's messages one at a time, mostly in the order in which they were
// sent: where packets are lost, some may overtake others. A Handler must not block for long in HandleMessages: it stands in
// the way of everything else from that peer.
type Handler interface {
	// Hello is this member's own side of the handshake with a peer, 0 if that is
	// not known yet, without Host.ID. It is asked anew for every connection, because the
	// cluster becomes known only when one is joined.
	Hello(peer uint64) Hello
	// Accept judges what a peer said of itself, on incoming and outgoing
	// connections. An error refuses the connection; its text, and its code if it has one
	// (Refuse), reach the peer.
	// It is called before any payload of that connection is handed over.
	Accept(peer Hello) error
	// HandleMessages takes what one peer sent in one frame, in order.
	HandleMessages(from uint64, batch []Inbound)
	// HandleSnapshot takes a snapshot stream: the header that the sender gave to
	// SendSnapshot, and its body, every byte of it verified before it is read.
	// body ends with io.EOF only when the sender finished; it returns another
	// error when the connection broke. The sender's SendSnapshot returns nil
	// only after HandleSnapshot has returned nil.
	HandleSnapshot(from uint64, header []byte, body io.Reader) error
	// HandleCall answers a Call. ctx ends when the caller has gone away.
	HandleCall(ctx context.Context, from Hello, in Inbound) (Message, error)
	// Refused says that a peer refused a connection from or to this member, and why.
	Refused(peer Hello, why Refusal)
	// PeerDown says that the connection to or from a peer broke: what was sent
	// on it and not yet answered may be lost. An attempt to connect that failed
	// is not told.
	PeerDown(id uint64)
	// PeerGone says that the connections with a peer broke and that its address
	// refused a new one: nobody listens there any more, so the process that was
	// there is dead, as far as the kernel of its machine can tell. It may live: a
	// firewall refuses, too. Silence, as of a machine that lost its power or of a
	// network that is cut, is never told.
	//
	// It comes at most once for a connection that broke, soon after PeerDown, and
	// behind everything that the peer had sent on its own connection.
	PeerGone(id uint64)
}

// Seeker is a Handler that is also told who comes for another member than the one that
// listens: peer.To is the member that it wants. The connection is refused whatever Sought
// returns: an error reaches the peer as one of Accept does, nil leaves it to the transport
// to say who is here. Sought must not block.
type Seeker interface{ Sought(peer Hello) error }

// Transport carries messages between the members of one cluster. All methods
// may be called from any goroutine, after Start unless it says otherwise.
type Transport interface {
	// Address is where other members reach this one. It is valid before Start.
	Address() string
	// Start begins to accept connections and to call h. It is called once.
	Start(h Handler) error
	// SetPeer makes a member reachable by Send and SendSnapshot, or moves it. Where
	// nobody, or somebody else, answers there, it is also looked for where it said
	// itself that it is, when it called last.
	SetPeer(id uint64, address string)
	// RemovePeer forgets a member, closes its connections and drops what waits
	// for it.
	RemovePeer(id uint64)
	// Send queues a message and never blocks. A member that SetPeer did not name can be
	// reached while it has a connection for messages to this one, over which it then goes.
	// Send returns false when the message
	// was certainly not sent and never will be: the peer is unknown, its queue
	// is full, the message too large, or the transport closed. True promises
	// nothing.
	Send(to uint64, kind Kind, m Message) bool
	// SendSnapshot streams a snapshot and blocks until the peer has handled it
	// or something failed. Nothing is held in memory as a whole.
	SendSnapshot(ctx context.Context, to uint64, header Message, body io.WriterTo) error
	// Call sends one message to whoever listens at address and returns the
	// answer. An error that the other side returned is a *RemoteError. If m is an Unnamed,
	// the handshake must say Hello.Unnamed.
	Call(ctx context.Context, address string, kind Kind, m Message) ([]byte, error)
	// Probe shakes hands with whoever listens at address and returns what it
	// said of itself, without asking anybody's Accept. A member says its cluster, its
	// incarnation only to those of its own cluster, and Remembers to no Probe.
	Probe(ctx context.Context, address string) (Hello, error)
	// Close ends all connections and waits for all of its goroutines. A call
	// that is under way returns ErrClosed. A Handler must not call it.
	Close() error
}

// Bounded is a Transport that knows the size of the largest message that Send takes, in
// bytes. A Node that could have larger ones does not start. One that does not say must
// take whatever Config of the Node allows.
type Bounded interface{ MessageBytesMax() int64 }

// Hinted is a Transport that takes hints about where its peers are. One ID may be met in two
// places, where a copy of a member's disk runs.
type Hinted interface {
	// Hint says where else than SetPeer says a member may be, as another one met it there: it
	// is looked for in both places, and preferred where SetPeer says.
	Hint(id uint64, address string)
	// Doubt says that the one where SetPeer says doubts its own log, as it may be the older of
	// two: whoever comes under that ID from elsewhere is preferred until SetPeer moves it.
	Doubt(id uint64)
}

// Authenticated is a Transport that may know its peers for sure. Authenticated returns true
// if both sides of every connection prove by certificates that they are peers.
type Authenticated interface{ Authenticated() bool }

// Errors of any transport.
var (
	// ErrClosed: the transport was closed.
	ErrClosed = errors.New("transport: closed")
	// ErrUnknownPeer: SetPeer was not called for that member.
	ErrUnknownPeer = errors.New("transport: unknown peer")
)

// Refusal is what reaches a peer when it is refused.
type Refusal struct {
	// Code is for programs. Its values belong to the user of the transport, as those of Kind
	// do; 0: there is no more than the text.
	Code   uint32
	Reason string
	// Seal proves the code to the peer. It belongs to the user of the transport, too; nil:
	// nothing proves it.
	Seal []byte
}

// refused is an error with a code that Accept returns.
type refused struct {
	code uint32
	seal []byte
	error
}

func (r *refused) Unwrap() error { return r.error }

// Refuse gives an error that Accept returns a code that reaches the peer.
func Refuse(code uint32, err error) error { return RefuseSealed(code, nil, err) }

// RefuseSealed is Refuse with a seal, which reaches the peer, too.
func RefuseSealed(code uint32, seal []byte, err error) error { return &refused{code, seal, err} }

// RefusalFor is what reaches the peer of an error that Accept returned. It is for those who
// write a Transport.
func RefusalFor(err error) Refusal {
	var r *refused
	if errors.As(err, &r) {
		return Refusal{Code: r.code, Reason: err.Error(), Seal: r.seal}
	}
	return Refusal{Reason: err.Error()}
}

// RemoteError is an error that the other side of a Call, a snapshot stream or a
// handshake answered with.
type RemoteError struct {
	Address string
	// Code is that of the Refusal, if a handshake was refused.
	Code   uint32
	Reason string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("transport: %s answered: %s", e.Address, e.Reason)
}
