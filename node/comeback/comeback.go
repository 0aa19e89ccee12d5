// Package comeback has a member come back by itself whose disk forgot what it had
// acknowledged, is damaged, or is an image from before its place was rebuilt.
//
// Such a disk is of no use to its cluster: its old ID is known to have promised what it
// cannot keep, or is none any more. Its files are put aside, never changed, once a majority
// of the others has answered, and the member joins again as a new one in the place of the
// old one, with the same command. A program gives Run one life of a member:
//
//	m := comeback.New(comeback.Config{Dir: dir, Node: "node", Files: []string{"kv"}, Caller: ...})
//	err := m.Run(ctx, func(ctx context.Context, from comeback.Origin) error {
//		cfg := node.Config{Dir: filepath.Join(dir, "node"), StateMachine: ..., Transport: ...}
//		from.Fill(&cfg)
//		cfg.Events.MembershipChanged = m.MembershipChanged
//		n, err := node.Start(cfg)
//		// Serve, with m.Keep(ctx, n) beside it, until ctx or n is done; close all, and
//		// return why it ended.
//	})
//
// Whether files may be moved is decided where every automatic step is, in internal/selfheal.
package comeback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
)

const (
	// pauseMin is the wait before the next attempt; it doubles after each.
	pauseMin = 200 * time.Millisecond
	pauseMax = time.Minute
	// proofTimeout bounds one round of asking the others for a proof.
	proofTimeout = 10 * time.Second
	// liveAgain is after how long a member that stopped because of what others said lives again,
	// if nobody proves it: they may have been strangers, or several members wait for each other.
	liveAgain = 30 * time.Second
)

// Config says what is of a member, and how it was started. Dir, Node and Caller are required.
type Config struct {
	// Dir is the directory of the member. The addresses of the others are kept in it, and
	// quarantine/ with what was put aside. The program keeps other processes out of it from
	// before Run until that has returned.
	Dir string
	// Node is the name in Dir of node.Config.Dir, and Files are the names in Dir of what is
	// put aside with it, such as the files of a state machine.
	Node  string
	Files []string

	// Bootstrap, Expect and Join are those of node.Config, as the program was started.
	Bootstrap bool
	Expect    int
	Join      []string

	// Caller makes what asks the others while no Node runs, as tcp.NewCaller does. It is
	// closed after each use.
	Caller func() (Caller, error)
	// IsOwn says whether an address is this member's own. nil: none is.
	IsOwn func(address string) bool
	// IsDamage says whether an error with which a life ended proves that the files of the
	// state machine are damaged: a checksum or structure that failed on bytes that were
	// read in full, and never an error that may pass. nil: none does.
	IsDamage func(error) bool
	// Logger of what an operator should know. nil: silent.
	Logger *zap.Logger
}

// Caller is the part of a transport that asks the others.
type Caller interface {
	node.Caller
	io.Closer
	// Address is where others reach this member.
	Address() string
}

// Origin is how a life of a member begins.
type Origin struct {
	Bootstrap bool
	Expect    int
	Join      []string
	// Replaces is the member that it was, if that is known.
	Replaces uint64
}

// Fill sets what a Node must know of it.
func (o Origin) Fill(cfg *node.Config) {
	cfg.Bootstrap, cfg.Expect, cfg.Join, cfg.Replaces = o.Bootstrap, o.Expect, o.Join, o.Replaces
	cfg.Rejoin = true // whoever is sought here lost its disk, however it came in
}

// Member is a member that comes back.
type Member struct {
	cfg Config
	lg  *zap.Logger
	// memberships has the newest one that was not written down yet.
	memberships chan node.Membership
	// space is how much room the files take that would be put aside, and how much is free there.
	space func() (bytes, free int64)
}

// New returns a member that has not lived yet.
func New(cfg Config) *Member {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.IsOwn == nil {
		cfg.IsOwn = func(string) bool { return false }
	}
	if cfg.IsDamage == nil {
		cfg.IsDamage = func(error) bool { return false }
	}
	m := &Member{cfg: cfg, lg: cfg.Logger, memberships: make(chan node.Membership, 1)}
	m.space = m.spaceOfFiles
	return m
}

