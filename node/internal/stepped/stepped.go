// Package stepped is how a simulator runs a Node: without goroutines and without
// a clock, one turn of one of its parts at a time.
//
// It holds the words that package node and its simulator share, so that nothing
// of them is in node's public API. Package node sets Start; node/nodetest calls
// it. What runs is the Node that ships: its loop, appender, applier, store and
// log. Only who calls them, and when, is another.
package stepped

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
)

// Host is what a Node has instead of goroutines and the machine's clock. A Node
// calls it from inside its turns.
type Host interface {
	// Go runs f once, later, beside everything else.
	Go(f func())
	// Aside runs f once, soon, beside everything else. f decides nothing.
	Aside(f func())
	// Timer returns a timer that is stopped, and calls f each time that it fires.
	Timer(f func()) Timer
	Now() time.Time
	// Decided shows what the core decided, before any of it is carried out.
	Decided(*core.Effects)
}

// Timer is the part of time.Timer that a Node uses.
type Timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

// Config is what Start needs.
type Config struct {
	// Node is a node.Config, which this package cannot name.
	Node any
	FS   vfs.FS
	Host Host
	// CacheBytes of the newest entries are held in memory; 0: the default.
	CacheBytes uint64
	// RequestWindow is core.Config.RequestWindow; 0: the default.
	RequestWindow uint64
}

// Start recovers a Node that runs only when it is told to. Package node sets it.
var Start func(Config) (Node, error)

// Node is a Node to be run turn by turn, from one goroutine.
type Node interface {
	// Node returns the *node.Node itself. Of its methods only those that do not
	// wait may be called.
	Node() any
	// Work says which parts have something to do.
	Work() Work
	// Loop lets the loop take one turn, in which so many ticks pass.
	Loop(ticks int)
	// Append lets the appender do all that waits for it.
	Append()
	// Apply lets the applier do all that waits for it.
	Apply()
	// Submit asks for something, as the verbs of node.Node do. done is called once
	// from inside a turn, unless the Node stops first. The call that Submit returns
	// gives the request up.
	Submit(r core.Request, done func(Answer)) (giveUp func() error)
	// Snapshot is node.Node.TakeSnapshot.
	Snapshot(done func(index uint64, err error))
	// Store is the member's store, to look at.
	Store() *raftstore.Store
	// HardState is the last one that is durable.
	HardState() raftpb.HardState
	// Close stops it as node.Node.Close does, without handing leadership over.
	Close() error
}

// Work says which parts of a Node have something to do.
type Work struct{ Loop, Append, Apply bool }

// Answer is the outcome of a Submit.
type Answer struct {
	// Index is that of the entry, or the read index.
	Index uint64
	// Data is what StateMachine.Apply returned.
	Data       []byte
	Membership *octopiipb.Membership
	// Err is one of package node's errors.
	Err error
}

// Asker is a transport whose calls do not wait: done gets what Transport.Call
// would return.
type Asker interface {
	Ask(address string, kind transport.Kind, m transport.Message, done func(payload []byte, err error))
}

// Answerer is a transport.Handler that answers without waiting: done gets what
// HandleCall would return.
type Answerer interface {
	Answer(from transport.Hello, in transport.Inbound, done func(transport.Message, error))
}
