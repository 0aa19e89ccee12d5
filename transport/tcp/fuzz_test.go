package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

// scripted is the connection to a peer that has said everything before it is
// first listened to, and then left.
type scripted struct {
	in     *bytes.Reader
	mu     sync.Mutex
	out    bytes.Buffer
	closed atomic.Bool
}

func (s *scripted) Read(p []byte) (int, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	return s.in.Read(p)
}

func (s *scripted) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	return s.out.Write(p)
}

func (s *scripted) Close() error                     { s.closed.Store(true); return nil }
func (s *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

// refusedHere is the member whom the handler of the fuzz targets refuses.
const refusedHere = 13

// unconnected is a Transport of member 2 that has no socket, and a connection of
// it on which a peer says said.
func unconnected(t *testing.T, said []byte, inbound bool) (*conn, *scripted, *transporttest.Handler) {
	cfg, err := Config{Listen: "127.0.0.1:0"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	h := transporttest.NewHandler(2)
	h.SetAccept(func(peer transport.Hello) error {
		if peer.Node == refusedHere {
			return errors.New("an unlucky number")
		}
		return nil
	})
	tr := newTransport(cfg)
	tr.handler = h
	close(tr.life.started)
	nc := &scripted{in: bytes.NewReader(said)}
	c := newConn(tr, nc, nc, "a peer", inbound)
	if err := tr.registry.track(c); err != nil {
		t.Fatal(err)
	}
	return c, nc, h
}

// finish closes the connection and expects that nothing of it is left.
func finish(t *testing.T, c *conn) {
	c.close()
	c.t.life.close()
	c.t.life.wg.Wait()
	if left := c.t.leftovers(); left != (leftovers{}) {
		t.Errorf("of a closed connection are left: %+v", left)
	}
	if c.t.memory.strangers.used.Load()+c.t.memory.members.used.Load() != 0 {
		t.Error("memory for frames is not given back")
	}
	if n := c.t.Stats().BadFrames; n > 1 {
		t.Errorf("%d bad frames on one connection", n)
	}
}

// plain is a frame as the tests read it.
type plain struct {
	kind frameType
	body []byte
}

// framesOf reads frames, by the drawing in frame.go alone, up to the first that is
// none. The first one is a Hello, and may not be longer.
func framesOf(b []byte) (frames []plain) {
	for len(b) >= headerBytes {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n > uint64(len(b)-headerBytes) || len(frames) == 0 && n > helloBytesMax {
			break
		}
		body := b[headerBytes:][:n]
		short := uint16(crc32.Checksum(slices.Concat(b[:4], b[8:10]), castagnoli))
		if b[8] == byte(frameHello) {
			short = 0
		}
		if b[8] == 0 || b[8] >= byte(frameTypeEnd) || b[9] != 0 || binary.LittleEndian.Uint16(b[10:]) != short ||
			binary.LittleEndian.Uint32(b[4:]) != checksum(b, body) {
			break
		}
		frames = append(frames, plain{frameType(b[8]), body})
		b = b[headerBytes+n:]
	}
	return frames
}

// sealAll makes frames of a list of them: a type, a length of two bytes, and the
// body. So the fuzzer gets behind the checksums. Where the list breaks off, so
// does the stream.
func sealAll(list []byte) (b []byte) {
	for len(list) >= 3 {
		n := int(binary.LittleEndian.Uint16(list[1:]))
		frame := newFrame(frameType(list[0]), list[3:][:min(n, len(list)-3)])
		if n > len(list)-3 {
			return append(b, frame[:len(frame)-1]...)
		}
		b = append(b, frame...)
		list = list[3+n:]
	}
	return append(b, list...)
}

// listed is what sealAll makes frames of.
func listed(frames ...plain) (list []byte) {
	for _, f := range frames {
		list = append(list, byte(f.kind))
		list = binary.LittleEndian.AppendUint16(list, uint16(len(f.body)))
		list = append(list, f.body...)
	}
	return list
}

func helloFrame(t testing.TB, h octopiipb.Hello) plain {
	body, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return plain{frameHello, body}
}

func ending(total uint64) plain {
	return plain{frameEnd, binary.LittleEndian.AppendUint64(nil, total)}
}

// someHellos are sound and less sound.
func someHellos(t testing.TB) (frames []plain) {
	sound := octopiipb.Hello{Version: protocolVersion, Purpose: purposeMessages, Host: octopiipb.HelloHost{Address: "a:1"}, Member: octopiipb.HelloMember{Cluster: 1, From: 1, To: 2, Incarnation: 101}}
	for _, change := range []func(*octopiipb.Hello){
		func(*octopiipb.Hello) {},
		func(h *octopiipb.Hello) { h.Purpose = purposeSnapshot },
		func(h *octopiipb.Hello) { h.Purpose, h.Member.From = purposeCall, 0 },
		func(h *octopiipb.Hello) { h.Purpose, h.Member.To = purposeProbe, 0 },
		func(h *octopiipb.Hello) { h.Purpose = purposeEnd },
		func(h *octopiipb.Hello) { h.Version = protocolVersion - 1 },
		func(h *octopiipb.Hello) { h.Member.Group = 1 },
		func(h *octopiipb.Hello) { h.Member.From = 0 },
		func(h *octopiipb.Hello) { h.Member.From = refusedHere },
		func(h *octopiipb.Hello) { h.Member.To = 3 },
		func(h *octopiipb.Hello) { h.Refused = "go away" },
		func(h *octopiipb.Hello) { h.Host.Address = strings.Repeat("a", helloBytesMax) },
	} {
		h := sound
		change(&h)
		frames = append(frames, helloFrame(t, h))
	}
	return frames
}

// FuzzAccept is the acceptor's side of a connection, from its first byte on: who
// is let in, and what reaches the Handler, is what the frames say by themselves.
func FuzzAccept(f *testing.F) {
	messages := plain{frameMessages, messagesFrame(bytesMessage("one"), bytesMessage("two"))[headerBytes:]}
	rest := []plain{messages, {frameSnapshot, []byte("h")}, {frameChunk, []byte("12345")}, ending(5), {frameCall, []byte("\x07call")}}
	for _, hello := range someHellos(f) {
		f.Add(listed(append([]plain{hello}, rest...)...), true)
		f.Add(listed(append([]plain{hello}, rest[1:]...)...), true)
		f.Add(listed(hello, rest[4]), true)
		f.Add(listed(hello, messages, messages, plain{frameMessages, nil}), true)
		f.Add(listed(hello, hello), true)
		f.Add(sealAll(listed(hello))[:30], false)
	}
	f.Add(listed(plain{frameHello, []byte{0xff}}), true)
	f.Add(listed(rest...), true)
	f.Add(make([]byte, 100), false)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"), false)
	f.Fuzz(func(t *testing.T, said []byte, list bool) {
		if list {
			said = sealAll(said)
		}
		accept(t, said)
	})
}

func accept(t *testing.T, said []byte) {
	if len(said) > chunkBytesMax {
		return // no frame is too large but a Hello
	}
	c, nc, h := unconnected(t, said, true)
	var header, body []byte
	var bodyErr error
	h.SetSnapshot(func(_ uint64, got []byte, r io.Reader) error {
		header = got
		body, bodyErr = io.ReadAll(r)
		return bodyErr
	})
	var call transport.Inbound
	h.SetCall(func(_ context.Context, _ transport.Hello, in transport.Inbound) (transport.Message, error) {
		call = in
		return bytesMessage("answer"), nil
	})
	c.t.serve(c)
	finish(t, c)

	frames := framesOf(said)
	answers := framesOf(nc.out.Bytes())
	var hello octopiipb.Hello
	if len(frames) == 0 || frames[0].kind != frameHello || hello.Unmarshal(frames[0].body) != nil {
		oldForm := len(said) > 20 && said[8] == byte(frameHello) && bytes.Equal(said[12:20], make([]byte, 8))
		if nc.out.Len() > 0 && !oldForm || len(h.Accepted()) > 0 {
			t.Errorf("what is no Hello was answered with %x", nc.out.Bytes())
		}
		return
	}
	var answer octopiipb.Hello
	if len(answers) == 0 || answers[0].kind != frameHello || answer.Unmarshal(answers[0].body) != nil {
		t.Fatalf("%+v was answered with %x", hello, nc.out.Bytes())
	}
	if answer.Version != protocolVersion || answer.Member.From != 2 || answer.Member.To != hello.Member.From {
		t.Errorf("the answer to %+v is %+v", hello, answer)
	}
	possible := hello.Version == protocolVersion && hello.Purpose >= purposeMessages && hello.Purpose <= purposeProbe &&
		hello.Member.Group == group && (hello.Member.To == 0 || hello.Member.To == 2) && (hello.Member.From != 0 || hello.Purpose >= purposeCall)
	welcome := possible && (hello.Member.From != refusedHere || hello.Purpose == purposeProbe)
	if (answer.Refused == "") != welcome {
		t.Errorf("%+v is refused because of %q", hello, answer.Refused)
	}
	asked := 0
	if possible && hello.Purpose != purposeProbe {
		asked = 1
	}
	if n := len(h.Accepted()); n != asked {
		t.Errorf("Accept was asked %d times about %+v, want %d", n, hello, asked)
	}
	rest := frames[1:]
	if !welcome {
		hello.Purpose, rest = 0, nil
	}

	var batch []transport.Inbound
	snapshots, calls, downs := 0, 0, 0
	var reply []plain
	switch hello.Purpose {
	case purposeMessages:
		downs = 1
		for _, f := range rest {
			more, _, err := decodeMessages(f.body)
			if f.kind != frameMessages || err != nil {
				break
			}
			batch = append(batch, more...)
		}
	case purposeSnapshot:
		if len(rest) == 0 || rest[0].kind != frameSnapshot {
			break
		}
		snapshots = 1
		chunks, whole := chunksOf(rest[1:])
		if (bodyErr == nil) != whole || !bytes.Equal(body, chunks) || !bytes.Equal(header, rest[0].body) {
			t.Errorf("the Handler read the header %q and %q, %v; want %q, %q and a whole stream: %v", header, body, bodyErr, rest[0].body, chunks, whole)
		}
		if reply = []plain{{frameOK, nil}}; !whole {
			reply[0].kind = frameError
		}
	case purposeCall:
		if len(rest) > 0 && rest[0].kind == frameCall && len(rest[0].body) > 0 {
			calls = 1
			reply = []plain{{frameOK, []byte("answer")}}
			if byte(call.Kind) != rest[0].body[0] || !bytes.Equal(call.Payload, rest[0].body[1:]) {
				t.Errorf("the call %x reached the Handler as %+v", rest[0].body, call)
			}
		}
	}
	got := h.Messages(hello.Member.From)
	if !slices.EqualFunc(got, batch, func(a, b transport.Inbound) bool { return a.Kind == b.Kind && bytes.Equal(a.Payload, b.Payload) }) {
		t.Errorf("messages %v, want %v", got, batch)
	}
	if h.Snapshots() != snapshots || h.Calls() != calls || h.Downs(hello.Member.From) != downs {
		t.Errorf("%d snapshots, %d calls, down %d times; want %d, %d, %d", h.Snapshots(), h.Calls(), h.Downs(hello.Member.From), snapshots, calls, downs)
	}
	if len(answers) != 1+len(reply) {
		t.Fatalf("%d frames came back, want a Hello and %v", len(answers), reply)
	}
	for i, want := range reply {
		if got := answers[1+i]; got.kind != want.kind || want.kind == frameOK && !bytes.Equal(got.body, want.body) {
			t.Errorf("the reply is of type %d: %q; want type %d: %q", got.kind, got.body, want.kind, want.body)
		}
	}
}

// chunksOf is what a stream holds, and whether all of it came.
func chunksOf(frames []plain) (body []byte, whole bool) {
	for _, f := range frames {
		if f.kind != frameChunk || len(f.body) == 0 {
			return body, f.kind == frameEnd && len(f.body) == 8 && binary.LittleEndian.Uint64(f.body) == uint64(len(body))
		}
		body = append(body, f.body...)
	}
	return body, false
}

// FuzzSnapshotStream is FuzzAccept for a member that sends a snapshot: no byte
// reaches the Handler that was not sent, and no part passes for the whole.
func FuzzSnapshotStream(f *testing.F) {
	header := plain{frameSnapshot, []byte("header")}
	one, two := plain{frameChunk, []byte("12345")}, plain{frameChunk, []byte("678")}
	for _, frames := range [][]plain{
		{header, one, two, ending(8)},
		{header, ending(0)},
		{header, one, two, ending(7)},
		{header, one, two},
		{header, one, {frameChunk, nil}, ending(5)},
		{header, one, {frameError, []byte("the sender gave up")}},
		{header, one, {frameEnd, []byte{5}}},
		{header, header, ending(0)},
		{header, one, ending(5), two},
		{header, one, helloFrame(f, octopiipb.Hello{Refused: "removed"})},
		{one, ending(5)},
		{helloFrame(f, octopiipb.Hello{Refused: "removed"})},
	} {
		f.Add(listed(frames...), true)
	}
	sound := sealAll(listed(header, one, two, ending(8)))
	f.Add(sound, false)
	f.Add(sound[:len(sound)-1], false)
	f.Add(flipped(sound, 8*60), false)
	f.Fuzz(func(t *testing.T, said []byte, list bool) {
		if list {
			said = sealAll(said)
		}
		hello := helloFrame(t, octopiipb.Hello{Version: protocolVersion, Purpose: purposeSnapshot, Member: octopiipb.HelloMember{Cluster: 1, From: 1, To: 2}})
		accept(t, append(newFrame(hello.kind, hello.body), said...))
	})
}

// FuzzDial is the dialer's side: whom it takes for the member that it wants, what
// it tells one that it does not, and what it makes of the answer to a snapshot or
// a call.
func FuzzDial(f *testing.F) {
	answers := [][]plain{{{frameOK, []byte("fine")}}, {{frameError, []byte("no")}}, {{frameError, nil}}, {{frameChunk, []byte("x")}}, {},
		{helloFrame(f, octopiipb.Hello{Version: protocolVersion, Refused: "removed", Member: octopiipb.HelloMember{From: 1}})}}
	for i, hello := range someHellos(f) {
		for purpose := range uint8(4) {
			f.Add(listed(append([]plain{hello}, answers[(i+int(purpose))%len(answers)]...)...), true, purpose, uint8(i%2), uint32(300_000*(i%3)))
		}
		f.Add(sealAll(listed(hello))[:30], false, uint8(i), uint8(1), uint32(0))
	}
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), false, uint8(2), uint8(0), uint32(0))
	f.Add(listed(plain{frameHello, []byte{0xff}}), true, uint8(3), uint8(1), uint32(0))
	f.Fuzz(func(t *testing.T, said []byte, list bool, purpose, to uint8, size uint32) {
		if list {
			said = sealAll(said)
		}
		if len(said) > reasonBytesMax || size > chunkBytesMax {
			return
		}
		dial(t, said, purposeMessages+uint32(purpose%4), uint64(to%16), int64(size))
	})
}

