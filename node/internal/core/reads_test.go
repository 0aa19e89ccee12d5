package core

import (
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// reader is a caller that knows how many rounds had begun when it came.
type reader struct {
	call
	roundsBefore int
}

// TestReadsModel lets rounds begin, be answered, late or never, and be given up
// in any order. What must hold: a context is used once; one round at a time; a
// caller is answered at most once, only by a round that began after it came,
// with that round's index, and only when it is applied; nobody gets lost.
func TestReadsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := reads{node: 1, seed: rapid.Uint64().Draw(t, "seed")}
		var contexts [][]byte
		asked, answered, left := 0, map[Waiter]bool{}, map[Waiter]bool{}
		indexOf := map[Waiter]uint64{}
		applied := uint64(0)
		done := func(w Waiter, index uint64) {
			if answered[w] || left[w] {
				t.Fatalf("%s is answered, but was answered or dropped before", w.(*reader).name)
			}
			if index > applied || index != indexOf[w] {
				t.Fatalf("%s is answered at index %d, confirmed %d, applied %d", w.(*reader).name, index, indexOf[w], applied)
			}
			answered[w] = true
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"ask", "ask", "next", "next", "answer", "answer", "stale", "retry", "tick", "gone", "apply"}).Draw(t, "op") {
			case "ask":
				asked++
				r.waiting = append(r.waiting, &reader{call: call{name: fmt.Sprint("reader ", asked)}, roundsBefore: len(contexts)})
			case "next":
				busy, wanted := r.context != nil, len(r.waiting) > 0
				context := r.next(0)
				if (context != nil) != (wanted && !busy) {
					t.Fatalf("next gave %x; a round is under way: %v, somebody waits: %v", context, busy, wanted)
				}
				if context != nil {
					contexts = append(contexts, slices.Clone(context))
				}
			case "answer":
				if r.context == nil {
					continue
				}
				index := rapid.Uint64Range(0, 50).Draw(t, "index")
				for _, w := range r.round {
					indexOf[w] = index
					if w.(*reader).roundsBefore >= len(contexts) {
						t.Fatalf("%s came after round %d began, and is in it", w.(*reader).name, len(contexts))
					}
				}
				r.answered([]raft.ReadState{{Index: index, RequestCtx: slices.Clone(r.context)}})
				if r.context != nil {
					t.Fatal("the round goes on after its answer")
				}
			case "stale": // an answer to a round that is over
				if len(contexts) == 0 {
					continue
				}
				context := rapid.SampledFrom(contexts).Draw(t, "context")
				if slices.Equal(context, r.context) {
					continue
				}
				before := len(r.confirmed)
				r.answered([]raft.ReadState{{Index: 1, RequestCtx: context}, {Index: 1}})
				if len(r.confirmed) != before {
					t.Fatalf("an answer to the round %x, which was given up, counts", context)
				}
			case "retry":
				r.retry()
			case "tick":
				for _, w := range r.waiting {
					if w.caller().gone {
						left[w] = true
					}
				}
				r.tick(3)
			case "gone":
				if len(r.waiting) > 0 {
					rapid.SampledFrom(r.waiting).Draw(t, "who").(*reader).gone = true
				}
			case "apply":
				applied += rapid.Uint64Range(0, 20).Draw(t, "more")
				r.applied(applied, done)
			}
			inside := len(r.waiting) + len(r.round)
			for _, c := range r.confirmed {
				inside += len(c.waiters)
			}
			if inside+len(answered)+len(left) != asked {
				t.Fatalf("%d asked; %d wait, %d are answered, %d gave up", asked, inside, len(answered), len(left))
			}
		}
		slices.SortFunc(contexts, slices.Compare)
		if n := len(slices.CompactFunc(slices.Clone(contexts), slices.Equal)); n != len(contexts) {
			t.Fatalf("%d rounds had %d different contexts", len(contexts), n)
		}
	})
}

// Contexts of other members, and of the same member before a restart, differ.
func TestReadContextsAreFresh(t *testing.T) {
	seen := map[string]string{}
	for node := uint64(1); node <= 3; node++ {
		for seed := uint64(1); seed <= 3; seed++ {
			r := reads{node: node, seed: seed}
			for i := range 3 {
				r.waiting = append(r.waiting, &call{})
				context := string(r.next(0))
				r.retry()
				who := fmt.Sprintf("attempt %d of member %d started with %d", i, node, seed)
				if other, ok := seen[context]; ok {
					t.Errorf("%s has the context of %s", who, other)
				}
				seen[context] = who
			}
		}
	}
}

// A round is given up after so many ticks, and those who waited for it come
// first in the next.
func TestReadsAreTriedAgain(t *testing.T) {
	first, second := &call{name: "first"}, &call{name: "second"}
	r := reads{waiting: []Waiter{first}}
	old := r.next(0)
	r.waiting = append(r.waiting, second)
	for range 2 {
		r.tick(3)
		if r.next(0) != nil {
			t.Fatal("a second round began beside the first")
		}
	}
	r.tick(3)
	fresh := r.next(0)
	if fresh == nil || slices.Equal(old, fresh) {
		t.Fatalf("the round after %x has the context %x, want a fresh one", old, fresh)
	}
	if !slices.Equal(r.round, []Waiter{first, second}) {
		t.Errorf("the new round serves %v, want both in order", r.round)
	}
}

func TestEarlyRoundsAreBounded(t *testing.T) {
	var r reads
	for i := range 10 * earlyMax {
		r.ask(&raftpb.Message{Type: raftpb.MsgReadIndex, From: uint64(i)})
	}
	if len(r.early) != earlyMax {
		t.Errorf("%d rounds of followers are kept, want %d", len(r.early), earlyMax)
	}
}

// A follower passes nobody's round on: the leader would take it for one in another's name.
func TestRoundsAreNotPassedOn(t *testing.T) {
	b := newBench(t, 1, []uint64{1, 2, 3}, raftpb.HardState{Term: 1, Commit: 1})
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2, Commit: 1}})})
	b.msgs = nil
	b.run(Input{Messages: bare([]raftpb.Message{{Type: raftpb.MsgReadIndex, From: 3, To: 1, Entries: []raftpb.Entry{{Data: []byte("x")}}}})})
	if len(b.msgs) > 0 || b.c.More() {
		t.Errorf("a follower is asked for an index, and sends %v", b.msgs)
	}
}
