package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/octopii/octopii/transport"
)

// callBytesMax is what transport/tcp allows.
const callBytesMax = 4 << 20

// endpoint is one transport. Close must not be called from inside a Handler.
type endpoint struct {
	net     *Network
	address string
	// life ends with Close.
	life context.Context
	end  context.CancelFunc
	// wg counts the senders, and everything that is inside the Handler on behalf
	// of others. It grows under mu while closed is false.
	wg sync.WaitGroup

	mu      sync.Mutex
	handler transport.Handler // nil before Start
	closed  bool
	links   map[uint64]*link
	// incoming holds the links of others that are connected to this endpoint,
	// with the member that each comes from.
	incoming map[*link]uint64
	// inboxes lets one sender at a time into HandleMessages for each member.
	inboxes map[uint64]*sync.Mutex
}

func newEndpoint(n *Network, address string) *endpoint {
	life, end := context.WithCancel(context.Background())
	return &endpoint{
		net: n, address: address, life: life, end: end,
		links:    make(map[uint64]*link),
		incoming: make(map[*link]uint64),
		inboxes:  make(map[uint64]*sync.Mutex),
	}
}

func (e *endpoint) Address() string { return e.address }

func (e *endpoint) Start(h transport.Handler) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return transport.ErrClosed
	}
	if e.handler != nil {
		return errors.New("memnet: Start was called before: call it once")
	}
	if err := e.net.listen(e); err != nil {
		return err
	}
	e.handler = h
	for _, l := range e.links {
		e.wg.Go(l.run)
	}
	return nil
}

// enter returns the Handler of an endpoint that is alive; the caller calls
// e.wg.Done when it is out of the Handler again.
func (e *endpoint) enter() (transport.Handler, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, transport.ErrClosed
	}
	if e.handler == nil {
		return nil, errors.New("memnet: not started: call Start first")
	}
	e.wg.Add(1)
	return e.handler, nil
}

func (e *endpoint) SetPeer(id uint64, address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if l := e.links[id]; l != nil {
		l.move(address)
		return
	}
	l := newLink(e, id, address)
	e.links[id] = l
	if e.handler != nil {
		e.wg.Go(l.run)
	}
}

func (e *endpoint) RemovePeer(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.links[id]; l != nil {
		delete(e.links, id)
		l.remove()
	}
	for l, from := range e.incoming {
		if from == id {
			delete(e.incoming, l)
			signal(l.broken)
		}
	}
}

// breakLinks ends the outgoing connection to an address.
func (e *endpoint) breakLinks(address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.links {
		if l.where() == address {
			signal(l.broken)
		}
	}
}

func (e *endpoint) Send(to uint64, kind transport.Kind, m transport.Message) bool {
	e.mu.Lock()
	l, closed := e.links[to], e.closed
	e.mu.Unlock()
	switch {
	case closed:
		return false
	case l == nil:
		return e.answer(to, kind, m)
	default:
		return l.enqueue(kind, m)
	}
}

func (e *endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.net.forget(e)
	e.end()
	e.wg.Wait()
	return nil
}

// meeting is a handshake that both sides agreed to.
type meeting struct {
	target *endpoint
	// handler is that of target, which was entered: release leaves it.
	handler      transport.Handler
	mine, theirs transport.Hello
}

func (m meeting) release() { m.target.wg.Done() }

// meet shakes hands with whoever listens at address; to is the member that must
// be there, 0 for whoever is. judged says whether both sides are asked for their
// Accept.
func (e *endpoint) meet(address string, to uint64, bothWays, judged bool) (meeting, error) {
	self, err := e.enter()
	if err != nil {
		return meeting{}, err
	}
	defer e.wg.Done()
	target, err := e.net.find(e.address, address, bothWays)
	if err != nil {
		return meeting{}, err
	}
	handler, err := target.enter()
	if err != nil {
		return meeting{}, fmt.Errorf("nobody listens at %s", address)
	}
	m := meeting{target: target, handler: handler, mine: self.Hello(to)}
	m.theirs = handler.Hello(m.mine.Node).For(m.mine)
	m.mine.Call, m.theirs.Call = to == 0, to == 0
	m.mine.To = to
	m.theirs.Dialed = address
	if to != 0 {
		m.theirs.At = address
	}
	if err := m.judge(self, to, judged); err != nil {
		m.release()
		return meeting{}, err
	}
	return m, nil
}

