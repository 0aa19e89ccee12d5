package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// Node is one member of a cluster. Its methods may be called from any
// goroutine.
type Node struct {
	cfg       Config
	host      host
	id        uint64
	identity  raftstore.Identity
	log       *zap.Logger
	quiet     quiet
	store     *raftstore.Store
	transport transport.Transport

	inbox    *inbox
	appender *appender
	applier  *applier
	events   *events
	metrics  *metrics
	watchdog watchdog
	// callbacks are the calls of user code that are under way.
	callbacks callbacks
	watch     watch
	// snapshots belongs to the loop.
	snapshots snapshots
	// durable: the state machine keeps its own data.
	durable bool
	// applied is the last index that the state machine has.
	applied atomic.Uint64
	// cluster, committed and members are read by the transport's goroutines.
	cluster, committed atomic.Uint64
	place              atomic.Pointer[core.Place] // of committed; Sums are not known
	members            atomic.Pointer[octopiipb.Membership]
	memory             memory
	whereabouts        whereabouts
	guests             guests
	// suspended is why no call is taken; nil: they are.
	suspended atomic.Pointer[error]
	voucher   voucher
	// receiving is held while a snapshot is received: one at a time.
	receiving sync.Mutex
	// noRoomToReceive: the last snapshot that came had no room.
	noRoomToReceive atomic.Bool
	// pending counts what callers have under way, against the bounds in cfg.
	pending, pendingBytes atomic.Int64
	// closing: Close was called, and no call begins any more. drained gets a token
	// when the last one has ended then.
	closing atomic.Bool
	drained chan struct{}
	// removed: this member has applied its own removal, and no call begins any more.
	removed atomic.Bool
	// removalKnown is the loop's, for a peer that refused this member as removed. It is
	// set before the transport starts.
	removalKnown func(peer uint64)

	initialized     chan struct{}
	initializedOnce sync.Once

	// done is closed when the node stops, for whatever reason; cause says which.
	done     chan struct{}
	stopOnce sync.Once
	cause    error
	// ctx ends with done.
	ctx    context.Context
	cancel context.CancelFunc
	// loop is done when the loop is; helpers are the goroutines that come and go.
	loop, helpers sync.WaitGroup
	closeOnce     sync.Once
	closeErr      error
}

// Start recovers cfg.Dir and runs a member until Close or a fatal error. It
// returns when everything durable is read back; being part of a cluster may
// come later: see Initialized. The Node owns cfg.Transport and
// cfg.StateMachine from here on, also when Start fails.
func Start(cfg Config) (*Node, error) { return startOn(cfg, machine{}) }

func startOn(cfg Config, h host) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		if cfg.Transport != nil {
			err = errors.Join(err, cfg.Transport.Close())
		}
		return nil, err
	}
	n, err := start(cfg, h)
	if err != nil {
		return nil, errors.Join(err, cfg.Transport.Close())
	}
	return n, nil
}

func start(cfg Config, h host) (*Node, error) {
	_, durable := cfg.StateMachine.Durable()
	store, view, writer, err := raftstore.Open(raftstore.Options{
		FS:         cfg.fs,
		Dir:        cfg.Dir,
		Backend:    cfg.WAL,
		External:   durable,
		CacheBytes: cfg.cacheBytes,
	})
	if err != nil {
		return nil, storeError(err)
	}
	n := &Node{
		cfg:         cfg,
		host:        h,
		store:       store,
		transport:   cfg.Transport,
		durable:     durable,
		inbox:       newInbox(),
		initialized: make(chan struct{}),
		done:        make(chan struct{}),
		drained:     make(chan struct{}, 1),
	}
	if err := n.recover(view); err != nil {
		return nil, errors.Join(storeError(err), store.Close())
	}
	if n.metrics, err = newMetrics(n); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.loadMemory()
	n.appender = newAppender(n, writer)
	n.applier = newApplier(n)
	n.events = newEvents(h, cfg.Events, &n.callbacks.events)
	n.watchdog.start(n)
	if err := n.run(view); err != nil {
		return nil, errors.Join(err, n.shutdown())
	}
	return n, nil
}

// recover claims a new directory, or checks that an old one is this member's,
// and founds a cluster if it must.
func (n *Node) recover(view *raftstore.View) error {
	if err := n.claim(); err != nil {
		return err
	}
	n.id = n.identity.Node
	n.log = n.cfg.Logger.With(zap.String("member", fmt.Sprintf("%x", n.id)))
	if n.store.Forgot() {
		return fmt.Errorf("%w: %s says that member %x had a log of cluster %x, and there is none; put the log back, or empty the directory and let it join again as a new member, which takes a majority of the others",
			ErrAmnesia, n.cfg.Dir, n.id, PublicClusterID(n.identity.Cluster))
	}
	if o := n.store.Origin(); !view.Initialized() && n.cfg.Bootstrap && n.cfg.FoundAfterTicks == 0 && len(n.cfg.Join) == 0 && !o.Member && len(o.Rounds) == 0 {
		if _, err := n.foundLog(n.roundAlone()); err != nil {
			return err
		}
	}
	if view.Initialized() {
		n.cluster.Store(view.Start().Membership.Cluster)
	}
	return nil
}

// claim reads or writes the identity file.
func (n *Node) claim() error {
	id, ok := n.store.Identity()
	if ok {
		if n.cfg.ID != 0 && n.cfg.ID != id.Node {
			return fmt.Errorf("node: %s belongs to member %x, not to %x; name the right directory, or leave Config.ID zero", n.cfg.Dir, id.Node, n.cfg.ID)
		}
		n.identity = id
		return nil
	}
	id = raftstore.Identity{Node: n.cfg.ID, Name: n.cfg.Name, Incarnation: randomID()}
	if id.Node == 0 {
		id.Node = randomID()
	}
	if id.Name == "" {
		id.Name = fmt.Sprintf("%x", id.Node)
	}
	if err := n.store.SetIdentity(id); err != nil {
		return err
	}
	n.identity = id
	return nil
}

