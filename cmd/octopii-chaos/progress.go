package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// progressEvery is how often the line on a terminal is drawn anew, and
	// progressEveryLine how often one more is written elsewhere.
	progressEvery     = 250 * time.Millisecond
	progressEveryLine = 10 * time.Second
)

// progress shows how far many seeds have come: on a terminal one line that stays
// where it is, elsewhere a line now and then.
type progress struct {
	w        io.Writer
	terminal bool
	wanted   uint64
	began    time.Time

	mu    sync.Mutex
	sum   summary
	shown bool

	stop, stopped chan struct{}
}

func startProgress(w io.Writer, wanted uint64) *progress {
	f, ok := w.(*os.File)
	p := &progress{
		w: w, terminal: ok && term.IsTerminal(int(f.Fd())), wanted: wanted, began: time.Now(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	every := progressEveryLine
	if p.terminal {
		every = progressEvery
	}
	go func() {
		defer close(p.stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.draw()
			}
		}
	}()
	return p
}

// update takes in how far it is.
func (p *progress) update(s summary) {
	p.mu.Lock()
	p.sum = s
	p.mu.Unlock()
}

// end takes the line away.
func (p *progress) end() {
	close(p.stop)
	<-p.stopped
	p.clear()
}

// clear makes room on a terminal for something else.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	p.shown = false
}

func (p *progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := progressLine(&p.sum, p.wanted, time.Since(p.began))
	// A terminal that is gone is no reason to fail.
	if !p.terminal {
		fmt.Fprintln(p.w, line)
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	p.shown = true
}

// progressLine is the line after some time.
func progressLine(s *summary, wanted uint64, elapsed time.Duration) string {
	left := "?"
	if s.Seeds > 0 {
		left = time.Duration(float64(elapsed) / float64(s.Seeds) * float64(wanted-s.Seeds)).Round(time.Second).String()
	}
	return fmt.Sprintf("%d of %d seeds, %d events, %d faults, %d failures, %s left", s.Seeds, wanted, s.Events, s.Faults, s.Failures, left)
}
