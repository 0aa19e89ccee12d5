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
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// group is one member of one group of raft: its loop, log and state machine, and what others
// may know of them. What it needs of its process it has from there.
type group struct {
	*process
	life
	known
	admission

	cfg      Config
	id       uint64
	identity raftstore.Identity
	store    *raftstore.Store

	inbox    *inbox
	loop     *loop
	appender *appender
	applier  *applier
	// voucher has the questions of other members that wait for a barrier.
	voucher voucher
	// incoming is the snapshot that is being received.
	incoming incoming
}

// known is what the loop, or the applier, found out last. Any goroutine may read it.
type known struct {
	// watch is the status, for Status and for those that wait for another one.
	watch watch
	// cluster and members are 0 and nil without a log; place is that of committed, whose Sums
	// are not known.
	cluster, committed atomic.Uint64
	place              atomic.Pointer[core.Place]
	members            atomic.Pointer[octopiipb.Membership]
	// applied is the last index that the state machine has.
	applied atomic.Uint64
	// memory, whereabouts and guests are about other members.
	memory      memory
	whereabouts whereabouts
	guests      guests
	// initialized is closed once this member is part of a cluster.
	initialized     chan struct{}
	initializedOnce sync.Once
}

// life is from the start of a group to its end.
type life struct {
	// done is closed when the group stops, for whatever reason; cause says which.
	done     chan struct{}
	stopOnce sync.Once
	cause    error
	// ctx ends with done.
	ctx    context.Context
	cancel context.CancelFunc
	// running is done when the loop is.
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// start makes a group, with a process of its own.
func start(cfg Config, h host) (*group, error) {
	_, durable := cfg.StateMachine.Durable()
	store, view, writer, err := raftstore.Open(raftstore.Options{
		FS:         cfg.fs,
		Dir:        cfg.Dir,
		Backend:    cfg.WAL.(wal.Backend),
		External:   durable,
		CacheBytes: cfg.cacheBytes,
	})
	if err != nil {
		return nil, storeError(err)
	}
	g := &group{
		process:   &process{host: h, transport: cfg.Transport},
		known:     known{initialized: make(chan struct{})},
		admission: admission{drained: make(chan struct{}, 1)},
		cfg:       cfg,
		store:     store,
		inbox:     newInbox(),
	}
	g.begin()
	if err := g.recover(view); err != nil {
		return nil, errors.Join(storeError(err), store.Close())
	}
	if g.metrics, err = newMetrics(g); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	g.loadMemory()
	g.appender = newAppender(g, writer)
	g.applier = newApplier(g)
	g.events = newEvents(h, cfg.Events, &g.callbacks.events)
	g.watchdog.start(g)
	if err := g.run(view, durable); err != nil {
		return nil, errors.Join(err, g.shutdown())
	}
	return g, nil
}

// recover claims a new directory, or checks that an old one is this member's,
// and founds a cluster if it must.
func (g *group) recover(view *raftstore.View) error {
	if err := g.claim(); err != nil {
		return err
	}
	g.id = g.identity.Node
	g.log = g.cfg.Logger.With(zap.String("member", fmt.Sprintf("%x", g.id)))
	if g.store.Forgot() {
		return fmt.Errorf("%w: %s says that member %x had a log of cluster %x, and there is none; put the log back, or empty the directory and let it join again as a new member, which takes a majority of the others",
			ErrAmnesia, g.cfg.Dir, g.id, PublicClusterID(g.identity.Cluster))
	}
	if o := g.store.Origin(); !view.Initialized() && g.cfg.Bootstrap && g.cfg.FoundAfterTicks == 0 && len(g.cfg.Join) == 0 && !o.Member && len(o.Rounds) == 0 {
		if _, err := g.foundLog(g.roundAlone()); err != nil {
			return err
		}
	}
	if !view.Initialized() {
		return nil
	}
	g.cluster.Store(view.Start().Membership.Cluster)
	return g.readsLevel(view.Start().Membership.Settings)
}

// claim reads or writes the identity file.
func (g *group) claim() error {
	id, ok := g.store.Identity()
	if ok {
		if g.cfg.ID != 0 && g.cfg.ID != id.Node {
			return fmt.Errorf("node: %s belongs to member %x, not to %x; name the right directory, or leave Config.ID zero", g.cfg.Dir, id.Node, g.cfg.ID)
		}
		g.identity = id
		return nil
	}
	id = raftstore.Identity{Node: g.cfg.ID, Name: g.cfg.Name, Incarnation: randomID()}
	if id.Node == 0 {
		id.Node = randomID()
	}
	if id.Name == "" {
		id.Name = fmt.Sprintf("%x", id.Node)
	}
	if err := g.store.SetIdentity(id); err != nil {
		return err
	}
	g.identity = id
	return nil
}

// randomID is never 0 and leaves out the IDs that raft keeps for itself.
func randomID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])>>1 + 1
}

