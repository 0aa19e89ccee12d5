package core

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// A state machine on a disk that is full cannot apply what it is given, and nothing of
// what comes later either, which may be what makes room. So what goes into the log
// must have room where it is applied, at a majority at least. Each voter tells its leader
// how much room there is behind what it has applied, and the leader appends no more than
// that: as a receiver's window bounds a sender.

// space is how much may go into the log for all.
type space struct {
	requests
	// held is how many of waiting the last Step held back; room is how much the state
	// machine here has, and backlog what this leader appended for all.
	held    int
	room    Room
	backlog backlog
	// unsorted: holdBack met commands of which the state machine must say whether they make
	// it grow.
	unsorted bool
}

// Room is how many bytes of commands a state machine has certainly room for, behind what
// it has applied, or one command of any size, plus 1; NoLimit: it does not say.
type Room uint64

// NoLimit is the room of a state machine that does not say how much it has.
const NoLimit Room = 0

// RoomFor is room for so many bytes.
func RoomFor(bytes int64) Room { return Room(max(0, bytes)) + 1 }

// CommandOverhead is what a command counts for beside its bytes.
const CommandOverhead = 512

// backlogMax bounds what a backlog is told apart: Room beyond it is as good as no limit.
const backlogMax = 64 << 20

// backlog is what this leader appended for the state machine, by where it stands.
type backlog struct {
	ends []backlogEnd
	// total in bytes was appended in this term, which begins behind since.
	total int64
	since uint64
}

// backlogEnd: with the entry at index, so many bytes were appended in this term.
type backlogEnd struct {
	index uint64
	total int64
}

func (b *backlog) add(index uint64, bytes int64) {
	b.total += bytes
	b.ends = append(b.ends, backlogEnd{index, b.total})
	old, _ := slices.BinarySearchFunc(b.ends, b.total-backlogMax, func(e backlogEnd, total int64) int { return cmp.Compare(e.total, total) })
	if old > len(b.ends)/2 {
		b.ends = slices.Delete(b.ends, 0, old)
	}
}

// behind is how many bytes stand behind an index.
func (b *backlog) behind(index uint64) int64 {
	i, found := slices.BinarySearchFunc(b.ends, index, func(e backlogEnd, index uint64) int { return cmp.Compare(e.index, index) })
	switch {
	case found:
		return b.total - b.ends[i].total
	case i > 0:
		return b.total - b.ends[i-1].total
	}
	return b.total
}

// window is what one voter can still be given.
type window struct {
	id uint64
	// silent: it was not heard of for an election timeout. untold: it has not said yet
	// how much room it has. idle: it has applied all that was appended.
	silent, untold, idle bool
	// left in bytes; none: it has no room at all. limited is false if it does not say.
	left          int64
	none, limited bool
}

// fits says whether a command of size bytes has room. One command always has where
// there is some, or it would wait for ever.
func (w *window) fits(size int64) bool {
	switch {
	case w.silent || w.untold || w.none:
		return false
	case !w.limited:
		return true
	}
	return w.idle || size <= w.left
}

// voterWindows are those of all voters, and the configurations that need a majority.
type voterWindows struct {
	of     []window
	halves [2][]uint64
}

// windows returns what every voter can be given.
func (c *space) windows() *voterWindows {
	cs := &c.handed.ConfState
	w := &voterWindows{halves: [2][]uint64{cs.Voters, cs.VotersOutgoing}}
	for _, half := range w.halves {
		for _, id := range half {
			if !slices.ContainsFunc(w.of, func(o window) bool { return o.id == id }) {
				w.of = append(w.of, c.window(id))
			}
		}
	}
	return w
}

func (c *space) window(id uint64) window {
	room, applied, w := c.room, c.applied, window{id: id}
	if id != c.cfg.ID {
		notes := c.peers.get(id)
		room, applied = notes.room, notes.applied
		w.silent, w.untold = !c.alive(id), !notes.told
	}
	behind := c.backlog.behind(applied)
	w.limited, w.none, w.idle = room != NoLimit, room == RoomFor(0), behind == 0 && applied >= c.backlog.since
	w.left = int64(min(room-1, backlogMax)) - behind
	if applied < c.backlog.since && room < RoomFor(backlogMax) {
		w.left = 0 // nobody counted what the leaders before appended
	}
	return w
}