// randomID is never 0 and leaves out the IDs that raft keeps for itself.
func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])>>1 + 1
}

// run starts the goroutines. Whatever it started is running when it fails.
func (n *Node) run(view *raftstore.View) error {
	l, err := newLoop(n, view)
	if err != nil {
		return err
	}
	if err := n.transport.Start(handler{n}); err != nil {
		return fmt.Errorf("node: start the transport: %w", err)
	}
	n.host.unit(&n.loop, l.run) // from here on what the loop has is its own
	n.inbox.call(l.join.begin)
	return nil
}

// storeError gives an error of the files the name that callers know it by. An error
// that may pass is never damage, whatever else it is joined with.
func storeError(err error) error {
	switch {
	case vfs.MayPass(err):
		return err
	case errors.Is(err, wal.ErrCorrupt):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, wal.ErrFormat):
		return fmt.Errorf("node: Config.WAL is not what wrote this log: %w", err)
	}
	return err
}

// Initialized is closed once this member is part of a cluster: at once if Dir
// has state or it founds one, else when the leader's first snapshot is in.
func (n *Node) Initialized() <-chan struct{} { return n.initialized }

// Done is closed on Close, on a fatal error, and when the cluster removed this
// member.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err says why Done was closed: ErrClosed after Close, ErrRemoved, or the fatal
// error. It is nil before.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.cause
	default:
		return nil
	}
}

// stopped is what calls get once done is closed.
func (n *Node) stopped() error {
	if errors.Is(n.cause, ErrClosed) || errors.Is(n.cause, ErrRemoved) {
		return n.cause
	}
	return fmt.Errorf("%w: %w", ErrClosed, n.cause)
}

// stop lets everything come to its end: nothing is sent or acknowledged any
// more. It does not wait.
func (n *Node) stop(cause error) {
	n.stopOnce.Do(func() {
		n.cause = cause
		close(n.done)
		n.cancel()
	})
}

// fatal stops the node because of an error that it cannot go on with.
func (n *Node) fatal(err error) {
	select {
	case <-n.done:
		return
	default:
	}
	n.log.Error("stopping after a fatal error", zap.Error(err))
	n.stop(storeError(err))
}

// Close lets no call begin any more, hands leadership over, if this member leads and
// another one could, gives the calls that are under way their answers, and then stops
// the member. Each of the two has an election timeout. It returns when every goroutine
// has ended and everything is on disk. Further calls wait for the first and return
// the same.
//
// What hangs in a disk that does not answer cannot be ended: when
// Config.StallLimit is over, Close returns ErrDiskStalled and names what it left
// behind, which ends, and gives the directory free, if the disk ever answers.
//
// Inside of the state machine, of a Snapshot of its and of Events it returns
// ErrReentrant and closes nothing.
func (n *Node) Close() error {
	if err := n.callbacks.waitsForAll(); err != nil {
		return err
	}
	n.closeOnce.Do(func() {
		n.closing.Store(true)
		n.handOver()
		n.drain()
		n.stop(ErrClosed)
		n.closeErr = n.shutdown()
	})
	return n.closeErr
}

// shutdown waits for all goroutines, in the order in which they feed each
// other.
func (n *Node) shutdown() error {
	n.stop(ErrClosed)
	var left leftovers
	var transportErr, storeErr error
	left.await(n, "the loop", n.loop.Wait)
	left.await(n, "the transport", func() { transportErr = n.transport.Close() })
	left.await(n, "the appender", n.appender.close)
	left.await(n, "the applier", n.applier.close)
	left.await(n, "a snapshot", n.helpers.Wait)
	n.events.close()
	n.metrics.unregister()
	if len(left) == 0 {
		left.await(n, "the log", func() {
			n.watchdog.files.begin()
			defer n.watchdog.files.end()
			if list, ok := n.memory.save(); ok {
				n.writeMemory(list, true)
			}
			storeErr = n.store.Close()
		})
	} else {
		n.closeLate(left)
	}
	n.watchdog.close()
	if len(left) > 0 {
		return fmt.Errorf("%w: closed, but for %s, which waits for the disk of %s; end the process", ErrDiskStalled, left.names(), n.cfg.Dir)
	}
	return errors.Join(transportErr, storeErr)
}

// leftovers are what did not end in time when a node stopped, as its disk hangs.
type leftovers []leftover

type leftover struct {
	name  string
	ended <-chan struct{}
}

// await waits for a part to end, or until there is no hope.
func (l *leftovers) await(n *Node, name string, f func()) {
	if ended := n.host.await(f, n.watchdog.expired); ended != nil {
		*l = append(*l, leftover{name, ended})
	}
}

func (l leftovers) names() string {
	var names []string
	for _, o := range l {
		names = append(names, o.name)
	}
	return strings.Join(names, ", ")
}

// closeLate closes the store when everything that uses it has ended after all, so
// that the directory is free then.
func (n *Node) closeLate(left leftovers) {
	go func() {
		for _, o := range left {
			<-o.ended
		}
		if err := n.store.Close(); err != nil {
			n.log.Warn("closed late, and not well", zap.Error(err))
		}
	}()
}

// setInitialized tells that this member is part of a cluster.
func (n *Node) setInitialized(cluster uint64) {
	n.cluster.Store(cluster)
	n.initializedOnce.Do(func() { close(n.initialized) })
}
