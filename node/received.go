package node

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/stepped"
	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node/internal/core"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// The way of a snapshot that a leader sends is told here from top to bottom:
//
//  1. HandleSnapshot puts its file in place, on a goroutine of the transport, and raft gets a
//     MsgSnap.
//  2. If raft takes it, install lets the log begin behind it, on the appender, and installed
//     makes that visible, on the loop. A member without a log has no raft yet: bringToLife
//     does both.
//  3. restore gives it to the state machine, on the applier.

// incoming is held while a snapshot is received, as that is one at a time.
type incoming struct {
	sync.Mutex
	// noRoom: the last one that came had no room. noRoomAt is 1 more than what was committed
	// here then. When more is committed, this member is not behind for want of room.
	noRoom   atomic.Bool
	noRoomAt atomic.Uint64
}

// HandleSnapshot implements transport.Handler.
func (h handler) HandleSnapshot(from uint64, header []byte, body io.Reader) error {
	err := h.receive(from, header, body)
	if err != nil {
		h.inbox.call(func(l *loop) { l.behind.refused(from, err.Error()) })
	}
	return err
}

// receive decides by its announcement whether a snapshot is wanted, puts its file in place, and
// lets raft decide what to do with it.
func (h handler) receive(from uint64, header []byte, body io.Reader) error {
	var s octopiipb.SnapshotAnnouncement
	if err := s.Unmarshal(header); err != nil {
		return fmt.Errorf("announcement of a snapshot cannot be read: %w", err)
	}
	meta := s.Metadata
	m := raftpb.Message{Type: raftpb.MsgSnap, From: from, To: h.id, Term: s.Term,
		Snapshot: &raftpb.Snapshot{Metadata: meta}}
	if !core.IsSnapshotFor(&m, h.id) {
		return fmt.Errorf("the snapshot at %d is not one for member %x", meta.Index, h.id)
	}
	if err := h.contradicts(from, s.Term, meta, []octopiipb.TermStart{{First: meta.Index, Term: meta.Term}}); err != nil {
		return err
	}
	if h.space.stuck.Load() {
		return fmt.Errorf("%w; try again", ErrNoSpace)
	}
	if !h.incoming.TryLock() {
		return errors.New("another snapshot is being received; try again")
	}
	defer h.incoming.Unlock()
	// One that is not news is neither read nor stored: raft answers with what it has.
	if meta.Index > h.committed.Load() {
		if err := h.putInPlace(from, &s, body); err != nil {
			return err
		}
	}
	if !h.inbox.peer(1, 0, func(in *core.Input) { in.Messages = append(in.Messages, octopiipb.PeerMessage{Message: m}) }) {
		return errors.New("too much is queued; try again")
	}
	return nil
}

// putInPlace writes the file of a snapshot that is one for this member.
func (h handler) putInPlace(from uint64, s *octopiipb.SnapshotAnnouncement, body io.Reader) error {
	stream, err := raftstore.ReadSnapshotStream(body)
	if err != nil {
		return fmt.Errorf("receive the snapshot at %d: %w", s.Metadata.Index, err)
	}
	if err := h.admitSnapshot(from, s, &stream.Header); err != nil {
		return err
	}
	w, err := h.createFile(h.store.ReceiveSnapshot, stream.Header)
	if vfs.Full(err) {
		h.hasNoRoomToReceive()
	}
	if err != nil {
		return err
	}
	if _, err := stream.WriteTo(w); err != nil {
		w.Abort()
		if vfs.Full(err) {
			h.hasNoRoomToReceive()
			err = fmt.Errorf("%w; %s", err, AdviceNoRoomForSnapshot)
		}
		return fmt.Errorf("receive the snapshot at %d: %w", s.Metadata.Index, err)
	}
	if _, err = w.Commit(); err == nil {
		h.incoming.noRoom.Store(false)
	}
	return err
}

// admitSnapshot says why a snapshot is not taken, by its header.
func (h handler) admitSnapshot(from uint64, s *octopiipb.SnapshotAnnouncement, header *raftstore.SnapshotHeader) error {
	meta, ms := header.Metadata, &header.Membership
	if meta.Index != s.Metadata.Index || meta.Term != s.Metadata.Term || meta.ConfState.Equivalent(s.Metadata.ConfState) != nil {
		return fmt.Errorf("the snapshot at %d of term %d was announced as one at %d of term %d, or of another configuration", meta.Index, meta.Term, s.Metadata.Index, s.Metadata.Term)
	}
	if err := core.CheckMembership(ms, meta.ConfState); err != nil {
		return fmt.Errorf("the snapshot at %d: %w", meta.Index, err)
	}
	if err := h.readsLevel(ms.Settings); err != nil {
		return fmt.Errorf("the snapshot at %d: %w", meta.Index, err)
	}
	if mine := h.cluster.Load(); ms.Cluster == 0 || mine != 0 && mine != ms.Cluster {
		return fmt.Errorf("the snapshot at %d belongs to cluster %x, and this is cluster %x", meta.Index, PublicClusterID(ms.Cluster), PublicClusterID(mine))
	}
	return h.contradicts(from, s.Term, meta, header.Terms)
}

func (h handler) hasNoRoomToReceive() {
	h.incoming.noRoomAt.Store(h.committed.Load() + 1)
	h.incoming.noRoom.Store(true)
}

