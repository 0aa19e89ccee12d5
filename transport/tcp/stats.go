package tcp

import "sync/atomic"

// Stats are totals since New.
type Stats struct {
	// Connections counts completed handshakes, incoming and outgoing.
	Connections uint64
	// FramesIn, FramesOut, BytesIn and BytesOut count whole frames and their
	// bytes, without those of TLS and TCP.
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
	// BadFrames counts frames that were oversized, damaged, cut off or out of
	// place. Each cost its connection.
	BadFrames uint64
	// Refused counts handshakes that either side refused, and incoming
	// connections beyond the limits.
	Refused uint64
	// Dropped counts messages that Send refused because a queue was full or the
	// message too large, and those that it took but that were never written.
	Dropped uint64
	// OtherGroups counts messages that came for groups that this process does not have, and
	// were dropped.
	OtherGroups uint64
}

type counters struct {
	connections, framesIn, framesOut, bytesIn, bytesOut, badFrames, refused, dropped, otherGroups atomic.Uint64
}

// Stats returns the totals so far. It never blocks and may be called at any
// time.
func (t *Transport) Stats() Stats {
	c := &t.counters
	return Stats{
		Connections: c.connections.Load(),
		FramesIn:    c.framesIn.Load(),
		FramesOut:   c.framesOut.Load(),
		BytesIn:     c.bytesIn.Load(),
		BytesOut:    c.bytesOut.Load(),
		BadFrames:   c.badFrames.Load(),
		Refused:     c.refused.Load(),
		Dropped:     c.dropped.Load(),
		OtherGroups: c.otherGroups.Load(),
	}
}
