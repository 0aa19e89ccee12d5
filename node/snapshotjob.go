package node

import (
	"errors"
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
)

// snapshotJob is one snapshot on its way: this member takes it for itself, or sends it to
// another. Its steps are the methods below, in this order. One goroutine at a time owns a job,
// and each step hands it on:
//
//	on the     loop    applier    loop      helper    appender   loop
//	taken      want -> capture ------------> write --> mark ----> release
//	sent       want -----------------------> stream ------------> release
//
// Where the state machine keeps its own data, what is taken is a mark without data, at the
// index that the state machine has on its own disk, and there is no file to be sent:
//
//	taken      want -> capture -> locate --> write --> mark ----> release
//	sent       want -> capture ------------> stream ------------> release
type snapshotJob struct {
	loop *loop
	// to is the member that the snapshot is sent to, and term that of the leader that sends
	// it; 0: it is taken.
	to, term uint64
	// handed is the end of what the applier was handed before capture.
	handed core.Place
	// durable is what the state machine has on its own disk, if it is asked for that.
	durable uint64
	// header is that of the snapshot. Of one to be sent it is what raft offered, at first.
	header raftstore.SnapshotHeader
	// state is what was captured; nil: nothing was.
	state Snapshot
	// bytes is the size of the file, and err why it was not taken or did not arrive.
	bytes int64
	err   error
}

// want begins the job. It runs on the loop.
func (j *snapshotJob) want() {
	l := j.loop
	switch {
	case j.to != 0 && !l.durable:
		l.host.helper(&l.helpers, j.stream)
		return
	case j.to == 0 && l.durable && l.limited != nil && l.starving.starved():
		// The applier may wait for the room that this makes.
		l.host.helper(&l.helpers, func() {
			j.durable, _ = l.cfg.StateMachine.Durable()
			l.soon(j.locate)
		})
		return
	case j.to != 0 || !l.durable:
		j.handed = l.core.HandedPlace() // the log can be read here
	}
	// What the state machine has then is at least what raft offered, since it was handed all
	// of that before this.
	l.applies.put(applyJob{snapshot: j})
}

// capture asks the state machine for its state, or for how much of it is on its own disk. It
// runs on the applier.
func (j *snapshotJob) capture(a *applier) {
	l := j.loop
	if j.to == 0 && l.durable {
		j.durable = a.callDurable()
		l.soon(j.locate)
		return
	}
	var err error
	if a.label.Index < a.durable {
		// It has effects of entries that were not handed to it again yet, and so its state
		// has no label.
		err = fmt.Errorf("it is at index %d, and the log has been read back up to %d", a.durable, a.label.Index)
	} else {
		j.state, err = a.callSnapshot()
	}
	if err != nil {
		j.end(fmt.Errorf("node: the state machine failed to capture a snapshot: %w", err))
		return
	}
	label := a.label
	if label.Index == j.handed.Index {
		label.Sums = j.handed.Sums
	}
	j.header = headerOf(label)
	next := j.write
	if j.to != 0 {
		next = j.stream
	}
	l.host.helper(&l.helpers, next)
}

// locate finds out what the state was at the index that the state machine has on its own disk,
// which becomes the place where the log may begin. It runs on the loop.
func (j *snapshotJob) locate() {
	l := j.loop
	// After a restart the state machine may be ahead of what was handed to it, and what
	// membership is in force there is not known yet.
	index := min(j.durable, l.core.Status().Applied)
	if newest := l.view.Newest(); index <= newest.Index { // nothing new is durable
		l.starving.shed()
		j.header.Metadata = newest
		j.release()
		return
	}
	label, err := l.core.LabelAt(index)
	if err != nil {
		j.err = err
		j.release()
		return
	}
	label.Sums = l.core.PlaceAt(index).Sums
	j.header = headerOf(label)
	l.host.helper(&l.helpers, j.write)
}

// write writes the file. It runs on a helper.
func (j *snapshotJob) write() {
	bytes, err := j.loop.writeSnapshot(j.header, j.state)
	if err != nil {
		j.end(err)
		return
	}
	j.bytes = bytes
	// The file is in place, so the mark may name it: an orphan file is harmless, a mark
	// without its file is not.
	j.loop.appends.put(appendJob{mark: j.mark})
}

// mark makes the snapshot the place where the log may begin. It runs on the appender.
func (j *snapshotJob) mark(w *raftstore.Writer) error {
	err := w.Mark(j.header)
	j.end(err)
	return err
}

// stream sends the snapshot. It runs on a helper.
func (j *snapshotJob) stream() { j.end(j.send()) }

// send sends what was captured, or else the file that there is.
func (j *snapshotJob) send() error {
	l := j.loop
	var body io.WriterTo = j
	var source io.Closer = j.state
	if j.state == nil {
		r, err := l.store.OpenSnapshot(j.header.Metadata.Term, j.header.Metadata.Index)
		if err != nil {
			return err
		}
		j.header, body, source = r.Header, r.Raw(), r
	}
	l.log.Info("streaming a snapshot", zap.String("to", hex(j.to)), zap.Uint64("index", j.header.Metadata.Index))
	err := l.callbacks.write(func() error {
		return l.transport.SendSnapshot(l.ctx, j.to, &octopiipb.SnapshotAnnouncement{Metadata: j.header.Metadata, Term: j.term}, body)
	})
	return errors.Join(err, l.callbacks.write(source.Close))
}

// WriteTo writes what was captured as its file would be.
func (j *snapshotJob) WriteTo(w io.Writer) (int64, error) {
	return raftstore.WriteSnapshot(w, j.header, j.state)
}

// end lets the loop release the job. It runs on whatever owns it.
func (j *snapshotJob) end(err error) {
	j.err = err
	j.loop.soon(j.release)
}

// release frees the log before the mark, or tells raft how the stream went, and lets the next
// snapshot begin. It runs on the loop.
func (j *snapshotJob) release() {
	l := j.loop
	if j.to != 0 {
		l.streams.settle(j.to, j.err)
		return
	}
	info := SnapshotInfo{Index: j.header.Metadata.Index, Term: j.header.Metadata.Term, Bytes: j.bytes}
	if j.err == nil && info.Index > l.view.SnapshotIndex() {
		l.view.Marked(j.header, l.cfg.TrailingEntries, l.cfg.SnapshotLogBytes/2)
		l.input.Compacted = core.Place{Index: info.Index, Term: info.Term, Sums: core.SumsFrom(j.header.Sums)}
		l.events.snapshotTaken(info)
	}
	l.snapshots.finish(info, j.err)
}
