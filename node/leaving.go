package node

import (
	"fmt"

	"go.uber.org/zap"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// leaveTimeouts is for how many election timeouts a removed member stays if the
// members that remain do not refuse it: they may be unreachable for good.
const leaveTimeouts = 20

// leaving is a member that has applied its own removal and has not stopped yet.
//
// It may be the only one that knows that the change is committed: a leader commits the
// removal, applies it, and the message that tells the others may be lost. They still
// count its vote then, in the old configuration, and may not be able to elect a leader
// without it. So it goes on to vote and to acknowledge, and takes no calls, until a
// majority of the remaining voters refuses its connections with ErrRemoved, which a
// member does only after it has applied the removal itself. The loop owns it.
type leaving struct {
	// active: the removal is applied here.
	active bool
	// refused are the remaining voters that know of the removal.
	refused map[uint64]bool
	// ticks since the removal was applied.
	ticks int
}

// beginLeaving is called when this member has applied its own removal.
func (l *loop) beginLeaving() {
	if l.leaving.active {
		return
	}
	l.leaving = leaving{active: true, refused: map[uint64]bool{}}
	l.removed.Store(true)
	l.log.Info("this member was removed from its cluster; it votes until the remaining members know of it")
	l.maybeLeave()
}

// removalKnown notes that a remaining member refused this one as removed.
func (l *loop) removalKnown(peer transport.Hello) {
	if l.leaving.active && atRecord(l.membership, peer) {
		l.leaving.refused[peer.Node] = true
		l.maybeLeave()
	}
}

// dismissal is what others say who refuse this member as one that was removed, while it has
// not applied that. It was away, or somebody else is where one of them was. A majority of the
// other voters is believed. Where the membership is another one by now there may be none left
// of them; then this member waits for a leader, as any that hears of none, says why, and an
// operator ends it. One voice never does: it is what a stranger in the place of one of them
// says, too, while those that are left cannot hear each other.
type dismissal struct {
	by map[uint64]bool
	// from is who said so last, and ticks for how long somebody has and nobody has led this
	// member.
	from  transport.Hello
	ticks int
	// told: the log says so.
	told bool
}

// dismissTimeouts is for how many election timeouts no leader must have spoken to a member
// until it says what it is told.
const dismissTimeouts = 5

// dismissed takes the word of one that this member was removed.
func (l *loop) dismissed(peer transport.Hello) {
	if l.core == nil {
		return
	}
	d := &l.dismissal
	if d.by == nil {
		d.by = map[uint64]bool{}
		l.warnSome(&l.quiet.dismissals, "this member is told that it was removed from its cluster; it stops when a majority of the others says so",
			zap.String("told by", hex(peer.Node)), zap.String("at", peer.Dialed))
	}
	d.from = peer
	if atRecord(l.membership, peer) {
		d.by[peer.Node] = true
	}
	others, say := 0, 0
	for _, id := range l.public.Voters() {
		if id != l.id {
			others++
			if d.by[id] {
				say++
			}
		}
	}
	if say > others/2 {
		l.log.Info("this member was removed from its cluster, as a majority of the others says")
		l.stop(l.whyRemoved())
	}
}

// whyRemoved is why a member stops that has not applied its removal.
func (l *loop) whyRemoved() error {
	if m := recordOf(l.membership, l.id); m != nil && m.Kind == octopiipb.Learner && m.Promote {
		return fmt.Errorf("%w: %w", ErrGivenUp, ErrRemoved)
	}
	return ErrRemoved
}

// dismissalTick forgets what was said while a leader speaks to this member.
func (l *loop) dismissalTick(ticks int) {
	d := &l.dismissal
	switch {
	case d.by == nil:
	case !l.core.Lonely():
		*d = dismissal{}
	default:
		if d.ticks += ticks; !d.told && d.ticks >= dismissTimeouts*l.cfg.ElectionTicks {
			d.told = true
			l.log.Error("a member says that this one was removed, and no leader speaks to it; if it was removed, stop it and empty its directory; if not, find out who is at that address, and start the others",
				zap.String("told by", hex(d.from.Node)), zap.String("at", d.from.Dialed))
		}
	}
}

// leavingTick stops a removed member that no majority refused for too long.
func (l *loop) leavingTick(ticks int) {
	if !l.leaving.active {
		return
	}
	if l.leaving.ticks += ticks; l.leaving.ticks >= leaveTimeouts*l.cfg.ElectionTicks {
		l.log.Warn("stopping after the removal; the remaining members did not confirm that they know of it",
			zap.Int("waited ticks", l.leaving.ticks))
		l.stop(ErrRemoved)
	}
}

// maybeLeave stops this member once it is not needed any more.
func (l *loop) maybeLeave() {
	if l.leaving.majorityKnows(l.membership) {
		l.log.Info("the remaining members know that this member was removed; stopping")
		l.stop(ErrRemoved)
	}
}

// majorityKnows says whether a majority of the remaining voters knows of the removal.
func (l *leaving) majorityKnows(ms *octopiipb.Membership) bool {
	voters, know := 0, 0
	for i := range ms.Members {
		if m := &ms.Members[i]; m.Kind == octopiipb.Voter {
			voters++
			if l.refused[m.ID] {
				know++
			}
		}
	}
	return know > voters/2
}

// isRemoved says whether a membership lists a member as removed.
func isRemoved(ms *octopiipb.Membership, id uint64) bool {
	for _, removed := range ms.Removed {
		if removed == id {
			return true
		}
	}
	return false
}
