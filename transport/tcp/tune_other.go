//go:build !linux

package tcp

import (
	"net"
	"time"
)

// limitStall does nothing here: the deadline of each write and TCP keepalive
// remain.
func limitStall(*net.TCPConn, time.Duration) error { return nil }

// tolerateLoss does nothing here: the pauses between the attempts of the kernel to send
// lost bytes again are those of the system.
func tolerateLoss(*net.TCPConn) {}

// lanesMax is how many message connections to one peer there may be at once: a second one
// is of no use where the first does not tell that it stalls.
const lanesMax = 1

// stateOf knows nothing here.
func stateOf(net.Conn) streamState { return streamState{} }
