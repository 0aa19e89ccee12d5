package node

import (
	"sync"
	"time"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/node/internal/core"
)

// host is what a Node runs on: goroutines and the machine's clock, or a simulator
// that gives each part its turns.
type host interface {
	// unit runs one of the parts that a Node always has.
	unit(wg *sync.WaitGroup, run func())
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

// machine is the host of every Node but a simulated one.
type machine struct{}

func (machine) unit(wg *sync.WaitGroup, run func()) { wg.Go(run) }
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
