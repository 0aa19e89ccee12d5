package selfheal

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A cluster is founded only where every address that was asked answered, and each of the
// members that answered is empty, is of no cluster, and was of none.
func TestFoundedOnlyWhereAllAnswerAndAreEmpty(t *testing.T) {
	founded := 0
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 0))
		expect := 1 + r.IntN(4)
		self := Answer{Member: Member{ID: 1 + r.Uint64N(3), Address: "self"}}
		sound := true
		members := map[uint64]bool{self.Member.ID: true}
		var answers []Answer
		for i := range r.IntN(5) {
			a := Answer{Asked: fmt.Sprint("address", i), Member: Member{ID: 1 + r.Uint64N(6), Address: fmt.Sprint("address", i)}}
			switch r.IntN(12) {
			case 0:
				a, sound = Answer{Asked: a.Asked, Failure: "no answer"}, false
			case 1:
				a.WasMember, sound = true, false
			case 2:
				a.Cluster, sound = 7, false
			default:
				members[a.Member.ID] = true
			}
			answers = append(answers, a)
		}
		step, why := Round(self, answers, expect)
		if step != Found {
			continue
		}
		founded++
		if !sound || len(members) < expect {
			t.Fatalf("seed %d: %d are expected, and a cluster is founded (%s) after %+v", seed, expect, why, answers)
		}
	}
	if founded < 500 {
		t.Errorf("%d clusters were founded; want 500 at least", founded)
	}
}

// Files are put aside for a cause that is damage, a foreign cluster or a place that was
// rebuilt, that a majority proved; not more often than KeptMax, and each time after a longer
// rest.
func TestAsideByEachRule(t *testing.T) {
	for _, cause := range []Cause{Passing, Lost, Refused, Foreign, Removed} {
		for what := range 4 {
			proven, rebuilt := what&1 != 0, what&2 != 0
			for kept := range KeptMax + 2 {
				for rest := time.Duration(0); rest <= restMin<<(KeptMax+2); rest += restMin / 2 {
					want := PutAside
					switch {
					case cause == Passing, cause == Removed && proven && !rebuilt:
						want = End
					case kept >= KeptMax, !proven && cause != Refused, kept > 0 && rest < restMin*time.Duration(1<<kept):
						want = AskAgain
					}
					q := Quarantine{Cause: cause, Proven: proven, Rebuilt: rebuilt, Kept: kept, Newest: rest}
					if got, why := Aside(q); got != want {
						t.Fatalf("%+v: %v (%s); want %v", q, got, why, want)
					}
				}
			}
		}
	}
}
