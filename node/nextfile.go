package node

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// spaceRetry is how often a full disk is tried again.
const spaceRetry = time.Second

// nextFile readies the log's next file before it is needed, which is how a full disk is noticed
// while there is still room for what is under way. The appender owns it.
type nextFile struct {
	node   *group
	writer *raftstore.Writer
	jobs   *mailbox[appendJob]

	// making: helper counts a goroutine that makes it.
	making bool
	helper sync.WaitGroup
	// retry fires when a full disk is to be tried again; retrying: it will.
	retry    stepped.Timer
	retrying bool

	// lend: the state machine waits for room. No file is made ready meanwhile.
	lend bool
}

// look makes the next file if there is none. It says whether there is one again, after the disk
// was full; while the backlog is stuck that is not said.
func (f *nextFile) look(stuck bool) (back bool, err error) {
	switch ready := f.writer.Reserved(); {
	case f.lend:
		if ready && f.writer.Initialized() && !f.making {
			err = f.writer.GiveSpares()
		}
	case !ready:
		f.begin()
	case f.node.space.full.Load() && !stuck:
		f.retry.Stop()
		f.retrying = false
		f.node.space.full.Store(false)
		f.node.log.Info("the log has its next file: proposals are taken again")
		back = true
	}
	return back, err
}

// begin begins to make the file, which takes as long as writing one, unless that is under way or
// the disk was full a moment ago.
func (f *nextFile) begin() {
	if f.making || f.retrying {
		return
	}
	f.making = true
	f.node.host.helper(&f.helper, func() {
		f.node.watchdog.files.begin()
		err := f.writer.Reserve()
		f.node.watchdog.files.end()
		f.jobs.put(appendJob{wake: wakeReserved, err: err})
	})
}

// made takes notice of what came of an attempt, and returns it.
func (f *nextFile) made(err error) error {
	f.making = false
	if errors.Is(err, wal.ErrNoSpace) {
		f.noSpace(err)
	}
	return err
}

// noSpace begins to wait for space, or goes on to.
func (f *nextFile) noSpace(err error) {
	if !f.node.space.full.Swap(true) {
		f.node.log.Warn("the log cannot get its next file: proposals are refused until it can; reads go on",
			zap.String("advice", vfs.Advice(err)), zap.Error(err))
	}
	f.retrying = true
	f.retry.Reset(spaceRetry)
}

func (f *nextFile) close() {
	f.retry.Stop()
	f.helper.Wait()
}
