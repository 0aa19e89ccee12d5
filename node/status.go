package node

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Role is what a member is at the moment.
type Role uint8

// The roles. A member is Uninitialized until the founder's bootstrap or a
// leader's first snapshot has given it a state.
const (
	Uninitialized Role = iota
	Follower
	PreCandidate
	Candidate
	Leader
)

func (r Role) String() string {
	return [...]string{"uninitialized", "follower", "pre-candidate", "candidate", "leader"}[r]
}

// AdviceNoRoomForSnapshot says what Status.NoRoomForSnapshot means and what to do.
const AdviceNoRoomForSnapshot = "this member is behind and needs a snapshot, for which its volume has no room: enlarge the volume, or stop the member, empty its directory and start it with the same command"

// Status is what a Node knows of itself and its cluster at one moment.
type Status struct {
	ID   uint64
	Name string
	// Cluster is its ID, which members keep among themselves. PublicClusterID is what others
	// see of it.
	Cluster uint64
	Role    Role
	Term    uint64
	// Leader is 0 while none is known.
	Leader uint64
	// Commit and Applied are log indexes; Applied <= Commit.
	Commit, Applied uint64
	// FirstIndex and LastIndex bound the entries that this member has in its log;
	// both are durable up to LastIndex.
	FirstIndex, LastIndex uint64
	// SnapshotIndex is that of the newest durable snapshot or mark.
	SnapshotIndex uint64
	// NoSpace: the disk is full, and proposals are refused until there is space.
	NoSpace bool
	// LittleRoom: the state machines of a majority of the voters have little room left, as
	// its leader says (Limited).
	LittleRoom bool
	// RoomierVoter, on the leader: another voter has more room for what makes state machines
	// grow, and could lead (Limited).
	RoomierVoter bool
	// NoRoomForSnapshot: this member is behind and was sent a snapshot for which its disk
	// has no room. It is sent again until there is some.
	NoRoomForSnapshot bool
	// DiskStalled is for how long the oldest write to the log has not returned, in
	// whole ticks.
	DiskStalled time.Duration
	// Suspended is why this member serves nothing although it runs; nil: it serves. It
	// wraps ErrSuspect, ErrDiverged, ErrClaimed, or ErrRemoved where its removal is proven and not
	// applied here.
	Suspended error
	// Claimed says that another cluster claims the address of this member, or that one that
	// its records do not have remembers more of it than it has; it serves all the same. nil: none.
	Claimed error
	// Behind is why this member takes nothing of the leader that it follows, and falls behind;
	// nil: it does not. It wraps ErrBehind.
	Behind error
	// Suspects are members that said that they may have lost something, ordered by ID.
	Suspects []Suspect
	// Branches are what members have committed that the majority does not have, in the order
	// in which they were found. The last eight stay until this member is started again, also
	// those of members that are none any more.
	Branches []Branch
	// Missing are the voters that are not heard of, ordered by ID, while there is no leader
	// and the others are no majority. See NoMajority.
	Missing    []Missing
	Membership Membership
	// LevelHeldBy, on a leader whose program reads the next format level, are the members that
	// have not just said that they read it, too: an older program runs there, or they are away.
	LevelHeldBy []uint64
	// Progress is what the leader knows of its followers, ordered by ID; nil on
	// others.
	Progress []Progress
}

// Progress is what a leader knows of one follower.
type Progress struct {
	ID uint64
	// Match is the last index known to be durable there.
	Match uint64
	// State is "probe", "replicate" or "snapshot" (raft's own words).
	State string
	// Active: it answered within the last election timeout.
	Active bool
}

// Suspect is a member that is remembered for more than its disk has.
type Suspect struct {
	ID uint64
	// LastIndex is where its log ends, and Remembered how far it is known to have been:
	// the entries between are missing there.
	LastIndex, Remembered uint64
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	Index, Term uint64
	// Bytes is the file's size; 0 when the state machine keeps its own data.
	Bytes int64
}

// Result is the outcome of a committed proposal.
type Result struct {
	// Index is its place in the log.
	Index uint64
	// Data is what StateMachine.Apply returned for it.
	Data []byte
}

// ReadLevel says what a ReadBarrier must guarantee.
type ReadLevel int

const (
	// Linearizable: a read after the barrier sees every write that was
	// acknowledged, anywhere, before the barrier began (Raft thesis 6.4).
	Linearizable ReadLevel = iota
	// Lease is to skip the round to a quorum where the cluster allows leases.
	// While none does, it is the same as Linearizable.
	Lease
)

// PublicClusterID is the number by which logs, errors, operators and clients know a
// cluster. Members know it by its ID (Status.Cluster), which is a secret among them: who
// names that passes for one that may become a member. It cannot be found from this number.
func PublicClusterID(cluster uint64) uint64 {
	if cluster == 0 {
		return 0
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("octopii: the cluster of clients"), cluster))
	return binary.BigEndian.Uint64(sum[:])
}

// clusterHex is how a cluster is logged.
func clusterHex(cluster uint64) string { return hex(PublicClusterID(cluster)) }
