// Package raftstore keeps what a member must not lose: its identity, its log
// and its snapshots. It is raft's Storage, in front of a write-ahead log.
//
// A Store has two sides. What raft reads (the terms of the log, and its newest
// entries in memory) belongs to the goroutine that drives raft; what is written
// belongs to the one that appends. An append becomes visible to the first only
// when the second has made it durable and Appended is called. Older entries are
// read back from the log when raft asks for them. Snapshot files may be written
// and read from any goroutine.
package raftstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// Options say where a Store is and what it is made of. FS, Dir and Backend are
// required.
type Options struct {
	FS      vfs.FS
	Dir     string
	Backend wal.Backend
	// External: the state machine keeps its own data, so that snapshots of this
	// member are marks without data.
	External bool
	// CacheBytes of the newest entries, about, are held in memory. 0: 32 MiB.
	CacheBytes uint64
}

// Store is one member's durable state.
type Store struct {
	fs   vfs.FS
	dir  string
	opts Options
	lock io.Closer

	identity    Identity
	hasIdentity bool
	origin      octopiipb.Origin

	tail tail
	// seq is the number of the log that tail is of, and readErr why it could not be
	// read; they belong to tail's side.
	seq     uint64
	readErr error
	reader  reader
	writer  writer
}

// Open takes the directory's lock and recovers what is in it. A directory that
// is empty, or holds nothing but an identity, gives a Store that is not
// Initialized.
func Open(opts Options) (*Store, error) {
	if opts.CacheBytes == 0 {
		opts.CacheBytes = cacheBytes
	}
	s := &Store{fs: opts.FS, dir: opts.Dir, opts: opts}
	s.tail.limit = opts.CacheBytes
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	lock, err := s.fs.Lock(filepath.Join(s.dir, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("raftstore: %s: %w: stop the process that uses it, or name another directory", s.dir, wal.ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("raftstore: lock %s: %w", s.dir, err)
	}
	s.lock = lock
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) makeDirs() error {
	for _, d := range []string{s.snapDir(), s.walDir()} {
		if err := s.fs.MkdirAll(d); err != nil {
			return fmt.Errorf("raftstore: make %s: %w", d, err)
		}
	}
	for _, d := range []string{s.dir, filepath.Dir(s.dir)} {
		if err := s.fs.SyncDir(d); err != nil {
			return fmt.Errorf("raftstore: sync %s: %w", d, err)
		}
	}
	return nil
}

func (s *Store) snapDir() string { return filepath.Join(s.dir, "snap") }
func (s *Store) walDir() string  { return filepath.Join(s.dir, "wal") }

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
	if err != nil || len(seqs) == 0 {
		return err
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

// noteLog completes what Found began, or what an older program did not note: that this
// directory has a log. Where the system has no room for that, it is noted at a later start.
func (s *Store) noteLog() error {
	id, noted := s.withLog(s.Start())
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
func (s *Store) withLog(h octopiipb.SnapshotHeader) (id Identity, noted bool) {
	id = s.identity
	id.Cluster = h.Membership.Cluster
	return id, id == s.identity
}

// logs returns the numbers of the logs in order and removes unfinished ones. A
// log takes the place of the one before it when a snapshot was installed.
func (s *Store) logs() ([]uint64, error) {
	names, err := s.fs.ReadDir(s.walDir())
	if err != nil {
		return nil, fmt.Errorf("raftstore: list logs: %w", err)
	}
	var seqs []uint64
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := s.fs.RemoveAll(filepath.Join(s.walDir(), name)); err != nil {
				return nil, fmt.Errorf("raftstore: remove an unfinished log: %w", err)
			}
			continue
		}
		if seq, err := strconv.ParseUint(name, 16, 64); err == nil && len(name) == 16 {
			seqs = append(seqs, seq)
		}
	}
	return seqs, nil
}

func (s *Store) logPath(seq uint64) string {
	return filepath.Join(s.walDir(), fmt.Sprintf("%016x", seq))
}

// openLog opens a log at its newest mark, whose file must be whole.
func (s *Store) openLog(seq uint64) error {
	path := s.logPath(seq)
	marks, err := s.opts.Backend.Marks(path)
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
	log, state, err := s.opts.Backend.Open(path, mark)
	if err != nil {
		return fmt.Errorf("raftstore: open the log %s: %w", path, advise(err))
	}
	s.writer = writer{log: log, seq: seq, hardState: state.HardState, mark: mark.Index}
	_ = s.reader.replace(log, seq, mark.Index) // there was none
	return s.load(header, state)
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

// load lets raft see the log that was just opened.
func (s *Store) load(h octopiipb.SnapshotHeader, state wal.State) error {
	s.seq = s.writer.seq
	return s.tail.load(h, state, s.opts.External)
}

func (s *Store) snapPath(term, index uint64) string {
	return filepath.Join(s.snapDir(), snapshotName{Term: term, Index: index}.String())
}

// Close makes everything durable and frees the directory.
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
// is written.
func (s *Store) SetIdentity(id Identity) error {
	if s.hasIdentity {
		panic(fmt.Sprintf("raftstore: identity of member %x set again, as %x", s.identity.Node, id.Node))
	}
	if err := writeIdentity(s.fs, s.dir, id); err != nil {
		return err
	}
	s.identity, s.hasIdentity = id, true
	return nil
}

// Initialized says whether this member is part of a cluster: it has a log.
func (s *Store) Initialized() bool { return s.writer.log != nil }

// Start returns the header of the snapshot or mark at which the log begins.
func (s *Store) Start() octopiipb.SnapshotHeader { return s.tail.start }

// Forgot says whether this directory had a log and has it no more: what this member
// acknowledged is gone.
func (s *Store) Forgot() bool { return s.hasIdentity && s.identity.Cluster != 0 && !s.Initialized() }

// Found makes the first log of a member: a founder's, or a newcomer's. The
// snapshot at which it begins must be in place, and hs must hold the term in
// which it came.
//
// The log goes first, and then the identity says that there is one: after a crash between
// the two there is a log, of which nothing was acknowledged. With wal.ErrNoSpace there is
// none, and the same may come again.
func (s *Store) Found(h octopiipb.SnapshotHeader, hs raftpb.HardState) error {
	id, _ := s.withLog(h)
	if err := prepareIdentity(s.fs, s.dir, id); vfs.Refused(err) {
		return fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
	} else if err != nil {
		return err
	}
	if err := s.Install(h, hs, nil); err != nil {
		return err
	}
	if err := s.load(h, wal.State{HardState: s.writer.hardState, Last: h.Metadata.Index}); err != nil {
		return err
	}
	if err := replaceIdentity(s.fs, s.dir); err != nil {
		return err
	}
	s.identity = id
	return nil
}

// CreateSnapshot begins a snapshot file. It may be called from any goroutine.
func (s *Store) CreateSnapshot(h octopiipb.SnapshotHeader) (*SnapshotWriter, error) {
	return createSnapshot(s.fs, s.snapDir(), h)
}

// OpenSnapshot opens a snapshot file that is in place. It may be called from
// any goroutine.
func (s *Store) OpenSnapshot(term, index uint64) (*SnapshotReader, error) {
	return openSnapshot(s.fs, s.snapPath(term, index))
}

// The methods of raft.Storage. The goroutine that drives raft calls them.

// InitialState implements raft.Storage.
func (s *Store) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	return s.tail.hardState, s.tail.start.Metadata.ConfState, nil
}

// Committed says that everything up to an index that is in the log is known to be
// committed, as a state machine that keeps its own data has applied it. The log need
// not say so: a hard state that changes only in commit is not synced. It is called
// before raft starts.
func (s *Store) Committed(index uint64) {
	t := &s.tail
	t.hardState.Commit = max(t.hardState.Commit, index)
}

// Entries implements raft.Storage. It may return fewer entries than fit, where
// some are in memory and some only on disk, and none at all once ReadErr is set.
func (s *Store) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	entries, cold, err := s.tail.entries(lo, hi, maxSize)
	if err != nil || cold == 0 {
		return entries, err
	}
	return s.readCold(lo, cold, maxSize)
}

// ReadErr is why entries could not be read back from disk; nil while all is
// well. It must be looked at after every step of raft, before anything is carried
// out: with an error the member stops, and nothing that raft decided in that step
// counts, for it was told that there is nothing where there is something. In one
// place raft panics at that, in a campaign with entries that are committed and not
// applied; whoever calls raft may take any panic for this error when it is set.
func (s *Store) ReadErr() error { return s.readErr }

// Term implements raft.Storage.
func (s *Store) Term(i uint64) (uint64, error) { return s.tail.term(i) }

// LastIndex implements raft.Storage.
func (s *Store) LastIndex() (uint64, error) { return s.tail.last(), nil }

// FirstIndex implements raft.Storage.
func (s *Store) FirstIndex() (uint64, error) { return s.tail.first(), nil }

// Snapshot implements raft.Storage. It answers that none is available while
// the newest one has another configuration than the one in force: raft's
// receiver ignores a snapshot that does not name it, and so the leader would
// wait for ever. SnapshotWanted then says that a new one is needed.
func (s *Store) Snapshot() (raftpb.Snapshot, error) { return s.tail.snapshot() }

// Handed tells how far the state machine was handed the log, and which
// configuration is in force there.
func (s *Store) Handed(index, term uint64, cs raftpb.ConfState) {
	s.tail.handed = raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: cs}
}

