package tcp

import (
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// acceptor takes connections in, until Close closes the listener.
type acceptor struct {
	t         *Transport
	listener  net.Listener
	keepAlive net.KeepAliveConfig
}

func (a *acceptor) run() {
	for delay := time.Duration(0); ; {
		raw, err := a.listener.Accept()
		if err == nil {
			delay = 0
			a.admit(raw)
			continue
		}
		if a.t.life.closed() {
			return
		}
		// Most likely there are no file descriptors left: others will close some.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		a.t.strangers.warn("cannot accept connections, trying again", zap.Duration("after", delay), zap.Error(err))
		select {
		case <-time.After(delay):
		case <-a.t.life.ctx.Done():
		}
	}
}

// admit begins to serve a connection.
func (a *acceptor) admit(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(a.keepAlive)
		tolerateLoss(tcp)
	}
	t := a.t
	c := newConn(t, raw, t.tls.server(raw), raw.RemoteAddr().String(), true)
	if err := t.registry.track(c); err != nil {
		_ = raw.Close()
		return
	}
	t.life.wg.Go(func() {
		defer c.charged.giveBack()
		defer c.close()
		t.serve(c)
	})
}

func (t *Transport) serve(c *conn) {
	peer, purpose, err := c.answer()
	if c.flow != nil { // even after an error: this connection took the place of an older one
		c.flow.receive(err)
		return
	}
	if err != nil {
		if explained := c.explainTLS(err); explained != err {
			t.strangers.warn("refused a connection", zap.String("address", c.address), zap.Error(explained))
		}
		t.log.Debug("handshake failed", zap.String("address", c.address), zap.Error(err))
		return
	}
	switch purpose {
	case purposeSnapshot:
		t.receiveSnapshot(c, peer.Node)
	case purposeCall:
		t.answerCall(c, peer)
	}
}

// flow is an incoming message connection. One that replaces an older one waits for its reader.
type flow struct {
	c     *conn
	key   flowKey
	older *flow
	// guest is the way back to a sender that was a stranger when it was registered.
	guest *guest
	// done is closed when the reader has made its last call to the Handler.
	done chan struct{}
}

// flowKey names a message connection.
type flowKey struct {
	id   uint64
	lane uint32
}

// receive hands over the messages of the flow until its connection breaks. err is why the
// handshake failed.
func (f *flow) receive(err error) {
	defer close(f.done)
	if f.older != nil {
		<-f.older.done
		f.older = nil
	}
	c, t, from := f.c, f.c.t, f.key.id
	shaken := err == nil
	if shaken {
		t.registry.hurry(from)
		answered := make(chan struct{})
		t.life.wg.Go(func() {
			defer close(answered)
			if f.guest != nil {
				f.guest.answer(c)
			}
		})
		err = c.receiveMessages(from)
		c.close()
		<-answered
	}
	c.close()
	down := t.registry.endFlow(f)
	level := zap.InfoLevel
	if !c.member.Load() || f.key.lane > 0 {
		level = zap.DebugLevel // strangers must not fill the disk with it
	}
	t.log.Log(level, "incoming connection ended", zap.String("peer", hexID(from)), zap.String("address", c.address), zap.Error(err))
	if shaken && down {
		t.handler.PeerDown(from)
	}
}

// receiveMessages hands over messages until the connection breaks.
func (c *conn) receiveMessages(from uint64) error {
	t := c.t
	for {
		kind, body, err := c.readFrame(t.config.FrameBytesMax, nil)
		if err != nil {
			return err
		}
		if kind != frameMessages {
			return c.unexpected(kind, body)
		}
		batch, others, err := decodeMessages(body)
		if err != nil {
			return c.failed(err)
		}
		t.counters.otherGroups.Add(uint64(others))
		if len(batch) > 0 {
			t.handOver(from, batch)
		}
	}
}

// handOver calls HandleMessages, one at a time for each sender.
func (t *Transport) handOver(from uint64, batch []transport.Inbound) {
	turn := &t.order[from%uint64(len(t.order))]
	turn.Lock()
	defer turn.Unlock()
	t.handler.HandleMessages(from, batch)
}

// readAnswers is the reader of a dialed message connection: a member that does not know
// this one yet answers on it. It returns when the connection is broken.
func (c *conn) readAnswers(from uint64) error {
	err := c.receiveMessages(from)
	c.charged.giveBack()
	c.close()
	return err
}

// reply writes the outcome of a snapshot or a call.
func (c *conn) reply(payload []byte, outcome error) error {
	if outcome != nil {
		return c.writeFrame(newFrame(frameError, []byte(reasonOf(outcome))))
	}
	return c.writeFrame(newFrame(frameOK, payload))
}

// awaitReply reads what reply wrote.
func (c *conn) awaitReply(limit int) ([]byte, error) {
	kind, body, err := c.readFrame(max(limit, reasonBytesMax), nil)
	c.charged.giveBack()
	switch {
	case err != nil:
		return nil, err
	case kind == frameOK:
		return body, nil
	case kind == frameError:
		return nil, &transport.RemoteError{Address: c.address, Reason: string(body)}
	default:
		return nil, c.unexpected(kind, body)
	}
}
