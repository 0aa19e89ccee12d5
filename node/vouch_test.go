package node_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/octopii/octopii/node"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/tcp"
)

// A cluster vouches as long as a majority of its voters answers, for a member that runs
// no Node, and says what it knows of it. Without a majority there is no proof.
func TestClusterVouches(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	leader(t, ms...)
	cluster := ms[0].Status().Cluster
	addresses := []string{ms[0].addr, ms[1].addr}
	old := ms[2].addr
	ms[2].kill()

	by, err := tcp.NewCaller(tcp.Config{Listen: old})
	if err != nil {
		t.Fatal(err)
	}
	defer by.Close()
	p, err := node.SeekProof(timeout(t), by, node.Question{Cluster: cluster, Member: 3, Address: old}, addresses)
	if err != nil {
		t.Fatal(err)
	}
	if p.Cluster != cluster || !p.IsMember || p.Removed || p.AtAddress != 3 || len(p.Members) != 3 || !slices.Contains(addresses, p.Witness) {
		t.Errorf("the cluster states %+v", p)
	}
	if _, err := node.SeekProof(timeout(t), by, node.Question{Cluster: cluster + 1}, addresses); !errors.Is(err, node.ErrNoProof) {
		t.Errorf("it vouches for another cluster: %v", err)
	}
	if _, err := node.SeekProof(timeout(t), by, node.Question{}, nil); !errors.Is(err, node.ErrNoProof) {
		t.Errorf("nobody was asked, and the answer is %v", err)
	}
	ms[1].kill()
	p, err = node.SeekProof(timeout(t), by, node.Question{Cluster: cluster}, addresses)
	if !errors.Is(err, node.ErrNoProof) {
		t.Errorf("one of three vouches: %+v, %v", p, err)
	}
}

// A proof is worth an entry: a majority of those that answer has it on disk with all
// that comes before, which the confirmation of a leader does not say. For whoever does
// not name the cluster nothing is written.
func TestProofIsAnEntry(t *testing.T) {
	t.Parallel()
	ms := cluster(t, 3)
	l := leader(t, ms...)
	by, err := tcp.NewCaller(tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer by.Close()
	converged(t, ms...)
	for _, c := range []struct {
		cluster, entries uint64
	}{{l.Status().Cluster, 1}, {0, 0}} {
		before := l.Status().LastIndex
		p, err := node.SeekProof(timeout(t), by, node.Question{Cluster: c.cluster}, []string{l.addr})
		if err != nil {
			t.Fatal(err)
		}
		if p.Commit != before+c.entries {
			t.Errorf("asked as of cluster %x: the proof is of index %d, and the log ended at %d; want %d more", c.cluster, p.Commit, before, c.entries)
		}
	}
}

// answers is who states what, by address; nobody else answers.
type answers map[string]octopiipb.VouchReply

func (a answers) Call(_ context.Context, address string, _ transport.Kind, _ transport.Message) ([]byte, error) {
	reply, ok := a[address]
	if !ok {
		return nil, errors.New("nobody answers at " + address)
	}
	return reply.Marshal()
}

// A question that wants several witnesses is answered by as many addresses that state the same,
// and not by one that states what the others do not.
func TestProofTakesWitnesses(t *testing.T) {
	says := func(commit uint64) octopiipb.VouchReply {
		return octopiipb.VouchReply{Cluster: 7, Term: 2, Leader: 1, Commit: commit, IsMember: true}
	}
	removed := says(11)
	removed.IsMember, removed.Removed, removed.AtAddress = false, true, 9
	elsewhere := removed
	elsewhere.AtAddress = 8
	no := octopiipb.VouchReply{Code: 2, Reason: "no majority answers"}
	for name, c := range map[string]struct {
		by     answers
		proven bool
	}{
		"one alone":                     {answers{"a": says(9)}, false},
		"one, and another knows nobody": {answers{"a": says(9), "b": no}, false},
		"two that differ":               {answers{"a": says(9), "b": removed}, false},
		"two that differ in the place":  {answers{"a": elsewhere, "b": removed}, false},
		"two":                           {answers{"a": says(9), "c": says(10)}, true},
		"two of three":                  {answers{"a": says(9), "b": removed, "c": says(10)}, true},
	} {
		p, err := node.SeekProof(timeout(t), c.by, node.Question{Cluster: 7, Member: 3, Witnesses: 2}, []string{"a", "b", "c"})
		if c.proven && (err != nil || !p.IsMember || p.Commit != 10 || p.Witness != "c") || !c.proven && !errors.Is(err, node.ErrNoProof) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}
