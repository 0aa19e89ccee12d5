package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// receive has a connection of a peer or a stranger receive messages, in virtual time, from send.
// It returns after how long it ended, and by what.
func receive(t *testing.T, stranger bool, stall time.Duration, send func(io.Writer)) (took time.Duration, err error) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c, _, _ := unconnected(t, nil, stranger)
		c.nc, c.timed.nc = near, near
		if err := c.handshakeDone(0, stall); err != nil {
			t.Fatal(err)
		}
		var sender sync.WaitGroup
		sender.Go(func() {
			send(far)
			_ = far.Close()
		})
		began := time.Now()
		err = c.receiveMessages(1)
		took = time.Since(began)
		_ = near.Close()
		sender.Wait()
		finish(t, c)
	})
	return took, err
}

// What follows a piece of a stream that was lost fills the frame that the piece is missing
// from. Heartbeats do that slowly, and meanwhile the member hears of no leader: the connection
// ends soon after the stall timeout.
func TestLostPieceOfAStream(t *testing.T) {
	const stall = 20 * time.Second
	heartbeat := messagesFrame(make(bytesMessage, 100))
	took, err := receive(t, false, stall, func(w io.Writer) {
		frame := messagesFrame(make(bytesMessage, 512<<10))
		_, err := w.Write(frame[:137277])
		for err == nil {
			<-time.After(100 * time.Millisecond)
			_, err = w.Write(heartbeat)
		}
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) || took < stall || took > stall*21/20 {
		t.Errorf("after %v: %v", took, err)
	}
}

// A slow network is no lost piece: a large frame arrives that falls behind the least rate by
// less than the stall timeout at any time.
func TestSlowFrameArrives(t *testing.T) {
	const stall = 20 * time.Second
	for name, test := range map[string]struct {
		bytes, part int
		pause       time.Duration
	}{
		"a little above the least rate": {2 * writeStepBytes, writeStepBytes / 20, 990 * time.Millisecond},
		"with long pauses":              {3 * writeStepBytes, writeStepBytes, stall - time.Second},
		"small and below it":            {writeStepBytes / 4, writeStepBytes / 64, 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			took, err := receive(t, false, stall, func(w io.Writer) {
				inParts(w, messagesFrame(make(bytesMessage, test.bytes)), test.part, test.pause)
			})
			if err != io.EOF || took < stall {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

// A stranger has the stall timeout for all of a frame, however fast its bytes come.
func TestSlowFrameOfAStranger(t *testing.T) {
	const stall = 20 * time.Second
	took, err := receive(t, true, stall, func(w io.Writer) {
		inParts(w, messagesFrame(make(bytesMessage, 2*writeStepBytes)), writeStepBytes/20, 990*time.Millisecond)
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) || took != stall {
		t.Errorf("after %v: %v", took, err)
	}
}

// inParts writes b with a pause after each part, until w is closed.
func inParts(w io.Writer, b []byte, part int, pause time.Duration) {
	for len(b) > 0 {
		n, err := w.Write(b[:min(len(b), part)])
		if err != nil {
			return
		}
		b = b[n:]
		<-time.After(pause)
	}
}
