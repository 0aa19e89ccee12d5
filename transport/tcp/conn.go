package tcp

import (
	"bufio"
	"container/list"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

const (
	readBufferBytes = 32 << 10
	// writeStepBytes is how much one write deadline covers, so that a large frame
	// on a slow network is not taken for a stalled one.
	writeStepBytes = 1 << 20
)

// conn is one connection after its TCP part is made. One goroutine reads from
// it and one writes to it at a time; anybody may close it.
type conn struct {
	t       *Transport
	raw     net.Conn // closed directly: closing TLS in good order may block
	nc      net.Conn // raw, or TLS over it
	address string   // of the other side, for people
	inbound bool

	frames frameReader
	timed  *timedReader
	// idle is how long the reader waits for a frame to begin, progress how long
	// for more of one; 0 is for ever. Owned by the reader.
	idle, progress time.Duration
	// writeTimeout is how long the writer waits for writeStepBytes to go. 0: as
	// long as the deadline that is set already. Owned by the writer.
	writeTimeout time.Duration

	closing sync.Once
	// done is closed when the reader of an incoming message connection has made
	// its last call to the Handler.
	done chan struct{}

	// older is the connection that this one replaced. Set before the reader waits
	// for it.
	older *conn
	// flow is what the connection is registered as, once it is.
	flow flow

	// gone is closed by close. guest is set for a message connection from a stranger, before
	// it is registered as a flow.
	gone  chan struct{}
	guest *guest

	// member: it is a connection with a peer.
	member atomic.Bool
	// held is how much of payer's memory the frame that is being read has. Owned by the reader.
	held  int
	payer *budget

	// Guarded by t.mu. place is where the connection counts, and element where it stands
	// there; nil: nowhere. peer is the member at the other end of a connection for
	// messages or a snapshot, else 0; removed says that RemovePeer closed it.
	peer    uint64
	removed bool
	// host is the process that made an incoming connection.
	host    transport.Host
	place   *place
	element *list.Element
}

// timedReader gives every read that has to wait a deadline of its own.
type timedReader struct {
	nc      net.Conn
	timeout time.Duration
	armed   bool
	// until, if set, is when everything must have come that is being read.
	until time.Time
}

func (r *timedReader) Read(p []byte) (int, error) {
	if !r.until.IsZero() {
		if err := r.nc.SetReadDeadline(r.until); err != nil {
			return 0, err
		}
		r.armed = true
	} else if r.timeout > 0 {
		if err := r.nc.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
			return 0, err
		}
		r.armed = true
	} else if r.armed {
		if err := r.nc.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		r.armed = false
	}
	return r.nc.Read(p)
}

func newConn(t *Transport, raw, nc net.Conn, address string, inbound bool) *conn {
	c := &conn{t: t, raw: raw, nc: nc, address: address, inbound: inbound, done: make(chan struct{}), gone: make(chan struct{})}
	c.timed = &timedReader{nc: nc}
	c.frames.r = bufio.NewReaderSize(c.timed, readBufferBytes)
	c.frames.onBody = func(begun bool) {
		switch {
		case !begun:
			c.timed.timeout = c.idle
		case c.progress > 0:
			c.timed.timeout = c.progress
		}
		if c.inbound && !c.member.Load() && c.progress > 0 {
			c.timed.until = time.Time{}
			if begun { // a stranger's bytes may not trickle in for ever
				c.timed.until = time.Now().Add(c.progress)
			}
		}
	}
	c.frames.charge = c.charge
	return c
}

// track makes the connection one that Close closes.
func (t *Transport) track(c *conn) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return transport.ErrClosed
	}
	t.conns[c] = struct{}{}
	var oldest *conn
	if c.inbound {
		shaking := &t.shaking
		if t.fromPeer(c.raw.RemoteAddr()) {
			shaking = &t.shakingPeers
		}
		oldest = shaking.add(c, t.config.HandshakesMax)
	}
	t.mu.Unlock()
	t.evict(oldest, "many connections do not shake hands: closing the oldest")
	return nil
}

// close may be called by anybody, more than once, on a tracked connection.
func (c *conn) close() {
	c.closing.Do(func() {
		_ = c.raw.Close()
		close(c.gone)
		t := c.t
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.conns, c)
		c.leavePlace()
		if c.inbound && c.member.Load() {
			t.established--
		}
	})
}

// handshakeDone lifts the deadline of the handshake and sets those that follow
// it.
func (c *conn) handshakeDone(idle, progress, writeTimeout time.Duration) error {
	c.idle, c.progress, c.writeTimeout = idle, progress, writeTimeout
	c.timed.timeout = idle
	c.t.counters.connections.Add(1)
	return c.nc.SetDeadline(time.Time{})
}

// readFrame reads the next frame into the memory of into, or into memory of its
// own when it does not fit.
func (c *conn) readFrame(limit int, into []byte) (frameType, []byte, error) {
	c.discharge()
	kind, body, err := c.frames.next(limit, into)
	if err != nil {
		c.discharge()
		return 0, nil, c.failed(err)
	}
	c.t.counters.framesIn.Add(1)
	c.t.counters.bytesIn.Add(uint64(headerBytes + len(body)))
	return kind, body, nil
}

// failed counts err if it is a bad frame, and returns it.
func (c *conn) failed(err error) error {
	var bad *badFrame
	if errors.As(err, &bad) {
		c.t.counters.badFrames.Add(1)
		c.t.warnStrangers("bad frame: closing the connection", zap.String("address", c.address), zap.String("reason", bad.reason))
	}
	return err
}

// unexpected is the error for a frame that has no place here. A Hello that says
// why the dialer leaves is the one that has, anywhere.
func (c *conn) unexpected(kind frameType, body []byte) error {
	var hello octopiipb.Hello
	if kind == frameHello && hello.Unmarshal(body) == nil && hello.Refused != "" {
		c.t.counters.refused.Add(1)
		c.t.warnStrangers("the peer refuses this member", zap.String("address", c.address), zap.String("reason", hello.Refused))
		c.t.handler.Refused(toHello(hello), refusalIn(hello))
		return c.refusedBy(hello)
	}
	return c.failed(badFramef("type %d has no place here", kind))
}

// writeFrame writes a sealed frame: up to writeStepBytes go in one write.
func (c *conn) writeFrame(frame []byte) error {
	for rest := frame; len(rest) > 0; {
		step := rest[:min(len(rest), writeStepBytes)]
		if c.writeTimeout > 0 {
			if err := c.nc.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
				return err
			}
		}
		if _, err := c.nc.Write(step); err != nil {
			return err
		}
		rest = rest[len(step):]
	}
	c.t.counters.framesOut.Add(1)
	c.t.counters.bytesOut.Add(uint64(len(frame)))
	return nil
}

// linger reads and forgets what still comes, for a bounded time: closing with
// bytes unread would reset the connection, and a reset overtakes the answer
// that was just written.
func (c *conn) linger() {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.t.config.HandshakeTimeout)); err != nil {
		return
	}
	var scratch [4096]byte
	for {
		if _, err := c.nc.Read(scratch[:]); err != nil {
			return
		}
	}
}