func (m meeting) judge(self transport.Handler, to uint64, judged bool) error {
	if to != 0 && m.theirs.Node != to {
		if s, ok := m.handler.(transport.Seeker); ok {
			s.Sought(m.mine)
		}
		return &transport.RemoteError{Address: m.target.address,
			Reason: fmt.Sprintf("this is member %x, not %x: correct its address", m.theirs.Node, to)}
	}
	if !judged {
		return nil
	}
	if err := m.handler.Accept(m.mine); err != nil {
		why := transport.RefusalFor(err)
		self.Refused(m.theirs.Refusing(m.mine), why)
		return &transport.RemoteError{Address: m.target.address, Code: why.Code, Reason: why.Reason}
	}
	if err := self.Accept(m.theirs); err != nil {
		m.handler.Refused(m.mine, transport.RefusalFor(err))
		return fmt.Errorf("%s was refused here: %w", m.target.address, err)
	}
	return nil
}

// explain turns the error of an operation under ctx into what its caller gets.
func (e *endpoint) explain(ctx context.Context, operation string, err error) error {
	var remote *transport.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		return remote
	case e.life.Err() != nil:
		return transport.ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err()
	}
	return fmt.Errorf("memnet: %s: %w", operation, err)
}

// scope is ctx, ended also when one of the two endpoints is closed.
func scope(ctx context.Context, a, b *endpoint) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stopA := context.AfterFunc(a.life, cancel)
	stopB := context.AfterFunc(b.life, cancel)
	return ctx, func() { stopA(); stopB(); cancel() }
}

var errLost = errors.New("the connection was lost")

func (e *endpoint) Probe(ctx context.Context, address string) (transport.Hello, error) {
	if ctx.Err() != nil {
		return transport.Hello{}, e.explain(ctx, "probe "+address, ctx.Err())
	}
	m, err := e.meet(address, 0, true, false)
	if err != nil {
		return transport.Hello{}, e.explain(ctx, "probe "+address, err)
	}
	m.release()
	theirs := m.theirs
	theirs.Remembers, theirs.Call = transport.Memory{}, false
	return theirs, nil
}

type outcome struct {
	payload []byte
	err     error
}

func (e *endpoint) Call(ctx context.Context, address string, kind transport.Kind, msg transport.Message) ([]byte, error) {
	operation := "call " + address
	if ctx.Err() != nil {
		return nil, e.explain(ctx, operation, ctx.Err())
	}
	request, err := encode(msg)
	if err != nil {
		return nil, e.explain(ctx, operation, err)
	}
	m, err := e.meet(address, 0, true, true) // a call: to is 0
	if err != nil {
		return nil, e.explain(ctx, operation, err)
	}
	defer m.release()
	both, cancel := scope(ctx, e, m.target)
	defer cancel()
	answer := make(chan outcome, 1)
	m.target.wg.Go(func() {
		answer <- m.answer(both, transport.Inbound{Kind: kind, Payload: request})
	})
	got := outcome{err: errLost}
	select {
	case got = <-answer:
	case <-both.Done():
	}
	if both.Err() != nil || e.net.isCut(address, e.address) {
		got = outcome{err: errLost}
	}
	return got.payload, e.explain(ctx, operation, got.err)
}

// answer runs on behalf of the endpoint that is called.
func (m meeting) answer(ctx context.Context, in transport.Inbound) outcome {
	reply, err := m.handler.HandleCall(ctx, m.mine, in)
	var payload []byte
	if err == nil {
		payload, err = encode(reply)
	}
	if err != nil {
		return outcome{err: &transport.RemoteError{Address: m.target.address, Reason: err.Error()}}
	}
	return outcome{payload: payload}
}

