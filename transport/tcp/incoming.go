package tcp

import (
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// acceptLoop ends when Close closes the listener.
func (t *Transport) acceptLoop() {
	for delay := time.Duration(0); ; {
		raw, err := t.listener.Accept()
		if err == nil {
			delay = 0
			t.admit(raw)
			continue
		}
		if t.life.Err() != nil {
			return
		}
		// Most likely there are no file descriptors left: others will close some.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		t.warnStrangers("cannot accept connections, trying again", zap.Duration("after", delay), zap.Error(err))
		select {
		case <-time.After(delay):
		case <-t.life.Done():
		}
	}
}

// admit begins to serve a connection, unless there are too many.
func (t *Transport) admit(raw net.Conn) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(t.keepAlive)
		tolerateLoss(tcp)
	}
	c := newConn(t, raw, t.tls.server(raw), raw.RemoteAddr().String(), true)
	if err := t.track(c); err != nil {
		_ = raw.Close()
		return
	}
	t.wg.Go(func() {
		defer c.discharge()
		defer c.close()
		t.serve(c)
	})
}

func (t *Transport) serve(c *conn) {
	peer, purpose, err := c.answer()
	if purpose == purposeMessages {
		// Even after an error: this connection took the place of an older one.
		t.receive(c, peer.Node, err)
		return
	}
	if err != nil {
		if explained := c.explainTLS(err); explained != err {
			t.warnStrangers("refused a connection", zap.String("address", c.address), zap.Error(explained))
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

// replaceFlow makes c the message connection of a peer. An older one is closed,
// and c will wait for its reader: so one peer's messages stay in order.
func (t *Transport) replaceFlow(f flow, c *conn) {
	t.mu.Lock()
	older := t.flows[f]
	t.flows[f] = c
	c.older = older
	c.flow = f
	if t.peers[f.id] == nil {
		c.guest = newGuest()
	}
	if p := t.peers[f.id]; p != nil && older != nil && older.host.ID != c.host.ID {
		p.takeOver(older.host.ID)
	}
	t.mu.Unlock()
	if older != nil {
		older.close()
	}
}

// receive hands over the messages of a connection until it breaks.
func (t *Transport) receive(c *conn, from uint64, err error) {
	defer close(c.done)
	if c.older != nil {
		<-c.older.done
		c.older = nil
	}
	shaken := err == nil
	if shaken {
		t.hurryPeer(from)
		answered := make(chan struct{})
		t.wg.Go(func() {
			defer close(answered)
			if c.guest != nil {
				c.answerGuest()
			}
		})
		err = t.receiveBatches(c, from)
		c.close()
		<-answered
	}
	c.close()

	t.mu.Lock()
	if t.flows[c.flow] == c {
		delete(t.flows, c.flow)
	}
	// A lane above 0 is closed when it is idle; the session is over when lane 0 is.
	quiet := c.removed || t.closed || !shaken || c.flow.lane > 0
	t.mu.Unlock()
	level := zap.InfoLevel
	if !c.member.Load() || c.flow.lane > 0 {
		level = zap.DebugLevel // strangers must not fill the disk with it
	}
	t.log.Log(level, "incoming connection ended", zap.String("peer", hexID(from)), zap.String("address", c.address), zap.Error(err))
	if !quiet {
		t.handler.PeerDown(from)
	}
}

func (t *Transport) receiveBatches(c *conn, from uint64) error {
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
	err := c.t.receiveBatches(c, from)
	c.discharge()
	c.close()
	return err
}

// connectOthers makes the connections to all peers but one, where there are none. If
// that one led, the others have an election before them, and may never have had
// anything to say to each other before.
func (t *Transport) connectOthers(id uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for other, p := range t.peers {
		if other != id {
			p.want()
		}
	}
}

// flowing says whether a peer has a connection for its messages to this member, or
// what came on one is still being handed over: then it lives, or has not died yet.
func (t *Transport) flowing(id uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for lane := range uint32(lanesEnd) {
		if t.flows[flow{id, lane}] != nil {
			return true
		}
	}
	return false
}

// hurryPeer ends the wait before dialing a peer that is evidently alive.
func (t *Transport) hurryPeer(id uint64) {
	t.mu.RLock()
	p := t.peers[id]
	t.mu.RUnlock()
	if p != nil {
		signal(p.hurry)
	}
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
	c.discharge()
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
