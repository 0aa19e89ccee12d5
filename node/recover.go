package node

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
)

// orphaned: the log is gone, and the state machine's own files are not.
func (g *group) orphaned(index uint64) error {
	return fmt.Errorf("node: %s is empty, but the state machine has everything up to index %d of another log: %w; give both back, or neither",
		g.cfg.Dir, index, ErrAmnesia)
}

// foundHeader is that of the snapshot at which the log of a new cluster begins.
func foundHeader(round octopiipb.Round) raftstore.SnapshotHeader {
	h := raftstore.SnapshotHeader{
		Metadata: raftpb.SnapshotMetadata{Index: 1, Term: 1},
		Membership: octopiipb.Membership{
			Cluster: round.Cluster,
			Index:   1,
			Members: round.Members,

			Settings: round.Settings,
		},
	}
	for _, m := range round.Members {
		h.Metadata.ConfState.Voters = append(h.Metadata.ConfState.Voters, m.ID)
	}
	return h
}

// self is this member's record, as that of a voter, which it wants to be.
func (g *group) self() octopiipb.Member {
	return octopiipb.Member{
		ID:          g.id,
		Kind:        octopiipb.Voter,
		Name:        g.identity.Name,
		Address:     g.cfg.Transport.Address(),
		Incarnation: g.identity.Incarnation,
		Priority:    int32(g.cfg.Priority),
	}
}

// recoverStateMachine brings the state machine to where the log begins, unless
// it is further by itself. It returns the index that it has.
func (l *loop) recoverStateMachine(start raftstore.SnapshotHeader) (uint64, error) {
	begin := start.Metadata.Index
	if !l.durable {
		return begin, restoreFrom(l.group, l.cfg.StateMachine, start)
	}
	index, _ := l.cfg.StateMachine.Durable()
	last, err := l.view.LastIndex()
	switch {
	case err != nil:
		return 0, err
	case index > last:
		return 0, fmt.Errorf("node: the state machine has everything up to index %d, but the log in %s ends at %d: %w; rebuild this member from its peers",
			index, l.cfg.Dir, last, ErrAmnesia)
	case index >= begin:
		return index, l.checkBranch(index)
	case begin == 1 && index == 0:
		return begin, nil // a founder's: there was nothing before
	case start.External:
		return 0, fmt.Errorf("node: the state machine has everything up to index %d, but the log in %s begins behind %d: %w; rebuild this member from its peers",
			index, l.cfg.Dir, begin, ErrAmnesia)
	}
	return begin, restoreFrom(l.group, l.cfg.StateMachine, start)
}

// checkBranch finds a state machine whose last entry is another one than that of the log:
// one of the two is an image of another time.
func (l *loop) checkBranch(index uint64) error {
	sm, ok := l.cfg.StateMachine.(Positioned)
	if !ok {
		return nil
	}
	at, term := sm.Position()
	if at != index || term == 0 {
		return nil
	}
	if logged, err := l.view.Term(index); err == nil && logged != term {
		return fmt.Errorf("%w: the state machine has applied an entry of term %d at index %d, and the log in %s has one of term %d there: was an old image of one of them put back? Put both back, or rebuild this member from its peers",
			ErrDiverged, term, index, l.cfg.Dir, logged)
	}
	return nil
}
