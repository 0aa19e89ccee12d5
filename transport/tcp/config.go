// Package tcp carries the messages of a Node over TCP, optionally with mutual
// TLS.
//
// Every connection begins with a Hello in both directions and serves one
// purpose: a flow of messages in one direction, one snapshot, one call, or one
// probe. Everything on it is a checksummed frame: see frame.go for its bytes.
package tcp

import (
	"context"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"
)

// Config says where a Transport listens and what it may use. Members of one
// cluster must agree on FrameBytesMax.
type Config struct {
	// Listen is the address to listen on, as host:port. Port 0 picks a free one.
	Listen string
	// Advertise is where other members reach this one, as host:port. Empty: the
	// address that Listen led to. It must be set when Listen names no host.
	Advertise string
	// TLS is mutual TLS between members. Its zero value is plain TCP.
	TLS TLS

	// FrameBytesMax bounds the body of one frame, and so the largest message.
	// 0: 64 MiB.
	FrameBytesMax int
	// QueueBytesMax bounds what waits for one peer, in bytes of payload. 0: 64
	// MiB. Send returns false beyond it.
	QueueBytesMax int64
	// QueueMessagesMax bounds what waits for one peer, in messages. 0: 65536.
	QueueMessagesMax int
	// ConnectionsMax bounds how many incoming connections from peers are open at once. 0:
	// 1024. More are refused.
	ConnectionsMax int
	// HandshakesMax bounds how many incoming connections have not yet shaken hands: so many
	// from the machines of peers, and so many from elsewhere. The oldest is closed when
	// another one comes. 0: 128.
	HandshakesMax int
	// StrangersMax bounds how many incoming connections have shaken hands and are not from
	// a peer that SetPeer named. The oldest is closed when another one comes. 0: 64.
	StrangersMax int

	// Dial connects to an address of another member, for networks that are not reached by
	// TCP alone, such as through a proxy. An error that is ECONNREFUSED says that nobody
	// listens there. nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// DialTimeout bounds how long a TCP connection may take. 0: 5 s.
	DialTimeout time.Duration
	// HandshakeTimeout bounds how long TLS and the exchange of Hellos may take
	// together. 0: 5 s.
	HandshakeTimeout time.Duration
	// StallTimeout is how long the bytes of a message connection may wait for
	// the peer before the connection is given up and made anew. A large
	// frame has that long for each MiB, and that much more in all. 0: 20 s.
	StallTimeout time.Duration
	// ProgressTimeout is the same for a snapshot stream and for a call. 0: 30 s.
	ProgressTimeout time.Duration

	// Logger is told of connections made, lost and refused. nil: silent.
	Logger *zap.Logger
}

// withDefaults returns a copy whose zero values are replaced, or the reason why
// the configuration cannot work.
func (c Config) withDefaults() (Config, error) {
	orDefault(&c.FrameBytesMax, 64<<20)
	orDefault(&c.QueueBytesMax, 64<<20)
	orDefault(&c.QueueMessagesMax, 1<<16)
	orDefault(&c.ConnectionsMax, 1024)
	orDefault(&c.HandshakesMax, 128)
	orDefault(&c.StrangersMax, 64)
	orDefault(&c.DialTimeout, 5*time.Second)
	orDefault(&c.HandshakeTimeout, 5*time.Second)
	orDefault(&c.StallTimeout, 20*time.Second)
	orDefault(&c.ProgressTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Dial == nil {
		dialer := net.Dialer{KeepAliveConfig: keepAlive(c.StallTimeout)}
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	return c, c.check()
}

func (c Config) check() error {
	if c.FrameBytesMax < frameBytesMaxMin || c.FrameBytesMax > frameBytesMaxMax {
		return fmt.Errorf("tcp: FrameBytesMax is %d: set it between %d and %d, or 0 for the default",
			c.FrameBytesMax, frameBytesMaxMin, frameBytesMaxMax)
	}
	if c.QueueBytesMax < 0 || c.QueueMessagesMax < 0 || c.ConnectionsMax < 0 || c.HandshakesMax < 0 || c.StrangersMax < 0 {
		return fmt.Errorf("tcp: a bound is negative: set it above 0, or to 0 for the default")
	}
	if c.DialTimeout < 0 || c.HandshakeTimeout < 0 || c.StallTimeout < 0 || c.ProgressTimeout < 0 {
		return fmt.Errorf("tcp: a timeout is negative: set it above 0, or to 0 for the default")
	}
	if c.Listen == "" {
		return fmt.Errorf("tcp: Listen is empty: set it to host:port")
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return fmt.Errorf("tcp: Advertise %q is no host:port: %w", c.Advertise, err)
		}
	}
	return nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
