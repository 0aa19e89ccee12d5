package tcp

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/octopii/octopii/transport"
)

// A frame is a header, little endian, and a body:
//
//	offset size
//	     0    4  length of the body in bytes
//	     4    4  CRC32C of everything else: header bytes 0-3 and 8-11, then the body
//	     8    1  type
//	     9    1  flags, 0
//	    10    2  the low half of the CRC32C of bytes 0-3, 8 and 9; 0 in a Hello
//	    12       body
//
// The checksum of the header tells a damaged length before its body is waited for. A Hello has
// none, so that every version can read it: its length and its time are bounded by little.
const headerBytes = 12

const (
	frameBytesMaxMin = 1 << 10
	frameBytesMaxMax = 1 << 30
	// frameBytesMin is what a sender begins with.
	frameBytesMin = 16 << 10
	// frameBytesGood is how long a frame of several messages becomes at most: the receiver
	// hands over nothing of a frame before all of it has come, and a heartbeat must not wait
	// for 64 MiB on a slow network.
	frameBytesGood = 1 << 20
	// growBytes is how much memory a declared length is worth once the first byte of the
	// body has come.
	growBytes = 64 << 10
	// messagesMax bounds the messages in one frame: an empty one takes three bytes
	// on the wire and ten times as many in memory.
	messagesMax = 1 << 16
	// messageOverheadMax is the kind, the longest group and the longest length of one message.
	messageOverheadMax = 1 + binary.MaxVarintLen64 + binary.MaxVarintLen32
)

// frameType says what a body holds. Zero is no type, so that a run of zeros is
// no frame.
type frameType uint8

