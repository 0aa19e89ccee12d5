package node

import (
	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// bareGroup is a group without its parts, as member 1.
func bareGroup() *group {
	g := &group{process: &process{host: machine{}, log: zap.NewNop()}, id: 1, inbox: newInbox(machine{}.bell())}
	g.begin(g.inbox.bell)
	g.drained = make(chan struct{}, 1)
	return g
}

// bareGroupOn is one with a transport.
func bareGroupOn(t transport.Transport) *group {
	g := bareGroup()
	g.transport = t
	return g
}

// bareLoop is a loop of a bare group.
func bareLoop() *loop { return (&loop{group: bareGroup()}).link() }
