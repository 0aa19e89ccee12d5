package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

const (
	protocolVersion = 3
	helloBytesMax   = 4 << 10
	// reasonBytesMax keeps the text of a refusal well inside helloBytesMax.
	reasonBytesMax = 1 << 10
	// lanesEnd is above the highest lane that an acceptor takes.
	lanesEnd = 8
	// group is the only one that there is.
	group = 0
)

// The purposes of a connection.
const (
	purposeMessages uint32 = iota + 1 // dialer to acceptor, for ever
	purposeSnapshot
	purposeCall
	purposeProbe
	purposeEnd
)

// greeting is what a Hello says beside who speaks. to is the member that must answer, 0 for
// whoever does.
type greeting struct {
	purpose, lane uint32
	to            uint64
	refused       transport.Refusal
	// unnamed: the other side learns nothing by which members know each other.
	unnamed bool
}

// self is what a dialer says of itself.
func (g *greeting) self(h transport.Handler) transport.Hello {
	self := h.Hello(g.to)
	if g.unnamed {
		return self.Unnamed()
	}
	return self
}

// open dials address and shakes hands. The connection is closed when ctx ends.
func (t *Transport) open(ctx context.Context, address string, g greeting) (*conn, transport.Hello, error) {
	// Close waits for the handshake, because it calls the Handler.
	if err := t.life.enter(); err != nil {
		return nil, transport.Hello{}, err
	}
	defer t.life.wg.Done()
	c, err := t.dial(ctx, address, g.purpose, g.to)
	if err != nil {
		return nil, transport.Hello{}, err
	}
	context.AfterFunc(ctx, c.close)
	peer, err := c.greet(g)
	if err != nil {
		c.close()
		return nil, transport.Hello{}, c.explainTLS(err)
	}
	return c, peer, nil
}

