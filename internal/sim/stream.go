package sim

import (
	"io"
	"time"

	octopiipb "github.com/octopii/octopii/proto"
)

// stream is the body of a snapshot on its way: it arrives in pieces, and everything
// else goes on between them. It is the reader that the receiver gets.
type stream struct {
	w        *world
	to, back *endpoint
	task     *task
	from     io.Reader
	// index is that of the snapshot, and commit how far the receiver was committed
	// when it began.
	index, commit uint64
	// piece is how much arrives at a time, and left how much of it is still to be read.
	piece, left int
	begun       bool
}

// stream is the way of a snapshot from one endpoint to another; nil if it takes no time.
func (w *world) stream(from, to *endpoint, head []byte, size int) *stream {
	var h octopiipb.SnapshotAnnouncement
	if w.byHand || from.m.helpers.task == nil || h.Unmarshal(head) != nil {
		return nil
	}
	s := &stream{w: w, to: to, back: from, task: from.m.helpers.task, index: h.Metadata.Index, piece: size/(1+w.rnd.IntN(3)) + 1}
	if to.m.log != nil {
		s.commit = to.m.status().Commit
	}
	return s
}

// Read implements io.Reader. The connection breaks when one of its ends dies, or cannot
// be reached any more.
func (s *stream) Read(p []byte) (int, error) {
	if !s.begun {
		s.begin()
	}
	if s.left == 0 {
		s.left = s.piece
		wait := s.w.net.travel(s.back.m.address, s.to.m.address)
		if s.w.oneIn(4) {
			wait += s.w.between(0, 2*time.Second)
		}
		if !s.task.pause(wait) {
			return 0, broken{}
		}
	}
	if !s.back.alive() || !s.to.alive() || s.to.m.paused || s.w.net.cuts[direction{s.back.m.address, s.to.m.address}] {
		return 0, broken{}
	}
	n, err := s.from.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// begin is called when the receiver wants the body: it must be news, and the only one.
func (s *stream) begin() {
	s.begun = true
	m := s.to.m
	if s.index <= s.commit {
		s.w.fail("a snapshot that is no news is not stored", "%s is committed up to %d, and takes in a snapshot at %d", m.name(), s.commit, s.index)
	}
	if o := m.receives; o != nil && o.to == s.to {
		s.w.fail("one snapshot is received at a time", "%s takes in a snapshot at %d from %s, and another one at %d comes from %s", m.name(), s.index, s.back.m.name(), o.index, o.back.m.name())
	}
	m.receives = s
}

// end is called when the receiver has answered.
func (s *stream) end() {
	if s.to.m.receives == s {
		s.to.m.receives = nil
	}
}