// Run runs lives until one ends without an error, ctx ends, or the member cannot come back.
// live runs a Node from its start to its end, and returns why that ended: Node.Err, what
// Start returned, or an error of the program's own. When it has returned nothing may use the
// member's files any more.
func (m *Member) Run(ctx context.Context, live func(context.Context, Origin) error) error {
	if err := m.endAside(); err != nil {
		return err
	}
	for pause := pauseMin; ; pause = min(2*pause, pauseMax) {
		err := live(ctx, m.Origin())
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := m.comeBack(ctx, err); err != nil || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// comeBack decides what becomes of a member that stopped because of cause: nil means that
// its files were put aside, or nobody proves what it was told, and it starts again. It asks
// until a majority of the cluster answers, or ctx ends; selfheal.Aside decides.
func (m *Member) comeBack(ctx context.Context, cause error) error {
	what := m.causeOf(cause)
	known := m.peers()
	var other *node.OtherClusterError
	if errors.As(cause, &other) {
		known = peersOf(other.Proof.Cluster, other.Proof.AtAddress, other.Proof.Members)
	}
	addresses := m.others(known)
	if what == selfheal.Passing || len(addresses) == 0 {
		return cause
	}
	began := time.Now()
	for pause, said := pauseMin, ""; ; pause = min(2*pause, pauseMax) {
		var proof node.Proof
		var unproven error
		if what != selfheal.Refused {
			proof, unproven = m.prove(ctx, known)
		}
		q := selfheal.Quarantine{Cause: what, Proven: unproven == nil, Rebuilt: proof.Removed && proof.AtAddress != 0}
		q.Kept, q.Newest = m.quarantined()
		q.Bytes, q.Free = m.space()
		verdict, why := selfheal.Aside(q)
		switch verdict {
		case selfheal.End:
			return cause
		case selfheal.PutAside:
			if what == selfheal.Removed {
				cause = fmt.Errorf("a majority has member %x in this one's place, which was rebuilt: these files are an older image of it: %w", proof.AtAddress, cause)
			}
			return m.putAside(cause, other, known)
		}
		if said != why {
			said = why
			m.lg.Error("this member stopped, serves nothing and waits: "+why, zap.String("data directory", m.cfg.Dir),
				zap.Strings("asking", addresses), zap.NamedError("answers", unproven), zap.Error(cause))
		}
		if hearsay(cause) && unproven != nil && time.Since(began) >= liveAgain {
			m.lg.Warn("this member starts again: nobody proves what it was told, and stopped for", zap.Error(cause))
			return nil
		}
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// hearsay: others said so, and the files of this member do not show it.
func hearsay(cause error) bool {
	return errors.Is(cause, node.ErrRemoved) || errors.Is(cause, node.ErrAmnesia) || errors.Is(cause, node.ErrDiverged)
}

// causeOf says what an error of a member means for its files. Only a failed checksum or
// structure, or the proof that the disk forgot, is damage: every other error may pass. A
// removed member asks whether its place was rebuilt, and ends if nobody says so.
func (m *Member) causeOf(err error) selfheal.Cause {
	switch {
	case errors.Is(err, node.ErrDiskStalled): // nothing can be moved there
		return selfheal.Passing
	case vfs.MayPass(err): // it proves no damage, whatever it is joined with
		return selfheal.Passing
	case errors.Is(err, node.ErrAmnesia), errors.Is(err, node.ErrCorrupt), errors.Is(err, node.ErrDiverged), m.cfg.IsDamage(err):
		return selfheal.Lost
	case errors.Is(err, node.ErrOtherCluster):
		return selfheal.Foreign
	case errors.Is(err, node.ErrGivenUp):
		return selfheal.Refused
	case (errors.Is(err, node.ErrRemoved) || errors.Is(err, node.ErrIDReused)) && !raftstore.HasLog(m.nodeDir()):
		return selfheal.Refused // it was given up before it came in, and may try again
	case errors.Is(err, node.ErrRemoved):
		return selfheal.Removed
	}
	return selfheal.Passing
}

// prove asks the others what a majority of the member's cluster states without it: those whose
// addresses it kept, and if they are not enough, as some have moved, those that its command
// names. One member may have a name in each of the two lists, so each has to suffice by itself.
func (m *Member) prove(ctx context.Context, known peers) (node.Proof, error) {
	caller, err := m.cfg.Caller()
	if err != nil {
		return node.Proof{}, err
	}
	a, ok := caller.(transport.Authenticated)
	sure := ok && a.Authenticated()
	seek := func(addresses []string) (node.Proof, error) {
		ctx, cancel := context.WithTimeout(ctx, proofTimeout)
		defer cancel()
		list := m.notOwn(addresses)
		q := node.Question{Cluster: parseID(known.Cluster), Member: parseID(known.Member), Address: caller.Address(), Keys: known.Keys}
		if !sure {
			q.Witnesses = known.witnesses(list)
		}
		return node.SeekProof(ctx, caller, q, list)
	}
	proof, err := seek(known.Peers)
	if err != nil && len(m.cfg.Join) > 0 {
		var more error
		if proof, more = seek(m.cfg.Join); more == nil {
			err = nil
		} else {
			err = errors.Join(err, more)
		}
	}
	return proof, errors.Join(err, caller.Close())
}

// Origin finds out what a member was before. Whoever has no log is asked about its past at
// every start, whatever other files are there. One that was a member founds nothing: it
// asks those whose addresses it kept or that its command names, and listens for those that
// seek it, until one of them answers.
func (m *Member) Origin() Origin {
	o := Origin{Bootstrap: m.cfg.Bootstrap, Expect: m.cfg.Expect, Join: m.cfg.Join}
	if !m.WasMember() {
		return o
	}
	// Whoever was a member founds nothing, whatever is left of a log: one that is whole has no
	// use for it.
	o.Bootstrap, o.Expect = false, 0
	if raftstore.HasLog(m.nodeDir()) {
		return o
	}
	p := m.peers()
	o.Join, o.Replaces = m.others(p), parseID(p.Member)
	m.lg.Warn("this directory belonged to a member that is no more; joining in its place, and founding nothing: to found a new cluster, empty the whole directory",
		zap.String("directory", m.cfg.Dir), zap.String("member", p.Member), zap.Strings("asking", o.Join))
	return o
}
