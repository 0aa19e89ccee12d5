package node

import (
	"errors"
	"fmt"
)

// Errors of every verb.
var (
	// ErrClosed: Close was called, or the node stopped; Err says why.
	ErrClosed = errors.New("node: closed")
	// ErrRemoved: the cluster removed this member. Its ID is never used again;
	// join with an empty directory.
	//
	// ErrGivenUp comes with it where the member had no vote yet, and was to get one: it was
	// away for too long on its way. Nobody counts on its disk, and it may join anew.
	ErrRemoved = errors.New("node: this member was removed from its cluster; join again with an empty directory")
	ErrGivenUp = errors.New("node: this member was given up before it had a vote")
	// ErrUninitialized: this member is not yet part of a cluster. Wait for
	// Initialized, or add it from a member that is.
	ErrUninitialized = errors.New("node: not yet part of a cluster; wait for Initialized")
	// ErrReentrant: a verb that waits was called inside of a method of the state machine,
	// or Close inside of one of Events, and would have waited for that call to return.
	// Nothing was done. Status, Err, Done and Initialized may be called anywhere.
	ErrReentrant = errors.New("node: called from where it would wait for itself")
)

// Errors of proposals and reads.
var (
	// ErrOverloaded: a queue is full. Nothing was proposed; slow down and retry.
	ErrOverloaded = errors.New("node: overloaded; nothing was proposed, retry later")
	// ErrTooLarge: the proposal is above Config.ProposalBytesMax.
	ErrTooLarge = errors.New("node: proposal too large")
	// ErrNoSpace: the log of this member, or that of the leader, cannot get its next
	// file: its disk is full, or the process has no file descriptors or no permission; or
	// a majority of the voters has no room for what makes the state machine grow (see
	// Limited). The logs of those members say which. Nothing was proposed. Reads go on,
	// and proposals are taken again by themselves when there is room.
	ErrNoSpace = errors.New("node: no room for the log, or for the state machines of a majority: no space on a disk, or no file descriptors; nothing was proposed, free some and retry")
	// ErrNotCommitted: the proposal is certainly not committed and never will
	// be. It is safe to retry, and no change of leader is the reason: that is retried
	// inside. The caller's context ended or this member stopped before a leader had the
	// proposal, or the leader refused it.
	ErrNotCommitted = errors.New("node: not committed; safe to retry")
	// ErrUnknownOutcome: the proposal may yet be committed, and this member cannot tell:
	// the caller did not wait, the member stopped, or it got a snapshot instead of the
	// entries. Retry only what may happen twice.
	ErrUnknownOutcome = errors.New("node: outcome unknown; it may yet be committed")
)

// Errors of membership changes and transfers of leadership.
var (
	// ErrMembershipBusy: another change is under way. Retry when it is done.
	ErrMembershipBusy = errors.New("node: another membership change is under way; retry")
	// ErrUnsafeMembership: the change would leave the cluster without a quorum
	// that is alive.
	ErrUnsafeMembership = errors.New("node: unsafe membership change")
	// ErrNobodyThere: the ID of a new member was left open, and nobody answers at its
	// address who could say it.
	ErrNobodyThere = errors.New("node: no member answers at the address of the new member; does it run, and is this its address for members, not for clients?")
	// ErrIDReused: that ID belonged to a member that was removed.
	ErrIDReused = errors.New("node: a removed member's ID cannot be used again")
	// ErrNoTarget: leadership can be handed to nobody, or not to the member that was
	// named. The error says why.
	ErrNoTarget = errors.New("node: no member that could lead")
)

// Errors that keep a member from starting, or stop it.
var (
	// ErrAmnesia: this member's disk lost what it had acknowledged.
	ErrAmnesia = errors.New("node: this disk lost what it had acknowledged")
	// ErrDiverged: what this member has committed or applied is not what the majority
	// has: they are on two branches, as when disks were set back to older copies. The
	// error names the place. Nothing of it is served. Keep its files, as they may hold
	// the only copy of what was acknowledged, remove this member, and join again with an
	// empty directory.
	ErrDiverged = errors.New("node: this member's log is another one than that of the majority")
	// ErrSuspect: other members remember more of this member's log than there is, and no
	// majority has said yet what is true. Until then it does not serve, vote, acknowledge
	// or lead; one that was started again since it was proven may vote. The error says which entries are missing, and Status.Suspects where.
	// Start the other members; a majority rebuilds this one. If a majority forgot, put
	// newer copies of the disks back, or give up what is missing: see Config.AcceptLoss.
	ErrSuspect = errors.New("node: this disk may have lost what it had acknowledged, and no majority has answered")
	// ErrCorrupt: a file holds bytes that Octopii did not write. The error names
	// the file; nothing was changed.
	ErrCorrupt = errors.New("node: corrupt file")
	// ErrFormatLevel: the program of this member does not read what its cluster writes, as its
	// members agreed on a format level when all of them read it. The error says which level,
	// what the program reads, and whether a newer or an older one is needed. Nothing of the
	// member's files is changed: run that program in the same directory.
	ErrFormatLevel = errors.New("node: program does not fit its cluster")
	// ErrDiskStalled: the disk did not answer within Config.StallLimit. What hangs
	// in the operating system cannot be ended but with the process: end it.
	ErrDiskStalled = errors.New("node: the disk stalled")
)

// NotLeaderError: the verb needs the leader, and this member is not it.
type NotLeaderError struct {
	// Leader is the zero Member when none is known.
	Leader Member
}

func (e *NotLeaderError) Error() string {
	if e.Leader.ID == 0 {
		return "node: not the leader, and none is known; retry"
	}
	return fmt.Sprintf("node: not the leader; ask member %x at %s", e.Leader.ID, e.Leader.Address)
}
