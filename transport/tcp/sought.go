package tcp

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/octopii/octopii/transport"
)

// Sought listens at an address for so long, or until a member of a cluster comes and
// wants another member there, and returns what that said of itself: To is whom it
// wants. Node is 0 if nobody came. Everybody is refused. It is for a member with an
// empty disk, which cannot know that it was one before.
func Sought(cfg Config, timeout time.Duration) (transport.Hello, error) {
	t, err := New(cfg)
	if err != nil {
		return transport.Hello{}, err
	}
	s := seeker{address: t.Address(), who: make(chan transport.Hello, 1)}
	if err := t.Start(s); err != nil {
		return transport.Hello{}, errors.Join(err, t.Close())
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var who transport.Hello
	select {
	case who = <-s.who:
	case <-timer.C:
	}
	return who, t.Close()
}

// NewCaller starts a Transport without a member behind it, for one that asks others
// before it has a Node, or after its Node stopped: everybody who comes is refused. In its
// handshakes it is of no cluster, under an ID that is drawn for it alone. The caller
// closes it.
func NewCaller(cfg Config) (*Transport, error) {
	t, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s := seeker{address: t.Address(), id: rand.Uint64()>>2 + 1, who: make(chan transport.Hello, 1)}
	if err := t.Start(s); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// seeker is a transport.Handler without a member behind it.
type seeker struct {
	address string
	// id is 0 for one that only listens.
	id  uint64
	who chan transport.Hello
}

var errNoMember = errors.New("there is no member here yet; try again")

func (s seeker) Hello(uint64) transport.Hello {
	return transport.Hello{Node: s.id, Host: transport.Host{Address: s.address}}
}

func (s seeker) Accept(peer transport.Hello) error {
	if s.id != 0 {
		return nil // whom it called itself; others get errNoMember as the answer to their calls
	}
	if peer.Cluster != 0 && peer.To != 0 {
		select {
		case s.who <- peer:
		default: // one is enough
		}
	}
	return errNoMember
}

func (seeker) HandleMessages(uint64, []transport.Inbound)     {}
func (seeker) HandleSnapshot(uint64, []byte, io.Reader) error { return errNoMember }
func (seeker) Refused(transport.Hello, transport.Refusal)     {}
func (seeker) PeerDown(uint64)                                {}
func (seeker) PeerGone(uint64)                                {}
func (seeker) HandleCall(context.Context, transport.Hello, transport.Inbound) (transport.Message, error) {
	return nil, errNoMember
}
