// Package etcdwal keeps the write-ahead log in the format of etcd's own, with
// etcd's own code: proven, and the oracle for the native log.
//
// What etcd's format cannot do, and what therefore this package cannot either:
//
//   - Its checksums do not cover the length and the type of a record. Where a
//     length reads as zero the log ends, so a zeroed sector that holds one takes
//     everything behind it away without an error, unless the commit index before
//     it proves that more was there.
//   - A length that is damaged in the newest file looks like a torn write, and
//     the repair cuts there. A copy stays behind with the suffix ".broken".
//   - A full disk is found out when a file is already needed: it is final.
//   - There is no way to find an entry in the files: everything behind the mark
//     at which a log was opened is read into memory and stays there until it is
//     released.
//   - Its metrics are in prometheus's global registry.
package etcdwal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/octopii/octopii/wal"
)

// Backend creates and opens logs. Its methods may be called from any goroutine,
// for one directory by one at a time.
type Backend struct {
	lg *zap.Logger
}

var _ wal.Backend = (*Backend)(nil)

// New returns a Backend that tells lg what it does; nil: nobody.
func New(lg *zap.Logger) *Backend {
	if lg == nil {
		lg = zap.NewNop()
	}
	// etcd's log ends the process where it does not know how to go on. A panic
	// can be caught: see guard.
	return &Backend{lg: lg.WithOptions(zap.WithFatalHook(zapcore.WriteThenPanic))}
}

// Format implements wal.Format.
func (b *Backend) Format() string { return "etcd" }

// Create makes a new log in dir that begins behind m and holds hs, whose commit
// must cover m: a mark that it does not cover counts for nothing when the log is
// opened. It returns fs.ErrExist when there is a dir, and wal.ErrNoSpace when the
// disk is full; there is no dir then. After a crash there is no dir, or the whole
// of it; rests of an earlier attempt do not matter.
func (b *Backend) Create(dir string, m wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	l, err := b.create(filepath.Clean(dir), m, hs)
	if err != nil {
		return nil, fmt.Errorf("etcdwal: create %s: %w", dir, err)
	}
	return l, nil
}

func (b *Backend) create(dir string, m wal.Mark, hs raftpb.HardState) (*Log, error) {
	if hs.Commit < m.Index {
		return nil, fmt.Errorf("commit index %d does not cover the mark at %d", hs.Commit, m.Index)
	}
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%w: open it, or remove it to start over", fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tmp := dir + ".tmp"
	if err := removeRests(tmp); err != nil {
		return nil, err
	}
	if err := guard(func() error { return b.build(tmp, m, hs) }); err != nil {
		// Best effort: the next Create does it again.
		_ = removeRests(tmp)
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %w", wal.ErrNoSpace, err)
		}
		return nil, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	l, _, err := b.open(dir, m)
	return l, err
}

// removeRests removes what a crash left of an earlier build in tmp. etcd builds
// too, one suffix further.
func removeRests(tmp string) error {
	return errors.Join(os.RemoveAll(tmp), os.RemoveAll(tmp+".tmp"))
}

// build makes the whole log durable under a name that nobody opens.
func (b *Backend) build(tmp string, m wal.Mark, hs raftpb.HardState) error {
	w, err := etcd.Create(b.lg, tmp, nil)
	if err != nil {
		return err
	}
	if err = w.SaveSnapshot(snapshotOf(m)); err == nil {
		err = w.Save(hs, nil)
	}
	if err = errors.Join(err, closeWAL(w)); err != nil {
		return err
	}
	// etcd syncs the file and the directory's own name, and not the name of the
	// file in the directory.
	return syncDir(tmp)
}

// Open recovers the log at m, which must be one of Marks. It cuts off a torn
// tail and nothing else: before it returns wal.ErrCorrupt it has changed nothing,
// unless a tail was torn as well. Other errors: wal.ErrNotFound, wal.ErrLocked,
// wal.ErrFormat, and those of the operating system.
func (b *Backend) Open(dir string, m wal.Mark) (wal.Log, wal.State, error) {
	l, state, err := b.open(filepath.Clean(dir), m)
	if err != nil {
		return nil, wal.State{}, fmt.Errorf("etcdwal: open %s at mark %d: %w", dir, m.Index, err)
	}
	return l, state, nil
}