// majority says whether those for which f is true are one.
func (w *voterWindows) majority(f func(*window) bool) bool {
	for _, half := range w.halves {
		n := 0
		for _, id := range half {
			i := slices.IndexFunc(w.of, func(o window) bool { return o.id == id })
			if f(&w.of[i]) {
				n++
			}
		}
		if len(half) > 0 && n <= len(half)/2 {
			return false
		}
	}
	return true
}

// roomy says that a majority has room for so many bytes: nobody needs to look at what they
// are.
func (w *voterWindows) roomy(bytes int64) bool {
	return w.majority(func(o *window) bool { return o.fits(bytes) && (!o.limited || bytes <= o.left) })
}

// tightBytes is with how much room at a majority a cluster is not tight.
const tightBytes = 32 << 20

// tight says, on a leader, whether no majority has much room.
func (c *space) tight() bool {
	return c.room != NoLimit && !c.windows().roomy(tightBytes)
}

// Tight says whether the state machines of a majority have little room, as far as this
// member knows: by itself as the leader, or by its leader's word.
func (c *space) Tight() bool {
	switch {
	case c.status.RaftState == raft.StateLeader:
		return c.tight()
	case c.led.from == c.status.Lead && c.led.term == c.status.Term:
		return c.led.tight
	}
	return false
}

// roomLevel is how well a voter's state machine takes what its leader appends.
type roomLevel uint8

const (
	// appliesNothing: it has no room for what makes it grow, and does not apply what is
	// committed. As a leader it would answer no read of its own, and make no change of
	// membership.
	appliesNothing roomLevel = iota
	// refusesGrowth: it has no room for what makes it grow.
	refusesGrowth
	// takesGrowth: it has room, or does not say how much.
	takesGrowth
)

func (c *leading) roomLevel(id uint64) roomLevel {
	room, applied := c.room, c.applied
	if id != c.cfg.ID {
		notes := c.peers.get(id)
		room, applied = notes.room, notes.applied
	}
	switch {
	case room != RoomFor(0):
		return takesGrowth
	case applied >= c.leadership.committed:
		return refusesGrowth
	}
	return appliesNothing
}

// RoomierVoter says, on a leader, whether another voter that could lead has more room for
// what makes state machines grow.
func (c *leading) RoomierVoter() bool {
	if c.status.RaftState != raft.StateLeader || c.room == NoLimit {
		return false
	}
	own := c.roomLevel(c.cfg.ID)
	return slices.ContainsFunc(c.rankVoters(false), func(s score) bool { return s.stays && s.near && s.room > own })
}

// admission is what becomes of a command that makes state machines grow.
type admission uint8

const (
	admitNow admission = iota
	// admitLater: there is room when more is applied.
	admitLater
	// admitNever: there is none before somebody makes some.
	admitNever
)

// take says what becomes of a command of size bytes, and takes its room if it has some.
// Nobody knows of a silent voter whether it has room: where one of the others has none, it
// is not counted upon.
func (w *voterWindows) take(size int64) admission {
	full := slices.ContainsFunc(w.of, func(o window) bool { return !o.silent && o.none })
	switch {
	case w.majority(func(o *window) bool { return o.fits(size) }):
		for i := range w.of {
			w.of[i].left -= size
			w.of[i].idle = false
		}
		return admitNow
	case !w.majority(func(o *window) bool { return !o.none && !(o.silent && full) }):
		return admitNever
	}
	return admitLater
}

