package node

import (
	"fmt"
	"sync"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
)

// memory is what this member knows of the others' disks: of its followers, while it
// led, what they acknowledged, and of its leaders what they said. It reminds them in
// every handshake, for a disk that was set back to an older image cannot know by
// itself.
// The loop writes it, the transport's goroutines read it; it does not outlive the
// process.
type memory struct {
	mu sync.Mutex
	of map[uint64]transport.Memory
}

// note remembers that a member has its log up to match, in a term in which it only
// grows, and that up to commit it is committed, which it stays in any term.
func (m *memory) note(id, term, match, commit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of = map[uint64]transport.Memory{}
	}
	old := m.of[id]
	m.of[id] = transport.Memory{Term: term, Match: match, Commit: max(old.Commit, min(match, commit))}
}

func (m *memory) get(id uint64) transport.Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[id]
}

// keep forgets all who do not belong to the cluster any more.
func (m *memory) keep(ms *octopiipb.Membership) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.of {
		if !isMember(ms, id) {
			delete(m.of, id)
		}
	}
}

func isMember(ms *octopiipb.Membership, id uint64) bool {
	for i := range ms.Members {
		if ms.Members[i].ID == id {
			return true
		}
	}
	return false
}

// contradicts says whether a peer remembers more of this member's log than there
// is. In a term that this member has left its log may have been cut, but for what
// was committed; in its own term a log only grows; and no term is ever forgotten.
func contradicts(r transport.Memory, term, last uint64) bool {
	switch {
	case r == transport.Memory{}:
		return false
	case last < r.Commit, term < r.Term:
		return true
	}
	return term == r.Term && last < r.Match
}

// reminded compares a peer's memory with what is here. A member that lost what it
// acknowledged stops, before it votes or acknowledges anything to that peer. Whoever
// belongs to no cluster, or to another one, remembers nothing of this one.
func (n *Node) reminded(peer transport.Hello) error {
	st := n.Status()
	r := peer.Remembers
	if !n.knows(peer) || !contradicts(r, st.Term, st.LastIndex) {
		return nil
	}
	return fmt.Errorf("%w: member %x remembers that this one had its log up to %d in term %d, %d of it committed, and it ends at %d in term %d: was an old image of the disk put back? Remove this member, and join again with an empty directory",
		ErrAmnesia, peer.Node, r.Match, r.Term, r.Commit, st.LastIndex, st.Term)
}

// knows says whether a peer can tell this member what it was: they are of one
// cluster, as far as this one knows what its cluster is.
func (n *Node) knows(peer transport.Hello) bool {
	mine := n.cluster.Load()
	return peer.Cluster != 0 && (mine == 0 || mine == peer.Cluster)
}
