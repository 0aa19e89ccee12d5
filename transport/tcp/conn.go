package tcp

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/proto"
)

const (
	readBufferBytes = 32 << 10
	// writeStepBytes is how much one stall timeout covers, so that a large frame on a slow
	// network is not taken for a stalled one. It makes the least rate of a frame, 52 kB/s by
	// default: the writer has the timeout for each step, and the reader see timedReader.
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
	// charged is the memory of the frame that is being read.
	charged frameCharge
	// writeTimeout is how long the writer waits for writeStepBytes to go. 0: as
	// long as the deadline that is set already. Owned by the writer.
	writeTimeout time.Duration

	// member: it is a connection with a peer.
	member atomic.Bool
	entry  entry
	// flow is what the connection is registered as, if it brings messages from a sender.
	flow *flow

	closing sync.Once
	gone    chan struct{} // closed by close
}

// timedReader gives every read that has to wait a deadline of its own. Its reader owns it.
//
// A frame of a peer may fall behind the least rate by the stall timeout. More is no slow
// network: a piece of the stream was lost, and what follows it, such as heartbeats, fills the
// frame instead. Each of those bytes is progress, but nobody hears of them meanwhile.
type timedReader struct {
	nc net.Conn
	// idle is how long to wait for a frame to begin, stall how far one that has begun may fall
	// behind writeStepBytes in stall; 0 is for ever.
	idle, stall time.Duration
	// bounded says whether all of a frame must come within stall, however long it is.
	bounded func() bool
	begun   bool // a frame did
	armed   bool
	// until, if set, is when everything must have come that is being read.
	until time.Time
	// paced says that each byte of the frame that comes moves until on, by its share of stall.
	paced bool
}

// onBody is called when a frame has begun, and when it has ended.
func (r *timedReader) onBody(begun bool) {
	r.begun, r.until = begun, time.Time{}
	if begun && r.stall > 0 {
		r.until = time.Now().Add(r.stall)
		r.paced = !r.bounded() // a stranger's bytes may not trickle in for ever
	}
}

func (r *timedReader) Read(p []byte) (int, error) {
	deadline := r.until
	if deadline.IsZero() && r.idle > 0 {
		deadline = time.Now().Add(r.idle)
	}
	if r.armed || !deadline.IsZero() {
		if err := r.nc.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		r.armed = !deadline.IsZero()
	}
	n, err := r.nc.Read(p)
	if r.begun && r.paced {
		r.came(n)
	}
	return n, err
}

// came moves until on, as n bytes of a frame have come, but not beyond stall from now.
func (r *timedReader) came(n int) {
	share := float64(n) / writeStepBytes
	r.until = r.until.Add(time.Duration(share * float64(r.stall)))
	if latest := time.Now().Add(r.stall); r.until.After(latest) {
		r.until = latest
	}
}

func newConn(t *Transport, raw, nc net.Conn, address string, inbound bool) *conn {
	c := &conn{t: t, raw: raw, nc: nc, address: address, inbound: inbound, gone: make(chan struct{})}
	c.timed = &timedReader{nc: nc, bounded: func() bool { return inbound && !c.member.Load() }}
	c.frames = frameReader{r: bufio.NewReaderSize(c.timed, readBufferBytes), onBody: c.timed.onBody, charge: c.charge}
	return c
}

// close may be called by anybody, more than once, on a tracked connection.
func (c *conn) close() {
	c.closing.Do(func() {
		_ = c.raw.Close()
		close(c.gone)
		c.t.registry.forget(c)
	})
}

// handshakeDone lifts the deadline of the handshake and sets those that follow it: idle is how
// long the peer may take to begin a frame, 0 for ever, and stall how long what has begun may
// stand still, in either direction.
func (c *conn) handshakeDone(idle, stall time.Duration) error {
	c.timed.idle, c.timed.stall, c.writeTimeout = idle, stall, stall
	c.t.counters.connections.Add(1)
	return c.nc.SetDeadline(time.Time{})
}

// readFrame reads the next frame into the memory of into, or into memory of its
// own when it does not fit.
func (c *conn) readFrame(limit int, into []byte) (frameType, []byte, error) {
	c.charged.giveBack()
	kind, body, err := c.frames.next(limit, into)
	if err != nil {
		c.charged.giveBack()
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
		c.t.strangers.warn("bad frame: closing the connection", zap.String("address", c.address), zap.String("reason", bad.reason))
	}
	return err
}

// unexpected is the error for a frame that has no place here. A Hello that says
// why the dialer leaves is the one that has, anywhere.
func (c *conn) unexpected(kind frameType, body []byte) error {
	var hello octopiipb.Hello
	if kind == frameHello && hello.Unmarshal(body) == nil && hello.Refused != "" {
		c.t.counters.refused.Add(1)
		c.t.strangers.warn("the peer refuses this member", zap.String("address", c.address), zap.String("reason", hello.Refused))
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
