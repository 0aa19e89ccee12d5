package node

import (
	"errors"
)

// Node is one member of a cluster. Its methods may be called from any
// goroutine.
//
// It is the public face of a group: each of its methods asks the group something, and those
// that wait for an answer wait here.
type Node struct {
	verbs
	units
}

// verbs is what the methods of Node are made of: it asks the loop, and waits for what comes of
// it. Nothing that has a turn to take may.
type verbs struct{ *group }

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

// Initialized is closed once this member is part of a cluster: at once if Dir
// has state or it founds one, else when the leader's first snapshot is in.
func (n *Node) Initialized() <-chan struct{} { return n.initialized }

// Done is closed on Close, on a fatal error, and when the cluster removed this
// member.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err says why Done was closed: ErrClosed after Close, ErrRemoved, or the fatal
// error. It is nil before.
func (n *Node) Err() error { return n.err() }

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
