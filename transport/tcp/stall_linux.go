package tcp

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitStall has the kernel end a connection whose bytes were not acknowledged
// for d. Without it a connection outlives a partition by minutes, because
// retransmissions come at doubling intervals, and nothing passes after healing.
func limitStall(c *net.TCPConn, d time.Duration) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	}); err != nil {
		return err
	}
	return set
}
