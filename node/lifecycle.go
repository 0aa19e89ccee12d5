package node

import (
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"

	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// units are the parts of a group that take turns. Each owns what it has; the others, and
// callers, reach it by its inbox or mailbox.
type units struct {
	loop     *loop
	appender *appender
	applier  *applier
}

// start makes a group, with a process of its own, and starts its goroutines.
func start(cfg Config, h host) (*Node, error) {
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
		inbox:     newInbox(h.bell()),
	}
	g.begin(g.inbox.bell)
	g.started = h.now()
	founded, err := g.recover(view)
	if err != nil {
		return nil, errors.Join(storeError(err), store.Close())
	}
	if g.metrics, err = newMetrics(g); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	g.loadMemory()
	n := &Node{verbs{g}, units{appender: newAppender(g, writer), applier: newApplier(g)}}
	g.events = newEvents(h, cfg.Events, &g.callbacks.events)
	g.watchdog.start(g, n.appender.jobs.queued)
	if err := n.run(view, founded); err != nil {
		return nil, errors.Join(err, n.shutdown())
	}
	return n, nil
}

// run starts the goroutines. Whatever it started is running when it fails.
func (n *Node) run(view *raftstore.View, founded bool) error {
	var err error
	if n.loop, err = newLoop(n.group, view, n.appender.jobs, n.applier, founded); err != nil {
		return err
	}
	if err := n.transport.Start(newHandler(n.group)); err != nil {
		return fmt.Errorf("node: start the transport: %w", err)
	}
	n.host.unit(&n.running, n.loop, n.inbox.bell, n.cfg.TickInterval) // from here on what the loop has is its own
	n.inbox.call(func(l *loop) { l.join.begin() })
	return nil
}

// shutdown waits for all goroutines, in the order in which they feed each
// other.
func (n *Node) shutdown() error {
	g := n.group
	g.stop(ErrClosed)
	var left leftovers
	var transportErr, storeErr error
	left.await(g, "the loop", g.running.Wait)
	left.await(g, "the transport", func() { transportErr = g.transport.Close() })
	left.await(g, "the appender", n.appender.close)
	left.await(g, "the applier", n.applier.close)
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