func (b *Backend) open(dir string, m wal.Mark) (*Log, wal.State, error) {
	if _, err := listSegments(dir); err != nil {
		return nil, wal.State{}, err
	}
	// First the locks, so that nobody writes what is going to be read.
	w, err := b.lock(dir, m)
	if err != nil {
		return nil, wal.State{}, err
	}
	found, err := scan(dir, m)
	if err == nil && found.torn {
		w, err = b.repair(w, dir, m)
	}
	var state wal.State
	var entries []raftpb.Entry
	if err == nil {
		state, entries, err = readAll(w, found)
	}
	l := &Log{w: w, dir: dir, marks: []wal.Mark{found.mark}, state: state.HardState, last: state.Last}
	l.memory.entries, l.memory.base = entries, m.Index
	if err == nil && len(entries) == 0 {
		err = l.rememberMark()
	}
	if err != nil {
		if w != nil {
			abandon(w)
		}
		return nil, wal.State{}, err
	}
	return l, state, nil
}

// lock opens the files that a log at m needs, and with that locks them. It
// reads nothing yet.
func (b *Backend) lock(dir string, m wal.Mark) (*etcd.WAL, error) {
	var w *etcd.WAL
	err := guard(func() (err error) {
		w, err = etcd.Open(b.lg, dir, walpb.Snapshot{Index: m.Index, Term: m.Term})
		return err
	})
	return w, classify(err)
}

// repair cuts off the torn tail that scan found. The locks must go before,
// because etcd's repair waits for them itself, without end.
func (b *Backend) repair(w *etcd.WAL, dir string, m wal.Mark) (*etcd.WAL, error) {
	abandon(w)
	err := guard(func() error {
		if !etcd.Repair(b.lg, dir) {
			return errors.New("cannot cut off the torn tail of the newest file; the logger was told why")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.lock(dir, m)
}

// readAll makes w ready to append and returns what is behind its mark.
func readAll(w *etcd.WAL, found scanned) (wal.State, []raftpb.Entry, error) {
	state := wal.State{Last: found.last(), Terms: termRuns(found)}
	var entries []raftpb.Entry
	err := guard(func() (err error) {
		_, state.HardState, entries, err = w.ReadAll()
		return err
	})
	if err != nil {
		return wal.State{}, nil, classify(err)
	}
	live := len(found.terms)
	if live > len(entries) {
		return wal.State{}, nil, fmt.Errorf("%w: %d entries behind the mark, and then only %d", wal.ErrCorrupt, live, len(entries))
	}
	// Entries beyond are older than a mark that replaced the log: see scanned.
	clear(entries[live:])
	return state, entries[:live:live], nil
}

// termRuns tells the terms of the entries behind the mark.
func termRuns(found scanned) []wal.TermRun {
	var runs []wal.TermRun
	for i, term := range found.terms {
		if n := len(runs); n == 0 || runs[n-1].Term != term {
			runs = append(runs, wal.TermRun{First: found.mark.Index + uint64(i) + 1, Term: term})
		}
	}
	return runs
}

// Marks lists the durable marks that are covered by the log's committed part
// and that Open would find, oldest first. It reads the whole log, changes nothing,
// and wants no lock. Without a log it returns wal.ErrNotFound.
func (b *Backend) Marks(dir string) ([]wal.Mark, error) {
	marks, err := scanMarks(filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("etcdwal: list marks of %s: %w", dir, err)
	}
	return marks, nil
}

func snapshotOf(m wal.Mark) walpb.Snapshot {
	return walpb.Snapshot{Index: m.Index, Term: m.Term, ConfState: &m.ConfState}
}

// classify turns etcd's errors into those of package wal. What the operating
// system refused, for want of rights or of file descriptors, is no damage.
func classify(err error) error {
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fileutil.ErrLocked):
		return wal.ErrLocked
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, etcd.ErrFileNotFound):
		return fmt.Errorf("%w: %w", wal.ErrNotFound, err)
	case errors.As(err, &errno), errors.Is(err, wal.ErrCorrupt):
		return err
	}
	return fmt.Errorf("%w: %w", wal.ErrCorrupt, err)
}

// guard turns a panic of etcd's code into an error: it panics, and through its
// logger would even end the process, on damage that its checksums do not see.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("etcd's log panicked: %v", r)
			if cause, ok := r.(error); ok {
				err = fmt.Errorf("etcd's log panicked: %w", cause)
			}
		}
	}()
	return f()
}

// abandon closes w and writes nothing more that would count.
func abandon(w *etcd.WAL) {
	w.SetUnsafeNoFsync()
	_ = guard(w.Close)
}

// closeWAL closes w and frees its locks even if its last bytes could not be
// made durable: where the sync fails etcd's Close stops half-way.
func closeWAL(w *etcd.WAL) error {
	err := guard(w.Close)
	if err != nil {
		abandon(w)
	}
	return err
}

func syncDir(dir string) error {
	d, err := fileutil.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(fileutil.Fsync(d), d.Close())
}
