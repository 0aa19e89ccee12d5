package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
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

// group is one member of one group of raft, as any of its goroutines may use it: who it is, how
// it is set up, whether it lives, and what is known of it. What a goroutine owns is not here.
// What it needs of its process it has from there.
type group struct {
	*process
	life
	known
	admission

	cfg      Config
	id       uint64
	identity raftstore.Identity
	store    *raftstore.Store

	// inbox is the way to the loop.
	inbox *inbox
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
	// space is what the appender found of the log's disk.
	space   space
	members atomic.Pointer[octopiipb.Membership]
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

// space is what the appender found of the log's disk. It alone writes it.
type space struct {
	// full: there is no next file. Proposals are refused, while what the cluster needs for
	// itself goes into what is left of the current one.
	full atomic.Bool
	// stuck: nothing is left of that either, and the backlog waits. waits: it does so now, and
	// is not being tried again, which may hang.
	stuck, waits atomic.Bool
}

// life is from the start of a group to its end.
type life struct {
	// done is closed when the group stops, for whatever reason; cause says which.
	done     chan struct{}
	stopOnce sync.Once
	cause    error
	// started is when it began, and ended is rung when it stops, so that the loop takes notice.
	started time.Time
	ended   bell
	// ctx ends with done.
	ctx    context.Context
	cancel context.CancelFunc
	// running is done when the loop is.
	running   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// recover claims a new directory, or checks that an old one is this member's,
// and founds a cluster if it must.
func (g *group) recover(view *raftstore.View) (founded bool, err error) {
	if err := g.claim(); err != nil {
		return false, err
	}
	g.id = g.identity.Node
	g.log = g.cfg.Logger.With(zap.String("member", fmt.Sprintf("%x", g.id)))
	if g.store.Forgot() {
		return false, fmt.Errorf("%w: %s says that member %x had a log of cluster %x, and there is none; put the log back, or empty the directory and let it join again as a new member, which takes a majority of the others",
			ErrAmnesia, g.cfg.Dir, g.id, PublicClusterID(g.identity.Cluster))
	}
	if o := g.store.Origin(); !view.Initialized() && g.cfg.Bootstrap && g.cfg.FoundAfterTicks == 0 && len(g.cfg.Join) == 0 && !o.Member && len(o.Rounds) == 0 {
		if _, err := g.foundLog(g.roundAlone()); err != nil {
			return false, err
		}
		founded = true
	}
	if !view.Initialized() {
		return false, nil
	}
	g.cluster.Store(view.Start().Membership.Cluster)
	return founded, g.readsLevel(view.Start().Membership.Settings)
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

func (l *life) begin(ended bell) {
	l.ended = ended
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
		l.ended.ring()
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
