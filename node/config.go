package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/wal"
)

// Config is what Start needs to know. The zero value of every field that is
// not named as required is a good choice.
type Config struct {
	// ID of this member. 0: drawn at random at the first start and kept in the
	// identity file. It is never used again, not even after Remove.
	ID uint64
	// Name is for people. Empty: the ID in hexadecimal.
	Name string
	// Priority of this member, as it founds or joins: where a voter of a higher
	// priority than the leader's is alive and close behind, leadership is handed to it.
	// It changes nothing about who may be elected. It is in the member's record from
	// then on, and ignored once Dir has state.
	Priority int
	// Dir holds everything that this member must not lose. Required. One process
	// at a time.
	Dir string
	// StateMachine is what is replicated. Required.
	StateMachine StateMachine
	// Transport carries messages to the other members. Required. The Node starts
	// and closes it.
	Transport transport.Transport
	// Bootstrap makes this member found a cluster, alone. It must be true on the
	// one founder and is ignored once Dir has state. If Join names addresses, each is asked
	// first, and if one is of a cluster this member joins that and never founds. While one
	// does not answer it waits.
	Bootstrap bool
	// FoundAfterTicks is for how long a member that would found by Bootstrap listens
	// first, for members of a cluster that seek one at its address: if one comes, Dir was
	// emptied, and this member joins and never founds. 0: it founds within Start, which is
	// for those whose address nobody can know. octopiid listens for 5 s.
	FoundAfterTicks int
	// Expect, with Join: the same configuration for every member. A cluster is founded when
	// every address of Join answers, so many members are among them, this one included, and
	// all of them are empty. All of them are its first voters, so their state machines must
	// begin in the same state. As soon as one of them is a member of a cluster, this one
	// joins that. The address of this member may be in Join. Ignored once Dir has state. 0:
	// this member only joins.
	Expect int
	// FailoverByTimeout is a setting of the cluster that this member founds: others wait
	// for an election timeout also where the leader's process seems dead, as its address
	// refuses connections. SetFailoverByTimeout changes it. false: they do not wait.
	FailoverByTimeout bool
	// Join are peer addresses of any members: this one asks them to be added as
	// a learner and promoted when it has caught up. Once Dir has state they are only
	// further places where other members may be.
	// Without Bootstrap and Join a member with an empty Dir waits to be added.
	Join []string
	// Rejoin: this member takes the place of the one that it was before it lost its
	// disk, in the same change that gives it a vote. That is Replaces; or if that is
	// 0, the member that has its address. It must be silent: where it is
	// alive this one is not let in. Without Join and Bootstrap it waits until a cluster
	// adds it, or seeks the one that it was. Ignored once Dir has state.
	Rejoin   bool
	Replaces uint64

	// NotOf is the PublicClusterID of a cluster that claims the address of this member
	// (ErrClaimed), and is wrong:
	// this member is not of it, and what its members say counts no more. It is kept in
	// Dir. 0: none.
	NotOf uint64

	// AcceptLoss is for one start of the members of a majority that forgot (ErrSuspect).
	// A member that is remembered for more than it has, and to which no majority answers
	// within six election timeouts, logs what is missing and goes on as it is. What is
	// missing on all members that run is lost. It leaves those that have more the time to
	// be elected first. Where a majority answers it changes nothing. A member by which it
	// was proven that a majority forgot, or that this one was removed, is given up then:
	// this one refuses it for good, and it must join again with an empty Dir.
	AcceptLoss bool

	// WAL is the format of the write-ahead log. nil: the native one,
	// wal.New(wal.Options{}); package wal/etcdwal has etcd's. A directory keeps the
	// format in which it was made: octopiictl log convert changes it.
	WAL wal.Format

	// TickInterval is raft's unit of time. 0: 100 ms.
	TickInterval time.Duration
	// HeartbeatTicks between two heartbeats of a leader. 0: 1.
	HeartbeatTicks int
	// ElectionTicks without a leader before a follower campaigns, and up to twice
	// as many by chance. 0: 10.
	ElectionTicks int

	// SnapshotEntries is how many entries are applied before the next snapshot.
	// 0: 100,000.
	SnapshotEntries uint64
	// SnapshotLogBytes of entries in the log also bring the next snapshot.
	// 0: 64 MiB.
	SnapshotLogBytes uint64
	// TrailingEntries stay in the log behind a snapshot for followers that are a
	// little behind. 0: 10,000.
	TrailingEntries uint64

	// ProposalBytesMax bounds one proposal. It must be the same on all members, and fit
	// into PendingBytesMax and a message of the Transport. 0: 1.5 MiB, as in etcd, or
	// PendingBytesMax if that is less.
	ProposalBytesMax int
	// PendingProposalsMax bounds the proposals that wait for an outcome; beyond
	// it Propose returns ErrOverloaded. 0: 16,384.
	PendingProposalsMax int
	// PendingBytesMax bounds their bytes likewise. 0: 64 MiB.
	PendingBytesMax int64
	// MessageBytesMax is the size that one append message to a follower aims at.
	// 0: 1 MiB, or less if the Transport takes no such messages.
	MessageBytesMax uint64
	// InflightMessagesMax bounds the append messages to one follower that it has
	// not answered. 0: 256.
	InflightMessagesMax int

	// PromoteLagMax is how many entries a learner may be behind when it is
	// promoted, and a voter when leadership is handed to it for its priority. 0: 1,000.
	PromoteLagMax uint64
	// PromoteStableTicks is for how long it must have been so. 0: 3.
	PromoteStableTicks int
	// JoinTimeoutTicks is for how long a member that is to become a voter may be
	// silent before the leader gives it up and removes it. 0: 600.
	JoinTimeoutTicks int

	// StallTicks is for how long a write to the log may not return before a leader
	// hands leadership over, and goes on trying to. 0: one and a half times
	// ElectionTicks: a disk that hangs costs hardly more than a leader that dies, and one
	// that takes some 100 ms now and then costs nothing. Negative: it stays.
	StallTicks int
	// StallLimit is for how long a read or write of the disk may not return before the
	// node stops with ErrDiskStalled, whoever leads. A disk that is full is not
	// meant. 0: 1 min. Negative: it waits for ever, and so does Close.
	StallLimit time.Duration

	// Logger of what an operator should know. nil: silent.
	Logger *zap.Logger
	// Events are called in order from one goroutine.
	Events Events
	// Metrics is where this node registers its metrics. nil: nowhere. The global
	// registry is never used.
	Metrics prometheus.Registerer

	// fs is where Dir is. nil: the machine's file system. Tests have others.
	fs vfs.FS
	// cacheBytes of the newest entries are held in memory. 0: raftstore's default.
	cacheBytes uint64
	// requestWindow is core.Config.RequestWindow.
	requestWindow uint64
	// formats are the levels that this program reads. Tests pretend others.
	formats core.Formats
}