// run starts the goroutines. Whatever it started is running when it fails.
func (g *group) run(view *raftstore.View, durable bool) error {
	var err error
	if g.loop, err = newLoop(g, view, durable); err != nil {
		return err
	}
	if err := g.transport.Start(newHandler(g)); err != nil {
		return fmt.Errorf("node: start the transport: %w", err)
	}
	g.host.unit(&g.running, g.loop.run) // from here on what the loop has is its own
	g.inbox.call(g.loop.join.begin)
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

// fatal stops the node because of an error that it cannot go on with.
func (g *group) fatal(err error) {
	select {
	case <-g.done:
		return
	default:
	}
	g.log.Error("stopping after a fatal error", zap.Error(err))
	g.stop(storeError(err))
}

// shutdown waits for all goroutines, in the order in which they feed each
// other.
func (g *group) shutdown() error {
	g.stop(ErrClosed)
	var left leftovers
	var transportErr, storeErr error
	left.await(g, "the loop", g.running.Wait)
	left.await(g, "the transport", func() { transportErr = g.transport.Close() })
	left.await(g, "the appender", g.appender.close)
	left.await(g, "the applier", g.applier.close)
	left.await(g, "a snapshot", g.helpers.Wait)
	g.events.close()
	g.metrics.unregister()
	if len(left) == 0 {
		left.await(g, "the log", func() {
			g.watchdog.files.begin()
			defer g.watchdog.files.end()
			if list, ok := g.memory.save(); ok {
				g.writeMemory(list, true)
			}
			storeErr = g.store.Close()
		})
	} else {
		g.closeLate(left)
	}
	g.watchdog.close()
	if len(left) > 0 {
		return fmt.Errorf("%w: closed, but for %s, which waits for the disk of %s; end the process", ErrDiskStalled, left.names(), g.cfg.Dir)
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
func (l *leftovers) await(g *group, name string, f func()) {
	if ended := g.host.await(f, g.watchdog.expired); ended != nil {
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
func (g *group) closeLate(left leftovers) {
	go func() {
		for _, o := range left {
			<-o.ended
		}
		if err := g.store.Close(); err != nil {
			g.log.Warn("closed late, and not well", zap.Error(err))
		}
	}()
}

// setInitialized tells that this member is part of a cluster.
func (k *known) setInitialized(cluster uint64) {
	k.cluster.Store(cluster)
	k.initializedOnce.Do(func() { close(k.initialized) })
}

// stopped is what calls get once done is closed.
func (l *life) stopped() error {
	if errors.Is(l.cause, ErrClosed) || errors.Is(l.cause, ErrRemoved) {
		return l.cause
	}
	return fmt.Errorf("%w: %w", ErrClosed, l.cause)
}

func (l *life) begin() {
	l.done = make(chan struct{})
	l.ctx, l.cancel = context.WithCancel(context.Background())
}

// err says why done was closed, and is nil before.
func (l *life) err() error {
	select {
	case <-l.done:
		return l.cause
	default:
		return nil
	}
}

// stop lets everything come to its end: nothing is sent or acknowledged any
// more. It does not wait.
func (l *life) stop(cause error) {
	l.stopOnce.Do(func() {
		l.cause = cause
		close(l.done)
		l.cancel()
	})
}

// callTimeout is how long an answer to a call may take.
const callTimeout = 10 * time.Second

// call asks whoever listens at an address. done gets the answer, on a goroutine
// that is not the caller's.
func (g *group) call(address string, kind transport.Kind, m transport.Message, done func([]byte, error)) {
	if t, ok := g.transport.(stepped.Asker); ok {
		t.Ask(address, kind, m, done)
		return
	}
	g.host.helper(&g.helpers, func() {
		ctx, cancel := context.WithTimeout(g.ctx, callTimeout)
		defer cancel()
		done(g.transport.Call(ctx, address, kind, m))
	})
}
