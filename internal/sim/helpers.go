package sim

import (
	"iter"
	"slices"
	"time"
)

// helpers are what a member does beside its loop: tasks that go on between two turns of the
// appender.
type helpers struct {
	m *member
	// tasks are those that are under way, and task the one that runs.
	tasks []*task
	task  *task
}

// task is what a helper of a member does: it pauses while a snapshot travels.
type task struct {
	next  func() (time.Duration, bool)
	stop  func()
	yield func(time.Duration) bool
	// ended: its process is, in the middle of what it does.
	ended bool
}

// pause lets time pass, and says whether the process still runs then.
func (t *task) pause(d time.Duration) bool { return !t.ended && t.yield(d) }

// begin begins a task.
func (h *helpers) begin(f func()) {
	t := &task{}
	t.next, t.stop = iter.Pull(func(yield func(time.Duration) bool) {
		t.yield = yield
		f()
	})
	h.tasks = append(h.tasks, t)
	h.goOn(t)
}

// goOn goes on with a task up to its next pause.
func (h *helpers) goOn(t *task) {
	if h.m.writing != nil {
		h.m.after(time.Millisecond, "task waits", func() { h.goOn(t) })
		return
	}
	h.task = t
	wait, more := t.next()
	h.task = nil
	if more {
		h.m.after(wait, "task goes on", func() { h.goOn(t) })
		return
	}
	h.tasks = slices.DeleteFunc(h.tasks, func(o *task) bool { return o == t })
}

// stop ends what helpers are in the middle of.
func (h *helpers) stop() {
	tasks := h.tasks
	h.tasks = nil
	for _, t := range tasks {
		if t.ended = true; t != h.task {
			t.stop()
		}
	}
}
