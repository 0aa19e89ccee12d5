package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	// progressAfter is how long something may take before a bar is shown for it.
	progressAfter = time.Second
	progressEvery = 100 * time.Millisecond
)

// progress shows how far a step has come: bytes of all bytes, rate, time left.
// It shows nothing where nobody looks, and nothing of a step that is soon over.
type progress struct {
	w io.Writer
	// now is time.Now, except in tests; nil: never show anything.
	now  func() time.Time
	step string
	bar  *progressbar.ProgressBar
	// next is when the bar is to be drawn again, shown whether it ever was.
	next  time.Time
	shown bool
}

// newProgress shows bars on w if that is a terminal.
func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		return noProgress()
	}
	return &progress{w: w, now: time.Now}
}

func noProgress() *progress { return &progress{} }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// of returns what to call as one step comes along.
func (p *progress) of(step string) func(done, total int64) {
	return func(done, total int64) { p.update(step, done, total) }
}

func (p *progress) update(step string, done, total int64) {
	if p.now == nil || total <= 0 {
		return
	}
	now := p.now()
	if p.bar == nil || p.step != step {
		p.done()
		p.step, p.next, p.bar = step, now.Add(progressAfter), newBar(p.w, step, total)
	}
	if now.Before(p.next) {
		return
	}
	p.next, p.shown = now.Add(progressEvery), true
	// A terminal that is gone is no reason to fail.
	_ = p.bar.Set64(min(done, total))
}

// done takes the bar away.
func (p *progress) done() {
	if p.shown {
		_ = p.bar.Clear()
	}
	p.bar, p.shown = nil, false
}

func newBar(w io.Writer, step string, total int64) *progressbar.ProgressBar {
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(step),
		progressbar.OptionShowBytes(true),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(),
	)
	// Without it the rate would count from when the bar is first shown.
	bar.Reset()
	return bar
}
