package node

import (
	"cmp"
	"sync"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// whereabouts are where this member met the others last. Two that swapped their
// addresses each look for the other at their own; a third one, which both called, can
// tell them. The transport's goroutines write and read it.
type whereabouts struct {
	mu sync.Mutex
	of map[uint64]string
	// called is where this member called each of them last, whatever its record says.
	called map[uint64]string
}

// met notes where a peer was reached, or says that it is.
func (w *whereabouts) met(peer transport.Hello) {
	address := cmp.Or(peer.At, peer.Host.Address)
	if address == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of, w.called = map[uint64]string{}, map[uint64]string{}
	}
	w.of[peer.Node] = address
	if peer.Call && peer.Dialed != "" {
		w.called[peer.Node] = peer.Dialed
	}
}

// answeredAt says whether a member answered at an address when this one called it last.
func (w *whereabouts) answeredAt(id uint64, address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.called[id] == address
}

// get returns where a member was met last; empty: it was not.
func (w *whereabouts) get(id uint64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[id]
}

// list returns those of the members, ordered by ID.
func (w *whereabouts) list(ms *octopiipb.Membership) []octopiipb.Member {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []octopiipb.Member
	for i := range ms.Members {
		if address, ok := w.of[ms.Members[i].ID]; ok {
			list = append(list, octopiipb.Member{ID: ms.Members[i].ID, Address: address})
		}
	}
	return list
}

// keep forgets all who do not belong to the cluster any more.
func (w *whereabouts) keep(ms *octopiipb.Membership) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.of {
		if !isMember(ms, id) {
			delete(w.of, id)
			delete(w.called, id)
		}
	}
}
