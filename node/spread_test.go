package node_test

import "testing"

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
	}
}
