package tcp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/transport"
	"github.com/octopii/octopii/transport/transporttest"
)

// rawConn speaks to a Transport byte by byte.
type rawConn struct {
	t  *testing.T
	nc net.Conn
	r  *frameReader
}

func dialBytes(t *testing.T, to *Transport) *rawConn {
	t.Helper()
	nc, err := net.Dial("tcp", to.Address())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &rawConn{t, nc, &frameReader{r: bufio.NewReader(nc)}}
}

// dialRaw shakes hands as member from.
func dialRaw(t *testing.T, to *Transport, purpose uint32, from uint64) *rawConn {
	t.Helper()
	c := dialBytes(t, to)
	answer := c.greet(octopiipb.Hello{Version: protocolVersion, Purpose: purpose, Member: octopiipb.HelloMember{Cluster: 1, From: from}})
	if answer.Refused != "" {
		t.Fatalf("refused: %s", answer.Refused)
	}
	return c
}

// write ignores errors: the other side may have closed already, and that is
// seen by reading.
func (c *rawConn) write(b []byte) { _, _ = c.nc.Write(b) }

func (c *rawConn) greet(h octopiipb.Hello) octopiipb.Hello {
	c.t.Helper()
	body, err := h.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(newFrame(frameHello, body))
	kind, body, err := c.r.next(helloBytesMax, nil)
	if err != nil || kind != frameHello {
		c.t.Fatalf("the answer to a hello is type %d, %v", kind, err)
	}
	var answer octopiipb.Hello
	if err := answer.Unmarshal(body); err != nil {
		c.t.Fatalf("the answer to a hello: %v", err)
	}
	return answer
}

// wantClosed reads to the end of the connection.
func (c *rawConn) wantClosed() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.r.r)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		c.t.Fatal("the connection was not closed")
	}
}

func messagesFrame(messages ...bytesMessage) []byte {
	var queue []outgoing
	for _, m := range messages {
		queue = append(queue, outgoing{1, m, m.Size()})
	}
	frame, _, _ := appendMessages(nil, queue, frameBytesMaxMax)
	return frame
}

