package node

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// The kinds of messages that members send each other. They are never reused.
const (
	kindRaft transport.Kind = iota + 1
	kindRequests
	kindReplies
	kindJoin
	kindKnock
	kindVouch
	kindFound
)

// The codes of refusals: what they say is about the one that is refused. They are never
// reused.
const (
	// refusedRemoved: its ID was removed.
	refusedRemoved uint32 = iota + 1
	// refusedDisk: it has another disk than the one that is known.
	refusedDisk
	// refusedFormat: its program does not read the format level of the cluster.
	refusedFormat
)

// handler is the side of a group that its transport calls. It checks and
// queues; what to do about a message is decided in the loop.
type handler struct{ service }

func newHandler(g *group) handler { return handler{service{trust{g}, new(voucher)}} }

// service answers the calls of other members.
type service struct {
	trust
	// voucher has the questions that wait for a barrier.
	voucher *voucher
}

var _ transport.Handler = handler{}

// Hello implements transport.Handler.
func (h handler) Hello(peer uint64) transport.Hello {
	return transport.Hello{
		Host:        transport.Host{Address: h.cfg.Transport.Address(), OldestFormat: h.cfg.formats.Oldest, NewestFormat: h.cfg.formats.Newest},
		Cluster:     h.cluster.Load(),
		Node:        h.id,
		Incarnation: h.identity.Incarnation,
		Remembers:   h.memory.get(peer),
	}
}

// Accept implements transport.Handler.
func (h handler) Accept(peer transport.Hello) error {
	if h.asksFromOutside(peer) {
		return nil
	}
	if err := h.refuse(peer); err != nil {
		if peer.To == h.id && h.cluster.Load() != 0 {
			h.soughtHere(peer) // another cluster wants a member that has this one's ID
		}
		h.warnSome(&h.quiet.refusals, "refused a peer", zap.String("peer", hex(peer.Node)), zap.String("address", peer.Host.Address), zap.Error(err))
		h.events.peerRefused(peer.Node, err)
		return err
	}
	ms := h.members.Load()
	if ms == nil && peer.Remembers != (transport.Memory{}) && h.mayTell(peer) {
		h.toldWithoutLog(peer, fmt.Errorf("%w: member %x remembers that this one had its log up to %d in term %d, and there is no log: was the disk replaced? Remove this member, and join again with an empty directory",
			ErrAmnesia, peer.Node, peer.Remembers.Match, peer.Remembers.Term))
		return fmt.Errorf("member %x lost its log and stops", h.id)
	}
	if peer.Cluster != 0 && !peer.Call && peer.At == "" {
		h.dialedBy(peer)
	}
	h.fromLater(ms, peer)
	if !h.welcome(peer) {
		return nil
	}
	if isProven(h.cluster.Load(), ms, peer) {
		h.whereabouts.met(peer)
		// The loop hears of it before it gets anything that came on this connection.
		h.inbox.call(func(l *loop) { l.doubt.met(peer) })
	}
	h.inbox.add(func(in *core.Input) {
		in.PeersUp = append(in.PeersUp, core.PeerUp{ID: peer.Node, Incarnation: peer.Incarnation, Address: peer.At, Formats: formatsOf(peer.Host)})
	})
	return nil
}

// refuse says why a peer is not spoken to.
func (h handler) refuse(peer transport.Hello) error {
	if peer.Node == 0 || peer.Node > idMax {
		return fmt.Errorf("node: no member can have the ID %x", peer.Node)
	}
	if h.isSelf(peer) {
		return nil // one of the addresses in Join is its own
	}
	if peer.Node == h.id {
		return fmt.Errorf("node: member %x is this one; two members were started with the same ID", peer.Node)
	}
	if err := h.sameCluster(peer); err != nil {
		return err
	}
	ms := h.members.Load()
	if ms == nil {
		return nil
	}
	if ms.IsRemoved(peer.Node) {
		return h.refuseRemoved(ms, peer)
	}
	if h.guests.isGivenUp(peer.Node) {
		return errHistoryGivenUp
	}
	for i := range ms.Members {
		m := &ms.Members[i]
		if m.ID == peer.Node && m.Incarnation != 0 && m.Incarnation != peer.Incarnation {
			// The incarnation itself is what a member proves itself by.
			return transport.Refuse(refusedDisk, fmt.Errorf("%w: member %x comes back with another disk than the one that is known; remove it and join again under a new ID",
				ErrAmnesia, peer.Node))
		}
	}
	if err := h.peerReadsLevel(peer); err != nil && !peer.Call { // calls are answered by their own words
		return transport.Refuse(refusedFormat, err)
	}
	return nil
}

