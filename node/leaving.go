package node

import (
	"fmt"
	"maps"
	"slices"

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
	loop *loop
	// active: the removal is applied here.
	active bool
	// refused are the remaining voters that know of the removal.
	refused map[uint64]bool
	// ticks since the removal was applied.
	ticks int
	// dismissal is what is heard of a removal that is not applied here.
	dismissal dismissal
}

// begin is called when this member has applied its own removal.
func (l *leaving) begin() {
	if l.active {
		return
	}
	l.active, l.refused = true, map[uint64]bool{}
	l.loop.removed.Store(true)
	l.loop.log.Info("this member was removed from its cluster; it votes until the remaining members know of it")
	l.maybeEnd()
}

// confirmed notes that a remaining member refused this one as removed.
func (l *leaving) confirmed(peer transport.Hello) {
	if l.active && atRecord(l.loop.membership, peer) {
		l.refused[peer.Node] = true
		l.maybeEnd()
	}
}

// dismissal is what others say who refuse this member as one that was removed, while it has
// not applied that. It was away, or somebody else is where one of them was.
//
//   - One that seals its word is believed at once, as far as service goes: this member serves
//     nothing any more (removed).
//   - It ends when a majority of the other voters says so. Where the membership is another one
//     by now there may be none left of them: then a single sealed word ends it, or as many
//     addresses of other voters as are a majority of those, once no leader has spoken to it for
//     long.
//   - A single voice without a seal is not believed, as it may be a stranger in the place of a
//     member. This member then waits for a leader and says why, and an operator ends it.
//
// Its files stay where they are: before they are put aside a majority must say so (comeback).
type dismissal struct {
	loop *loop
	// by are the members that said so, and at the addresses of other voters where it was said,
	// by whoever is there now: all that this member knew may have been rebuilt.
	by map[uint64]bool
	at map[string]bool
	// sealed: one of them proved that it is a member.
	sealed bool
	// from is who said so last, and ticks for how long somebody has and nobody has led this
	// member.
	from  transport.Hello
	ticks int
	// told: the log says so.
	told bool

	proof
	// alone: it is the only voter by its records, so that nobody needs its vote.
	alone bool
	// err is why this member stands still. quiet is for how many ticks nobody sealed the word since,
	// and proven for how many a leader has spoken to this member since somebody first did; 0: nobody
	// did. led counts the words without a seal that were heard while a leader spoke to this member.
	err                error
	quiet, proven, led int
}

// proof is that of a removal that is not applied here.
type proof struct {
	// removed is why this member serves nothing: one that it knows sealed its word. That is noted,
	// and for ever, as its ID is not used again; unsaved: it is not noted yet.
	removed error
	unsaved bool
	// provers are the addresses of those that sealed it, and accepting for how many ticks an
	// operator's Config.AcceptLoss has waited for a majority to say the same.
	provers   map[uint64]string
	accepting int
}

// A member that has applied the removal of another one has what a majority committed. So the
// other one is behind, or the disks of a majority were set back to before that, and it may not
// vouch for what it serves: from the first sealed word on it serves nothing, for good, also when
// it is started again. It goes on to vote, as those that remain may need that: whoever sealed the
// word may be the only one that knows of the removal, and dead. Where it is led all the same, by
// members that do not know of the removal, it stands still for as long as the word is repeated,
// once it has been led for provenTimeouts election timeouts since: a member that is removed in good
// order is not.
const provenTimeouts = 2

// dismissQuiet is for how many election timeouts nobody must have sealed the word until a member
// takes part again.
const dismissQuiet = 10

// dismissLed is how many words without a seal must be heard while a leader speaks to a member
// until its status has them.
const dismissLed = 3

// dismissTimeouts is for how many election timeouts no leader must have spoken to a member
// until it believes one that seals what it says, or else tells what it is told.
const dismissTimeouts = 5