// headerInPlace reads the header of a snapshot that is in place. With wal.ErrNoSpace it may be
// tried again.
func (g *group) headerInPlace(meta raftpb.SnapshotMetadata) (raftstore.SnapshotHeader, error) {
	r, err := g.store.OpenSnapshot(meta.Term, meta.Index)
	if vfs.Refused(err) { // nothing was done yet: it waits as what has no space does
		err = fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
	}
	if err != nil {
		return raftstore.SnapshotHeader{}, fmt.Errorf("node: install the snapshot at %d: %w", meta.Index, err)
	}
	return r.Header, r.Close()
}

// install lets the log begin behind a snapshot, and tells the loop.
func (a *appender) install(to *core.Append) error {
	header, err := a.node.headerInPlace(to.Snapshot.Metadata)
	if err != nil {
		return err
	}
	if err := a.writer.Install(header, to.HardState, to.Entries); err != nil {
		return err
	}
	to.Installed = labelOf(header)
	a.tell(to)
	return nil
}

// installed makes a snapshot at which the log begins visible to raft, before raft hears of it.
func (l *loop) installed(label core.Label) {
	header := headerOf(label)
	l.view.Installed(header)
	l.applies.put(applyJob{restore: &header})
	l.events.snapshotInstalled(SnapshotInfo{Index: label.Index, Term: label.Term})
}

// bringToLife founds this member's log on the snapshot that a leader sent. The
// file is in place already; from here on this is a follower like any other.
func (l *loop) bringToLife(m *raftpb.Message) error {
	header, err := l.headerInPlace(m.Snapshot.Metadata)
	if err != nil {
		return err
	}
	if err := l.store.Found(header, raftpb.HardState{Term: m.Term, Commit: header.Metadata.Index}); err != nil {
		return err
	}
	l.applies.put(applyJob{restore: &header})
	l.log.Info("brought to life by a snapshot", zap.String("leader", hex(m.From)), zap.Uint64("index", header.Metadata.Index),
		zap.String("cluster", clusterHex(header.Membership.Cluster)))
	return l.startCore(header, 0, false)
}

// restore gives a snapshot file to the state machine. While the system has no space,
// descriptors or memory for it, it returns errRestoreLater, and the file stays.
func (a *applier) restore(h raftstore.SnapshotHeader) error {
	meta := h.Metadata
	if err := a.callRestore(h); err != nil {
		if vfs.Exhausted(err) {
			a.restoreLater(h, err)
			return errRestoreLater
		}
		return err
	}
	a.again.pause = 0
	if err := a.node.store.Restored(meta.Index); err != nil {
		return err
	}
	a.durable = max(a.durable, meta.Index)
	a.node.applied.Store(meta.Index)
	a.label = labelOf(h)
	a.node.inbox.add(func(in *core.Input) { in.Applied = append(in.Applied, &core.Apply{Label: a.label}) })
	return nil
}

// restorePauseMin and restorePauseMax bound the wait before a snapshot that could not be
// restored for want of space, descriptors or memory is tried again.
const (
	restorePauseMin = 250 * time.Millisecond
	restorePauseMax = 15 * time.Second
)

// errRestoreLater: a snapshot cannot be restored yet, and nothing can be applied before it.
var errRestoreLater = errors.New("node: the snapshot is restored later")

// retry is when a snapshot is tried again that could not be restored.
type retry struct {
	// timer fires when it is due. pause is the last wait; 0: there was none.
	timer stepped.Timer
	due   atomic.Bool
	pause time.Duration
}

// restoreLater tries a snapshot again after a pause.
func (a *applier) restoreLater(h raftstore.SnapshotHeader, err error) {
	pause := min(max(2*a.again.pause, restorePauseMin), restorePauseMax)
	a.node.log.Warn("a snapshot cannot be restored yet; it is tried again",
		zap.Uint64("index", h.Metadata.Index), zap.Duration("after", pause), zap.String("advice", vfs.Advice(err)), zap.Error(err))
	a.again.pause = pause
	a.again.timer.Reset(pause)
}

// restoreFrom gives a snapshot file to the state machine.
func restoreFrom(g *group, sm StateMachine, h raftstore.SnapshotHeader) error {
	index := h.Metadata.Index
	r, err := g.store.OpenSnapshot(h.Metadata.Term, index)
	if err != nil {
		return err
	}
	restored := sm.Restore(index, &restoring{r, g.id, h})
	if err := errors.Join(restored, r.Close()); err != nil {
		return fmt.Errorf("node: the state machine failed to restore the snapshot at %d: %w", index, err)
	}
	if at, ok := sm.Durable(); !ok || at < index {
		return nil // the file may be all that there is of it
	}
	if err := g.store.Replace(h); err != nil {
		// It only takes space until the next mark.
		g.log.Warn("the file of a snapshot that was restored stays", zap.Uint64("index", index), zap.Error(err))
	}
	return nil
}

// restoring is a snapshot file as Restore reads it.
type restoring struct {
	*raftstore.SnapshotReader
	id     uint64
	header raftstore.SnapshotHeader
}

// Bytes implements Releaser.
func (r *restoring) Bytes() int64 { return r.Size }

// Release implements Releaser. The file of a voter stays until its state machine has
// the snapshot: this member acknowledged it, and may be one of a bare majority that has it.
func (r *restoring) Release(dir string) error {
	if m := recordOf(&r.header.Membership, r.id); m == nil || m.Kind == octopiipb.Voter {
		return errors.New("node: the snapshot file of a voter stays until it is restored")
	}
	same, err := vfs.SameVolume(dir, r.Path())
	if err != nil {
		return fmt.Errorf("node: give the space of a snapshot back: %w", err)
	}
	if !same {
		return fmt.Errorf("node: the snapshot is on another volume than %s, and giving its space back would not help", dir)
	}
	return r.SnapshotReader.Release()
}
