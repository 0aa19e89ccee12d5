package nodetest

import (
	"flag"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the seed to replay")
	seedsFlag = flag.Int("seeds", 20, "how many seeds to try")
	fromFlag  = flag.Uint64("from", 1, "the first of them")
)

func TestSim(t *testing.T) {
	began := time.Now()
	var simulated time.Duration
	events := 0
	for i := range uint64(*seedsFlag) {
		seed := *fromFlag + i
		o := Options{}
		if *seedFlag != 0 {
			seed = *seedFlag
			o.Trace = func(l string) { t.Log(l) }
		}
		r := Simulate(seed, o)
		simulated += r.Time
		events += r.Events
		if r.Failure != nil {
			for _, l := range r.Failure.Last {
				t.Log(l)
			}
			t.Errorf("%v\n%s", r.Failure, r.Settings)
		}
		t.Logf("seed %d hash %016x events %d faults %d ops %d committed %d time %v: %s", seed, r.Hash, r.Events, r.Faults, r.Operations, r.Committed, r.Time, r.Settings)
		if *seedFlag != 0 {
			break
		}
	}
	t.Logf("%d events; %.1f times real time", events, simulated.Seconds()/time.Since(began).Seconds())
}
