package node

import (
	"context"
	"fmt"
	"sync"

	octopiipb "github.com/octopii/octopii/proto"
)

// watch is the last status that the loop published.
type watch struct {
	mu     sync.Mutex
	status Status
	// changed is closed when the leader, the term or the membership is another
	// than before; nil while nobody waits.
	changed chan struct{}
}

// set publishes a status. The progress is kept until a newer one comes.
func (w *watch) set(st Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := &w.status
	if st.Progress == nil && st.Role == Leader {
		st.Progress = old.Progress
	}
	changed := st.Term != old.Term || st.Leader != old.Leader || st.Role != old.Role || st.Membership.Index != old.Membership.Index
	w.status = st
	if changed && w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// get returns the status, and a channel that is closed at the next change.
func (w *watch) get() (Status, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.status, w.changed
}

// Status returns what this member knows at the moment. It never waits for the
// loop. The slices in it must not be changed.
func (n *Node) Status() Status { return n.status() }

func (g *group) status() Status {
	g.watch.mu.Lock()
	defer g.watch.mu.Unlock()
	st := g.watch.status
	// The applier answers callers before the loop hears of it.
	st.Applied = max(st.Applied, g.applied.Load())
	st.Commit = max(st.Commit, st.Applied)
	st.NoSpace = g.space.full.Load()
	return st
}

// until waits for a status of which ok is true.
func (v verbs) until(ctx context.Context, ok func(Status) bool) (Status, error) {
	for {
		st, changed := v.watch.get()
		if ok(st) {
			return st, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return st, ctx.Err()
		case <-v.done:
			return st, v.stopped()
		}
	}
}

func publicMembership(ms *octopiipb.Membership) Membership {
	out := Membership{Index: ms.Index, Members: make([]Member, len(ms.Members)), Joint: len(ms.UnderWay) > 0, FailoverByTimeout: ms.Settings.FailoverByTimeout, FormatLevel: ms.Settings.Level()}
	for i, m := range ms.Members {
		out.Members[i] = publicMember(m)
	}
	return out
}

// publicMember is a record as callers see it. A peer of a newer version may tell of a kind
// that is not known here: it is not counted as a voter.
func publicMember(m octopiipb.Member) Member {
	return Member{ID: m.ID, Name: m.Name, Address: m.Address, Learner: m.Kind != octopiipb.Voter, Priority: int(m.Priority)}
}

// hex is how IDs are written.
func hex(id uint64) string { return fmt.Sprintf("%x", id) }
