package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// How long a joiner waits for one answer, and between two rounds of asking.
const (
	joinTimeout    = 10 * time.Second
	joinBackoff    = 100 * time.Millisecond
	joinBackoffMax = 5 * time.Second
)

// Join codes, on the wire.
const (
	joinAccepted uint32 = iota
	joinRetry
	joinReused
)

// join asks the members that Config.Join names, one after the other, until this
// one is part of the cluster. Asking twice changes nothing, so it asks again
// after any failure.
func (n *Node) join() {
	backoff := joinBackoff
	for {
		for _, address := range n.cfg.Join {
			err := n.askToJoin(address)
			switch {
			case err == nil:
				n.log.Info("the cluster will bring this member in", zap.String("asked", address))
			case errors.Is(err, ErrRemoved), errors.Is(err, ErrIDReused):
				n.fatal(err)
				return
			default:
				n.log.Warn("could not ask to join; trying again", zap.String("asked", address), zap.Error(err), zap.Duration("within", backoff))
			}
			if err == nil {
				break
			}
		}
		select {
		case <-n.initialized:
			return
		case <-n.done:
			return
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		}
		backoff = min(2*backoff, joinBackoffMax)
	}
}

func (n *Node) askToJoin(address string) error {
	ctx, cancel := context.WithTimeout(n.ctx, joinTimeout)
	defer cancel()
	payload, err := n.transport.Call(ctx, address, kindJoin, &octopiipb.JoinRequest{Member: n.self()})
	var refused *transport.RemoteError
	if errors.As(err, &refused) && saysRemoved(refused.Reason) {
		return ErrRemoved
	}
	if err != nil {
		return err
	}
	var reply octopiipb.JoinReply
	if err := reply.Unmarshal(payload); err != nil {
		return fmt.Errorf("node: %s answered what cannot be read: %w", address, err)
	}
	switch reply.Code {
	case joinAccepted:
		return nil
	case joinReused:
		return ErrIDReused
	default:
		return fmt.Errorf("node: %s answered: %s", address, reply.Reason)
	}
}

// handleJoin lets a new member in, on whichever member it asked.
func (n *Node) handleJoin(ctx context.Context, from transport.Hello, payload []byte) (transport.Message, error) {
	var req octopiipb.JoinRequest
	if err := req.Unmarshal(payload); err != nil {
		return nil, fmt.Errorf("join request cannot be read: %w", err)
	}
	m := req.Member
	if m.ID == 0 || m.ID != from.Node || m.Address == "" {
		return nil, fmt.Errorf("join request of member %x describes member %x at %q", from.Node, m.ID, m.Address)
	}
	if err := n.ready(ctx); err != nil {
		return nil, err
	}
	if ms := n.members.Load(); ms != nil {
		for _, old := range ms.Members {
			if old.ID == m.ID { // who added it knows better what it is called
				m.Name, m.Priority = old.Name, old.Priority
			}
		}
	}
	m.Learner, m.Promote = true, true
	_, err := n.change(ctx, core.Change{Op: core.AddLearner, Member: m})
	switch {
	case err == nil:
		n.log.Info("bringing a new member in", zap.String("id", hex(m.ID)), zap.String("name", m.Name), zap.String("address", m.Address))
		return &octopiipb.JoinReply{}, nil
	case errors.Is(err, ErrIDReused):
		return &octopiipb.JoinReply{Code: joinReused, Reason: err.Error()}, nil
	default:
		return &octopiipb.JoinReply{Code: joinRetry, Reason: err.Error()}, nil
	}
}

// knock calls the members in turn while this one hears of no leader, one each
// time that two election timeouts have passed. A removed member is refused and
// so learns of it (see handler.Refused); a learner would not find out otherwise,
// since it never campaigns.
func (l *loop) knock(ticks int) {
	if !l.core.Lonely() {
		l.lonely = 0
		return
	}
	every := 2 * l.cfg.ElectionTicks
	before := l.lonely / every
	l.lonely += ticks
	if round := l.lonely / every; round > before && len(l.public.Members) > 0 {
		m := l.public.Members[round%len(l.public.Members)]
		if m.ID != l.id {
			l.helpers.Go(func() { l.callMember(m) })
		}
	}
}

func (n *Node) callMember(m Member) {
	ctx, cancel := context.WithTimeout(n.ctx, joinTimeout)
	defer cancel()
	if _, err := n.transport.Call(ctx, m.Address, kindKnock, &octopiipb.JoinReply{}); err != nil {
		n.log.Debug("a member cannot be called", zap.String("member", hex(m.ID)), zap.Error(err))
	}
}

// saysRemoved: a member refuses this one because it was removed. The text is
// part of the protocol.
func saysRemoved(reason string) bool { return strings.Contains(reason, ErrRemoved.Error()) }
