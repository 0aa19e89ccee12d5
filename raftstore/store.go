// Package raftstore keeps what a member must not lose: its identity, its log
// and its snapshots. It is raft's Storage, in front of a write-ahead log.
//
// Open returns it in three parts, so that the compiler knows which goroutine may do what.
// A View is what raft reads (the terms of the log, and its newest entries in memory), and
// belongs to the goroutine that drives raft. A Writer appends, and belongs to another one.
// An append becomes visible in the View only when the Writer has made it durable and
// View.Appended is called; older entries are read back from the log when raft asks for
// them. The Store is the rest: who the member is, and snapshot files, which any goroutine
// may write and read.
package raftstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// Options say where a Store is and what it is made of. Dir is required.
type Options struct {
	Dir string
	// FS is where Dir is. nil: the machine's file system. Others are for tests of Octopii.
	FS vfs.FS
	// Backend is the format of the log. nil: the native one, on FS.
	Backend wal.Backend
	// External: the state machine keeps its own data, so that snapshots of this
	// member are marks without data.
	External bool
	// CacheBytes of the newest entries, about, are held in memory. 0: 32 MiB.
	CacheBytes uint64
}

// Store is one member's durable state, but for its log.
type Store struct {
	*files
	lock io.Closer

	identity    Identity
	hasIdentity bool
	origin      octopiipb.Origin

	// view and writer belong to others. Only Open, Found, Forgot and Close use them, when
	// nobody else does.
	view   *View
	writer *Writer
}

// Open takes the directory's lock and recovers what is in it. A directory that
// is empty, or holds nothing but an identity, gives a Store with a View that is not
// Initialized, until Store.Found or Writer.Install has made a log.
func Open(opts Options) (*Store, *View, *Writer, error) {
	if opts.Dir == "" {
		return nil, nil, nil, errors.New("raftstore: Options.Dir is empty; name a directory")
	}
	if opts.FS == nil {
		opts.FS = vfs.OS
	}
	if opts.Backend == nil {
		opts.Backend = wal.New(wal.Options{FS: opts.FS})
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = cacheBytes
	}
	f := &files{fs: opts.FS, dir: opts.Dir, backend: opts.Backend, external: opts.External}
	s := &Store{files: f, view: &View{files: f}, writer: &Writer{files: f}}
	s.view.tail.reset(SnapshotHeader{}) // raft may ask before there is a log, and is told that it is empty
	s.view.tail.limit = opts.CacheBytes
	if err := s.open(); err != nil {
		return nil, nil, nil, err
	}
	return s, s.view, s.writer, nil
}

