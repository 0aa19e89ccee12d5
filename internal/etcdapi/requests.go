package etcdapi

import (
	"container/list"
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/tap"
)

const (
	// streamWindowBytes is what a client may send of a request before the request is read:
	// the least that gRPC allows. It is fixed, as gRPC would raise it for fast clients.
	streamWindowBytes = 64 << 10
	// connWindowBytes bounds only what is on its way in the network: gRPC does not keep
	// it in memory.
	connWindowBytes = 16 << 20
	// connReadingMax is how many requests of one connection are read at a time. Others of
	// it wait with at most streamWindowBytes each. A request that is larger than this counts
	// until it is answered.
	connReadingMax = 32
	// slowAfter is how long a request may be read while others wait for its place.
	slowAfter = time.Second
	// slowLook is how often a request that waits looks for one that is slow.
	slowLook = 100 * time.Millisecond
)

// requests bounds the memory of requests that are on their way in.
//
// gRPC lets a client send all of a message, up to the limit of its size, when a stream is
// read, and streamWindowBytes before. So a request that is half sent keeps memory for as
// long as its stream lives. Here a request must arrive in time, and both kinds have a
// bound. Where too many are read, one that takes long gives way to those that wait; where
// too many wait, the oldest one does. A request that is sent without pauses is neither.
//
// Only the first message of a stream is waited for: a stream that lives long is not ended.
type requests struct {
	timeout time.Duration
	// arrivingMax is how many may be arriving in all.
	arrivingMax int
	// places has a token for each request that is read.
	places chan struct{}

	mu sync.Mutex
	// arriving and reading are *request, the oldest ones first. reading is a part of
	// arriving.
	arriving, reading list.List
}

// newRequests returns one for so many bytes: a half for those that are read, of at most
// messageBytes each, and a half for those that wait.
func newRequests(bytes, messageBytes int64, timeout time.Duration) *requests {
	return &requests{
		timeout:     timeout,
		arrivingMax: int(max(1, bytes/2/streamWindowBytes)),
		places:      make(chan struct{}, max(1, bytes/2/messageBytes)),
	}
}

// request is one whose stream has begun.
type request struct {
	conn   *connection
	cancel context.CancelFunc

	// These are of a request that has not arrived, and guarded by requests.mu. inArriving
	// is nil when it has arrived.
	inArriving, inReading *list.Element
	since                 time.Time // when it began to be read
	timer                 *time.Timer
	stop                  func() bool // ends waiting for the end of the stream

	// onConn and inAll: it has a place of its connection, and one in all. Owned by the
	// goroutine of the request.
	onConn, inAll bool
}

type requestKey struct{}

// begin is a tap.ServerInHandle: it is told of every request before anything of it is
// read, on the goroutine that reads the connection, and may not wait.
func (r *requests) begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithCancel(ctx)
	q := &request{conn: connectionOf(ctx), cancel: cancel}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.arriving.Len() >= r.arrivingMax {
		r.end(r.arriving.Front())
	}
	q.inArriving = r.arriving.PushBack(q)
	q.timer = time.AfterFunc(r.timeout, func() {
		if r.arrived(q) {
			q.cancel()
		}
	})
	// A stream that ends before its request is served is seen by nobody else.
	q.stop = context.AfterFunc(ctx, func() { r.arrived(q) })
	return context.WithValue(ctx, requestKey{}, q), nil
}

// end ends a request that has not arrived. r.mu is held.
func (r *requests) end(e *list.Element) {
	q := e.Value.(*request)
	r.remove(q)
	q.cancel()
}

// arrived takes a request off those that are arriving. It says whether it was among them.
func (r *requests) arrived(q *request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remove(q)
}

// remove is arrived with r.mu held.
func (r *requests) remove(q *request) bool {
	if q.inArriving == nil {
		return false
	}
	q.timer.Stop()
	q.stop()
	r.arriving.Remove(q.inArriving)
	q.inArriving = nil
	if q.inReading != nil {
		r.reading.Remove(q.inReading)
		q.inReading = nil
	}
	return true
}

// handle is told of what happens to a request, on its own goroutine.
func (r *requests) handle(ctx context.Context, s stats.RPCStats) {
	q, ok := ctx.Value(requestKey{}).(*request)
	if !ok {
		return
	}
	switch s := s.(type) {
	case *stats.Begin:
		r.waitForPlace(ctx, q)
	case *stats.InPayload:
		r.arrived(q)
		r.leave(q, s.Length > streamWindowBytes)
	case *stats.End:
		r.arrived(q)
		r.leave(q, false)
		q.cancel()
	}
}

// waitForPlace returns when a request may be read, or has ended.
func (r *requests) waitForPlace(ctx context.Context, q *request) {
	select {
	case q.conn.reading <- struct{}{}:
		q.onConn = true
	case <-ctx.Done():
		return
	}
	for !q.inAll {
		select {
		case r.places <- struct{}{}:
			q.inAll = true
		default:
			r.waitForSlow(ctx, q)
			if ctx.Err() != nil {
				return
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.inArriving != nil {
		q.inReading, q.since = r.reading.PushBack(q), time.Now()
	}
}

// waitForSlow waits for a place for a while, and ends the request that is read for longest
// if it takes too long.
func (r *requests) waitForSlow(ctx context.Context, q *request) {
	look := time.NewTimer(slowLook)
	defer look.Stop()
	select {
	case r.places <- struct{}{}:
		q.inAll = true
		return
	case <-ctx.Done():
		return
	case <-look.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first := r.reading.Front(); first != nil && time.Since(first.Value.(*request).since) > slowAfter {
		r.end(first)
	}
}

// leave lets other requests be read; of this connection only if the request is not large.
func (r *requests) leave(q *request, large bool) {
	if q.inAll {
		<-r.places
		q.inAll = false
	}
	if q.onConn && !large {
		<-q.conn.reading
		q.onConn = false
	}
}
