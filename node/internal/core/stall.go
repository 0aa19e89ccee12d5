package core

import "slices"

// outstanding are the appends that were handed out and have not come back. For how
// long the oldest has been out is how long the disk takes.
type outstanding struct {
	now int
	// runs are appends that were handed out within one tick, oldest first; there are
	// as many as ticks at most, however much is written.
	runs []run
}

// run are n appends that were handed out at the tick since.
type run struct{ since, n int }

func (o *outstanding) add() {
	if last := len(o.runs) - 1; last >= 0 && o.runs[last].since == o.now {
		o.runs[last].n++
		return
	}
	o.runs = append(o.runs, run{o.now, 1})
}

// back: the oldest one is done.
func (o *outstanding) back() {
	if o.runs[0].n--; o.runs[0].n == 0 {
		o.runs = slices.Delete(o.runs, 0, 1)
	}
}

func (o *outstanding) tick() { o.now++ }

func (o *outstanding) none() bool { return len(o.runs) == 0 }

// restart counts anew for what is out: it does not hang, it waits for space.
func (o *outstanding) restart() {
	for i := range o.runs {
		o.runs[i].since = o.now
	}
}

// ticks is for how many of them the oldest append has been out.
func (o *outstanding) ticks() int {
	if len(o.runs) == 0 {
		return 0
	}
	return o.now - o.runs[0].since
}

// stalled: an append has been out for longer than a leader may take. What it
// appends is committed by others, but whoever called it waits for its own disk.
func (c *leading) stalled() bool {
	return c.cfg.StallTicks > 0 && c.outstanding.ticks() > c.cfg.StallTicks
}