func flipped(b []byte, bit int) []byte {
	b = append([]byte(nil), b...)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

func TestHandshakeRefusals(t *testing.T) {
	b, hb := start(t, 2, Config{})
	sound := octopiipb.Hello{Version: protocolVersion, Purpose: purposeMessages, Member: octopiipb.HelloMember{From: 1, To: 2}}
	for _, test := range []struct {
		name   string
		change func(*octopiipb.Hello)
		want   string
	}{
		{"other version", func(h *octopiipb.Hello) { h.Version = 99 }, "speaks version 99 of the protocol, this one 3"},
		{"other group", func(h *octopiipb.Hello) { h.Member.Group = 3 }, "group 3 is not here"},
		{"no purpose", func(h *octopiipb.Hello) { h.Purpose = 0 }, "purpose 0"},
		{"unknown purpose", func(h *octopiipb.Hello) { h.Purpose = 77 }, "purpose 77"},
		{"other member", func(h *octopiipb.Hello) { h.Member.To = 5 }, "this is member 2, not 5"},
		{"no ID", func(h *octopiipb.Hello) { h.Member.From = 0 }, "without an ID"},
	} {
		before := b.Stats().Refused
		hello := sound
		test.change(&hello)
		c := dialBytes(t, b)
		answer := c.greet(hello)
		if answer.Member.Incarnation != 0 || answer.Member.Remembers != (octopiipb.Memory{}) {
			t.Errorf("one that is refused is told %v", answer)
		}
		if !strings.Contains(answer.Refused, test.want) || answer.Member.From != 2 {
			t.Errorf("%s: answered %+v, want a refusal that says %q", test.name, answer, test.want)
		}
		c.wantClosed()
		if got := b.Stats().Refused - before; got != 1 {
			t.Errorf("%s: counted %d refusals", test.name, got)
		}
	}
	if n := len(hb.Accepted()); n != 0 {
		t.Errorf("Accept was asked %d times about hellos that cannot be right", n)
	}
	if answer := dialBytes(t, b).greet(sound); answer.Refused != "" {
		t.Errorf("a sound hello was refused: %s", answer.Refused)
	}
}

// TestHelloGolden reads a Hello by hand as docs/FORMATS.md draws it: a change of its bytes is
// a change of protocolVersion.
func TestHelloGolden(t *testing.T) {
	hello := octopiipb.Hello{
		Version: protocolVersion, Purpose: purposeMessages, Refused: "no", Lane: 1, RefusedCode: 2,
		Host: octopiipb.HelloHost{ID: 300, Address: "a:1", OldestFormat: 1, NewestFormat: 3},
		Member: octopiipb.HelloMember{Cluster: 7, From: 1, To: 2, Incarnation: 101,
			Remembers: octopiipb.Memory{Term: 5, Match: 9, Commit: 8, MatchTerm: 4, CommitTerm: 3}},
	}
	got, err := hello.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := golden(t, "hello.hex")
	if !bytes.Equal(got, want) {
		t.Errorf("the Hello is\n%x, want\n%x", got, want)
	}
	var again octopiipb.Hello
	if err := again.Unmarshal(want); err != nil || !reflect.DeepEqual(again, hello) {
		t.Errorf("read as %+v, %v", again, err)
	}
}

// TestVersion1IsRefusedByName: the first frame of a member of version 1 is recognized, and the
// answer is one that it can read: behind twenty bytes of header the reason stands in field 8.
func TestVersion1IsRefusedByName(t *testing.T) {
	b, hb := start(t, 2, Config{})
	c := dialBytes(t, b)
	c.write(golden(t, "hello-version-1.hex"))
	answer, err := io.ReadAll(c.r.r)
	if err != nil || len(answer) < 20 {
		t.Fatalf("answered with %x, %v", answer, err)
	}
	sum := crc32.Checksum(slices.Concat(answer[:4], answer[8:]), crc32.MakeTable(crc32.Castagnoli))
	if binary.LittleEndian.Uint32(answer) != uint32(len(answer)-20) || binary.LittleEndian.Uint32(answer[4:]) != sum || answer[8] != 1 {
		t.Errorf("the header of the answer is %x, and the checksum %08x", answer[:20], sum)
	}
	const want = "the peer speaks version 1 of the protocol, this one 3: run releases that share one"
	if body := answer[20:]; !bytes.HasPrefix(body, []byte{1 << 3, 3, 8<<3 | 2}) || !bytes.Contains(body, []byte(want)) {
		t.Errorf("answered with %q, want %q", body, want)
	}
	if st := b.Stats(); len(hb.Accepted()) != 0 || st.BadFrames != 1 {
		t.Errorf("Accept was asked %d times, %+v", len(hb.Accepted()), st)
	}
}

func TestAnyRefusalFits(t *testing.T) {
	b, hb := start(t, 2, Config{})
	for _, text := range []string{strings.Repeat("é", 100_000), "", "\xff\xff"} {
		hb.SetAccept(func(transport.Hello) error { return errors.New(text) })
		answer := dialBytes(t, b).greet(octopiipb.Hello{Version: protocolVersion, Purpose: purposeCall, Member: octopiipb.HelloMember{From: 1}})
		if len(answer.Refused) == 0 || len(answer.Refused) > reasonBytesMax {
			t.Errorf("a refusal for a reason of %d bytes travels as %d bytes", len(text), len(answer.Refused))
		}
	}
}

// TestBadBytes sends what no peer sends, before and after the handshake. Each
// connection is closed and counted, and the listener lives on.
func TestBadBytes(t *testing.T) {
	b, hb := start(t, 2, Config{FrameBytesMax: 1 << 20})
	good := messagesFrame(number(1), number(2))
	garbage := make([]byte, 4096)
	chance := rand.New(rand.NewPCG(1, 2))
	for i := range garbage {
		garbage[i] = byte(chance.Uint32())
	}
	bad := map[string][]byte{
		"garbage":          garbage,
		"text":             []byte("GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"),
		"zeros":            make([]byte, 100),
		"oversized":        announced(frameMessages, 1<<30),
		"damaged length":   flipped(announced(frameMessages, 1<<10), 19),
		"unknown type":     seal(make([]byte, headerBytes), frameTypeEnd),
		"wrong place":      newFrame(frameChunk, []byte("x")),
		"no messages":      newFrame(frameMessages, nil),
		"message too long": newFrame(frameMessages, []byte{1, 0, 200, 1, 'x'}),
		"endless group":    newFrame(frameMessages, append([]byte{1}, strings.Repeat("\xff", 20)...)),
		"endless length":   newFrame(frameMessages, append([]byte{1, 0}, strings.Repeat("\xff", 20)...)),
		"no length":        newFrame(frameMessages, []byte{1, 0}),
		"cut off":          good[:len(good)-3],
		"cut off header":   good[:7],
	}
	for bit := 0; bit < len(good)*8; bit += 13 {
		bad[fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8)] = flipped(good, bit)
	}
	for name, bytes := range bad {
		for _, shaken := range []bool{false, true} {
			before := b.Stats().BadFrames
			c := dialBytes(t, b)
			if shaken {
				c = dialRaw(t, b, purposeMessages, 1)
			}
			c.write(bytes)
			_ = c.nc.(*net.TCPConn).CloseWrite()
			c.wantClosed()
			transporttest.Until(t, name+" is counted once", func() bool { return b.Stats().BadFrames == before+1 })
		}
	}
	if n := hb.Received(1); n != 0 {
		t.Errorf("%d messages came out of bad frames", n)
	}
	dialRaw(t, b, purposeMessages, 1).write(good)
	transporttest.Until(t, "a good frame still arrives", func() bool { return hb.Received(1) == 2 })
}

