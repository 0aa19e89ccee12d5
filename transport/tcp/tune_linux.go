package tcp

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rtoMin is the least time after which the kernel sends again what was not
	// acknowledged, in place of 200 ms. On a network with 30 % loss the kernel needs
	// several attempts for one byte, and all of them must fit into an election timeout.
	// The kernel adds the measured round trip, so a slow network does not suffer.
	rtoMin = 50 * time.Millisecond
	// rtoMax is the longest pause between two attempts: the least that Linux allows, in
	// place of two minutes.
	rtoMax = time.Second
	// delayedAckMax is the longest that the kernel holds an acknowledgement back. It must be
	// well below rtoMin of the other side.
	delayedAckMax = 10 * time.Millisecond
)

// limitStall has the kernel end a connection whose bytes were not acknowledged
// for d. Without it a connection outlives a partition by minutes, because
// retransmissions come at doubling intervals, and nothing passes after healing.
func limitStall(c *net.TCPConn, d time.Duration) error {
	return control(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// tolerateLoss has the kernel send lost bytes again soon, and at pauses that stay short.
// Each option is set where the kernel has it: thin linear timeouts since Linux 2.6.34,
// the others since 6.15 to 6.18.
func tolerateLoss(c *net.TCPConn) {
	_ = control(c, func(fd int) error {
		for option, value := range map[int]int{
			unix.TCP_THIN_LINEAR_TIMEOUTS: 1,
			unix.TCP_RTO_MAX_MS:           int(rtoMax.Milliseconds()),
			unix.TCP_RTO_MIN_US:           int(rtoMin.Microseconds()),
			unix.TCP_DELACK_MAX_US:        int(delayedAckMax.Microseconds()),
		} {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value) // an older kernel has fewer
		}
		return nil
	})
}

// lanesMax is how many message connections to one peer there may be at once.
const lanesMax = 3

// stateOf asks the kernel about a stream. It knows nothing of one that is closed.
func stateOf(c net.Conn) (s streamState) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return s
	}
	_ = control(tcp, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			s = streamState{
				retransmitting: info.Retransmits > 0 || info.Backoff > 0,
				unacknowledged: info.Unacked > 0,
				lastAck:        time.Duration(info.Last_ack_recv) * time.Millisecond,
				roundTrip:      time.Duration(info.Min_rtt) * time.Microsecond,
			}
		}
		return nil
	})
	return s
}

// control calls f with the file descriptor of c.
func control(c *net.TCPConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}