// HandleMessages implements transport.Handler.
func (h handler) HandleMessages(from uint64, batch []transport.Inbound) {
	messages := make([]octopiipb.PeerMessage, 0, len(batch))
	size := 0
	for _, in := range batch {
		var err error
		switch in.Kind {
		case kindRaft:
			var m octopiipb.PeerMessage
			if err = m.Unmarshal(in.Payload); err == nil && m.From != from {
				err = fmt.Errorf("it claims to be from member %x", m.From)
			}
			if err == nil && m.Type == raftpb.MsgSnap {
				err = errors.New("a snapshot must come as a stream")
			}
			if err == nil {
				err = h.maySend(&m.Message)
			}
			if err == nil && !h.hasRoomFor(&m.Message) {
				continue
			}
			if err == nil {
				messages = append(messages, m)
				size += len(in.Payload)
			}
		case kindRequests:
			err = h.handleRequests(from, in.Payload)
		case kindReplies:
			err = h.handleReplies(from, in.Payload)
		default:
			err = fmt.Errorf("its kind %d is not known; is the peer newer than this member?", in.Kind)
		}
		if err != nil {
			h.warnSome(&h.quiet.messages, "dropped a message", zap.String("from", hex(from)), zap.Error(err))
		}
	}
	if len(messages) > 0 {
		// raft makes good what is dropped for want of room.
		h.inbox.peer(len(messages), size, func(in *core.Input) { in.Messages = append(in.Messages, messages...) })
	}
}

// hasRoomFor is false for a message whose answer must wait for the disk, while
// the disk has no room at all: what would pile up here the sender has, and sends
// again.
func (h handler) hasRoomFor(m *raftpb.Message) bool {
	if !h.space.stuck.Load() {
		return true
	}
	switch m.Type {
	case raftpb.MsgApp, raftpb.MsgVote, raftpb.MsgPreVote:
		return false
	}
	return true
}

func (h handler) handleRequests(from uint64, payload []byte) error {
	var rs octopiipb.Requests
	if err := rs.Unmarshal(payload); err != nil {
		return err
	}
	// Without room they are lost, and come again. They cannot be refused here: what
	// came before may be another copy of the same.
	h.inbox.peer(len(rs.Requests), len(payload), func(in *core.Input) {
		in.Remote = append(in.Remote, core.RemoteRequests{From: from, Term: rs.Term, Requests: rs.Requests})
	})
	return nil
}

func (h handler) handleReplies(from uint64, payload []byte) error {
	var rs octopiipb.Replies
	if err := rs.Unmarshal(payload); err != nil {
		return err
	}
	// Without room they are lost, and the requests that they answer come again.
	h.inbox.peer(len(rs.Replies), len(payload), func(in *core.Input) {
		in.Replies = append(in.Replies, core.RemoteReplies{From: from, Replies: rs.Replies})
	})
	return nil
}

// Refused implements transport.Handler. A member that was removed while it was
// away learns it here: nobody sends it the log any more. So does one that came back
// with an empty disk under its old ID.
func (h handler) Refused(peer transport.Hello, why transport.Refusal) { h.refused(peer, why) }

// PeerDown implements transport.Handler.
func (h handler) PeerDown(id uint64) {
	h.inbox.add(func(in *core.Input) { in.PeersDown = append(in.PeersDown, id) })
}

// PeerGone implements transport.Handler.
func (h handler) PeerGone(id uint64) {
	h.inbox.add(func(in *core.Input) { in.PeersGone = append(in.PeersGone, id) })
}

// HandleCall implements transport.Handler.
func (h handler) HandleCall(ctx context.Context, from transport.Hello, in transport.Inbound) (transport.Message, error) {
	type answered struct {
		m   transport.Message
		err error
	}
	done := make(chan answered, 1)
	h.Answer(from, in, func(m transport.Message, err error) { done <- answered{m, err} })
	select {
	case a := <-done:
		return a.m, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.done:
		return nil, errStops
	}
}

// errStops answers calls that are under way when this member stops.
var errStops = errors.New("this member stops; ask another")

// Answer implements stepped.Answerer: HandleCall for those that do not wait.
func (s service) Answer(from transport.Hello, in transport.Inbound, done func(transport.Message, error)) {
	if in.Kind != kindVouch && in.Kind != kindTestify && s.asksFromOutside(from) {
		done(nil, s.sameCluster(from))
		return
	}
	switch in.Kind {
	case kindCompare:
		s.answerCompare(from, in.Payload, done)
	case kindOwnLog:
		s.answerOwnLog(from, in.Payload, done)
	case kindJoin:
		s.handleJoin(from, in.Payload, done)
	case kindKnock:
		s.handleKnock(from, in.Payload, done)
	case kindFound:
		s.handleFound(in.Payload, done)
	case kindVouch:
		s.handleVouch(in.Payload, done)
	case kindTestify:
		s.handleTestify(in.Payload, done)
	default:
		done(nil, fmt.Errorf("calls of kind %d are not known here", in.Kind))
	}
}
