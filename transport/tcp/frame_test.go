package tcp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// TestFrameGolden pins the bytes on the wire: a change of them is a change of
// protocolVersion.
func TestFrameGolden(t *testing.T) {
	frame, taken, failed := appendMessages(nil, []outgoing{
		{3, bytesMessage("hello"), 5},
		{4, bytesMessage(""), 0},
	}, frameBytesMaxMax)
	if taken != 2 || failed != 0 {
		t.Fatalf("took %d messages, %d failed", taken, failed)
	}
	want := golden(t, "frame.hex")
	if !bytes.Equal(frame, want) {
		t.Errorf("frame is\n%x, want\n%x", frame, want)
	}
	// By docs/FORMATS.md alone: length, checksum, type, a zero, checksum of the header, body.
	header, body := want[:12], want[12:]
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(slices.Concat(header[:4], header[8:], body), table)
	short := uint16(crc32.Checksum(slices.Concat(header[:4], header[8:10]), table))
	if binary.LittleEndian.Uint32(header) != uint32(len(body)) || binary.LittleEndian.Uint32(header[4:]) != sum ||
		header[8] != 2 || header[9] != 0 || binary.LittleEndian.Uint16(header[10:]) != short {
		t.Errorf("the header is %x, and the checksums %08x and %04x", header, sum, short)
	}
	batch, others, err := decodeMessages(body)
	if err != nil || others != 0 || len(batch) != 2 || batch[0].Kind != 3 || string(batch[0].Payload) != "hello" || batch[1].Kind != 4 || len(batch[1].Payload) != 0 {
		t.Errorf("read as %+v, %d, %v", batch, others, err)
	}
}

// golden reads the bytes of a file in testdata: hexadecimal digits, and behind a # what they are.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reader(b []byte) *frameReader { return &frameReader{r: bufio.NewReader(bytes.NewReader(b))} }

func TestFrameRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 4095, growBytes, growBytes + 1, 5*growBytes + 7} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		r := reader(newFrame(frameChunk, body))
		kind, got, err := r.next(size, nil)
		if err != nil || kind != frameChunk || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: type %d, %d bytes, %v", size, kind, len(got), err)
		}
		if _, _, err := r.next(size, nil); err != io.EOF {
			t.Errorf("%d bytes: after the only frame: %v, want EOF", size, err)
		}
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	good := messagesFrame(bytesMessage("one"), bytesMessage("two"))
	for bit := range len(good) * 8 {
		_, _, err := reader(flipped(good, bit)).next(1<<20, nil)
		var bad *badFrame
		if !errors.As(err, &bad) {
			t.Errorf("bit %d of byte %d flipped: %v", bit%8, bit/8, err)
		}
	}
}

// A damaged header is told by itself: nobody waits for megabytes that a flipped bit declares.
// That of a Hello is read by all versions, and has no checksum of its own.
func TestDamagedHeaderIsFoundAtOnce(t *testing.T) {
	good := messagesFrame(bytesMessage("one"))[:headerBytes]
	waits := errors.New("it waits for the body")
	read := func(header []byte) error {
		r := &frameReader{r: bufio.NewReader(io.MultiReader(bytes.NewReader(header), iotest.ErrReader(waits)))}
		_, _, err := r.next(frameBytesMaxMax, nil)
		return err
	}
	if err := read(good); !errors.Is(err, waits) {
		t.Errorf("a good header: %v", err)
	}
	var bad *badFrame
	const bits = 8 * headerBytes
	for i := range bits {
		for j := i; j < bits; j++ {
			if of := i / 8; of >= 4 && of < 8 {
				continue // the checksum of the body is compared when it is there
			}
			damaged := flipped(good, i)
			if j > i {
				damaged = flipped(damaged, j)
			}
			if err := read(damaged); !errors.As(err, &bad) {
				t.Errorf("bits %d and %d flipped: %v", i, j, err)
			}
		}
	}
	if hello := newFrame(frameHello, []byte("x")); hello[10] != 0 || hello[11] != 0 {
		t.Errorf("the header of a Hello is %x", hello[:headerBytes])
	}
}

