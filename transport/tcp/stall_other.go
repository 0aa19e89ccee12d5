//go:build !linux

package tcp

import (
	"net"
	"time"
)

// limitStall does nothing here: the deadline of each write and TCP keepalive
// remain.
func limitStall(*net.TCPConn, time.Duration) error { return nil }