// holdBack takes what has no room out of what waits, and answers what will not have any.
// What it returns waits on.
func (c *space) holdBack() (held []request) {
	if c.room == NoLimit || len(c.waiting) == 0 {
		return nil
	}
	w := c.windows()
	if w.roomy(c.waitingBytes + int64(len(c.waiting))*CommandOverhead) {
		return nil
	}
	c.keepWaiting(func(it *request) bool {
		size, growth := it.growthBytes()
		if growth == growsNot {
			return true
		}
		if growth == growthUnknown {
			c.unsorted = true
			it.growth = growthAsked
		}
		if len(held) > 0 || growth == growthUnknown { // in order, or large ones would never have room
			held = append(held, *it)
			return false
		}
		switch w.take(size) {
		case admitLater:
			held = append(held, *it)
			return false
		case admitNever:
			c.settle(*it, Outcome{Err: ErrNoSpace})
			return false
		}
		return true
	})
	return held
}

// holds says whether what waits would be held back once more: the Ready of a Step may have
// changed who is a voter.
func (c *space) holds() bool {
	for i := range c.waiting {
		if _, growth := c.waiting[i].growthBytes(); growth != grows {
			return false // it has room, or is asked about
		}
	}
	if len(c.waiting) == 0 {
		return false
	}
	size, _ := c.waiting[0].growthBytes()
	return c.windows().take(size) == admitLater
}

// growth is what is known of a request: whether it may make the state machine grow. Only the
// state machine can tell, which may have to decode the command. So it is asked where there is
// little room, behind the Step that finds so, and its answers are in the next Input.
type growth uint8

const (
	growthUnknown growth = iota
	// growthAsked: the last Effects.Unsorted has the command.
	growthAsked
	growsNot
	grows
)

// growthBytes is how much a request may add to a state machine, as far as that is known.
func (it *request) growthBytes() (bytes int64, g growth) {
	if it.Kind != Propose {
		return 0, growsNot
	}
	_, frame := unwrap(it.frame())
	switch {
	case frame[0] != frameCommand || it.growth == growsNot:
		return 0, growsNot
	case it.growth == grows:
		return commandSize(frame), grows
	}
	return commandSize(frame), growthUnknown
}

// askForGrowth asks for all that this leader must know of what waits.
func (c *space) askForGrowth() {
	if !c.unsorted {
		return
	}
	c.unsorted = false
	for i := range c.waiting {
		if it := &c.waiting[i]; it.growth == growthAsked {
			_, frame := unwrap(it.frame())
			c.effects.Unsorted = append(c.effects.Unsorted, frame[1:])
		}
	}
}

// sort takes the answers. Since they were asked for, nothing has left the queue.
func (c *space) sort(answers []bool) {
	for i := 0; i < len(c.waiting) && len(answers) > 0; i++ {
		it := &c.waiting[i]
		if it.growth != growthAsked {
			continue
		}
		it.growth = growsNot
		if answers[0] {
			it.growth = grows
		}
		answers = answers[1:]
	}
}

// noteBacklog counts what this leader appends.
func (c *space) noteBacklog(entries []raftpb.Entry) {
	if c.room == NoLimit {
		return
	}
	var bytes int64
	for i := range entries {
		bytes += commandSize(entries[i].Data)
	}
	c.backlog.add(entries[len(entries)-1].Index, bytes)
}

func commandSize(frame []byte) int64 { return int64(len(frame)) + CommandOverhead }

// serveWithRoom serves what has room.
func (c *Core) serveWithRoom(term uint64) {
	held := c.holdBack()
	c.serve(term)
	for _, it := range held {
		c.wait(it)
	}
	c.held = len(held)
}

// roomToTell is what an acknowledgement says of this member's state machine: what it has applied,
// and how much room there is behind that. Without a limit it says nothing.
func (c *space) roomToTell() (applied, room uint64) {
	if c.room == NoLimit {
		return 0, 0
	}
	return c.applied, uint64(c.room)
}

// noteRoom takes what an answer says of its sender's state machine.
func (c *space) noteRoom(m *octopiipb.PeerMessage) {
	notes := c.peers.get(m.From)
	switch {
	case m.Type == raftpb.MsgHeartbeatResp:
		notes.applied = m.Note.Applied
	case m.Note.Applied < notes.applied && Room(m.Note.Room) != NoLimit:
		return // it waited for a disk, and something newer is known
	default:
		notes.applied = max(notes.applied, m.Note.Applied)
	}
	notes.room, notes.told = Room(m.Note.Room), true
}
