package node

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// kindOwnLog is a call by which a member asks another one for what that has itself. It stands
// apart from the other kinds.
const kindOwnLog transport.Kind = 34

// denials asks members whether they stand by what was said in their name. It belongs to the
// loop.
//
// A claim suspends a member until a majority answers, and suspended members make no majority.
// So one stranger that passes for several members could suspend all for good. But a member
// whose process has run since before a claim can only have made it if it still has what the
// claim is about: commit indexes do not fall, and memories neither. If it has not, and proves
// by a seal who it is, the claim is not its own and ends. One that was started since proves
// nothing: its disk may have been set back meanwhile.
//
// Nor does the log of a member count against another one once it knows by a proof that a
// majority forgot, or that it was removed (Forgot): its log is the one that is wrong.
type denials struct {
	loop *loop
	// asking are the members whose answers are waited for, and where they were asked.
	asking map[askedAt]bool
}

// askedAt is a member, and an address at which it may be.
type askedAt struct {
	id      uint64
	address string
}

// ask asks all members in whose name there is a claim.
func (d *denials) ask() {
	l := d.loop
	for _, m := range l.doubt.inquiry.others() {
		i := slices.IndexFunc(l.doubt.claims, func(c claim) bool { return c.by == m.ID })
		at := askedAt{m.ID, m.Address}
		if i < 0 || m.Incarnation == 0 || d.asking[at] {
			continue
		}
		if d.asking == nil {
			d.asking = map[askedAt]bool{}
		}
		d.asking[at] = true
		q := &octopiipb.OwnLogRequest{Nonce: newNonce()}
		for _, c := range l.doubt.claims {
			if c.by == m.ID && c.kind == core.Diverged {
				q.Index = c.at
			}
		}
		l.call(m.Address, kindOwnLog, q, func(payload []byte, err error) {
			l.soon(func() { d.answered(&m, q, payload, err) })
		})
	}
}

// answered ends the claims that a member denies.
func (d *denials) answered(m *octopiipb.Member, q *octopiipb.OwnLogRequest, payload []byte, err error) {
	l := d.loop
	delete(d.asking, askedAt{m.ID, m.Address})
	var reply octopiipb.OwnLogReply
	if err == nil {
		err = reply.Unmarshal(payload)
	}
	if err == nil {
		seal := reply.Seal
		reply.Seal = nil
		if reply.Cluster != l.cluster.Load() || !sealed([]uint64{m.Incarnation}, q, &reply, seal) {
			err = errors.New("it does not prove who it is")
		}
	}
	if err != nil {
		l.log.Debug("a member does not say what it has", zap.String("peer", hex(m.ID)), zap.Error(err))
		return
	}
	l.doubt.drop(func(c *claim) bool {
		denied := c.by == m.ID && d.denies(c, q, &reply)
		if denied {
			why := "a member denies what was said in its name: somebody passes for it, or did"
			if reply.Forgot {
				why = "a member knows that a majority forgot, or that it was removed: this log is not compared with its own"
			}
			l.log.Warn(why, zap.String("peer", hex(m.ID)), zap.String("at", m.Address), zap.String("was said", c.text))
		}
		return denied
	})
}

// denies says whether a member that has this cannot have made a claim.
func (d *denials) denies(c *claim, q *octopiipb.OwnLogRequest, has *octopiipb.OwnLogReply) bool {
	l := d.loop
	if has.Forgot && c.kind == core.Diverged {
		return true
	}
	// The answer was given before now, so the claim is younger than this by then.
	age := l.host.now().Sub(c.heard) + time.Duration(l.cfg.ElectionTicks)*l.cfg.TickInterval
	if c.heard.IsZero() || time.Duration(min(has.RunningMs, 1<<40))*time.Millisecond < age {
		return false
	}
	switch {
	case c.kind == core.Diverged:
		return l.core.PlaceAt(c.at).Same(core.Place{Index: q.Index, Term: has.Term, Sums: core.SumsFrom(has.Sums)})
	case c.memory != transport.Memory{}:
		last, err := l.view.LastIndex()
		return err == nil && !contradicts(fromMemory(has.Remembered), l.core.Status().Term, last, l.core.TermOf)
	}
	return has.Last < c.at
}

// answerOwnLog tells a member what this one has itself, also while this one serves nothing.
func (s service) answerOwnLog(from transport.Hello, payload []byte, done func(transport.Message, error)) {
	var q octopiipb.OwnLogRequest
	if err := q.Unmarshal(payload); err != nil {
		done(nil, err)
		return
	}
	if !isProven(s.cluster.Load(), s.members.Load(), from) {
		done(nil, errStranger)
		return
	}
	s.inbox.call(func(l *loop) {
		if l.core == nil {
			done(nil, errors.New("this member has no log"))
			return
		}
		at := l.core.PlaceAt(q.Index)
		reply := &octopiipb.OwnLogReply{Cluster: s.cluster.Load(), Last: l.core.Status().Last, Term: at.Term, Sums: at.Sums[:],
			Remembered: toMemory(s.memory.get(from.Node)), RunningMs: uint64(s.host.now().Sub(s.started).Milliseconds()),
			Forgot: cmp.Or(l.later.noted.err, l.leaving.dismissal.removed) != nil}
		reply.Seal = sealOf(s.identity.Incarnation, &q, reply)
		done(reply, nil)
	})
}
