package kv

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
)

const (
	// reserveBytesMin and reserveBytesMax bound the reserve that a database has when
	// none is asked for: a sixteenth of its volume.
	reserveBytesMin = 16 << 20
	reserveBytesMax = 64 << 20
	// commitBytes is what a commit may need beside what was put: the page that is
	// continued, pages above it, and what a step of a compaction moves.
	commitBytes = 4 << 20
	// spareBytes of the volume are not taken for the reserve, and spareBytesMin not for what
	// waits either: they are for small files such as marks, without which the log can give
	// nothing back, and for a short segment of the log with one large append.
	spareBytes    = 2 << 20
	spareBytesMin = 128 << 10
	// roomRetry is how often a volume without room is tried again.
	roomRetry = 500 * time.Millisecond
)

// errNoRoom: the store is closing and there is no room for the next commit.
var errNoRoom = errors.New("there is no space for the next commit, and the store is closing")

// room keeps space for the commits of a database, whose failure bbolt and etcd's
// backend take for the end of the process. The file is allocated beyond what is used
// of it: by reserve, as long as the volume has that much. Nobody else on the volume,
// the log neither, can take it away.
//
// Where the reserve cannot be had, low is true, and the API takes nothing that grows
// the store; deletes, compactions, and what is in the log already go on, into the
// reserve. Where nothing of it is left, what would be applied waits.
type room struct {
	lg *zap.Logger
	extent
	// reserve in bytes is wanted behind what is used.
	reserve int64
	// size is how much of the file is used, and how much of that is not free.
	size func() (total, inUse int64)
	// pending bounds in bytes what the open transaction adds to the file, and
	// committing what the one before it added, which size may not tell yet. Each
	// commit moves the one to the other.
	pending, committing atomic.Int64
	// wanted is what an entry that waits needs; 0: none does.
	wanted atomic.Int64

	low atomic.Bool
	// free is what the volume had beside when the keeper looked last.
	free atomic.Int64

	// look wakes the keeper; stopping ends it and all who wait for room.
	look     chan struct{}
	stopping chan struct{}
	stopOnce sync.Once
	keeper   sync.WaitGroup
}

// openRoom takes what the file at path has.
func openRoom(path string, reserve int64, lg *zap.Logger) (*room, error) {
	r := &room{lg: lg, reserve: reserve, look: make(chan struct{}, 1), stopping: make(chan struct{})}
	if err := r.extent.open(path); err != nil {
		return nil, err
	}
	if reserve == 0 {
		total, _, err := vfs.Space(r.file)
		if err != nil {
			return nil, errors.Join(err, r.file.Close())
		}
		r.reserve = min(max(total/16, reserveBytesMin), reserveBytesMax)
	}
	return r, nil
}

// start begins to keep the reserve.
func (r *room) start(size func() (total, inUse int64)) {
	r.size = size
	r.extend() // nothing is taken before it is known whether there is room
	r.keeper.Go(r.keep)
}

// stop lets nobody wait for room any more.
func (r *room) stop() { r.stopOnce.Do(func() { close(r.stopping) }) }

func (r *room) close() error {
	r.stop()
	r.keeper.Wait()
	return r.file.Close()
}

func (r *room) wake() {
	select {
	case r.look <- struct{}{}:
	default: // it will
	}
}

// left is how much a commit may add to the file, and must leave alone for itself.
func (r *room) left() (room, commit int64) {
	total, _ := r.size()
	allocated, _ := r.now()
	// bbolt writes its list of free pages anew, which has 8 bytes for each.
	return allocated - total - r.taken(), min(commitBytes, r.reserve/4) + total/256
}

// forCommands is how many bytes of commands have room behind those that were applied,
// if each counts for recordBytes more. 0: what would grow the store is refused.
func (r *room) forCommands() int64 {
	if r.low.Load() {
		return 0
	}
	return r.share() + 1
}