// hear takes the word of one that this member was removed.
func (d *dismissal) hear(peer transport.Hello, seal []byte) {
	l := d.loop
	if l.core == nil {
		return
	}
	if d.by == nil {
		d.by, d.at = map[uint64]bool{}, map[string]bool{}
		l.warnSome(&l.quiet.dismissals, "this member is told that it was removed from its cluster; it stops when a majority of the others says so",
			zap.String("told by", hex(peer.Node)), zap.String("at", peer.Dialed))
	}
	d.from = peer
	switch {
	case l.guests.isGivenUp(peer.Node): // alone it counts no more; where a majority goes on it is one of that
	case isSealedRemoval(keysOf(l.membership, l.id), l.membership.Cluster, l.id, seal):
		d.sealed, d.quiet, d.proven = true, 0, max(d.proven, 1)
		if d.removed == nil {
			d.unsaved = true
			d.serveNothing(peer.Node, peer.Dialed)
		}
		d.prove(peer.Node, peer.Dialed)
		d.save()
	case !l.core.Lonely():
		d.warn(peer.Dialed)
	}
	if atRecord(l.membership, peer) {
		d.by[peer.Node] = true
	}
	d.at[peer.Dialed] = true
	if byMajority(d.others(), func(m *Member) bool { return d.by[m.ID] }) {
		l.log.Info("this member was removed from its cluster, as a majority of the others says")
		l.stop(d.why())
	}
}

// begin serves nothing from the start where it was proven before that this member was removed.
func (d *dismissal) begin() {
	if o := d.loop.store.Origin(); o.RemovedBy != 0 {
		d.serveNothing(o.RemovedBy, o.RemovedAt)
	}
}

// accept gives up what those have that proved the removal, as an operator wants, once there was
// time for a majority to say the same. If one says so first, nothing is lost, and this member ends.
func (d *dismissal) accept(ticks int) {
	l := d.loop
	if len(d.provers) == 0 || !l.cfg.AcceptLoss {
		return
	}
	if d.accepting += ticks; d.accepting < acceptTimeouts*l.cfg.ElectionTicks {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(d.provers)) {
		if !d.giveUp(id, d.provers[id]) {
			d.accepting = 0 // it cannot be written down now, and this member serves nothing before
			return
		}
	}
	d.provers, d.accepting, d.removed, d.err, d.sealed, d.proven = nil, 0, nil, nil, false, 0
	l.suspensionChanged()
}

// giveUp gives up what a member has that sealed its word, as an operator wants.
func (d *dismissal) giveUp(by uint64, at string) bool {
	l := d.loop
	noted := l.later.noteGivenUp(by)
	if noted {
		l.log.Warn("LOSS ACCEPTED: this member goes on without what another one has, which had it removed, and speaks to that one no more: empty its data directory and let it join again",
			zap.String("peer", hex(by)), zap.String("at", at))
	}
	return noted
}

// serveNothing stops serving for good, by the proof of a member.
func (d *dismissal) serveNothing(by uint64, at string) {
	l := d.loop
	d.prove(by, at)
	d.removed = fmt.Errorf("%w: member %x at %s proves it. Start all other members: if a majority of them says so, too, this one is rebuilt, or ends. If they cannot, as their disks were set back to before that as well, what was acknowledged since is missing here: put newer copies back; or give up what that one has: stop all of them, start these once with --accept-loss (Config.AcceptLoss), then empty the data directory of that one and let it join again",
		ErrRemoved, by, at)
	l.log.Warn("this member serves nothing any more", zap.Error(d.removed))
	l.suspensionChanged()
}

// toldAlone takes it from a member of this cluster that this one was removed, which is the only
// voter by its records. Nobody can have been added without it, so the records are old, and
// nobody is in them who could seal the word.
func (d *dismissal) toldAlone(at string) {
	l := d.loop
	if l.cfg.AcceptLoss {
		for _, p := range slices.Clone(l.later.peers) {
			if p.Host.Address == at {
				d.giveUp(p.Node, at)
			}
		}
		return
	}
	if d.removed != nil {
		return
	}
	d.removed = fmt.Errorf("%w: a member of this cluster at %s says that this one was removed, and the records here have no other voter: its disk was set back to before others joined. Empty its data directory and let it join them; or, if what they have is given up, start it with --accept-loss (Config.AcceptLoss)",
		ErrRemoved, at)
	d.alone, d.err = true, d.removed
	l.log.Error("this member serves nothing any more", zap.Error(d.removed))
	l.suspensionChanged()
}

// prove notes who sealed the word.
func (d *dismissal) prove(by uint64, at string) {
	if d.provers == nil {
		d.provers = map[uint64]string{}
	}
	d.provers[by] = at
}