func (t *Transport) dial(ctx context.Context, address string, purpose uint32, to uint64) (*conn, error) {
	limited, cancel := context.WithTimeout(ctx, t.config.DialTimeout)
	defer cancel()
	raw, err := t.config.Dial(limited, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		tolerateLoss(tcp)
		if purpose == purposeMessages {
			err = limitStall(tcp, t.config.StallTimeout)
		}
	}
	var nc net.Conn
	if err == nil {
		nc, err = t.tls.client(raw, address)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	c := newConn(t, raw, nc, address, false)
	c.entry.peer = to
	c.member.Store(to != 0)
	if err := t.registry.track(c); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// greet is the dialer's side of the handshake.
func (c *conn) greet(g greeting) (transport.Hello, error) {
	t, purpose, to := c.t, g.purpose, g.to
	if err := c.nc.SetDeadline(time.Now().Add(t.config.HandshakeTimeout)); err != nil {
		return transport.Hello{}, err
	}
	if err := c.writeHello(g, g.self(t.handler)); err != nil {
		return transport.Hello{}, err
	}
	answer, err := c.readHello()
	if err != nil {
		return transport.Hello{}, err
	}
	peer := toHello(answer)
	peer.Dialed = c.address
	if answer.Refused != "" {
		t.counters.refused.Add(1)
		if purpose != purposeProbe {
			t.handler.Refused(peer, refusalIn(answer))
		}
		return transport.Hello{}, c.refusedBy(answer)
	}
	if err := judgeAnswer(answer, to); err != nil {
		return peer, c.leave(g, err)
	}
	if to != 0 {
		peer.At = c.address
	}
	if purpose != purposeProbe {
		if err := t.handler.Accept(peer); err != nil {
			return peer, c.leave(g, fmt.Errorf("%s was refused here: %w", c.address, err))
		}
	}
	if purpose == purposeMessages {
		return peer, c.handshakeDone(0, t.config.StallTimeout)
	}
	return peer, c.handshakeDone(0, t.config.ProgressTimeout)
}

func judgeAnswer(answer octopiipb.Hello, to uint64) error {
	if err := judgeVersion(answer.Version); err != nil {
		return err
	}
	if err := judgeGroup(answer.Member.Group); err != nil {
		return err
	}
	if from := answer.Member.From; to != 0 && from != to {
		return fmt.Errorf("member %x answered where member %x was expected: correct its address", from, to)
	}
	return nil
}

func judgeVersion(version uint32) error {
	if version != protocolVersion {
		return fmt.Errorf("the peer speaks version %d of the protocol, this one %d: run releases that share one",
			version, protocolVersion)
	}
	return nil
}

func judgeGroup(number uint64) error {
	if number != group {
		return fmt.Errorf("group %d is not here, only %d", number, group)
	}
	return nil
}

// leave tells the acceptor why the dialer refuses it, and returns err.
func (c *conn) leave(g greeting, err error) error {
	c.t.counters.refused.Add(1)
	g.refused = refusalFor(err)
	_ = c.writeHello(g, g.self(c.t.handler))
	return err
}

// answer is the acceptor's side of the handshake. A nil error means that the
// peer was accepted and knows it.
func (c *conn) answer() (transport.Hello, uint32, error) {
	t := c.t
	if err := c.nc.SetDeadline(time.Now().Add(t.config.HandshakeTimeout)); err != nil {
		return transport.Hello{}, 0, err
	}
	hello, err := c.readHello()
	if err != nil {
		refusePlain(err)
		c.refuseVersion1(err)
		return transport.Hello{}, 0, err
	}
	peer := toHello(hello)
	if err := c.judge(hello); err != nil {
		t.counters.refused.Add(1)
		t.strangers.warn("refused a connection", zap.String("address", c.address), zap.String("peer", hexID(peer.Node)), zap.Error(err))
		return peer, 0, errors.Join(err, c.answerHello(hello, refusalFor(err)))
	}
	if hello.Purpose == purposeMessages {
		// Before the dialer knows that it may send: so the connection that it made
		// last is the one that is registered last.
		t.registry.replaceFlow(flowKey{peer.Node, hello.Lane}, c)
	}
	if err := c.answerHello(hello, transport.Refusal{}); err != nil {
		return peer, hello.Purpose, err
	}
	if hello.Purpose == purposeMessages {
		return peer, hello.Purpose, c.handshakeDone(0, t.config.StallTimeout)
	}
	return peer, hello.Purpose, c.handshakeDone(t.config.ProgressTimeout, t.config.ProgressTimeout)
}

// judge decides about an incoming connection.
func (c *conn) judge(hello octopiipb.Hello) error {
	t := c.t
	if err := judgeVersion(hello.Version); err != nil {
		return err
	}
	if hello.Purpose == 0 || hello.Purpose >= purposeEnd {
		return fmt.Errorf("purpose %d is not known here", hello.Purpose)
	}
	if err := judgeGroup(hello.Member.Group); err != nil {
		return err
	}
	if hello.Lane >= lanesEnd {
		return fmt.Errorf("lane %d is not known here, only those below %d", hello.Lane, lanesEnd)
	}
	peer := toHello(hello)
	peer.To = hello.Member.To
	if self := t.handler.Hello(peer.Node).Node; self != 0 && peer.To != 0 && peer.To != self {
		if s, ok := t.handler.(transport.Seeker); ok {
			if err := s.Sought(peer); err != nil {
				return err
			}
		}
		return fmt.Errorf("this is member %x, not %x: correct its address", self, peer.To)
	}
	if hello.Purpose == purposeProbe {
		return nil
	}
	if hello.Purpose != purposeCall {
		if peer.Node == 0 {
			return errors.New("a member without an ID can only call")
		}
		// Before Accept: a member that is removed while Accept looks at it is
		// found by RemovePeer.
		t.registry.name(c, peer)
	}
	if hello.Purpose == purposeMessages {
		if err := t.registry.copied(peer); err != nil {
			return err
		}
	}
	if err := t.handler.Accept(peer); err != nil {
		return err
	}
	if p := t.registry.peer(peer.Node); p != nil {
		if peer.Host.Address != "" {
			p.route.says(peer.Host.Address)
		}
		p.route.metAt(c.raw.RemoteAddr())
	}
	return t.registry.settle(c, peer.Node)
}

func toHello(h octopiipb.Hello) transport.Hello {
	return transport.Hello{
		Host:        transport.Host(h.Host),
		Cluster:     h.Member.Cluster,
		Node:        h.Member.From,
		Incarnation: h.Member.Incarnation,
		Remembers:   transport.Memory(h.Member.Remembers),
		Call:        h.Purpose == purposeCall,
	}
}

// answerHello is the acceptor's Hello. It says no more than the caller must know.
func (c *conn) answerHello(asked octopiipb.Hello, refused transport.Refusal) error {
	self := c.t.handler.Hello(asked.Member.From)
	caller := transport.Hello{Cluster: asked.Member.Cluster}
	if refused.Reason != "" {
		self = self.Refusing(caller)
	} else {
		self = self.For(caller)
	}
	if asked.Purpose == purposeProbe {
		self.Remembers = transport.Memory{}
	}
	return c.writeHello(greeting{purpose: asked.Purpose, to: asked.Member.From, lane: asked.Lane, refused: refused}, self)
}

func (c *conn) writeHello(g greeting, self transport.Hello) error {
	hello := octopiipb.Hello{
		Version:     protocolVersion,
		Purpose:     g.purpose,
		Refused:     g.refused.Reason,
		Lane:        g.lane,
		RefusedCode: g.refused.Code,
		RefusedSeal: g.refused.Seal,
		Host:        octopiipb.HelloHost(self.Host),
		Member: octopiipb.HelloMember{
			Group:       group,
			Cluster:     self.Cluster,
			From:        self.Node,
			To:          g.to,
			Incarnation: self.Incarnation,
			Remembers:   octopiipb.Memory(self.Remembers),
		},
	}
	hello.Host.ID = c.t.host
	body, err := hello.Marshal()
	if err != nil {
		return err
	}
	return c.writeFrame(newFrame(frameHello, body))
}

func (c *conn) readHello() (octopiipb.Hello, error) {
	var hello octopiipb.Hello
	kind, body, err := c.readFrame(helloBytesMax, nil)
	if err != nil {
		return hello, err
	}
	if kind != frameHello {
		return hello, c.unexpected(kind, body)
	}
	if err := hello.Unmarshal(body); err != nil {
		return hello, c.failed(badFramef("a hello that cannot be read: %v", err))
	}
	return hello, nil
}

// refusalFor is what reaches the other side of an error that ends a handshake here.
func refusalFor(err error) transport.Refusal {
	r := transport.RefusalFor(err)
	r.Reason = reasonOf(err)
	return r
}

// refusalIn is what the other side said as it ended the handshake.
func refusalIn(h octopiipb.Hello) transport.Refusal {
	return transport.Refusal{Code: h.RefusedCode, Reason: h.Refused, Seal: h.RefusedSeal}
}

// refusedBy is the error of a connection that the other side refused.
func (c *conn) refusedBy(h octopiipb.Hello) error {
	return &transport.RemoteError{Address: c.address, Code: h.RefusedCode, Reason: h.Refused}
}

// reasonOf is the text of an error as the other side gets it: at most
// reasonBytesMax bytes of valid UTF-8, and never empty, which would mean that
// all is well.
func reasonOf(err error) string {
	text := err.Error()
	if len(text) > reasonBytesMax {
		text = text[:reasonBytesMax]
	}
	if text = strings.ToValidUTF8(text, ""); text == "" {
		return "no reason was given"
	}
	return text
}
