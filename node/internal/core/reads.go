package core

import (
	"bytes"
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// reading is the linearizable reads of this member, and of those that follow it.
type reading struct {
	members
	reads reads
}

// reads turns ReadBarrier calls into ReadIndex rounds (Raft thesis 6.4).
//
// All that wait share the next round, and one round is under way at a time, so
// that under load a round serves everyone who came during the one before. A
// round that is not answered is tried again under a fresh context: a retried
// context can return an index from before the retry (raft PR 397).
type reads struct {
	// waiting came after the current round began.
	waiting []Waiter
	// round is under way; context is nil if none is.
	round   []Waiter
	context []byte
	age     int
	// begun is what was committed here when the current round began.
	begun uint64
	// confirmed wait until their index is applied here.
	confirmed []confirmedReads
	// early are rounds of followers that the leader cannot answer yet.
	early []raftpb.Message
	// seed and attempts make contexts that no member ever used before.
	node, seed, attempts uint64
}

type confirmedReads struct {
	index   uint64
	waiters []Waiter
}

// next returns the context of a round to begin, or nil if there is nothing to
// ask or an answer to wait for.
func (r *reads) next(commit uint64) []byte {
	if !r.wanted() {
		return nil
	}
	r.round, r.waiting = r.waiting, nil
	r.attempts++
	r.age, r.begun = 0, commit
	r.context = make([]byte, 0, 24)
	r.context = binary.BigEndian.AppendUint64(r.context, r.node)
	r.context = binary.BigEndian.AppendUint64(r.context, r.seed)
	r.context = binary.BigEndian.AppendUint64(r.context, r.attempts)
	return r.context
}

// wanted says whether a round should begin as soon as one can.
func (r *reads) wanted() bool { return r.context == nil && len(r.waiting) > 0 }

// earlyMax bounds the rounds that followers may have waiting: each has one
// under way, and tries again by itself.
const earlyMax = 256

// ask queues a follower's round until this leader can answer it.
func (r *reads) ask(m *raftpb.Message) {
	if len(r.early) < earlyMax {
		r.early = append(r.early, *m)
	}
}

// retry gives the current round up: whoever waited for it joins the next.
func (r *reads) retry() {
	if r.context == nil {
		return
	}
	r.waiting = append(r.round, r.waiting...)
	r.round, r.context = nil, nil
}

// tick forgets callers that gave up, ages the round and gives it up after limit
// ticks.
func (r *reads) tick(limit int) {
	r.waiting = slices.DeleteFunc(r.waiting, func(w Waiter) bool { return w.caller().gone })
	if r.context == nil {
		return
	}
	if r.age++; r.age >= limit {
		r.retry()
	}
}

// answered takes raft's read states; those of rounds that were given up are
// ignored.
func (r *reads) answered(states []raft.ReadState) {
	for _, s := range states {
		if r.context == nil || !bytes.Equal(s.RequestCtx, r.context) {
			continue
		}
		r.confirmed = append(r.confirmed, confirmedReads{index: s.Index, waiters: r.round})
		r.round, r.context = nil, nil
	}
}

// applied calls done for every read whose index is applied now.
func (r *reads) applied(index uint64, done func(Waiter, uint64)) {
	keep := r.confirmed[:0]
	for _, c := range r.confirmed {
		if c.index > index {
			keep = append(keep, c)
			continue
		}
		for _, w := range c.waiters {
			done(w, c.index)
		}
	}
	clear(r.confirmed[len(keep):])
	r.confirmed = keep
}

// all returns every local read that waits, and forgets them.
func (r *reads) all() []Waiter {
	list := append(r.round, r.waiting...)
	for _, c := range r.confirmed {
		list = append(list, c.waiters...)
	}
	r.round, r.waiting, r.context, r.confirmed = nil, nil, nil, nil
	return list
}
