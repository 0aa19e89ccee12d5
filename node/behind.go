package node

import (
	"errors"
	"fmt"
)

// ErrBehind: this member follows a leader and takes nothing of it, so that it falls behind. The
// error says why.
var ErrBehind = errors.New("node: this member takes nothing from its leader, and falls behind")

// behind notices that this member follows a leader and cannot be brought up to date, as it
// refuses what that sends, for whatever reason. It belongs to the loop.
type behind struct {
	loop *loop
	// from is the leader, and commit what was committed here when the first of times messages
	// of it was refused, for ticks ago; the last one was quiet ticks ago.
	from, commit        uint64
	times, ticks, quiet int
	why                 string
	// err is set while that goes on.
	err error
}

const (
	// behindTimes is how many refusals it takes: one may be a message that was late.
	behindTimes = 3
	// behindQuietTicks ends it where none comes any more. A snapshot comes again after
	// streamPauseMax at the latest.
	behindQuietTicks = 2 * streamPauseMax
)

// refused notes that something was not taken that a member sent.
func (b *behind) refused(from uint64, why string) {
	l := b.loop
	if l.core == nil || l.core.Status().Leader != from {
		return
	}
	if commit := l.core.Status().Commit; b.from != from || b.commit != commit {
		*b = behind{loop: l, from: from, commit: commit}
	}
	b.times, b.quiet, b.why = b.times+1, 0, why
}

// tick says so after two election timeouts in which nothing was committed here.
func (b *behind) tick(ticks int) {
	l := b.loop
	if b.times == 0 || l.core == nil {
		return
	}
	b.ticks, b.quiet = b.ticks+ticks, b.quiet+ticks
	if st := l.core.Status(); st.Leader != b.from || st.Commit != b.commit || b.quiet > behindQuietTicks {
		*b = behind{loop: l}
		return
	}
	if b.times < behindTimes || b.ticks < 2*l.cfg.ElectionTicks {
		return
	}
	err := fmt.Errorf("%w: member %x: %s; if that does not end, stop this member, put its directory aside and start it with the same command", ErrBehind, b.from, b.why)
	if b.err == nil {
		l.log.Error(err.Error())
	}
	b.err = err
}