// share is the part of what is left, in bytes, that commands may count on, and likewise
// the records of the keys that one request deletes. A command takes up to twice its bytes
// here and once in the log, which may be on the same volume, and other deletions may be
// under way: so it is a quarter of what is allocated, and an eighth of what is free.
func (r *room) share() int64 {
	left, commit := r.left()
	return max(0, left-commit)/4 + r.free.Load()/8
}

// taken bounds what was added to the file since size was told.
func (r *room) taken() int64 { return r.pending.Load() + r.committing.Load() }

// commits is told that a commit begins. The lock of the transaction is held.
func (r *room) commits() { r.committing.Store(r.pending.Swap(0)) }

// tryTake adds need to what the next commit may add, if there is room. Only the
// goroutine that applies calls it.
func (r *room) tryTake(need int64) bool {
	left, commit := r.left()
	if left-need < r.reserve*3/4 {
		r.wake()
	}
	if left-need < commit {
		return false
	}
	r.pending.Add(need)
	return true
}

// wait returns when the file has grown, or it is worth another look. It returns false
// when the store is closing.
func (r *room) wait(need int64) bool {
	if r.wanted.Swap(need) == 0 && r.low.Load() {
		r.lg.Warn("no space is left for the next commit: nothing is applied until there is some again; reads of what is there go on",
			zap.String("file", r.file.Name()), zap.Int64("bytes", need))
	}
	_, grown := r.now()
	r.wake()
	timer := time.NewTimer(roomRetry)
	defer timer.Stop()
	select {
	case <-grown:
	case <-timer.C:
	case <-r.stopping:
		return false
	}
	return true
}

// keep is the keeper's goroutine.
func (r *room) keep() {
	retry := time.NewTicker(roomRetry)
	defer retry.Stop()
	for {
		select {
		case <-r.look:
			if r.low.Load() && r.wanted.Load() == 0 {
				continue // it was tried a moment ago
			}
		case <-retry.C:
			if !r.low.Load() {
				r.lookAtVolume()
				continue
			}
		case <-r.stopping:
			return
		}
		r.extend()
	}
}

// extend brings the file back to its reserve, as far as the volume has it.
func (r *room) extend() {
	defer r.lookAtVolume()
	total, _ := r.size()
	wanted := r.wanted.Load()
	used := total + r.taken() + wanted
	err := r.allocate(used+r.reserve, spareBytes)
	if err != nil && r.allocate(used+r.reserve/2, spareBytes) != nil && wanted > 0 {
		// What waits has room with less.
		_, commit := r.left()
		_ = r.allocate(used+commit, spareBytesMin)
	}
	r.setLow(r.isLow(err), err)
}

// isLow: err says why there is no whole reserve, if there is none. Free pages are used before
// the file grows, but not for every value, as they need not lie side by side. So they count
// only while there is something left to grow into, and if there are twice as many bytes of them
// as the reserve has, or they are three quarters of the file: of a volume that has not much more
// than the log and the reserve, the file never has as many as the former.
func (r *room) isLow(err error) bool {
	if err == nil {
		return false
	}
	total, inUse := r.size()
	left, _ := r.left()
	return left < r.reserve/2 || total-inUse < min(2*r.reserve, total*3/4)
}

// lookAtVolume asks what is free. An error is no reason to count on anything.
func (r *room) lookAtVolume() {
	_, free, err := vfs.Space(r.file)
	if err != nil {
		free = 0
	}
	r.free.Store(free)
}

func (r *room) setLow(low bool, err error) {
	if r.low.Swap(low) == low {
		return
	}
	if low {
		r.lg.Warn("no space is left for the database: what would grow it is refused until there is some again; reads, deletes and compactions go on",
			zap.String("file", r.file.Name()), zap.Int64("reserve", r.reserve), zap.Error(err))
		return
	}
	r.lg.Info("there is space for the database again", zap.String("file", r.file.Name()))
}
