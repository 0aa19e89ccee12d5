package tcp

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// callBytesMax bounds the message of a call and that of its answer.
const callBytesMax = 4 << 20

// Call sends one message to whoever listens at address, on a connection of its
// own.
func (t *Transport) Call(ctx context.Context, address string, kind transport.Kind, m transport.Message) ([]byte, error) {
	if err := t.life.ready(); err != nil {
		return nil, err
	}
	operation := "call " + address
	request, err := encodeMessage([]byte{byte(kind)}, m)
	if err != nil {
		return nil, fmt.Errorf("tcp: %s: %w", operation, err)
	}
	ctx, cancel := t.life.scope(ctx)
	defer cancel()
	_, unnamed := m.(transport.Unnamed)
	c, _, err := t.open(ctx, address, greeting{purpose: purposeCall, unnamed: unnamed})
	if err != nil {
		return nil, t.life.explain(ctx, operation, err)
	}
	defer c.close()
	if err := c.writeFrame(newFrame(frameCall, request)); err != nil {
		return nil, t.life.explain(ctx, operation, err)
	}
	answer, err := c.awaitReply(callBytesMax)
	return answer, t.life.explain(ctx, operation, err)
}

// encodeMessage appends m to b. No message at all is an empty one.
func encodeMessage(b []byte, m transport.Message) ([]byte, error) {
	if m == nil {
		return b, nil
	}
	start, size := len(b), m.Size()
	if start+size > callBytesMax {
		return nil, fmt.Errorf("a message of %d bytes is more than the limit of %d", size, callBytesMax)
	}
	b = append(b, make([]byte, size)...)
	return b, encodeInto(b[start:], m)
}

// answerCall has the Handler answer, and ends its context if the caller leaves.
func (t *Transport) answerCall(c *conn, from transport.Hello) {
	limit := callBytesMax
	if !c.member.Load() {
		limit = strangerCallBytesMax
		c.timed.until = time.Now().Add(t.config.HandshakeTimeout)
	}
	kind, body, err := c.readFrame(limit, nil)
	c.timed.until = time.Time{}
	if err == nil && (kind != frameCall || len(body) == 0) {
		err = c.unexpected(kind, body)
	}
	if err != nil {
		t.log.Debug("call ended early", zap.String("address", c.address), zap.Error(err))
		return
	}
	ctx, cancel := context.WithCancel(t.life.ctx)
	defer cancel()
	c.timed.idle = 0
	left := make(chan struct{})
	t.life.wg.Go(func() {
		defer close(left)
		_, _ = c.frames.r.ReadByte() // returns when the caller leaves, or breaks the protocol
		cancel()
	})
	payload, err := t.handle(ctx, from, transport.Inbound{Kind: transport.Kind(body[0]), Payload: body[1:]})
	if err := c.reply(payload, err); err != nil {
		t.log.Debug("call not answered", zap.String("address", c.address), zap.Error(err))
	}
	c.close()
	<-left
}

func (t *Transport) handle(ctx context.Context, from transport.Hello, in transport.Inbound) ([]byte, error) {
	answer, err := t.handler.HandleCall(ctx, from, in)
	if err != nil {
		return nil, err
	}
	return encodeMessage(nil, answer)
}

// Probe shakes hands with whoever listens at address.
func (t *Transport) Probe(ctx context.Context, address string) (transport.Hello, error) {
	if err := t.life.ready(); err != nil {
		return transport.Hello{}, err
	}
	ctx, cancel := t.life.scope(ctx)
	defer cancel()
	c, peer, err := t.open(ctx, address, greeting{purpose: purposeProbe})
	if err != nil {
		return transport.Hello{}, t.life.explain(ctx, "probe "+address, err)
	}
	c.close()
	return peer, nil
}
