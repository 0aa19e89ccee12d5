// Package stepped is how a simulator runs a Node: without goroutines and without
// a clock, one turn of one of its parts at a time.
//
// It holds the words that package node and its simulator share, so that nothing
// of them is in node's public API, and nothing of node's core in the simulator.
// Package node sets Start and ConfState; the simulator calls them. What runs is
// the Node that ships: its loop, appender, applier, store and log. Only who calls
// them, and when, is another.
package stepped

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
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
	// Decided shows what a turn of the loop decided, before any of it is carried out.
	Decided(*Decision)
}

// Decision is what one turn of the loop decided. It belongs to the Node: a host only
// looks at it.
type Decision struct {
	// Messages are those of raft to peers, without the ones that carry a snapshot.
	Messages []octopiipb.PeerMessage
	// Snapshots counts the snapshots that are to be sent.
	Snapshots int
	// Forwards are requests for the leader, and Replies answers to such requests.
	Forwards, Replies []Batch
	// Outcomes counts the answers to callers of this member.
	Outcomes int
	// Append is for the log; nil: nothing.
	Append *Append
	// Applies: committed entries go to the state machine, the last of them is ApplyTo.
	Applies bool
	ApplyTo uint64
	// Membership is the one that is in force from now on; nil: no other than before.
	Membership *octopiipb.Membership
	// GivenUp are the members that this leader removes because they never answered.
	GivenUp []uint64
}

// Batch is so many requests or replies to one member.
type Batch struct {
	To    uint64
	Count int
}

// Append is what becomes durable in one step.
type Append struct {
	Entries   []raftpb.Entry
	HardState raftpb.HardState
	// Snapshot, if not nil, was received and replaces the whole log.
	Snapshot *raftpb.Snapshot
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
	// RequestWindow is how many numbers of a follower's requests a leader tells apart;
	// 0: the default.
	RequestWindow uint64
	// OldestFormat and NewestFormat are the format levels that the Node pretends to read; 0: its own.
	OldestFormat, NewestFormat uint32
}

// Start recovers a Node that runs only when it is told to. Package node sets it.
var Start func(Config) (Node, error)

// ConfState returns raft's configuration for a membership, or why there is none.
// Package node sets it.
var ConfState func(*octopiipb.Membership) (raftpb.ConfState, error)

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

	// The next five ask for something. done is called once from inside a turn, unless
	// the Node stops first; it may be called before the method returns. giveUp ends the
	// wait: it returns node.ErrNotCommitted or node.ErrUnknownOutcome, and what done is
	// told after it does not count.

	// Propose appends a command to the log. The Node copies data.
	Propose(data []byte, done func(Answer)) (giveUp func() error)
	// Barrier appends an entry that does nothing. Once it is applied, a majority has on
	// disk that all entries before it are committed.
	Barrier(done func(Answer)) (giveUp func() error)
	// Read asks for an index from which on a read of the state machine is linearizable,
	// and waits until it is applied.
	Read(done func(Answer)) (giveUp func() error)
	// Change makes all the changes of membership as one.
	Change(changes []octopiipb.MemberChange, done func(Answer)) (giveUp func() error)
	// Transfer hands leadership to a voter; 0: the best one.
	Transfer(to uint64, done func(Answer)) (giveUp func() error)

	// Snapshot is node.Node.TakeSnapshot.
	Snapshot(done func(index uint64, err error))
	// View is what the member has of its log, to look at.
	View() *raftstore.View
	// HardState is the last one that is durable.
	HardState() raftpb.HardState
	// Close stops it as node.Node.Close does, without handing leadership over.
	Close() error
}

// Work says which parts of a Node have something to do.
type Work struct{ Loop, Append, Apply bool }

// Answer is the outcome of a request.
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
