package etcdapi

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
)

// connection is what is known of a client's connection.
type connection struct {
	// conn is nil in tests without a network.
	conn net.Conn

	// held is the sum over the tickets of this connection; gone: it is closed, and
	// all was given back. Guarded by answers.mu.
	held int64
	gone bool
	// scanned is for how long it scanned. Guarded by scans.mu.
	scanned time.Duration
	// reading has a token for each request that is being read.
	reading chan struct{}
}

func newConnection() *connection { return &connection{reading: make(chan struct{}, connReadingMax)} }

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close() // gRPC notices, and says so to whom it concerns
	}
}

type connectionKey struct{}

// connectionOf returns the connection that a request came by.
func connectionOf(ctx context.Context) *connection {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		return c
	}
	return newConnection()
}

// connections is a stats.Handler that tells answers of connections that come and go, and
// requests of what becomes of them.
type connections struct {
	answers  *answers
	requests *requests
}

func (connections) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	c := newConnection()
	if a, ok := info.RemoteAddr.(clientAddr); ok {
		c.conn = a.conn
	}
	return context.WithValue(ctx, connectionKey{}, c)
}

// HandleConn gives back what a connection had when it ends: gRPC does not free what
// it had begun to write.
func (h connections) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); !ok {
		return
	}
	c := connectionOf(ctx)
	h.answers.mu.Lock()
	defer h.answers.mu.Unlock()
	h.answers.used -= c.held
	c.held, c.gone = 0, true
	h.answers.admit()
}

func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (h connections) HandleRPC(ctx context.Context, s stats.RPCStats) { h.requests.handle(ctx, s) }

// watched wraps the connections that credentials have to do with, so that one can be
// closed, and ends when its peer takes nothing for too long.
type watched struct {
	credentials.TransportCredentials
	stallTimeout time.Duration
	// failed is told of handshakes that failed, unless it is nil.
	failed func(remote net.Addr, err error)
}

func (w watched) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := w.TransportCredentials.ServerHandshake(&watchedConn{conn, w.stallTimeout})
	if err != nil && w.failed != nil {
		w.failed(conn.RemoteAddr(), err)
	}
	return secure, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.stallTimeout, w.failed}
}

// watchedConn is a connection on which every write ends in time.
type watchedConn struct {
	net.Conn
	stallTimeout time.Duration
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// RemoteAddr brings the connection along, as gRPC hands out the address and not the
// connection.
func (c *watchedConn) RemoteAddr() net.Addr { return clientAddr{c.Conn.RemoteAddr(), c.Conn} }

type clientAddr struct {
	net.Addr
	conn net.Conn
}