func (s *Store) open() error {
	if err := s.makeDirs(); err != nil {
		return err
	}
	lock, err := s.fs.Lock(filepath.Join(s.dir, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("raftstore: %s: %w: stop the process that uses it, or name another directory", s.dir, wal.ErrLocked)
	}
	if err != nil {
		return fmt.Errorf("raftstore: lock %s: %w", s.dir, err)
	}
	s.lock = lock
	if err := s.recover(); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// recover reads the identity and opens the newest log at its newest mark.
func (s *Store) recover() error {
	id, err := readIdentity(s.fs, s.dir)
	if err == nil {
		s.identity, s.hasIdentity = id, true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.readOrigin(); err != nil {
		return err
	}
	if err := removeTemporary(s.fs, s.snapDir()); err != nil {
		return err
	}
	seqs, err := s.logs()
	if err != nil {
		return err
	}
	if len(seqs) == 0 {
		return s.removeOrphans()
	}
	if !s.hasIdentity {
		return fmt.Errorf("raftstore: %s has a log but no identity file: %w; restore the file %s from a backup of this member; while a majority of the other members answers it may join again with an empty directory instead, else keep every file",
			s.dir, wal.ErrCorrupt, filepath.Join(s.dir, identityFile))
	}
	seq := seqs[len(seqs)-1]
	if err := s.openLog(seq); err != nil {
		return err
	}
	if err := s.noteLog(); err != nil {
		return err
	}
	return s.removeLogs(seq)
}

// removeOrphans removes snapshots that a newcomer received and made no log of: there may be
// no room for the next one beside them. A directory that had a log keeps everything.
func (s *Store) removeOrphans() error {
	if !s.hasIdentity || s.identity.Cluster != 0 {
		return nil
	}
	return s.removeSnapshots(math.MaxUint64)
}

// noteLog completes what Found began, or what an older program did not note: that this
// directory has a log. Where the system has no room for that, it is noted at a later start.
func (s *Store) noteLog() error {
	id, noted := s.withLog(s.view.Start())
	if noted {
		return nil
	}
	err := prepareIdentity(s.fs, s.dir, id)
	if vfs.Refused(err) {
		return nil
	}
	if err == nil {
		err = replaceIdentity(s.fs, s.dir)
	}
	if err != nil {
		return err
	}
	s.identity = id
	return nil
}

// withLog is the identity of a directory that has the log of a cluster, and says whether it
// is what the file has.
func (s *Store) withLog(h SnapshotHeader) (id Identity, noted bool) {
	id = s.identity
	id.Cluster = h.Membership.Cluster
	return id, id == s.identity
}

// openLog opens a log at its newest mark, whose file must be whole.
func (s *Store) openLog(seq uint64) error {
	path := s.logPath(seq)
	marks, err := s.backend.Marks(path)
	if err != nil {
		return fmt.Errorf("raftstore: read the marks of the log %s: %w", path, advise(err))
	}
	if len(marks) == 0 {
		return fmt.Errorf("raftstore: %s has no mark: %w; rebuild this member from its peers", path, wal.ErrCorrupt)
	}
	mark := marks[len(marks)-1]
	file := s.snapPath(mark.Term, mark.Index)
	if err := verifySnapshot(s.fs, file); err != nil {
		return fmt.Errorf("raftstore: the log begins behind index %d, whose snapshot cannot be used: %w", mark.Index, s.snapshotError(mark, err))
	}
	r, err := openSnapshot(s.fs, file)
	if err != nil {
		return err
	}
	header := r.Header
	if err := r.Close(); err != nil {
		return err
	}
	log, state, err := s.backend.Open(path, mark)
	if err != nil {
		return fmt.Errorf("raftstore: open the log %s: %w", path, advise(err))
	}
	*s.writer = Writer{files: s.files, log: log, seq: seq, hardState: state.HardState, mark: mark.Index}
	_ = s.reader.replace(log, seq, mark.Index) // there was none
	return s.view.load(header, seq, state)
}

// snapshotError says what is wrong with the file of a mark. That it is missing is
// damage where the directory could be listed and lacks it: the mark was set when the
// file was durable.
func (s *Store) snapshotError(mark wal.Mark, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		names, listErr := listSnapshots(s.fs, s.snapDir())
		if listErr != nil {
			return fmt.Errorf("%w (%w)", err, listErr)
		}
		if !slices.Contains(names, snapshotName{Term: mark.Term, Index: mark.Index}) {
			err = fmt.Errorf("%w: %w", wal.ErrCorrupt, err)
		}
	}
	if vfs.MayPass(err) {
		return err
	}
	return fmt.Errorf("%w; rebuild this member from its peers", err)
}

// advise says what to do about an error of a log that does not say it itself.
func advise(err error) error {
	var told *wal.CorruptError
	switch {
	case vfs.MayPass(err), errors.As(err, &told), errors.Is(err, wal.ErrFormat), errors.Is(err, wal.ErrVersion):
		return err
	case errors.Is(err, wal.ErrNotFound): // its directory appears with all that it holds
		return fmt.Errorf("%w: its files are gone (%w); rebuild this member from its peers", wal.ErrCorrupt, err)
	case errors.Is(err, wal.ErrCorrupt):
		return fmt.Errorf("%w; rebuild this member from its peers", err)
	case errors.Is(err, wal.ErrLocked):
		return fmt.Errorf("%w: stop the process that uses it", err)
	}
	return err
}

// Close makes everything durable and frees the directory. Nobody may use the View or
// the Writer meanwhile; the Writer takes nothing afterwards.
func (s *Store) Close() error {
	var errs []error
	if s.writer.log != nil {
		errs = append(errs, s.reader.replace(nil, 0, 0))
		s.writer.log = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	return errors.Join(errs...)
}

// Identity returns who this directory belongs to; false if it is new.
func (s *Store) Identity() (Identity, bool) { return s.identity, s.hasIdentity }

// SetIdentity claims a new directory. It is called once, before anything else
// is written. The error is fs.ErrExist when the directory has an identity.
func (s *Store) SetIdentity(id Identity) error {
	if err := writeIdentity(s.fs, s.dir, id); err != nil {
		return err
	}
	s.identity, s.hasIdentity = id, true
	return nil
}

// Forgot says whether this directory had a log and has it no more: what this member
// acknowledged is gone.
func (s *Store) Forgot() bool {
	return s.hasIdentity && s.identity.Cluster != 0 && !s.view.Initialized()
}

// Found makes the first log of a member: a founder's, or a newcomer's. The
// directory must have an identity. The snapshot at which the log begins must be in
// place: SnapshotWriter.Commit returned. An Open that does not find it calls it damage.
// hs must hold the term in which the snapshot came; its commit index is raised to the
// index of that. The error is fs.ErrExist when there is a log.
//
// The log goes first, and then the identity says that there is one: after a crash between
// the two there is a log, of which nothing was acknowledged. With wal.ErrNoSpace there is
// none, and the same may come again.
//
// It uses the View and the Writer: nobody else may meanwhile.
func (s *Store) Found(h SnapshotHeader, hs raftpb.HardState) error {
	switch {
	case !s.hasIdentity:
		return fmt.Errorf("raftstore: %s has no identity: call SetIdentity before Found", s.dir)
	case s.writer.log != nil:
		return fmt.Errorf("raftstore: %s has a log: Found makes the first one, and Writer.Install takes its place: %w", s.dir, fs.ErrExist)
	}
	id, _ := s.withLog(h)
	if err := prepareIdentity(s.fs, s.dir, id); vfs.Refused(err) {
		return fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
	} else if err != nil {
		return err
	}
	if err := s.writer.Install(h, hs, nil); err != nil {
		return err
	}
	if err := s.view.load(h, s.writer.seq, wal.State{HardState: s.writer.hardState, Last: h.Metadata.Index}); err != nil {
		return err
	}
	if err := replaceIdentity(s.fs, s.dir); err != nil {
		return err
	}
	s.identity = id
	return nil
}

// CreateSnapshot begins a snapshot file. It may be called from any goroutine.
func (s *Store) CreateSnapshot(h SnapshotHeader) (*SnapshotWriter, error) {
	return createSnapshot(s.fs, s.snapDir(), h)
}

// ReceiveSnapshot begins the file of a snapshot that comes as it is to be in the file: see
// SnapshotStream.WriteTo. It may be called from any goroutine.
func (s *Store) ReceiveSnapshot(h SnapshotHeader) (*SnapshotWriter, error) {
	return receiveSnapshot(s.fs, s.snapDir(), h)
}

// OpenSnapshot opens a snapshot file that is in place. It may be called from
// any goroutine.
func (s *Store) OpenSnapshot(term, index uint64) (*SnapshotReader, error) {
	return openSnapshot(s.fs, s.snapPath(term, index))
}

// CheckSnapshot reads a snapshot file, or a mark's, and says what is wrong with it. It may be
// called from any goroutine.
func (s *Store) CheckSnapshot(meta raftpb.SnapshotMetadata) error {
	r, err := s.OpenSnapshot(meta.Term, meta.Index)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// Restored tells that the state machine has the snapshot at index: those before it
// can go. Install must not remove them, for another one may be installed before the
// state machine has read the first. It may be called from any goroutine.
func (s *Store) Restored(index uint64) error { return s.removeSnapshots(index) }

// Replace puts a mark in the place of a snapshot that a durable state machine has restored:
// its file is not needed any more. After a crash there is one of the two.
func (s *Store) Replace(h SnapshotHeader) error {
	h.External = true
	w, err := s.CreateSnapshot(h)
	if err != nil {
		return err
	}
	_, err = w.Commit()
	return err
}
