package tcp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/octopii/octopii/transport"
)

// lifetime lasts from New to Close of a Transport, and waits for all that the Transport
// started in it.
type lifetime struct {
	// ctx ends with Close. Everything that waits on behalf of the Transport itself, rather
	// than of a caller, waits under it.
	ctx context.Context
	end context.CancelFunc
	// started is closed by Start.
	started chan struct{}
	// wg counts every goroutine of the Transport, and callers while they shake hands. It
	// grows only from goroutines that it counts, or under mu before ctx has ended.
	wg sync.WaitGroup

	mu sync.RWMutex
}

// start calls begin and lets everything begin that waits for Start.
func (l *lifetime) start(begin func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed() {
		return transport.ErrClosed
	}
	if isClosed(l.started) {
		return errors.New("tcp: Start was called before: call it once")
	}
	begin()
	close(l.started)
	return nil
}

// goes runs f in a goroutine that Close waits for. It returns false after Close.
func (l *lifetime) goes(f func()) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed() {
		return false
	}
	l.wg.Go(f)
	return true
}

// enter has Close wait until the caller calls wg.Done. It fails unless the Transport is
// between Start and Close.
func (l *lifetime) enter() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed() {
		return transport.ErrClosed
	}
	if !isClosed(l.started) {
		return errors.New("tcp: not started: call Start first")
	}
	l.wg.Add(1)
	return nil
}

// ready is nil between Start and Close.
func (l *lifetime) ready() error {
	err := l.enter()
	if err == nil {
		l.wg.Done()
	}
	return err
}

// close ends ctx: after it nothing begins any more. It returns false if it was called before.
func (l *lifetime) close() (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = !l.closed()
	l.end()
	return first
}

func (l *lifetime) closed() bool { return l.ctx.Err() != nil }

// scope is ctx, ended by Close as well.
func (l *lifetime) scope(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// explain turns the error of an operation under ctx into what its caller gets:
// what the other side said, else that the Transport was closed, else that ctx
// ended, else err.
func (l *lifetime) explain(ctx context.Context, operation string, err error) error {
	var remote *transport.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		return remote
	case l.closed():
		return transport.ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return fmt.Errorf("tcp: %s: %w", operation, err)
}
