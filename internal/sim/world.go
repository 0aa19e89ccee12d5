package sim

import (
	cryptorand "crypto/rand"
	"math/rand/v2"
	"sync"
	"time"
)

// world is a cluster, its network, its disks and its clients, in one goroutine
// and under a clock of its own. Everything that happens is an event; everything
// that is drawn comes from the seed. So the same seed is the same story.
//
// It is layers: what happens when is its story, who is there its roster, and neither can
// name what is above it.
type world struct {
	roster
	// faults counts what the nemesis did.
	faults int
	// calm: nothing is broken any more, and nothing breaks. handing: but leadership
	// is handed around.
	calm, handing bool
	// troubled is when something last kept messages from arriving.
	troubled time.Duration

	net     *network
	clients []*client
	check   *checker
	nemesis *nemesis
	// byHand: nobody starts a process again but the script that drives the world.
	byHand bool
}

// chance is held while a world runs: raft draws its election timeouts from the
// process's source of chance, which a world replaces.
var chance sync.Mutex

// seededReader is that source.
type seededReader struct{ *rand.ChaCha8 }

func newWorld(cfg setting) *world {
	// Odd streams are for what draw draws.
	s := story{seed: cfg.Seed, rnd: rand.New(rand.NewPCG(cfg.Seed, 2*cfg.Variant))}
	w := &world{roster: roster{story: s, cfg: cfg, nextID: 1}}
	w.net = newNetwork(w)
	w.check = newChecker(w)
	w.nemesis = newNemesis(w)
	return w
}

// exclusively runs f with the process's source of chance seeded.
func exclusively(seed uint64, f func()) {
	chance.Lock()
	defer chance.Unlock()
	before := cryptorand.Reader
	defer func() { cryptorand.Reader = before }()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	cryptorand.Reader = seededReader{rand.NewChaCha8(key)}
	f()
}
