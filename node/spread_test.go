package node_test

import (
	"testing"

	"github.com/octopii/octopii/node"
)

// A change of membership is answered when a majority knows of it: raft counts by a
// membership where it is applied, so if the leader alone had applied it and died, the
// others would still count by the old one.
func TestChangeIsKnownToAMajority(t *testing.T) {
	ms := cluster(t, 3)
	for i := range 10 {
		for _, id := range []uint64{2, 3} {
			got, err := ms[0].SetPriority(timeout(t), id, 1+i%2)
			if err != nil {
				t.Fatal(err)
			}
			knownToAMajority(t, ms, got)
		}
	}
}

// So is one of several steps, of which the leader makes the last: a member is added as a
// learner, and gets its vote when it has caught up.
func TestAddedVoterIsKnownToAMajority(t *testing.T) {
	ms := cluster(t, 3)
	for range 6 {
		if _, err := ms[0].Demote(timeout(t), 3); err != nil {
			t.Fatal(err)
		}
		got, err := ms[0].AddVoter(timeout(t), node.Member{ID: 3, Address: ms[2].addr})
		if err != nil {
			t.Fatal(err)
		}
		if m, _ := got.Member(3); m.Learner {
			t.Fatalf("member 3 was added as a voter, and the answer is %+v", got)
		}
		knownToAMajority(t, ms, got)
	}
}

func knownToAMajority(t *testing.T, ms []*member, got node.Membership) {
	t.Helper()
	knows := 0
	for _, m := range ms {
		if m.Status().Membership.Index >= got.Index {
			knows++
		}
	}
	if knows < got.Quorum() {
		t.Fatalf("the change at %d of %d members was answered, and %d know of it", got.Index, len(got.Members), knows)
	}
}