// SnapshotWanted says, once, that raft asked for a snapshot that there is not.
func (s *Store) SnapshotWanted() bool {
	wanted := s.tail.wanted
	s.tail.wanted = false
	return wanted
}

// LogBytes is about how much the entries take that raft sees, in memory or on
// disk. Those that were there when the log was opened count once raft has read
// them, which it does to apply them.
func (s *Store) LogBytes() uint64 { return s.tail.bytes }

// Appended makes a durable batch visible to raft.
func (s *Store) Appended(entries []raftpb.Entry) { s.tail.append(entries) }

// Installed makes an installed snapshot the beginning of what raft sees. It is
// called once for every Install that succeeded, in their order.
func (s *Store) Installed(h octopiipb.SnapshotHeader) {
	s.seq++
	s.tail.reset(h)
}

// Marked makes a durable mark the snapshot that raft offers to others. Behind
// it, at most so many entries and bytes stay in the log for slow followers, and
// none that Mark released and memory does not hold.
func (s *Store) Marked(h octopiipb.SnapshotHeader, trailing, trailingBytes uint64) {
	s.tail.marked(h.Metadata, s.reader.releasedIndex(), trailing, trailingBytes)
}

// Newest describes the newest durable snapshot or mark.
func (s *Store) Newest() raftpb.SnapshotMetadata { return s.tail.snap }

// SnapshotIndex is that of the newest snapshot or mark.
func (s *Store) SnapshotIndex() uint64 { return s.tail.snap.Index }

var _ raft.Storage = (*Store)(nil)