// encode copies a message, so that the two sides share no memory. No message at
// all is an empty one.
func encode(m transport.Message) ([]byte, error) {
	if m == nil {
		return nil, nil
	}
	size := m.Size()
	if size > callBytesMax {
		return nil, fmt.Errorf("a message of %d bytes is more than the limit of %d", size, callBytesMax)
	}
	return encodeSized(m, size)
}

func encodeSized(m transport.Message, size int) ([]byte, error) {
	b := make([]byte, size)
	n, err := m.MarshalTo(b)
	if err != nil {
		return nil, fmt.Errorf("encode a message of %d bytes: %w", size, err)
	}
	if n != size {
		return nil, fmt.Errorf("encode a message: its Size was %d and MarshalTo wrote %d bytes", size, n)
	}
	return b, nil
}

// MessageBytesMax implements transport.Bounded.
func (e *endpoint) MessageBytesMax() int64 { return queueBytesMax }

func (e *endpoint) SendSnapshot(ctx context.Context, to uint64, header transport.Message, body io.WriterTo) error {
	e.mu.Lock()
	l, closed := e.links[to], e.closed
	e.mu.Unlock()
	if closed {
		return transport.ErrClosed
	}
	if l == nil {
		return fmt.Errorf("memnet: member %x: %w", to, transport.ErrUnknownPeer)
	}
	address := l.where()
	operation := fmt.Sprintf("send snapshot to member %x at %s", to, address)
	if ctx.Err() != nil {
		return e.explain(ctx, operation, ctx.Err())
	}
	encoded, err := encode(header)
	if err != nil {
		return e.explain(ctx, operation, err)
	}
	m, err := e.meet(address, to, true, true)
	if err != nil {
		return e.explain(ctx, operation, err)
	}
	defer m.release()
	return e.explain(ctx, operation, e.stream(ctx, m, encoded, body))
}

func (e *endpoint) stream(ctx context.Context, m meeting, header []byte, body io.WriterTo) error {
	both, cancel := scope(ctx, e, m.target)
	defer cancel()
	r, w := io.Pipe()
	stop := context.AfterFunc(both, func() { _ = w.CloseWithError(errLost) })
	defer stop()
	answer := make(chan error, 1)
	m.target.wg.Go(func() { answer <- m.take(header, r) })

	cable := &cable{e: e, m: m, w: w}
	_, err := body.WriteTo(cable)
	if err != nil && cable.err == nil {
		_ = w.CloseWithError(fmt.Errorf("memnet: the sender gave up: %w", err))
		return err
	}
	if errors.Is(cable.err, errLost) {
		_ = w.CloseWithError(errLost)
		return errLost
	}
	_ = w.Close()
	select {
	case err = <-answer:
	case <-both.Done():
	}
	if both.Err() != nil || e.net.isCut(m.target.address, e.address) {
		return errLost
	}
	return err
}

// take runs on behalf of the endpoint that receives the snapshot.
func (m meeting) take(header []byte, r *io.PipeReader) error {
	err := m.handler.HandleSnapshot(m.mine.Node, header, r)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		err = &transport.RemoteError{Address: m.target.address, Reason: err.Error()}
	}
	_ = r.CloseWithError(errors.New("the receiver answered before the end"))
	return err
}

// cable is the way of a snapshot: it can be cut.
type cable struct {
	e   *endpoint
	m   meeting
	w   *io.PipeWriter
	err error // final
}

func (c *cable) Write(p []byte) (int, error) {
	if c.err == nil && (c.e.net.isCut(c.e.address, c.m.target.address) || c.e.net.isCut(c.m.target.address, c.e.address)) {
		c.err = errLost
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(p)
	c.err = err
	return n, err
}
