package node

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// Who belongs to no cluster remembers nothing of this one: a handshake of a
// stranger stops nobody.
func TestStrangersRemindNobody(t *testing.T) {
	for _, c := range []struct {
		name       string
		mine, peer uint64
		stops      bool
	}{
		{"a joiner at a member", 7, 0, false},
		{"another cluster's at a member", 7, 8, false},
		{"a joiner at a joiner", 0, 0, false},
		{"a member at a member", 7, 7, true},
		{"a member at one that was wiped", 0, 7, true},
	} {
		n := &Node{host: machine{}, id: 1, log: zap.NewNop(), inbox: newInbox(), done: make(chan struct{}), cancel: func() {}, appender: &appender{}, events: &events{}}
		n.cluster.Store(c.mine)
		_ = handler{n}.Accept(transport.Hello{Node: 2, Cluster: c.peer, Remembers: transport.Memory{Term: 9, Match: 1 << 40}})
		if got := errors.Is(n.Err(), ErrAmnesia); got != c.stops {
			t.Errorf("%s, reminded: it ends with %v", c.name, n.Err())
		}
		n = &Node{host: machine{}, id: 1, log: zap.NewNop(), done: make(chan struct{}), cancel: func() {}, events: &events{}}
		n.cluster.Store(c.mine)
		handler{n}.Refused(transport.Hello{Node: 2, Cluster: c.peer}, ErrAmnesia.Error())
		if got := errors.Is(n.Err(), ErrAmnesia); got != c.stops {
			t.Errorf("%s, refused: it ends with %v", c.name, n.Err())
		}
	}
}
