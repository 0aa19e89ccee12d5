package core

import (
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// Waiter is a caller that waits for the outcome of a request: any type that embeds a
// Call. Core carries it around and hands it back.
type Waiter interface{ caller() *Call }

// Call is what a core knows of a caller. It is part of the state of that core: only a Step
// changes it, and others may look at it between two Steps.
type Call struct {
	// taken: the request was given to raft, or sent to the leader. gone: the caller has
	// given up.
	taken, gone bool
}

func (c *Call) caller() *Call { return c }

// Taken says that the request may be committed, now or later. If it is false when the caller
// gives up, and the next Input says so in Gone, the request is certainly never committed.
func (c *Call) Taken() bool { return c.taken }

// abandoned: the caller has given up before anything became of its request.
func (c *Call) abandoned() bool { return c.gone && !c.taken }

// RequestKind says what a Request wants.
type RequestKind uint8

// The kinds of requests.
const (
	// Propose appends Data to the log, for the state machine.
	Propose RequestKind = iota
	// ChangeMembership appends Changes to the log, as one change.
	ChangeMembership
	// ChangeSetting appends a change of one of the cluster's settings. See NewSettingChange.
	ChangeSetting
	// Transfer hands leadership to the member To, or to the best one if it is 0.
	Transfer
	// Read asks for an index from which on a local read is linearizable.
	Read
)

// Request is what a local caller wants.
type Request struct {
	Kind RequestKind
	// Data is framed by FrameProposal. The first room bytes of it are before the
	// frame, and free.
	Data    []byte
	room    int
	Changes []Change
	// DryRun: Changes are only looked at.
	DryRun bool
	To     uint64
	Waiter Waiter
}

// RemoteRequests are what a follower wants on behalf of its callers of the leader
// of Term, which it believes this member to be.
type RemoteRequests struct {
	From, Term uint64
	Requests   []octopiipb.Request
}

// RemoteReplies answer requests that this member forwarded.
type RemoteReplies struct {
	From    uint64
	Replies []octopiipb.Reply
}

// SnapshotSent says how a snapshot stream to a peer ended.
type SnapshotSent struct {
	To uint64
	OK bool
}

// PeerUp is what a peer said of itself in a handshake.
type PeerUp struct {
	ID, Incarnation uint64
	// Address is where this member reached it; empty if it called here.
	Address string
	// Formats is what its program reads.
	Formats Formats
}

// Input is everything that happened since the last Step. The slices are the
// caller's again when Step returns; what they point to is not.
type Input struct {
	// Ticks of the logical clock that passed.
	Ticks int
	// NoSpace: the disk is full. Nothing is proposed for the state machine.
	NoSpace bool
	// Room is what the state machine has, behind everything in Applied.
	Room Room
	// Stuck: what is out to be appended waits for space on the disk, and so has not
	// stalled.
	Stuck bool
	// Messages from peers. From was checked against the connection.
	Messages []octopiipb.PeerMessage
	// Appended are appends that are durable now, in the order in which Effects
	// handed them out.
	Appended []*Append
	// Applied are applies that the state machine has seen, likewise.
	Applied []*Apply
	// SnapshotsSent are streams that ended.
	SnapshotsSent []SnapshotSent
	PeersUp       []PeerUp
	// PeersDown are peers with which a connection broke.
	PeersDown []uint64
	// PeersGone are peers that listen no more: see transport.Handler.
	PeersGone []uint64
	// Campaign: the delay is over that Effects.CampaignSoon asked for.
	Campaign bool
	// Refuse, if not nil, answers all local callers that wait for a read or to be proposed,
	// before anything else is looked at. Nothing of theirs was appended.
	Refuse error
	// Undelivered are those that the transport certainly did not send. They are tried again
	// at the next tick, or when the leader can be reached.
	Undelivered []Forward
	// Compacted is the place of a snapshot that was taken here; its index is 0 if none was.
	// Labels that only states before it need are dropped.
	Compacted Place
	// Gone are callers that have given up since the last Step. Where their requests were
	// not taken yet they are dropped; their outcomes, if there are any, nobody reads.
	Gone []Waiter
	// Grows says which of the commands in the last Effects.Unsorted may make the state
	// machine grow.
	Grows    []bool
	Requests []Request
	Remote   []RemoteRequests
	Replies  []RemoteReplies
}

// Label says what a state at Index is: which entry it ends with, and who
// belongs to the cluster there. It is never changed once made.
type Label struct {
	Index, Term uint64
	ConfState   raftpb.ConfState
	Membership  *octopiipb.Membership
	// Terms are those of the log up to Index, as far as they are known.
	Terms []octopiipb.TermStart
	// Sums are of the log up to Index, of a label at which a log begins, as far as they are
	// known.
	Sums Sums
}

// Append is one batch for the log. Its parts become durable together, before
// it comes back in Input.Appended.
type Append struct {
	Entries   []raftpb.Entry
	HardState raftpb.HardState
	// Snapshot, if not nil, was received and replaces the whole log.
	Snapshot *raftpb.Snapshot
	// Installed must be set to the snapshot's label before it comes back.
	Installed Label
	// responses are raft's own, due when all of it is durable, and note is what they say beside
	// raft's words: see noteOf. behind are messages that wait for it, too.
	responses []raftpb.Message
	note      octopiipb.Note
	behind    []octopiipb.PeerMessage
	// commit is the newest commit index that is in it, or in an append before it.
	commit uint64
}

// Committed is one entry for the state machine, with the caller that waits for
// its result, if one does here.
type Committed struct {
	Index, Term uint64
	Data        []byte
	Waiter      Waiter
}

// Apply is one batch for the state machine. One that a caller makes itself,
// with a Label and nothing else, says that a snapshot was restored.
type Apply struct {
	Entries []Committed
	// Label is the state after the batch.
	Label Label
	// response is raft's own, due when the batch is applied.
	response raftpb.Message
}

// Outcome answers a request.
type Outcome struct {
	Waiter Waiter
	// Err is nil for success. It is one of this package's errors, or wraps one.
	Err error
	// Index is that of the entry, or the read index.
	Index uint64
	// Membership is set for an applied ChangeMembership or ChangeSetting.
	Membership *octopiipb.Membership
}

// Forward carries requests to the leader of Term.
type Forward struct {
	To, Term uint64
	Requests []octopiipb.Request
}

// Reply carries answers to a follower that forwarded requests, as far as the log
// does not give them.
type Reply struct {
	To      uint64
	Replies []octopiipb.Reply
}

// Effects is what must be done after a Step. The slices and what they hold
// belong to the caller.
//
// The order in which a caller must act: hand Append to the appender, Apply to
// the applier, and send the rest at any time: everything that vouches for an
// append is held back by raft until it comes back in Input.Appended.
type Effects struct {
	Messages []octopiipb.PeerMessage
	// Snapshots are MsgSnap messages: each wants a stream of its own.
	Snapshots []raftpb.Message
	Append    *Append
	Apply     *Apply
	Forwards  []Forward
	Replies   []Reply
	Outcomes  []Outcome
	// Unsorted are commands for which there may be no room. They wait until the next Input
	// says in Grows, in the same order, which of them may make the state machine grow.
	Unsorted [][]byte
	// LeaderChanged: Core.Leader or Core.Term is another than before.
	LeaderChanged bool
	// Membership is set when it changed.
	Membership *octopiipb.Membership
	// GivenUp are members that were to vote and were not heard of for too long: this
	// leader removes them.
	GivenUp []uint64
	// CampaignSoon, if not 0, says that the leader is dead, and asks for
	// Input.Campaign after a short delay that is drawn: for the first, second, ... time
	// since. The delay lets the others notice, too, and keeps members from campaigning
	// at once. A new wish takes the place of one that was not granted yet.
	CampaignSoon int
	// Suspects are peers whose messages contradict what this member knows.
	Suspects []Suspect
	// Unreadable, if not nil, is why this member must stop: its leader raises the format level
	// above what its program reads. It took nothing of that message.
	Unreadable error
}

// Suspect is a peer whose message was refused because it would break an
// invariant.
type Suspect struct {
	ID     uint64
	Reason string
	// Claim is what the message says about this member's log. Forgot is given only for
	// several in a row.
	Claim Claim
	// Index is the place in the log that a claim is about. Last is where the log of this
	// leader ended, if it is Ahead.
	Index, Last uint64
}
