package kv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// applyOn applies one command on several stores, at the index behind that of each.
func applyOn(t *testing.T, stores []*Store, command []byte) {
	t.Helper()
	for _, s := range stores {
		apply(t, s, command)
	}
}

// Members of one cluster compare their databases. Some are voters, some learners, some
// are removed and still heard, and each has one of three histories. A member stops if,
// and only if, more than half of all voters agree on something else than it has.
func TestOnlyAMajorityOfTheVotersIsBelieved(t *testing.T) {
	histories := []int{0, 0, 0, 0, 1, 1, 2}
	stores := make([]*Store, len(histories))
	for i := range stores {
		stores[i] = openTest(t, t.TempDir(), limits{})
		apply(t, stores[i], putCommand(t, "k", fmt.Sprint(histories[i])))
	}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		ids := r.Perm(len(stores)) // by store
		voters := make([]uint64, 1+r.IntN(len(stores)))
		for id := range voters {
			voters[id] = uint64(id)
		}
		applyOn(t, stores, CompareCommand())
		votes := make([]int, 3)
		for i, s := range stores {
			if r.IntN(5) == 0 {
				continue // it is down
			}
			c := s.Comparison()
			applyOn(t, stores, ContentCommand(uint64(ids[i]), c.Index, c.Own))
			if ids[i] < len(voters) {
				votes[histories[i]]++
			}
		}
		for i, s := range stores {
			wrong := false
			for history, n := range votes {
				wrong = wrong || 2*n > len(voters) && history != histories[i]
			}
			c := s.Comparison()
			if _, err := c.Verdict(voters); errors.Is(err, ErrDamaged) != wrong {
				t.Fatalf("seed %d: %v of %d voters have each history, and a member has history %d: %v", seed, votes, len(voters), histories[i], err)
			}
		}
	}
}

// What Comparison returned stays as it was, while members go on saying what they have.
func TestComparisonIsACopy(t *testing.T) {
	s := openTest(t, t.TempDir(), limits{})
	apply(t, s, CompareCommand())
	before := s.Comparison()
	apply(t, s, ContentCommand(7, before.Index, before.Own))
	if after := s.Comparison(); len(before.Members) != 0 || len(after.Members) != 1 {
		t.Errorf("%d members before one said what it has, and %d then; want 0 and 1", len(before.Members), len(after.Members))
	}
}

// A member that removes compacted revisions meanwhile has nothing to compare, and one
// that has something to compare has the same as a member that removed them long ago.
func TestComparisonBesideACompaction(t *testing.T) {
	stores := []*Store{openTest(t, t.TempDir(), limits{}), openTest(t, t.TempDir(), limits{})}
	for i := range 3000 {
		applyOn(t, stores, putCommand(t, fmt.Sprint(i%10), "v"))
	}
	revision := stateOf(t, stores[0]).Revision
	applyOn(t, stores, mustCommand(t, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: revision}}))
	if err := stores[1].WaitCompacted(t.Context()); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for compared < 2 {
		applyOn(t, stores, CompareCommand())
		a, b := stores[0].Comparison(), stores[1].Comparison()
		if !b.Noted {
			t.Fatal("a member that has removed everything notes nothing")
		}
		if a.Noted {
			compared++
			if a.Own != b.Own {
				t.Fatalf("one notes %+v at index %d, the other %+v", a.Own, a.Index, b.Own)
			}
		}
	}
}

// What a compaction reads beside a transaction is not counted as read by it: members
// compact in their own time, and would reject what others execute.
func TestCompactionBesideTransactions(t *testing.T) {
	busy, idle := openTest(t, t.TempDir(), limits{}), openTest(t, t.TempDir(), limits{})
	both := []*Store{busy, idle}
	value := make([]byte, 1<<10)
	for i := range 6000 {
		apply(t, busy, mustCommand(t, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: fmt.Appendf(nil, "old%d", i%10), Value: value}}))
	}
	applyOn(t, both, mustCommand(t, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), Value: make([]byte, ReadBytesMax/100-1<<10)}}))
	// It reads almost as much as it may.
	r := &pb.TxnRequest{Success: []*pb.RequestOp{put("b")}}
	for range 100 {
		r.Success = append(r.Success, rangeOp(&pb.RangeRequest{Key: []byte("a")}))
	}
	command := mustCommand(t, &pb.InternalRaftRequest{Txn: r})
	apply(t, busy, mustCommand(t, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 6000}}))
	compacted := make(chan error, 1)
	go func() { compacted <- busy.WaitCompacted(t.Context()) }()
	for n := 0; ; n++ {
		for i, s := range both {
			if err := DecodeResult(apply(t, s, command), nil); err != nil {
				t.Fatalf("transaction %d on member %d: %v; want that it is executed", n, i, err)
			}
		}
		select {
		case err := <-compacted:
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d transactions on each beside the compaction", n)
			return
		default:
		}
	}
}
