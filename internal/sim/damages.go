package sim

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/wal"
)

// damages are the faults that take something away for good, within the operator's budget.
type damages struct{ operator }

// rot damages files of a member that does not run.
func (n *damages) rot() {
	m := n.someone()
	if m == nil || !n.mayLose(m) {
		return
	}
	// A log that was closed has the proof that its end was durable, so that no damage
	// to it can be taken for a write that did not become whole.
	closed := n.w.oneIn(2) && m.awake() && m.writing == nil && m.node.Close() == nil && !m.disk.struck && !m.disk.dead
	m.kill(!closed && n.w.oneIn(2))
	n.lost, m.view.damaged = m, true
	n.damage(m, closed)
	for !closed && n.w.oneIn(3) {
		n.damage(m, false)
	}
	m.restartLater()
	n.replace(m)
}

// damage changes some bytes on a disk; of a log that is proven to its end those that
// were written last.
func (n *damages) damage(m *member, proven bool) {
	image := m.disk.mem.Image()
	var files []string
	for p, data := range image {
		if len(data) > 0 && !strings.HasSuffix(p, "LOCK") {
			files = append(files, p)
		}
	}
	if len(files) == 0 {
		return
	}
	slices.Sort(files)
	file := files[n.w.rnd.IntN(len(files))]
	at := n.w.rnd.IntN(len(image[file]))
	what := pick(n.w.rnd, "a bit flipped", "a bit flipped", "a bit flipped", "a bit flipped", "a sector zeroed", "a misdirected write", "a file cut short", "a file missing")
	if proven && n.w.oneIn(2) {
		what = "a sector zeroed"
	}
	if proven || what == "a bit flipped" {
		// Where it counts: in what was written last. (No bit of that can be taken for a
		// write that did not become whole, as a sector of zeros can.)
		file, at = n.target(files, image, file)
	}
	data := slices.Clone(image[file])
	sector := at / vfstest.SectorSize * vfstest.SectorSize
	end := min(sector+vfstest.SectorSize, len(data))
	switch what {
	case "a bit flipped":
		data[at] ^= 1 << n.w.rnd.IntN(8)
	case "a sector zeroed":
		clear(data[sector:end])
	case "a misdirected write":
		from := n.w.rnd.IntN(len(data)) / vfstest.SectorSize * vfstest.SectorSize
		copy(data[sector:end], data[from:])
	case "a file cut short":
		data = data[:at]
	}
	if !proven && n.isUnwritten(m, file, sector, data) {
		what, data = "a bit flipped", slices.Clone(image[file])
		data[at] ^= 1
	}
	n.tell(m, "%s in %s at %d", what, path.Base(file), at)
	if what == "a file missing" {
		_ = m.disk.mem.Remove(file)
		_ = m.disk.mem.SyncDir(path.Dir(file))
		return
	}
	m.disk.mem.WriteFile(file, data)
}

// isUnwritten says whether a sector of zeros is now where the last frame of a log that was
// not closed has a sector. No disk tells that from a write that did not become whole: the
// process may have ended before it could acknowledge what is in it.
func (n *damages) isUnwritten(m *member, file string, sector int, data []byte) bool {
	end := min(sector+vfstest.SectorSize, len(data))
	if path.Ext(file) != ".seg" || sector >= end || slices.ContainsFunc(data[sector:end], func(b byte) bool { return b != 0 }) {
		return false
	}
	var last wal.Record
	_, err := wal.Inspect(m.disk.mem, path.Dir(file), func(r *wal.Record) error { last = *r; return nil }, nil)
	return err != nil || last.Segment == path.Base(file) && int64(sector) >= last.Offset && int64(sector) < last.Offset+last.Size
}

// target is a place in the newest segment of the log, in the newest snapshot, or in
// the file that was drawn: in the last bytes there that were written.
func (n *damages) target(files []string, image map[string][]byte, file string) (string, int) {
	wanted := pick(n.w.rnd, ".seg", ".seg", ".snap", "")
	for _, f := range files {
		if wanted != "" && path.Ext(f) == wanted {
			file = f
		}
	}
	const lastBytes = 16 << 10
	var written []int
	for i, b := range image[file] {
		if b != 0 {
			written = append(written, i)
		}
	}
	if len(written) == 0 {
		return file, 0
	}
	written = written[max(0, len(written)-lastBytes):]
	return file, written[n.w.rnd.IntN(len(written))]
}

// wipe empties a member's disk. It comes back with the same command, or under the same ID.
func (n *damages) wipe() {
	m := n.someone()
	if m == nil || !n.mayLose(m) {
		return
	}
	if n.w.oneIn(2) {
		n.wipeSome(m)
		return
	}
	n.tell(m, "its disk is wiped")
	m.voted = n.w.votes(m)
	m.kill(false)
	m.disk.plug(vfstest.NewMem())
	m.machine.wipe()
	m.log, m.wiped = nil, true
	m.founder, m.expect, m.join = false, 0, n.targets()
	n.lost, m.view.forgets = m, true
	m.restartLater()
	n.replace(m)
}

