package node

import (
	"errors"
	"testing"
	"time"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// Three members each of which heard from somebody that passed for another one serve again when
// that has gone, though no majority could answer any of them.
func TestAllAreSuspendedByLies(t *testing.T) {
	ns := threeVoters(t)
	for i, n := range ns {
		by := uint64((i+1)%3 + 1)
		onLoop(t, n, func(l *loop) {
			l.doubt.add(claim{by: by, kind: core.Forgot, at: 1 << 20, text: "a heartbeat with commit 1048576"})
			l.doubt.add(claim{by: by, kind: core.Ahead, at: 1 << 20, text: "an answer with commit 1048576"})
			l.doubt.add(claim{by: by, kind: core.Diverged, at: l.core.Status().Commit, text: "an append with another entry"})
			if l.suspension() == nil {
				t.Error("it is not suspended")
			}
		})
	}
	for _, n := range ns {
		serves := func() bool {
			_, err := n.ReadBarrier(t.Context(), Linearizable)
			return err == nil
		}
		for deadline := time.Now().Add(30 * time.Second); !serves(); {
			if time.Now().After(deadline) {
				t.Fatalf("member %x does not serve: %v", n.id, n.Status().Suspended)
			}
		}
	}
}

// What a member says of its own log ends a claim in its name only if its process has run since
// before that, it has not what the claim is about, and it proves who it is.
func TestDenials(t *testing.T) {
	n := threeVoters(t)[1]
	const bySeal, byRunning, byCluster = "without a seal of its own", "by a process that was started since", "of another cluster"
	onLoop(t, n, func(l *loop) {
		last := l.core.Status().Last
		at := l.core.PlaceAt(last)
		other := at.Sums
		other[0]++
		long := octopiipb.OwnLogReply{Cluster: l.cluster.Load(), Last: last, Term: at.Term, Sums: at.Sums[:], RunningMs: 1 << 30}
		with := func(f func(*octopiipb.OwnLogReply)) octopiipb.OwnLogReply {
			r := long
			f(&r)
			return r
		}
		remembers := transport.Memory{Match: 99, Term: 9, Commit: 99}
		forgot, ahead := claim{kind: core.Forgot, at: last + 1}, claim{kind: core.Ahead, at: last + 1}
		reminded, diverged := claim{kind: core.Forgot, at: last, memory: remembers}, claim{kind: core.Diverged, at: last}
		for name, c := range map[string]struct {
			claim claim
			reply octopiipb.OwnLogReply
			ends  bool
		}{
			"forgot":           {forgot, long, true},
			"forgot, and has":  {forgot, with(func(r *octopiipb.OwnLogReply) { r.Last++ }), false},
			"ahead":            {ahead, long, true},
			"ahead, and has":   {ahead, with(func(r *octopiipb.OwnLogReply) { r.Last++ }), false},
			"reminded":         {reminded, long, true},
			"reminded, and so": {reminded, with(func(r *octopiipb.OwnLogReply) { r.Remembered = toMemory(remembers) }), false},
			"diverged":         {diverged, long, true},
			"another term":     {diverged, with(func(r *octopiipb.OwnLogReply) { r.Term++ }), false},
			"another entry":    {diverged, with(func(r *octopiipb.OwnLogReply) { r.Sums = other[:] }), false},
			"it is wrong":      {diverged, with(func(r *octopiipb.OwnLogReply) { r.Term, r.RunningMs, r.Forgot = r.Term+1, 0, true }), true},
			"forgot, is wrong": {reminded, with(func(r *octopiipb.OwnLogReply) { r.Remembered, r.Forgot = toMemory(remembers), true }), false},
			"unknown entry":    {diverged, with(func(r *octopiipb.OwnLogReply) { r.Term, r.Sums = 0, nil }), false},
			byRunning:          {forgot, with(func(r *octopiipb.OwnLogReply) { r.RunningMs = 1 }), false},
			byCluster:          {forgot, with(func(r *octopiipb.OwnLogReply) { r.Cluster++ }), false},
			bySeal:             {forgot, long, false},
		} {
			m := *recordOf(l.membership, 3)
			c.claim.by, c.claim.heard = 3, l.host.now()
			l.doubt.suspected(c.claim)
			q := &octopiipb.OwnLogRequest{Index: last, Nonce: newNonce()}
			key := m.Incarnation
			if name == bySeal {
				key = recordOf(l.membership, 1).Incarnation
			}
			c.reply.Seal = sealOf(key, q, &c.reply)
			payload, err := c.reply.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			l.doubt.denials.answered(&m, q, payload, nil)
			if ended := l.suspension() == nil; ended != c.ends {
				t.Errorf("%s: the claim ended: %v, want %v", name, ended, c.ends)
			}
			l.doubt.drop(func(*claim) bool { return true })
		}
		l.doubt.suspected(claim{by: 3, kind: core.Forgot, at: last + 1, heard: l.host.now()})
		m := *recordOf(l.membership, 3)
		l.doubt.denials.answered(&m, &octopiipb.OwnLogRequest{}, nil, errors.New("nobody there"))
		if l.suspension() == nil {
			t.Error("no answer ends the claim")
		}
		l.doubt.drop(func(*claim) bool { return true })
		l.doubt.inquiry.asking = 0
	})
}

// A member says what it has itself to members only, and also while it serves nothing.
func TestOwnLogIsToldToMembers(t *testing.T) {
	ns := threeVoters(t)
	n, asks := ns[1], ns[2]
	onLoop(t, n, func(l *loop) { l.doubt.suspected(claim{by: 3, kind: core.Forgot, at: 99}) })
	s := newHandler(n.group).service
	from := transport.Hello{Node: 3, Cluster: n.cluster.Load(), Incarnation: asks.identity.Incarnation}
	stranger := from
	stranger.Incarnation++
	for _, c := range []struct {
		from transport.Hello
		told bool
	}{{from, true}, {stranger, false}} {
		told := make(chan error, 1)
		s.answerOwnLog(c.from, nil, func(_ transport.Message, err error) { told <- err })
		if err := <-told; (err == nil) != c.told {
			t.Errorf("asked by %+v: %v", c.from, err)
		}
	}
	onLoop(t, n, func(l *loop) {
		l.doubt.drop(func(*claim) bool { return true })
		l.doubt.inquiry.asking = 0
	})
}
