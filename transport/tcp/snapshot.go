package tcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/octopii/octopii/transport"
)

const (
	chunkBytes             = 256 << 10
	chunkBytesMax          = 1 << 20 // what a receiver takes
	snapshotHeaderBytesMax = 4 << 20
)

var errAnsweredEarly = errors.New("the receiver answered before the end")

// MessageBytesMax implements transport.Bounded.
func (t *Transport) MessageBytesMax() int64 {
	return min(int64(t.config.FrameBytesMax-messageOverheadMax), t.config.QueueBytesMax)
}

// SendSnapshot streams a snapshot on a connection of its own.
func (t *Transport) SendSnapshot(ctx context.Context, to uint64, header transport.Message, body io.WriterTo) error {
	if err := t.life.ready(); err != nil {
		return err
	}
	p := t.registry.peer(to)
	if p == nil {
		return fmt.Errorf("tcp: member %x: %w", to, transport.ErrUnknownPeer)
	}
	address := p.route.found()
	ctx, cancel := t.life.scope(ctx)
	defer cancel()
	operation := fmt.Sprintf("send snapshot to member %x at %s", to, address)
	c, _, err := t.open(ctx, address, greeting{purpose: purposeSnapshot, to: to})
	if err != nil {
		return t.life.explain(ctx, operation, err)
	}
	defer c.close()
	return t.life.explain(ctx, operation, t.sendStream(c, header, body))
}

// sendStream writes the stream while it listens for the answer, which comes
// early when the receiver cannot go on.
func (t *Transport) sendStream(c *conn, header transport.Message, body io.WriterTo) error {
	answer := make(chan error, 1)
	listens := t.life.goes(func() {
		_, err := c.awaitReply(0)
		answer <- err
	})
	if !listens {
		return transport.ErrClosed
	}
	w := &chunkWriter{c: c, answer: answer, frame: make([]byte, headerBytes, headerBytes+chunkBytes)}
	err := w.stream(header, body)
	if err == nil {
		return <-answer
	}
	c.close()
	// When it was the connection that failed, what the receiver says is the
	// better reason, if it came to say it.
	var remote *transport.RemoteError
	if answered := w.wait(); w.err != nil && errors.As(answered, &remote) {
		return remote
	}
	return err
}

// chunkWriter cuts what is written to it into chunk frames.
type chunkWriter struct {
	c      *conn
	answer chan error
	// answered is the answer if it came early; then nothing is left in answer.
	answered error
	early    bool

	frame []byte // room for the header, then what waits for the chunk to fill
	total uint64
	err   error // of the connection, final
}

func (w *chunkWriter) wait() error {
	if w.early {
		return w.answered
	}
	return <-w.answer
}

func (w *chunkWriter) stream(header transport.Message, body io.WriterTo) error {
	size := header.Size()
	if size > snapshotHeaderBytesMax {
		return fmt.Errorf("a header of %d bytes is more than the limit of %d", size, snapshotHeaderBytesMax)
	}
	b := make([]byte, headerBytes+size)
	if err := encodeInto(b[headerBytes:], header); err != nil {
		return err
	}
	if w.err = w.c.writeFrame(seal(b, frameSnapshot)); w.err != nil {
		return w.err
	}
	if _, err := body.WriteTo(w); err != nil {
		w.abandon(err)
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.err = w.c.writeFrame(newFrame(frameEnd, binary.LittleEndian.AppendUint64(nil, w.total)))
	return w.err
}

// abandon tells the receiver why the stream ends here; when the connection is
// what failed, the receiver knows anyway.
func (w *chunkWriter) abandon(err error) {
	if w.err == nil {
		_ = w.c.reply(nil, fmt.Errorf("the sender gave up: %w", err))
	}
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, headerBytes+chunkBytes-len(w.frame))
		w.frame = append(w.frame, p[done:done+n]...)
		done += n
		if len(w.frame) == headerBytes+chunkBytes {
			if err := w.flush(); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

func (w *chunkWriter) flush() error {
	if w.err != nil || len(w.frame) == headerBytes {
		return w.err
	}
	select {
	case w.answered = <-w.answer:
		w.early = true
		w.err = errAnsweredEarly
		return w.err
	default:
	}
	w.total += uint64(len(w.frame) - headerBytes)
	w.err = w.c.writeFrame(seal(w.frame, frameChunk))
	w.frame = w.frame[:headerBytes]
	return w.err
}

// receiveSnapshot hands a stream to the Handler and answers with its verdict.
func (t *Transport) receiveSnapshot(c *conn, from uint64) {
	kind, header, err := c.readFrame(snapshotHeaderBytesMax, nil)
	if err == nil && kind != frameSnapshot {
		err = c.unexpected(kind, header)
	}
	if err != nil {
		t.strangers.warn("snapshot stream broke before its header", zap.String("peer", hexID(from)), zap.Error(err))
		return
	}
	body := &snapshotReader{c: c}
	err = t.handler.HandleSnapshot(from, header, body)
	if err == nil {
		// A Handler that knows enough need not read on, but only a finished stream
		// is answered with success.
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil {
		t.strangers.warn("snapshot not taken", zap.String("peer", hexID(from)), zap.Error(err))
	}
	if c.reply(nil, err) == nil && err != nil {
		c.linger()
	}
}

// snapshotReader is the body of a snapshot. It belongs to the Handler until
// HandleSnapshot returns.
type snapshotReader struct {
	c     *conn
	chunk []byte // verified and not yet read
	frame []byte // the memory of chunk
	total uint64
	err   error // final
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.chunk) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.err = r.next()
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// next reads a chunk, or returns why there is none; io.EOF after the end frame.
func (r *snapshotReader) next() error {
	kind, body, err := r.c.readFrame(chunkBytesMax, r.frame)
	switch {
	case err != nil:
		return r.broken(err)
	case kind == frameChunk && len(body) > 0:
		r.frame, r.chunk = body, body
		r.total += uint64(len(body))
		return nil
	case kind == frameEnd && len(body) == 8:
		if want := binary.LittleEndian.Uint64(body); want != r.total {
			return r.broken(r.c.failed(badFramef("%d bytes came, the sender wrote %d", r.total, want)))
		}
		return io.EOF
	case kind == frameError:
		return r.broken(&transport.RemoteError{Address: r.c.address, Reason: string(body)})
	default:
		return r.broken(r.c.unexpected(kind, body))
	}
}

func (r *snapshotReader) broken(err error) error {
	if r.c.t.life.closed() {
		return transport.ErrClosed
	}
	if err == io.EOF { // the connection ended, the stream did not
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("tcp: read snapshot from %s after %d bytes: %w", r.c.address, r.total, err)
}
