package selfheal

import (
	"fmt"
	"time"
)

// A rival is another cluster, a member of which says that this member's address is that of
// one of its own. One of the two clusters was founded where a member of the other one had
// lost its disk, or an address was given to somebody else.

// Rival is what is known of a rival.
type Rival struct {
	// Claims: it has a member at this address that was really there. An address that
	// somebody recorded by mistake is no claim.
	Claims bool
	// Vouched: a majority of it said so just now. Else it is the word of one member.
	Vouched bool
	// Voters is how many it has, the one at this address included.
	Voters int
	// Trusted: it was heard at an address that this member's own configuration or records
	// name, or certificates prove who is a peer. Witnesses are at how many such addresses one
	// of its voters said so just now.
	Trusted   bool
	Witnesses int
	// Shared: it has a member at the address of another member of this cluster.
	Shared bool
	// Others is how many voters this member's own cluster has beside this member.
	Others int
	// Age is how old this cluster was when it was claimed first; negative: not known, as to
	// all members but the one that founded it alone.
	Age time.Duration
}

// young: this member founded its cluster alone, and a moment ago.
func (r Rival) young() bool { return 0 <= r.Age && r.Age <= youngMax }

// Stand is what a member does about a rival.
type Stand int

// The stands.
const (
	// Ignore it: it claims nothing.
	Ignore Stand = iota
	// Report it, and go on: nothing follows from a stranger's word.
	Report
	// Suspend: serve nothing until it is settled.
	Suspend
	// Serve again: a majority of the rival claims nothing.
	Serve
	// GiveWay: stop, and ask Aside about the files.
	GiveWay
)

// youngMax is up to which age a founder believes strangers: its cluster of one gives way
// to a majority that nothing but its own word proves to be one, and it serves nothing on
// one word though others depend on it. A founder whose disk was wiped meets the members of
// the first cluster soon; what serves for longer is not moved away, or stopped, by anybody
// who can reach its port.
const youngMax = time.Hour

// Facing decides what a member does about a rival. why tells an operator what it waits
// for.
//
// One word is enough to suspend a cluster of one member, on which nobody else depends:
// what it serves may be a second cluster's. It is enough for a founder of a young cluster,
// too, which others may have joined before a member of the first one was back. Any other
// member of a cluster of several believes a majority of the rival's voters alone, and as many
// as would be a majority here, as the rival's size is what it says itself; each is heard where
// this member's own configuration or records name it: one who is at an address that is known, as
// a disk of an earlier cluster is, or a stranger in the place of a member that is down, calls
// all members, and would stop all of them. Only a majority moves files, and only those of a
// cluster of one.
func Facing(r Rival) (s Stand, why string) {
	claims := r.Claims && r.Voters > 1
	switch {
	case !claims && r.Vouched:
		return Serve, "a majority of the other cluster has no member at this address"
	case !claims:
		return Ignore, ""
	case r.Others > 0 && !r.Trusted && !r.young():
		return Report, "it was heard where neither --join nor a certificate proves it"
	case r.Others > 0 && !r.young() && r.Witnesses <= max(r.Voters, r.Others+1)/2:
		return Report, fmt.Sprintf("it is said at %d addresses where --join or a certificate proves it, and the other cluster has %d voters and this one %d", r.Witnesses, r.Voters, r.Others+1)
	case !r.Vouched:
		return Suspend, "no majority of the other cluster has answered yet"
	case r.Others > 0:
		return Suspend, "a majority of the other cluster says so, too, and other members depend on this cluster: an operator decides, and first stops and empties those of them that are to join the other one, too"
	case r.Shared:
		return Suspend, "a majority of the other cluster says so, too, and both clusters have members at another address: an operator decides"
	case !r.Trusted && !r.young():
		return Suspend, "a majority of the other cluster says so, too, but neither --join nor a certificate proves it, and this cluster is older than an hour: an operator decides"
	}
	return GiveWay, "a majority of the other cluster says so, too"
}

// Alone decides what a member does that may found a cluster alone, and was told addresses
// to ask first. listened: it has listened for long enough, too. All addresses must answer:
// a member of a cluster may be behind the one that does not.
func Alone(answers []Answer, listened bool) (step Step, why string) {
	for _, a := range answers {
		if a.Cluster != 0 {
			return Join, a.Asked + " is a member of a cluster"
		}
	}
	for _, a := range answers {
		if a.WasMember {
			return Wait, a.Asked + " was a member of a cluster, or may found one alone, too: give --bootstrap to one member only, or --expect to all; or start the rest of that cluster"
		}
	}
	for _, a := range answers {
		if a.Failure != "" {
			return Wait, fmt.Sprintf("%s does not answer (%s), and may be a member of a cluster: start it, correct --join, or leave --join out to found a cluster alone without asking", a.Asked, a.Failure)
		}
	}
	if !listened {
		return Wait, "it listens for a cluster that takes it for a member"
	}
	return Found, "all that were asked answer, and none is a member of a cluster"
}