// TestDeclaredLengthCostsNothing: memory follows the bytes that come.
func TestDeclaredLengthCostsNothing(t *testing.T) {
	r := reader(append(announced(frameMessages, 1<<30), make([]byte, 100)...))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := r.next(frameBytesMaxMax, nil)
	runtime.ReadMemStats(&after)
	var bad *badFrame
	if !errors.As(err, &bad) {
		t.Errorf("a frame that ends early: %v", err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 2*growBytes {
		t.Errorf("a header that declares 1 GiB and 100 bytes after it cost %d bytes of memory", got)
	}
}

func TestManyMessagesCostTwoAllocations(t *testing.T) {
	queue := make([]outgoing, 1000)
	for i := range queue {
		queue[i] = outgoing{1, bytesMessage("a small message"), 15}
	}
	frame, _, _ := appendMessages(nil, queue, frameBytesMaxMax)
	if n := testing.AllocsPerRun(10, func() { frame, _, _ = appendMessages(frame, queue, frameBytesMaxMax) }); n != 0 {
		t.Errorf("writing 1000 messages into used memory: %v allocations, want none", n)
	}
	source := bytes.NewReader(frame)
	r := &frameReader{r: bufio.NewReader(source)}
	if n := testing.AllocsPerRun(10, func() {
		source.Reset(frame)
		_, body, err := r.next(len(frame), nil)
		if err != nil {
			t.Fatal(err)
		}
		if batch, _, err := decodeMessages(body); err != nil || len(batch) != 1000 {
			t.Fatal(len(batch), err)
		}
	}); n > 2 {
		t.Errorf("reading 1000 messages: %v allocations, want one for the body and one for the batch", n)
	}
}

func TestTooManyMessages(t *testing.T) {
	if _, _, err := decodeMessages(make([]byte, 3*messagesMax)); err != nil {
		t.Errorf("%d empty messages: %v", messagesMax, err)
	}
	if _, _, err := decodeMessages(make([]byte, 3*messagesMax+3)); err == nil {
		t.Errorf("%d empty messages were taken", messagesMax+1)
	}
	queue := make([]outgoing, messagesMax+1)
	for i := range queue {
		queue[i].m = bytesMessage("")
	}
	if _, taken, _ := appendMessages(nil, queue, frameBytesMaxMax); taken != messagesMax {
		t.Errorf("%d messages went into one frame", taken)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(messagesFrame(bytesMessage("one"), bytesMessage("two")))
	f.Add(newFrame(frameHello, nil))
	f.Add(append(newFrame(frameChunk, []byte("x")), newFrame(frameEnd, make([]byte, 8))...))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader(b)
		for rest := b; ; {
			kind, body, err := r.next(1<<16, nil)
			if err != nil {
				var bad *badFrame
				if !errors.As(err, &bad) && (err != io.EOF || len(rest) != 0) {
					t.Fatalf("error %v with %d bytes left", err, len(rest))
				}
				return
			}
			// What is read as a frame is what seal makes of it, byte for byte.
			again := newFrame(kind, body)
			if !bytes.HasPrefix(rest, again) {
				t.Fatalf("read %x as type %d with body %x", rest, kind, body)
			}
			rest = rest[len(again):]
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add(messagesFrame(bytesMessage("one"), bytesMessage("two"))[headerBytes:])
	f.Add([]byte{1, 0, 0, 2, 0, 0})
	f.Add([]byte{1, 7, 0, 2, 0, 0})
	f.Add([]byte{1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		batch, others, err := decodeMessages(body)
		if err != nil {
			return
		}
		if len(batch) == 0 {
			if others == 0 {
				t.Fatal("no messages at all")
			}
			return
		}
		var queue []outgoing
		for _, in := range batch {
			queue = append(queue, outgoing{in.Kind, bytesMessage(in.Payload), len(in.Payload)})
		}
		frame, _, _ := appendMessages(nil, queue, frameBytesMaxMax)
		again, others, err := decodeMessages(frame[headerBytes:])
		if err != nil || len(again) != len(batch) || others != 0 {
			t.Fatalf("%d messages became %d, and %d of others: %v", len(batch), len(again), others, err)
		}
		for i := range batch {
			if batch[i].Kind != again[i].Kind || !bytes.Equal(batch[i].Payload, again[i].Payload) {
				t.Fatalf("message %d changed", i)
			}
		}
	})
}

// TestOtherFramesGolden pins a frame of each type beside hello and messages, and the numbers of
// types and purposes.
func TestOtherFramesGolden(t *testing.T) {
	want := golden(t, "frames.hex")
	frames := []struct {
		kind frameType
		body []byte
	}{
		{frameSnapshot, []byte("announced")},
		{frameChunk, []byte("12345")},
		{frameEnd, binary.LittleEndian.AppendUint64(nil, 5)},
		{frameCall, []byte("\x07question")},
		{frameOK, []byte("answer")},
		{frameError, []byte("no")},
	}
	var got []byte
	for _, f := range frames {
		got = append(got, newFrame(f.kind, f.body)...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the frames are\n%x, want\n%x", got, want)
	}
	r := reader(want)
	for _, f := range frames {
		if kind, body, err := r.next(100, nil); err != nil || kind != f.kind || !bytes.Equal(body, f.body) {
			t.Errorf("read as type %d, %q, %v, want %d, %q", kind, body, err, f.kind, f.body)
		}
	}
	for want, kind := range []frameType{1: frameHello, 2: frameMessages, 3: frameSnapshot, 4: frameChunk, 5: frameEnd, 6: frameCall, 7: frameOK, 8: frameError} {
		if int(kind) != want {
			t.Errorf("a type of frames has the number %d, want %d", kind, want)
		}
	}
	for want, purpose := range []uint32{1: purposeMessages, 2: purposeSnapshot, 3: purposeCall, 4: purposeProbe} {
		if purpose != uint32(want) {
			t.Errorf("a purpose has the number %d, want %d", purpose, want)
		}
	}
}

// A frame that is sound, and of a type of a later version, ends the connection: what follows
// it may depend on it.
func TestUnknownFrameType(t *testing.T) {
	var bad *badFrame
	if _, _, err := reader(newFrame(frameTypeEnd, []byte("later"))).next(100, nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "9") {
		t.Errorf("type 9: %v, want a bad frame that names it", err)
	}
}
