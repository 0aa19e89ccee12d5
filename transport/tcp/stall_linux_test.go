package tcp

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMessageConnectionsEndWhenStalled(t *testing.T) {
	a, _ := start(t, 1, Config{StallTimeout: 7 * time.Second})
	b, _ := start(t, 2, Config{})
	c, _, err := a.open(t.Context(), b.Address(), greeting{purpose: purposeMessages, to: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	raw, err := c.raw.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if control := raw.Control(func(fd uintptr) {
		got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}); control != nil || err != nil {
		t.Fatal(control, err)
	}
	if got != 7000 {
		t.Errorf("the kernel waits %d ms for acknowledgements, want 7000", got)
	}
}
