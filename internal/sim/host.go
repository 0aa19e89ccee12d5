package sim

import (
	"time"

	"github.com/octopii/octopii/internal/stepped"
)

// host implements stepped.Host for one life of a member.
type host struct {
	m *member
}

func (h host) Go(f func()) {
	// A snapshot takes its time; what is quick is quick.
	d := h.m.disk
	h.m.after(h.m.w.between(h.m.w.between(d.fast, d.slow), h.m.w.cfg.taskMax), "task", func() { h.task(f) })
}

// Aside draws nothing: what is written aside changes no story.
func (h host) Aside(f func()) { h.m.after(time.Millisecond, "aside", func() { h.task(f) }) }

// task runs f between two turns of the appender, as it may need what that holds, and
// when the disk does not hang.
func (h host) task(f func()) {
	switch d := h.m.disk; {
	case d.stalled > h.m.w.now: // it may be mended meanwhile
		h.m.after(min(d.stalled-h.m.w.now, 100*time.Millisecond), "task waits for the disk", func() { h.task(f) })
	case h.m.writing != nil:
		h.m.after(time.Millisecond, "task waits", func() { h.task(f) })
	default:
		h.m.helpers.begin(f)
	}
}

func (h host) Timer(f func()) stepped.Timer { return &timer{m: h.m, f: f} }
func (h host) Now() time.Time               { return time.Unix(1_000_000_000, 0).Add(h.m.w.now + h.m.offset) }
func (h host) Decided(d *stepped.Decision)  { h.m.w.check.decided(h.m, d) }

// timer is a stepped.Timer.
type timer struct {
	m *member
	f func()
	// set counts how often it was set or stopped.
	set    int
	active bool
}

func (t *timer) Reset(d time.Duration) bool {
	was := t.active
	t.set++
	t.active = true
	set := t.set
	t.m.after(t.m.clock(d), "timer", func() {
		if t.active && t.set == set {
			t.active = false
			t.f()
		}
	})
	return was
}

func (t *timer) Stop() bool {
	was := t.active
	t.active = false
	return was
}