const (
	frameHello    frameType = iota + 1 // octopiipb.Hello
	frameMessages                      // (u8 kind, uvarint group, uvarint length, payload) once or more
	frameSnapshot                      // the header given to SendSnapshot
	frameChunk                         // the next bytes of a snapshot, at least one
	frameEnd                           // u64 total of all chunk bytes
	frameCall                          // u8 kind, then the payload
	frameOK                            // an answer
	frameError                         // the text of an error
	frameTypeEnd
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// headerChecksum is what bytes 10 and 11 of a header hold.
func headerChecksum(header []byte) uint16 {
	if frameType(header[8]) == frameHello {
		return 0
	}
	return uint16(crc32.Update(crc32.Checksum(header[0:4], castagnoli), castagnoli, header[8:10]))
}

func checksum(header, body []byte) uint32 {
	sum := crc32.Update(0, castagnoli, header[0:4])
	sum = crc32.Update(sum, castagnoli, header[8:headerBytes])
	return crc32.Update(sum, castagnoli, body)
}

// seal makes a frame of b, which is headerBytes of room and then the body.
func seal(b []byte, kind frameType) []byte {
	header, body := b[:headerBytes], b[headerBytes:]
	clear(header)
	binary.LittleEndian.PutUint32(header[0:], uint32(len(body)))
	header[8] = byte(kind)
	binary.LittleEndian.PutUint16(header[10:], headerChecksum(header))
	binary.LittleEndian.PutUint32(header[4:], checksum(header, body))
	return b
}

// newFrame seals a frame with a copy of body.
func newFrame(kind frameType, body []byte) []byte {
	b := make([]byte, headerBytes, headerBytes+len(body))
	return seal(append(b, body...), kind)
}

// badFrame is what a peer that speaks the protocol on a sound network never
// sends: the connection cannot be read any further.
type badFrame struct{ reason string }

func (e *badFrame) Error() string { return "bad frame: " + e.reason }

func badFramef(format string, args ...any) error {
	return &badFrame{fmt.Sprintf(format, args...)}
}

// frameReader reads frames. Its errors are *badFrame or those of the
// connection; io.EOF comes only between two frames.
type frameReader struct {
	r      *bufio.Reader
	header [headerBytes]byte
	// onBody, if set, is called after a good header and after its body.
	onBody func(begun bool)
	// charge, if set, is asked before a body takes so many more bytes than growBytes.
	charge func(n int) error
}

// next reads one frame whose body has at most limit bytes. The body lies in
// into when it fits, else in memory of its own.
func (f *frameReader) next(limit int, into []byte) (frameType, []byte, error) {
	if n, err := io.ReadFull(f.r, f.header[:]); err != nil {
		if n > 0 && isEOF(err) {
			if isTLS(f.header[:n]) {
				return 0, nil, errOtherHasTLS
			}
			return 0, nil, badFramef("cut off after %d bytes of its header", n)
		}
		return 0, nil, err
	}
	size, err := checkHeader(f.header[:], limit)
	if err != nil {
		if isTLS(f.header[:]) {
			return 0, nil, errOtherHasTLS
		}
		return 0, nil, err
	}
	if f.onBody != nil {
		f.onBody(true)
		defer f.onBody(false)
	}
	body, err := f.body(size, into)
	if err != nil {
		return 0, nil, err
	}
	if got, want := checksum(f.header[:], body), binary.LittleEndian.Uint32(f.header[4:]); got != want {
		if isVersion1(frameType(f.header[8]), body) {
			return 0, nil, errVersion1
		}
		return 0, nil, badFramef("checksum is %08x, its header says %08x", got, want)
	}
	return frameType(f.header[8]), body, nil
}

// errOtherHasTLS is said of what is no frame and looks like TLS.
var errOtherHasTLS = badFramef("the other side uses TLS, and this member does not: " + oneSidedAdvice)

// isTLS says whether bytes begin as a record of TLS does: with its type, and a version from
// 3.0 to 3.4 (RFC 8446, 5.1). A frame may begin so, too: ask it only of what is none.
func isTLS(b []byte) bool {
	return len(b) >= 3 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 && b[2] <= 4
}

// checkHeader returns the length of the body.
func checkHeader(h []byte, limit int) (int, error) {
	size := binary.LittleEndian.Uint32(h)
	if kind := frameType(h[8]); kind == 0 || kind >= frameTypeEnd {
		return 0, badFramef("no such type %d; what is there speaks another protocol than members do among each other: is it an address for clients?", kind)
	}
	if h[9] != 0 {
		return 0, badFramef("flags are %02x, and none is known", h[9])
	}
	if got, want := headerChecksum(h), binary.LittleEndian.Uint16(h[10:]); got != want {
		return 0, badFramef("the checksum of its header is %04x, the header says %04x", got, want)
	}
	if uint64(size) > uint64(limit) {
		return 0, badFramef("%d bytes are more than the limit of %d", size, limit)
	}
	return int(size), nil
}

// body reads size bytes. Memory grows with what has come, not with what was
// declared.
func (f *frameReader) body(size int, into []byte) ([]byte, error) {
	if size > cap(into) {
		if _, err := f.r.Peek(1); err != nil { // nothing is taken for bytes that do not come
			return nil, cutShort(0, size, err)
		}
		into = make([]byte, min(size, growBytes))
	}
	b := into[:min(size, cap(into))]
	for done := 0; ; {
		n, err := io.ReadFull(f.r, b[done:])
		done += n
		if err != nil {
			return nil, cutShort(done, size, err)
		}
		if done == size {
			return b, nil
		}
		grow := min(2*done, size) - done
		if err := f.take(grow); err != nil {
			return nil, err
		}
		grown := make([]byte, done+grow)
		copy(grown, b)
		b = grown
	}
}

// cutShort is the error of a body of which done bytes came before err.
func cutShort(done, size int, err error) error {
	if isEOF(err) {
		return badFramef("cut off after %d of %d bytes", done, size)
	}
	return fmt.Errorf("%d of %d bytes of a frame came: %w", done, size, err)
}

func (f *frameReader) take(n int) error {
	if f.charge == nil {
		return nil
	}
	return f.charge(n)
}

func isEOF(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// outgoing is a message that waits for its frame.
type outgoing struct {
	kind transport.Kind
	m    transport.Message
	size int
}

// appendMessages makes a frame of as many messages as fit into bodyMax and
// messagesMax, at least one, in the memory of b. It returns the frame, how many
// messages it took, and how many of those failed to encode and are not in it.
func appendMessages(b []byte, queue []outgoing, bodyMax int) (frame []byte, taken, failed int) {
	room := headerBytes
	for taken < len(queue) && taken < messagesMax {
		next := room + messageOverheadMax + queue[taken].size
		if taken > 0 && next-headerBytes > bodyMax {
			break
		}
		room = next
		taken++
	}
	if cap(b) < room {
		b = make([]byte, max(room, frameBytesMin))
	}
	b = b[:headerBytes]
	for _, o := range queue[:taken] {
		start := len(b)
		b = append(b, byte(o.kind))
		b = binary.AppendUvarint(b, group)
		b = binary.AppendUvarint(b, uint64(o.size))
		end := len(b) + o.size
		if err := encodeInto(b[len(b):end], o.m); err != nil {
			b = b[:start]
			failed++
			continue
		}
		b = b[:end]
	}
	return seal(b, frameMessages), taken, failed
}

// encodeInto fills b with m, whose Size was len(b).
func encodeInto(b []byte, m transport.Message) error {
	n, err := m.MarshalTo(b)
	if err != nil {
		return fmt.Errorf("encode a message of %d bytes: %w", len(b), err)
	}
	if n != len(b) {
		return fmt.Errorf("encode a message: its Size was %d and MarshalTo wrote %d bytes", len(b), n)
	}
	return nil
}

// decodeMessages splits the body of a messages frame. The payloads are slices
// of body; none can be extended into the next. others counts the messages of groups that
// are not here, and are dropped.
func decodeMessages(body []byte) (batch []transport.Inbound, others int, err error) {
	count := 0
	for rest := body; len(rest) > 0; {
		var of uint64
		if _, of, rest, err = cutMessage(rest); err != nil {
			return nil, 0, err
		}
		if count++; of != group {
			others++
		}
	}
	if count == 0 || count > messagesMax {
		return nil, 0, badFramef("%d messages, there must be 1 to %d", count, messagesMax)
	}
	batch = make([]transport.Inbound, 0, count-others)
	for len(body) > 0 {
		var in transport.Inbound
		var of uint64
		if in, of, body, _ = cutMessage(body); of == group {
			batch = append(batch, in)
		}
	}
	return batch, others, nil
}

// cutMessage takes the first message off b, which is not empty.
func cutMessage(b []byte) (in transport.Inbound, of uint64, rest []byte, err error) {
	of, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return in, 0, nil, badFramef("the group of a message is no uvarint")
	}
	rest = b[1+n:]
	size, n := binary.Uvarint(rest)
	if n <= 0 {
		return in, 0, nil, badFramef("the length of a message is no uvarint")
	}
	if rest = rest[n:]; size > uint64(len(rest)) {
		return in, 0, nil, badFramef("a message of %d bytes in the last %d of a frame", size, len(rest))
	}
	return transport.Inbound{Kind: transport.Kind(b[0]), Payload: rest[:size:size]}, of, rest[size:], nil
}
