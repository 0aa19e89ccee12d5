package node

import (
	"sync"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
)

// unit is one of the parts that a Node always has. It does what it does in turns, of which
// its host takes one after the other.
type unit interface {
	// ready says whether a turn has something to do. It is called between two turns.
	ready() bool
	// turn does what there is to do. ticks is how many passed since the last turn. It
	// returns false when the unit has ended and takes no other turn.
	turn(ticks int) bool
}

// bell tells a host that a unit may be ready. ring never blocks, any goroutine may call
// it, and it counts also before the unit has its host.
type bell interface{ ring() }

// host is what a Node runs on: goroutines and the machine's clock, or a simulator
// that takes the turns of each unit.
type host interface {
	// bell returns a bell for one unit.
	bell() bell
	// unit takes the turns of a unit: when it is ready after its bell was rung, and once per
	// tick; a tick of 0: there are none. wg is done when the unit has ended.
	unit(wg *sync.WaitGroup, u unit, b bell, tick time.Duration)
	// helper runs f once, beside everything else.
	helper(wg *sync.WaitGroup, f func())
	// aside is helper for what is not urgent and decides nothing.
	aside(wg *sync.WaitGroup, f func())
	// timer returns a timer that is stopped.
	timer(f func()) stepped.Timer
	now() time.Time
	// await returns nil when f has ended. If it has not a while after limit was closed
	// it is left behind, and what is returned is closed when it has.
	await(f func(), limit <-chan struct{}) <-chan struct{}
	decided(*core.Effects)
}

// machine is the host of every Node but a simulated one. A unit has a goroutine.
type machine struct{}

// token is a bell of machine. It holds at most one token.
type token chan struct{}

func (t token) ring() {
	select {
	case t <- struct{}{}:
	default:
	}
}

func (machine) bell() bell { return make(token, 1) }

func (machine) unit(wg *sync.WaitGroup, u unit, b bell, tick time.Duration) {
	rung := b.(token)
	wg.Go(func() {
		var ticks <-chan time.Time // nil: none come
		if tick > 0 {
			t := time.NewTicker(tick)
			defer t.Stop()
			ticks = t.C
		}
		for u.turn(await(u, rung, ticks)) {
		}
	})
}

// await returns when a unit is ready or a tick has passed, and how many have. A unit that
// is always ready gets its ticks all the same.
func await(u unit, rung token, ticks <-chan time.Time) int {
	for !u.ready() {
		select {
		case <-rung:
		case <-ticks:
			return 1
		}
	}
	select {
	case <-ticks:
		return 1
	default:
		return 0
	}
}

func (machine) helper(wg *sync.WaitGroup, f func()) { wg.Go(f) }
func (machine) aside(wg *sync.WaitGroup, f func())  { wg.Go(f) }
func (machine) now() time.Time                      { return time.Now() }
func (machine) decided(*core.Effects)               {}
func (machine) timer(f func()) stepped.Timer {
	t := time.AfterFunc(time.Hour, f)
	t.Stop()
	return t
}

// abandonAfter is how long what may hang has to end once it is known that the disk
// does.
const abandonAfter = time.Second

func (machine) await(f func(), limit <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return nil
	case <-limit:
	}
	select {
	case <-done:
		return nil
	case <-time.After(abandonAfter):
		return done
	}
}