// save notes who proved that this member was removed. It is tried again at the next word.
func (d *dismissal) save() {
	if !d.unsaved {
		return
	}
	o := d.loop.store.Origin()
	o.RemovedBy, o.RemovedAt = d.from.Node, d.from.Dialed
	if err := d.loop.store.SetOrigin(o); err != nil {
		d.loop.log.Error("cannot write down that this member was removed; trying again", zap.Error(err))
		return
	}
	d.unsaved = false
}

// suspend stands still by the word of a member that sealed it.
func (d *dismissal) suspend() {
	d.loop.log.Warn("this member stands still: it is led by members that do not know that it was removed", zap.NamedError("because", d.removed))
	d.err = d.removed
}

// warn says in the status what nobody proves, and what a leader that speaks to this member does
// not know.
func (d *dismissal) warn(at string) {
	if d.led++; d.led >= dismissLed {
		d.loop.rivals.warn(fmt.Errorf("at %s it is said that this member was removed: if the disks of a majority were set back to before that, what was acknowledged since is missing here: stop them, and put newer copies back; else find out who is there",
			at), "a majority may have forgotten what it acknowledged")
	}
}

// others are the voters but for this member.
func (d *dismissal) others() []Member {
	l := d.loop
	return slices.DeleteFunc(slices.Clone(l.public.Members), func(m Member) bool { return m.ID == l.id || m.Learner })
}

// byMajority says whether something is true of more than half of the members.
func byMajority(members []Member, is func(*Member) bool) bool {
	count := 0
	for i := range members {
		if is(&members[i]) {
			count++
		}
	}
	return count > len(members)/2
}

// why is the reason for which a member stops that has not applied its removal.
func (d *dismissal) why() error {
	if m := recordOf(d.loop.membership, d.loop.id); m != nil && m.Kind == octopiipb.Learner && m.Promote {
		return fmt.Errorf("%w: %w", ErrGivenUp, ErrRemoved)
	}
	return ErrRemoved
}

// tick forgets what was said while a leader speaks to this member.
func (d *dismissal) tick(ticks int) {
	l := d.loop
	if l.core == nil {
		return
	}
	if d.quiet += ticks; d.quiet >= dismissQuiet*l.cfg.ElectionTicks {
		if d.proven = 0; !d.alone {
			d.err = nil
		}
	}
	switch {
	case d.proven == 0 || d.err != nil:
	case l.core.Lonely():
		d.proven = 0
	default:
		if d.proven += ticks; d.proven > provenTimeouts*l.cfg.ElectionTicks {
			d.suspend()
		}
	}
	d.accept(ticks)
	if d.by == nil {
		return
	}
	if !l.core.Lonely() {
		d.by, d.at, d.sealed, d.ticks, d.told = nil, nil, false, 0, false
		return
	}
	d.ticks += ticks
	by, at := zap.String("told by", hex(d.from.Node)), zap.String("at", d.from.Dialed)
	switch {
	case d.ticks < dismissTimeouts*l.cfg.ElectionTicks:
	case d.sealed && !l.cfg.AcceptLoss || byMajority(d.others(), func(m *Member) bool { return d.at[m.Address] }):
		l.log.Info("this member was removed from its cluster, as another member proves or most of the addresses of the others say, and no leader speaks to it", by, at)
		l.stop(d.why())
	case !d.told:
		d.told = true
		l.log.Error("a member says that this one was removed, and no leader speaks to it; if it was removed, stop it and empty its directory; if not, find out who is at that address, and start the others", by, at)
	}
}

// tick stops a removed member that no majority refused for too long.
func (l *leaving) tick(ticks int) {
	if !l.active {
		return
	}
	if l.ticks += ticks; l.ticks >= leaveTimeouts*l.loop.cfg.ElectionTicks {
		l.loop.log.Warn("stopping after the removal; the remaining members did not confirm that they know of it",
			zap.Int("waited ticks", l.ticks))
		l.loop.stop(ErrRemoved)
	}
}

// maybeEnd stops this member once it is not needed any more.
func (l *leaving) maybeEnd() {
	if inMajority(l.loop.membership, l.refused) {
		l.loop.log.Info("the remaining members know that this member was removed; stopping")
		l.loop.stop(ErrRemoved)
	}
}

// inMajority says whether a set has a majority of the voters.
func inMajority(ms *octopiipb.Membership, set map[uint64]bool) bool {
	voters, those := 0, 0
	for i := range ms.Members {
		if m := &ms.Members[i]; m.Kind == octopiipb.Voter {
			voters++
			if set[m.ID] {
				those++
			}
		}
	}
	return those > voters/2
}
