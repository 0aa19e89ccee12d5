package core

// queue is the requests that nobody could be given yet.
type queue struct {
	waiting []request
	// waitingBytes is the size of all of them.
	waitingBytes int64
}

// wait queues a request until somebody can serve it.
func (q *queue) wait(it request) {
	q.waiting = append(q.waiting, it)
	q.waitingBytes += int64(len(it.Data))
}

// tookWaiting empties the queue after everything in it was served.
func (q *queue) tookWaiting() {
	clear(q.waiting)
	q.waiting, q.waitingBytes = q.waiting[:0], 0
}

// keepWaiting keeps those for which keep is true.
func (q *queue) keepWaiting(keep func(*request) bool) {
	all := q.waiting
	q.waiting, q.waitingBytes = all[:0], 0
	for i := range all {
		if keep(&all[i]) {
			q.wait(all[i])
		}
	}
	clear(all[len(q.waiting):])
}

// pruneWaiting forgets requests whose callers gave up: while a disk or an
// election takes long, they must not pile up.
func (q *queue) pruneWaiting() {
	if len(q.waiting) > 0 {
		q.keepWaiting(func(it *request) bool {
			return it.from != 0 || it.Waiter == nil || !it.Waiter.caller().abandoned()
		})
	}
}