// TestOtherGroups: a message of a group that is not here is dropped and counted, and the rest
// of its frame counts.
func TestOtherGroups(t *testing.T) {
	b, hb := start(t, 2, Config{})
	c := dialRaw(t, b, purposeMessages, 1)
	c.write(newFrame(frameMessages, []byte{1, 5, 1, 'x', 2, 0, 1, 'a', 1, 0x80, 1, 0, 3, 0, 1, 'b'}))
	c.write(newFrame(frameMessages, []byte{1, 5, 1, 'x'}))
	c.write(newFrame(frameMessages, []byte{4, 0, 1, 'c'}))
	transporttest.Until(t, "three arrive", func() bool { return hb.Received(1) == 3 })
	var got string
	for _, in := range hb.Messages(1) {
		got += fmt.Sprintf("%d%s ", in.Kind, in.Payload)
	}
	if st := b.Stats(); got != "2a 3b 4c " || st.OtherGroups != 3 || st.BadFrames != 0 {
		t.Errorf("got %q, %+v", got, st)
	}
}

func TestSnapshotEndMustMatch(t *testing.T) {
	b, hb := start(t, 2, Config{})
	read := make(chan error, 1)
	hb.SetSnapshot(func(_ uint64, _ []byte, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		read <- err
		return err
	})
	c := dialRaw(t, b, purposeSnapshot, 1)
	c.write(newFrame(frameSnapshot, []byte("h")))
	c.write(newFrame(frameChunk, []byte("12345")))
	c.write(newFrame(frameEnd, binary.LittleEndian.AppendUint64(nil, 6)))
	if err := <-read; err == nil || !strings.Contains(err.Error(), "5 bytes came, the sender wrote 6") {
		t.Errorf("a stream that lost a byte: %v", err)
	}
	if kind, _, err := c.r.next(reasonBytesMax, nil); kind != frameError {
		t.Errorf("answered with type %d, %v, want an error frame", kind, err)
	}
}

