package node

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

// ErrOtherCluster: the address of this member belongs to a member of another cluster, and
// this cluster has no other voter: it was founded where a member of the other one lost its
// disk. OtherClusterError has the details.
var ErrOtherCluster = errors.New("node: this address belongs to a member of another cluster")

// OtherClusterError is an ErrOtherCluster, proven by a majority of the other cluster.
type OtherClusterError struct {
	// Mine is the cluster that stopped serving.
	Mine uint64
	// Proof is the statement of the other one.
	Proof Proof
}

// Error names both clusters.
func (e *OtherClusterError) Error() string {
	return fmt.Sprintf("%v: this is cluster %x, of this member alone, and cluster %x of %d members has member %x at this address: this one stopped serving; put its directory aside and let it join the other",
		ErrOtherCluster, e.Mine, e.Proof.Cluster, len(e.Proof.Members), e.Proof.AtAddress)
}

// Unwrap makes it an ErrOtherCluster.
func (e *OtherClusterError) Unwrap() error { return ErrOtherCluster }

// verifyPause is the least time between two verifications, whoever calls.
const verifyPause = 2 * time.Second

// dialedByOther is told that a member of another cluster dials this address. Its word
// alone stops nothing: a cluster of one asks back for the statement of a majority. It
// belongs to the loop.
func (l *loop) dialedByOther(peer transport.Hello) {
	now := l.host.now()
	if l.core == nil || peer.Address == "" || !l.verified.IsZero() && now.Sub(l.verified) < verifyPause {
		return
	}
	l.verified = now
	voters := l.public.Voters()
	l.log.Warn("a member of another cluster takes this address for one of its members",
		zap.String("cluster", hex(l.cluster.Load())), zap.String("other cluster", hex(peer.Cluster)),
		zap.String("wanted", hex(peer.To)), zap.String("called from", peer.Address))
	if len(voters) != 1 || voters[0] != l.id {
		return // others depend on this cluster: an operator must say which of the two is right
	}
	q := Question{Cluster: peer.Cluster, Address: l.cfg.Transport.Address(), Name: l.identity.Name}
	l.seekProof(q, []string{peer.Address}, func(p Proof, err error) {
		l.inbox.call(func() { l.otherVouched(p, err) })
	})
}

// otherVouched stops this member if it is the one that should not be there: the other
// cluster has a record of it, and this one has none of the others.
func (l *loop) otherVouched(p Proof, err error) {
	if err != nil {
		l.log.Info("the other cluster does not prove that this address is its member's; going on", zap.Error(err))
		return
	}
	theirs := 0
	for _, m := range p.Members {
		if !m.Learner {
			theirs++
		}
		mine := slices.ContainsFunc(l.public.Members, func(o Member) bool { return o.Address == m.Address && o.ID != l.id })
		if mine {
			return // each knows the other's addresses: which came first is for an operator to say
		}
	}
	if p.AtAddress == 0 || theirs < 2 || len(l.public.Voters()) != 1 {
		return
	}
	l.fatal(&OtherClusterError{Mine: l.cluster.Load(), Proof: p})
}

// asksFromOutside: a member of another cluster calls, or was called: it may ask what a
// majority here knows, and nothing else. See dialedByOther.
func (n *Node) asksFromOutside(peer transport.Hello) bool {
	mine := n.cluster.Load()
	return peer.Call && mine != 0 && peer.Cluster != 0 && peer.Cluster != mine && peer.Node != n.id
}

// soughtHere is told of every member of a cluster that wants another member here.
func (n *Node) soughtHere(peer transport.Hello) {
	mine := n.cluster.Load()
	switch {
	case mine == 0 && (n.cfg.Rejoin || n.cfg.Bootstrap || n.cfg.Expect > 0):
		n.inbox.call(func() { n.snapshots.loop.founding.sought(peer) })
	case mine != 0 && mine != peer.Cluster:
		n.inbox.call(func() { n.snapshots.loop.dialedByOther(peer) })
	}
}
