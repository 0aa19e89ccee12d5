package tcp

import (
	"container/list"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/loglimit"
	"github.com/octopii/octopii/transport"
)

// A stranger is whoever connects and is no peer that SetPeer named: a client at the wrong
// port, a scanner, an adversary, a new member, or a leader that this member does not know
// of yet. All that is kept for strangers is bounded, for each and in all:
//
//   - Connections that have not shaken hands have HandshakesMax places, and as many more are
//     reserved for the machines of peers. The oldest makes room for the newest, so that
//     unfinished ones never keep out one that would finish.
//   - Connections that have shaken hands have StrangersMax places of the same kind. Those
//     of peers count for ConnectionsMax alone.
//   - Memory for frames grows with what has been read, and comes from a budget of
//     FrameBytesMax and strangerBytes for all of them. Peers have a budget of their own.
//   - What a Handler sends to a stranger goes over the connection that the stranger made,
//     and nothing is kept of it when that ends: see guest.
const (
	strangerBytes = 8 << 20
	// memberFrames is how many frames of the largest size the peers may have under way.
	memberFrames = 4
	// strangerCallBytesMax bounds the message of a stranger's call. A request to join is a few
	// hundred bytes.
	strangerCallBytesMax = 64 << 10
	// guestMessagesMax and guestBytesMax bound what waits for one stranger.
	guestMessagesMax = 64
	guestBytesMax    = 1 << 20
)

// budget is memory that several connections share.
type budget struct {
	max  int64
	used atomic.Int64
}

func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.max {
		b.used.Add(-int64(n))
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// frameMemory bounds the memory of frames that are being read.
type frameMemory struct{ strangers, members budget }

// frameCharge is the memory of the frame that is being read on one connection. Its reader
// owns it.
type frameCharge struct {
	payer *budget
	held  int
}

// charge takes memory for the frame that is being read.
func (c *conn) charge(n int) error {
	charge, memory := &c.charged, &c.t.memory
	if charge.held == 0 {
		charge.payer = &memory.strangers
		if c.member.Load() {
			charge.payer = &memory.members
		}
	}
	if !charge.payer.take(n) {
		return fmt.Errorf("no memory is left for a frame from %s: %d bytes are used by others; the sender will try again", c.address, charge.payer.used.Load())
	}
	charge.held += n
	return nil
}

// giveBack returns the memory: the frame was handed over, or its memory is bounded elsewhere.
func (c *frameCharge) giveBack() {
	if c.held > 0 {
		c.payer.give(c.held)
		c.held = 0
	}
}

// slots bounds how many incoming connections are open: of those that have not shaken hands
// yet, of strangers, and of peers. The registry's mutex guards it.
type slots struct {
	handshakesMax, strangersMax, peersMax int
	// Of those that came in, shaking have not shaken hands yet, shakingPeers of them come
	// from the machine of a peer, strangers have shaken hands and are of no peer, and
	// established counts those of peers.
	shaking, shakingPeers, strangers place
	established                      int
}

// place is a list of connections of which the oldest gives way.
type place struct{ open list.List }

// stay is where a connection counts, and its element there; nil: nowhere.
type stay struct {
	place   *place
	element *list.Element
}

// add returns the connection that gives way, nil if there is room.
func (p *place) add(c *conn, limit int) (oldest *conn) {
	if p.open.Len() >= limit {
		oldest = p.open.Front().Value.(*conn)
		oldest.entry.stay.end()
	}
	c.entry.stay = stay{p, p.open.PushBack(c)}
	return oldest
}

func (s *stay) end() {
	if s.place != nil {
		s.place.open.Remove(s.element)
		*s = stay{}
	}
}

// shake has c count as one that shakes hands. It returns the connection that gives way for it,
// if one does.
func (s *slots) shake(c *conn, fromPeer bool) (oldest *conn) {
	if fromPeer {
		return s.shakingPeers.add(c, s.handshakesMax)
	}
	return s.shaking.add(c, s.handshakesMax)
}

var errTooMany = errors.New("too many connections")

// settle has c, which has shaken hands, count as one of a peer or of a stranger. It returns the
// connection that gives way for it, if one does.
func (s *slots) settle(c *conn, ofPeer bool) (oldest *conn, err error) {
	c.entry.stay.end()
	if !ofPeer {
		return s.strangers.add(c, s.strangersMax), nil
	}
	if s.established >= s.peersMax {
		return nil, errTooMany
	}
	s.promote(c)
	return nil, nil
}

// promote makes a connection one of a peer.
func (s *slots) promote(c *conn) {
	c.entry.stay.end()
	if !c.member.Swap(true) {
		s.established++
	}
}

// leave frees the place of a connection.
func (s *slots) leave(c *conn) {
	c.entry.stay.end()
	if c.inbound && c.member.Load() {
		s.established--
	}
}

// giveWay closes a connection in whose place another one came. c may be nil.
func (c *conn) giveWay(reason string) {
	if c == nil {
		return
	}
	c.t.counters.refused.Add(1)
	c.t.strangers.warn(reason, zap.String("address", c.address))
	c.close()
}

// guest is the way back to a stranger that opened a message connection: a leader that this
// member does not know of yet must get its answers. It ends with that connection.
type guest struct {
	queue chan outgoing
	bytes atomic.Int64
}

func newGuest() *guest { return &guest{queue: make(chan outgoing, guestMessagesMax)} }

// send queues a message and never blocks.
func (g *guest) send(kind transport.Kind, m transport.Message) bool {
	size := m.Size()
	if g.bytes.Add(int64(size)) > guestBytesMax {
		g.bytes.Add(-int64(size))
		return false
	}
	select {
	case g.queue <- outgoing{kind, m, size}:
		return true
	default:
		g.bytes.Add(-int64(size))
		return false
	}
}

// answer writes what is queued for a stranger until the connection is closed.
func (g *guest) answer(c *conn) {
	for {
		select {
		case o := <-g.queue:
			frame, _, failed := appendMessages(nil, []outgoing{o}, c.t.config.FrameBytesMax)
			g.bytes.Add(-int64(o.size))
			if failed > 0 {
				continue
			}
			if err := c.writeFrame(frame); err != nil {
				c.close()
				return
			}
		case <-c.gone:
			return
		}
	}
}

// strangerLog logs about strangers, who must not fill the disk with it.
type strangerLog struct {
	log   *zap.Logger
	limit loglimit.Limit
}

func (s *strangerLog) warn(message string, fields ...zap.Field) {
	others, ok := s.limit.Pass(time.Now())
	if !ok {
		return
	}
	if others > 0 {
		fields = append(fields, zap.Int("more of the kind", others))
	}
	s.log.Warn(message, fields...)
}