// TestDialerChecksWhoAnswers plays the acceptor.
func TestDialerChecksWhoAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a, _ := start(t, 1, Config{})
	for _, test := range []struct {
		answer octopiipb.Hello
		want   string
	}{
		{octopiipb.Hello{Version: protocolVersion, Member: octopiipb.HelloMember{From: 3}}, "member 3 answered where member 2 was expected"},
		{octopiipb.Hello{Version: 9, Member: octopiipb.HelloMember{From: 2}}, "speaks version 9 of the protocol, this one 3"},
		{octopiipb.Hello{Version: protocolVersion, Member: octopiipb.HelloMember{Group: 4, From: 2}}, "group 4 is not here"},
	} {
		told := make(chan string, 1)
		go func() {
			told <- answerRaw(listener, test.answer)
		}()
		a.SetPeer(2, listener.Addr().String())
		err := a.SendSnapshot(t.Context(), 2, bytesMessage("h"), transporttest.Stream(1, 1))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("SendSnapshot: %v, want %q", err, test.want)
		}
		if reason := <-told; !strings.Contains(reason, test.want) {
			t.Errorf("the acceptor was told %q, want %q", reason, test.want)
		}
	}
}

// answerRaw answers one hello and returns with which reason the dialer left.
func answerRaw(listener net.Listener, answer octopiipb.Hello) string {
	nc, err := listener.Accept()
	if err != nil {
		return err.Error()
	}
	defer nc.Close()
	r := &frameReader{r: bufio.NewReader(nc)}
	if _, _, err := r.next(helloBytesMax, nil); err != nil {
		return err.Error()
	}
	body, _ := answer.Marshal()
	if _, err := nc.Write(newFrame(frameHello, body)); err != nil {
		return err.Error()
	}
	var left octopiipb.Hello
	_, body, err = r.next(helloBytesMax, nil)
	if err == nil {
		err = left.Unmarshal(body)
	}
	if err != nil {
		return err.Error()
	}
	return left.Refused
}

// TestConnectionsGiveWay: unfinished handshakes and strangers keep nobody out, as the oldest
// gives way.
func TestConnectionsGiveWay(t *testing.T) {
	b, _ := start(t, 2, Config{HandshakesMax: 2, StrangersMax: 2, HandshakeTimeout: time.Hour})
	count := func(p *place) int { b.registry.mu.RLock(); defer b.registry.mu.RUnlock(); return p.open.Len() }
	oldest := dialBytes(t, b)
	transporttest.Until(t, "one is open", func() bool { return count(&b.registry.slots.shaking) == 1 })
	dialBytes(t, b)
	dialBytes(t, b)
	oldest.wantClosed()
	if got := b.Stats().Refused; got != 1 {
		t.Errorf("Refused is %d, want 1", got)
	}
	first := dialRaw(t, b, purposeMessages, 1)
	dialRaw(t, b, purposeMessages, 3)
	dialRaw(t, b, purposeMessages, 4)
	first.wantClosed()
	if got := count(&b.registry.slots.strangers); got != 2 {
		t.Errorf("%d strangers are connected, want 2", got)
	}
}

// TestPeersHavePlacesOfTheirOwn: who comes from a peer's machine does not give way to others,
// and strangers do not count for the connections of peers.
func TestPeersHavePlacesOfTheirOwn(t *testing.T) {
	b, _ := start(t, 2, Config{ConnectionsMax: 1, StrangersMax: 1, HandshakesMax: 1, HandshakeTimeout: time.Hour})
	b.SetPeer(1, "127.0.0.1:1")
	member := dialRaw(t, b, purposeMessages, 1)
	dialRaw(t, b, purposeMessages, 3)
	dialRaw(t, b, purposeMessages, 4)
	if answer := dialBytes(t, b).greet(octopiipb.Hello{Version: protocolVersion, Purpose: purposeCall, Member: octopiipb.HelloMember{Cluster: 1, From: 1}}); answer.Refused == "" {
		t.Error("a second connection of peers was taken, where one is the limit")
	}
	_ = member.nc.Close()
	transporttest.Until(t, "it has ended", func() bool {
		b.registry.mu.RLock()
		defer b.registry.mu.RUnlock()
		return b.registry.slots.established == 0
	})
	dialRaw(t, b, purposeMessages, 1)
}

func TestSilentConnectionIsClosed(t *testing.T) {
	b, _ := start(t, 2, Config{HandshakeTimeout: 20 * time.Millisecond})
	dialBytes(t, b).wantClosed()
}