// lostLog takes a member's log, and leaves it all of its other files. It starts with the
// command that it had, and is not to come back under its ID, whoever remembers it.
func (n *damages) lostLog() {
	m := n.someone()
	if m == nil || m.phantom || !n.mayLose(m) || !m.view.born {
		return
	}
	m.kill(n.w.oneIn(2))
	n.loseLog(m)
	if len(m.join) == 0 {
		m.join = n.targets()
	}
	n.lost = m
	m.restartLater()
	n.replace(m)
}

// loseLog removes the log of a member that does not run.
func (n *damages) loseLog(m *member) {
	n.tell(m, "its log is lost, and its identity is not")
	for _, dir := range []string{"wal", "snap"} {
		if err := m.disk.mem.RemoveAll(path.Join(dataDir, dir)); err != nil {
			panic(fmt.Sprintf("sim: cannot remove %s: %v", dir, err))
		}
	}
	if err := m.disk.mem.SyncDir(dataDir); err != nil {
		panic(fmt.Sprintf("sim: cannot sync %s: %v", dataDir, err))
	}
	m.log, m.lostLog, m.view.forgets = nil, true, true
}

// wipeSome wipes a member, and at times more, as long as a majority keeps its disks. All
// come back with their own commands.
func (n *damages) wipeSome(m *member) {
	var others []*member
	voters := n.w.leader().status().Membership.Voters()
	for _, id := range voters {
		if o := n.w.member(id); o != m && o.up() {
			others = append(others, o)
		}
	}
	n.lost, n.heir = m, n.wipeAndReturn(m)
	for spare := (len(voters)-1)/2 - 1; spare > 0 && len(others) > 0 && n.w.oneIn(2); spare-- {
		at := n.w.rnd.IntN(len(others))
		n.more = append(n.more, loss{others[at], n.wipeAndReturn(others[at])})
		others = slices.Delete(others, at, at+1)
	}
	n.settleLoss()
}

// wipeAndReturn empties a member's disk. What comes back at its address, with the same
// command, is a new member, as every data directory draws its ID: that of a founder may
// found. The power may fail at any moment of its coming back.
func (n *damages) wipeAndReturn(m *member) *member {
	n.tell(m, "its disk is wiped, and it is started with the same command")
	m.kill(false)
	m.disk.plug(vfstest.NewMem())
	m.machine.wipe()
	m.log, m.gone, m.view.forgets = nil, true, true
	n.removed[m.id] = true
	h := n.w.addMember()
	h.address, h.join, h.expect, h.founder = m.address, m.join, m.expect, m.founder
	h.rejoins, h.listens, h.heir = true, listenTicks, byAddress
	h.priority = m.priority
	if n.w.byHand {
		h.start()
		return h
	}
	h.after(n.w.between(time.Millisecond, 5*n.w.cfg.tick), "start", h.start)
	if n.w.oneIn(2) {
		n.harass(h)
	}
	return h
}

// harass ends a member again and again while it comes back, between any two of its
// writes.
func (n *damages) harass(m *member) {
	at := time.Duration(0)
	for range 1 + n.w.rnd.IntN(5) {
		at += n.w.between(5*time.Millisecond, 10*n.w.cfg.tick)
		n.later(at, at+1, "while it comes back", func() {
			switch {
			case n.held || !m.up():
			case n.w.oneIn(3):
				n.kill(m, n.w.oneIn(2))
			default:
				m.disk.crashIn = n.w.rnd.IntN(12)
			}
		})
	}
}

// rollback puts an older image of a member's disk back. Nobody but those that
// remember can know, so all others are well and connected meanwhile (design, section
// 8: if those that never had the lost entries are all that is left, no protocol can
// know); and then it must be noticed.
func (n *damages) rollback() {
	m := n.someone()
	if m == nil || !n.mayLose(m) || !m.view.born {
		return
	}
	n.tell(m, "an image of its disk is taken")
	mem, saved, old := m.disk.mem.Clone(), m.machine.saved, m.view
	n.later(2*time.Second, 6*time.Second, "rollback", func() {
		if m.gone || n.held || !n.mayLose(m) {
			return
		}
		n.held = true
		n.mend(n.hopeful())
		// What a leader has on its disk by now, it has told a while later.
		led := m == n.w.leader() && m.view.commit > old.last()
		n.w.at(4*n.w.cfg.electionTimeout(), "the old image is put back", func() {
			if n.held = false; n.over || m.gone || !m.up() || !n.mayLose(m) {
				return
			}
			if min(m.view.ackIndex, n.w.check.learnt[m.id]) <= old.ackIndex && (!led || m != n.w.leader()) {
				return // nothing is lost by it
			}
			n.tell(m, "an old image of its disk is put back; it leads: %v", m == n.w.leader())
			n.held = true
			m.kill(false)
			m.disk.plug(mem.CrashKeepingAll())
			m.machine.saved = saved
			n.lost, m.view.forgets = m, true
			m.start()
			n.w.at(6*n.w.cfg.electionTimeout(), "was it noticed?", func() {
				n.held = false
				if !n.over && !errors.Is(m.ended, node.ErrAmnesia) {
					n.w.fail("a rolled-back disk is noticed", "%s goes on: %v: %s", m.name(), m.ended, n.w.summary())
				}
			})
			n.replace(m)
		})
	})
}
