// Package selfheal decides what a member may do by itself about its own disk and its own
// cluster: found one, join one, put its files aside, wait, or end. It decides and does
// nothing else, so that octopiid, a Node and the simulator pass the same rules.
//
// One rule is behind all of them: no automatic step founds a cluster, or takes away a copy
// of the log, unless those who would know have answered just now.
package selfheal

import (
	"fmt"
	"slices"
	"time"
)

// Member is a member as it takes part in a founding round.
type Member struct {
	ID      uint64
	Address string
}

// Answer is what one expected address said of itself in a round of questions.
type Answer struct {
	// Asked is the address that was called.
	Asked string
	// Failure says why there is no answer; the rest is zero then.
	Failure string
	Member  Member
	// Cluster that it belongs to; 0: none.
	Cluster uint64
	// WasMember: it was a member of a cluster, or one sought it.
	WasMember bool
}

// Step is what a member does next.
type Step int

// The steps of a member without a log.
const (
	// Wait and ask again.
	Wait Step = iota
	// Join the cluster that an answer is of.
	Join
	// Found a cluster, once all members have promised the round.
	Found
)

// Round decides what self does after it asked every expected address once. expect is how
// many members there must be, itself included. why tells an operator what is waited for.
//
// All addresses must answer, and all must be empty: a member of a cluster may be behind
// the one that does not. The lowest ID founds.
func Round(self Answer, answers []Answer, expect int) (step Step, why string) {
	for _, a := range answers {
		if a.Cluster != 0 {
			return Join, a.Asked + " is a member of a cluster"
		}
	}
	members := []Member{self.Member}
	for _, a := range answers {
		switch {
		case a.Failure != "":
			return Wait, fmt.Sprintf("%s does not answer (%s): a cluster is founded when every address of --join answers", a.Asked, a.Failure)
		case a.WasMember:
			return Wait, fmt.Sprintf("member %x at %s was a member of a cluster: start the rest of that cluster, or empty the whole data directory of each member to found a new one", a.Member.ID, a.Asked)
		case !slices.ContainsFunc(members, func(m Member) bool { return m.ID == a.Member.ID }):
			members = append(members, a.Member)
		}
	}
	if len(members) < expect {
		return Wait, fmt.Sprintf("%d of %d expected members are there", len(members), expect)
	}
	founder := slices.MinFunc(members, func(a, b Member) int { return compare(a.ID, b.ID) })
	if founder.ID != self.Member.ID {
		return Wait, fmt.Sprintf("member %x at %s founds the cluster", founder.ID, founder.Address)
	}
	return Found, "all expected members are there, and empty"
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Cause says why a member stopped, as far as it matters here.
type Cause int

// The causes.
const (
	// Passing: anything that need not be damage. Nothing is moved.
	Passing Cause = iota
	// Lost: bytes that were read in full fail their checksum or structure, or the disk
	// contradicts what it had acknowledged.
	Lost
	// Refused: the cluster gave this member up before it had a log, or a vote.
	Refused
	// Foreign: this cluster of one has the address that another cluster's member had.
	Foreign
	// Removed: the cluster does not have this member any more, and it has a log. See
	// Quarantine.Rebuilt.
	Removed
)

// Quarantine is what is known when a member's files might be put aside.
type Quarantine struct {
	Cause Cause
	// Proven: a majority of the member's cluster (of the other one, for Foreign) answered
	// after the member had stopped.
	Proven bool
	// Rebuilt: that majority states that the member was removed, and that another one has
	// its address: the place was rebuilt, and these files are an older image of it. Where
	// nobody is at the address, an operator wanted this member to end.
	Rebuilt bool
	// Kept is how many quarantine directories there are, and Newest the age of the newest
	// one.
	Kept   int
	Newest time.Duration
	// Bytes is how much room the files take, as a new copy of them will, and Free how much there
	// is on their volume.
	Bytes, Free int64
}

// The bounds of quarantine.
const (
	// KeptMax directories are never exceeded; the oldest are kept, since they hold what
	// was lost first.
	KeptMax = 3
	// restMin is for how long a member must have run since the files before were put
	// aside; it doubles with each directory.
	restMin = time.Second
)

// Verdict is what becomes of a member that stopped.
type Verdict int

// The verdicts.
const (
	// End the process: it has an error that moving files does not mend.
	End Verdict = iota
	// AskAgain after a pause: nothing may be moved yet.
	AskAgain
	// PutAside the member's files, and join again.
	PutAside
)

// Aside decides about quarantine. It is the one place that every automatic step passes
// which takes away a copy of the log. why is for the operator.
func Aside(q Quarantine) (v Verdict, why string) {
	switch {
	case q.Cause == Passing, q.Cause == Removed && q.Proven && !q.Rebuilt:
		return End, ""
	case q.Kept >= KeptMax:
		return AskAgain, fmt.Sprintf("it was put aside %d times, and nothing more is moved: find out what damages its disk, then remove the directories in quarantine that nobody needs, and it goes on", q.Kept)
	case q.Cause == Removed && !q.Proven:
		return AskAgain, "it is told that it was removed, and no majority of its cluster answers that says so, or that its place was rebuilt: start the other members, and name those that moved with --join; if it was removed, stop it"
	case q.Cause != Refused && !q.Proven:
		return AskAgain, "its files are not put aside while no majority of its cluster answers: start the other members, and name those that moved with --join; if so many are damaged that the others are no majority, restore the damaged files, which each member's log names, from backups, and remove nothing"
	case q.Bytes > q.Free:
		return AskAgain, fmt.Sprintf("its files are not put aside, as a new copy has no room beside them: they take %d MiB of its volume, and %d MiB are free: enlarge the volume, or remove the directories in quarantine that nobody needs, and it goes on", q.Bytes>>20+1, q.Free>>20)
	case q.Kept > 0 && q.Newest < restMin<<q.Kept:
		return AskAgain, "it was put aside a moment ago"
	}
	return PutAside, ""
}
