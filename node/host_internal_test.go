package node

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted is a unit that ends with its third tick.
type counted struct {
	busy         bool
	turns, ticks int
}

func (c *counted) ready() bool { return c.busy }

func (c *counted) turn(ticks int) bool {
	c.turns++
	c.ticks += ticks
	return c.ticks < 3
}

// A unit that always has something to do gets its ticks all the same.
func TestBusyUnitHasTicks(t *testing.T) {
	c := &counted{busy: true}
	var wg sync.WaitGroup
	machine{}.unit(&wg, c, machine{}.bell(), time.Millisecond)
	wg.Wait()
	if c.ticks != 3 || c.turns < 3 {
		t.Errorf("%d ticks in %d turns, want 3 ticks", c.ticks, c.turns)
	}
}

// A unit that has nothing to do takes one turn per tick; a bell for nothing brings none.
func TestIdleUnitHasTicksOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, rings := &counted{}, machine{}.bell()
		rings.ring() // before the unit has its host
		var wg sync.WaitGroup
		machine{}.unit(&wg, c, rings, time.Second)
		synctest.Wait()
		rings.ring()
		rings.ring() // a second one must not block
		wg.Wait()
		if c.ticks != 3 || c.turns != 3 {
			t.Errorf("%d ticks in %d turns, want 3 in 3", c.ticks, c.turns)
		}
	})
}

// A bell that rang before the unit has its host counts.
func TestBellBeforeTheUnit(t *testing.T) {
	jobs := newMailbox[int](machine{}.bell())
	jobs.put(1)
	jobs.close()
	var got []int
	var wg sync.WaitGroup
	machine{}.unit(&wg, taker{jobs, &got}, jobs.bell, 0)
	wg.Wait()
	if len(got) != 1 {
		t.Errorf("the unit took %v, want what was put before it had its host", got)
	}
}

// taker is a unit that takes what is in a mailbox.
type taker struct {
	jobs *mailbox[int]
	got  *[]int
}

func (u taker) ready() bool { return u.jobs.waiting() }

func (u taker) turn(int) bool {
	items, open := u.jobs.take(nil)
	*u.got = append(*u.got, items...)
	return open
}