// Events are optional functions that tell what happened to a Node. They are
// called one at a time, in order, from a goroutine of their own; one that
// blocks delays the others, never the Node. If it falls far behind, the oldest
// events that it has not seen are dropped. Close inside of one returns ErrReentrant,
// since it waits for them.
type Events struct {
	// LeaderChanged: leader is 0 when there is none.
	LeaderChanged func(term, leader uint64)
	// MembershipChanged is called for every applied change.
	MembershipChanged func(Membership)
	// SnapshotTaken is called when a local snapshot is durable.
	SnapshotTaken func(SnapshotInfo)
	// SnapshotInstalled is called when a leader's snapshot replaced the state.
	SnapshotInstalled func(SnapshotInfo)
	// PeerRefused: a connection from or to a peer was refused, and why.
	PeerRefused func(id uint64, reason error)
	// DiskStalled: a write to the log has not returned for so long, which is more
	// than Config.StallTicks. It is called once each time.
	DiskStalled func(time.Duration)
}

// withDefaults returns cfg with every zero value replaced, or what is wrong
// with it.
func (cfg Config) withDefaults() (Config, error) {
	switch {
	case cfg.Dir == "":
		return cfg, errors.New("node: Config.Dir is empty; name the directory that holds this member's state")
	case cfg.StateMachine == nil:
		return cfg, errors.New("node: Config.StateMachine is nil")
	case cfg.Transport == nil:
		return cfg, errors.New("node: Config.Transport is nil; use transport/tcp")
	case cfg.Expect < 0 || len(cfg.Join)+1 < cfg.Expect && !raftstore.HasLog(cfg.Dir): // who has a log founds nothing
		return cfg, fmt.Errorf("node: Config.Expect is %d, and Config.Join has %d addresses; name those of all expected members", cfg.Expect, len(cfg.Join))
	case cfg.Expect > 0 && cfg.Bootstrap:
		return cfg, errors.New("node: Config.Expect and Config.Bootstrap exclude each other; with Expect no member is the founder")
	case cfg.ID > idMax:
		return cfg, fmt.Errorf("node: Config.ID %d is above %d, where raft keeps its own", cfg.ID, uint64(idMax))
	case int(int32(cfg.Priority)) != cfg.Priority:
		return cfg, fmt.Errorf("node: Config.Priority %d does not fit into 32 bits", cfg.Priority)
	}
	zero(&cfg.TickInterval, 100*time.Millisecond)
	zero(&cfg.HeartbeatTicks, 1)
	zero(&cfg.ElectionTicks, 10)
	zero(&cfg.SnapshotEntries, 100_000)
	zero(&cfg.SnapshotLogBytes, 64<<20)
	zero(&cfg.TrailingEntries, 10_000)
	zero(&cfg.PendingProposalsMax, 16_384)
	cfg.boundedDefaults()
	zero(&cfg.InflightMessagesMax, 256)
	zero(&cfg.PromoteLagMax, 1_000)
	zero(&cfg.PromoteStableTicks, 3)
	zero(&cfg.JoinTimeoutTicks, 600)
	zero(&cfg.StallTicks, cfg.ElectionTicks+cfg.ElectionTicks/2)
	zero(&cfg.StallLimit, time.Minute)
	if err := cfg.checkLimits(); err != nil {
		return cfg, err
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.fs == nil {
		cfg.fs = vfs.OS
	}
	zero(&cfg.formats, core.Formats{Oldest: oldestFormat, Newest: newestFormat})
	if cfg.WAL == nil {
		cfg.WAL = wal.New(wal.Options{FS: cfg.fs})
	}
	if _, ok := cfg.WAL.(wal.Backend); !ok {
		return cfg, fmt.Errorf("node: Config.WAL is a %T, which reads and writes no log; use wal.New, or etcdwal.New", cfg.WAL)
	}
	return cfg, nil
}

// idMax leaves out the two highest IDs, which raft uses for its local threads.
const idMax = 1<<64 - 3

func zero[T comparable](field *T, def T) {
	var none T
	if *field == none {
		*field = def
	}
}