func dial(t *testing.T, said []byte, purpose uint32, to uint64, size int64) {
	c, nc, h := unconnected(t, said, false)
	defer finish(t, c)
	peer, err := c.greet(greeting{purpose: purpose, to: to})

	frames := framesOf(said)
	sent := framesOf(nc.out.Bytes())
	var hello, mine octopiipb.Hello
	if len(sent) == 0 || sent[0].kind != frameHello || mine.Unmarshal(sent[0].body) != nil ||
		mine.Purpose != purpose || mine.Member.To != to || mine.Member.From != 2 || mine.Refused != "" {
		t.Fatalf("the dialer began with %x", nc.out.Bytes())
	}
	if len(frames) == 0 || frames[0].kind != frameHello || hello.Unmarshal(frames[0].body) != nil {
		var remote *transport.RemoteError
		refused := len(frames) > 0 && frames[0].kind == frameHello
		if err == nil || errors.As(err, &remote) && refused || len(h.Accepted())+len(h.Refusals()) > 0 || len(sent) != 1 {
			t.Errorf("what is no Hello led to %v, %d frames and %+v", err, len(sent), h.Refusals())
		}
		return
	}
	if hello.Refused != "" {
		var remote *transport.RemoteError
		if !errors.As(err, &remote) || remote.Reason != hello.Refused || remote.Code != hello.RefusedCode || len(sent) != 1 || len(h.Accepted()) != 0 {
			t.Errorf("the refusal %q led to %v and %d frames", hello.Refused, err, len(sent))
		}
		if told := h.Refusals(); (len(told) == 1 && reflect.DeepEqual(told[0], refusalIn(hello))) == (purpose == purposeProbe) {
			t.Errorf("of the refusal %q the Handler was told %+v", hello.Refused, told)
		}
		return
	}
	right := hello.Version == protocolVersion && hello.Member.Group == group && (to == 0 || hello.Member.From == to)
	welcome := right && (hello.Member.From != refusedHere || purpose == purposeProbe)
	if (err == nil) != welcome || peer.Node != hello.Member.From {
		t.Errorf("%+v, where member %d should answer, led to %v", hello, to, err)
	}
	if asked := len(h.Accepted()); asked > 1 || (asked == 1) != (right && purpose != purposeProbe) {
		t.Errorf("Accept was asked %d times about %+v", asked, hello)
	}
	if err != nil {
		var left octopiipb.Hello
		if len(sent) != 2 || sent[1].kind != frameHello || left.Unmarshal(sent[1].body) != nil || left.Refused == "" {
			t.Errorf("the acceptor was told nothing but %x", nc.out.Bytes())
		}
		return
	}
	var reply plain
	if len(frames) > 1 {
		reply = frames[1]
	}
	switch purpose {
	case purposeSnapshot:
		err = c.t.sendStream(c, bytesMessage("header"), transporttest.Stream(9, size))
		stream := framesOf(nc.out.Bytes())[1:]
		if len(stream) == 0 || stream[0].kind != frameSnapshot || string(stream[0].body) != "header" {
			t.Fatalf("the stream begins with %x", nc.out.Bytes())
		}
		var want bytes.Buffer
		_, _ = transporttest.Stream(9, size).WriteTo(&want)
		chunks, whole := chunksOf(stream[1:])
		if !bytes.HasPrefix(want.Bytes(), chunks) || whole && len(chunks) != want.Len() {
			t.Errorf("%d bytes were sent of %d", len(chunks), want.Len())
		}
		if err == nil && !(whole && reply.kind == frameOK && len(reply.body) <= reasonBytesMax) {
			t.Errorf("a stream that is whole: %v, answered with type %d, was a success", whole, reply.kind)
		}
	case purposeCall:
		var answer []byte
		if answer, err = c.awaitReply(callBytesMax); (err == nil) != (reply.kind == frameOK) || !bytes.Equal(answer, reply.body) && err == nil {
			t.Errorf("the answer of type %d is %q, %v", reply.kind, answer, err)
		}
	default:
		return
	}
	var remote *transport.RemoteError
	if reply.kind == frameError && purpose == purposeCall && (!errors.As(err, &remote) || remote.Reason != string(reply.body)) {
		t.Errorf("the error %q led to %v", reply.body, err)
	}
}
