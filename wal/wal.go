package wal

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Batch is what one append makes durable together. Entries of a later batch
// replace those of an earlier one from their first index on.
type Batch struct {
	// Entries are consecutive in index.
	Entries []raftpb.Entry
	// HardState replaces the last one; an empty one leaves it as it is.
	HardState raftpb.HardState
}

// Mark says that everything up to and including Index is in a snapshot: a log
// is opened at its newest mark, and what lies before it may be freed.
type Mark struct {
	Index, Term uint64
	ConfState   raftpb.ConfState
}

// State is what a log holds when it is opened. The entries themselves stay on
// disk: see Log.Entries.
type State struct {
	// HardState is the last one appended.
	HardState raftpb.HardState
	// Last is the index of the last entry, or that of the mark if none follows.
	Last uint64
	// Terms are those of the entries behind the mark, in the order of their
	// indexes; empty if there are none.
	Terms []TermRun
}

// TermRun says that the entries from First on, up to the next run, have Term.
type TermRun struct {
	First, Term uint64
}

var (
	// ErrCorrupt: the log holds bytes that it did not write, or lacks some that it
	// did. Nothing was changed on disk. See CorruptError.
	ErrCorrupt = errors.New("wal: corrupt")
	// ErrNotFound: there is no log in that directory.
	ErrNotFound = errors.New("wal: not found")
	// ErrLocked: another process has the log open.
	ErrLocked = errors.New("wal: in use by another process")
	// ErrFormat: the directory holds a log in another format.
	ErrFormat = errors.New("wal: another format")
	// ErrVersion: the log is in a version of its format, or has frames of a kind,
	// that this program does not know. Nothing was changed.
	ErrVersion = errors.New("wal: an unknown version")
	// ErrNoSpace: the system gives the log no next file, for want of space or of file
	// descriptors, memory or permission; the error wraps which. Nothing was written
	// and nothing is lost; the log goes on when the file can be had.
	ErrNoSpace = errors.New("wal: no room for the next segment")
)

// CorruptError says where a log is damaged, and what that takes away. It is
// ErrCorrupt.
type CorruptError struct {
	// Segment is the path of the damaged file, Offset where in it the damage was
	// noticed.
	Segment string
	Offset  int64
	// Intact is the index of the last entry that is certainly whole. Known is the
	// highest one that the log is known to have held, 0 if nothing beyond Intact
	// is known by name.
	Intact, Known uint64
	Reason        string
}

func (e *CorruptError) Error() string {
	lost := fmt.Sprintf("entries after %d", e.Intact)
	if e.Known > e.Intact {
		lost = fmt.Sprintf("entries %d to %d", e.Intact+1, e.Known)
	}
	return fmt.Sprintf("%v: %s at offset %d: %s; %s cannot be trusted; nothing was changed: rebuild this member from its peers",
		ErrCorrupt, e.Segment, e.Offset, e.Reason, lost)
}

// Is makes errors.Is find ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Log is one write-ahead log, as raftstore needs it. One goroutine calls it,
// except where a method says otherwise. After any error but ErrNoSpace a Log
// refuses every further write with the same error: a failed fsync may have
// dropped the pages that it should have written, so trying again would report as
// durable what is lost (ATC'20, "Can applications recover from fsync failures?").
type Log interface {
	// Append writes the batches in order with one write and, unless only commit
	// indexes changed, one fsync. It returns when all of it is durable; a commit
	// index that comes alone is written with what comes next, and a crash may set it
	// back: no promise hangs on it.
	// With ErrNoSpace nothing was written, and the same batches may come again.
	Append(batches []Batch) error
	// SetMark makes a mark durable: the next Open may name it. The log must have an
	// entry of its index and term: of a mark with another term the next Open says that
	// the log is damaged. What it covers counts as committed. ErrNoSpace is as for Append.
	SetMark(m Mark) error
	// Release frees the files that hold nothing behind index.
	Release(index uint64) error
	// Entries reads [lo, hi) back, where lo < hi: at least one entry, and then as many as
	// maxBytes hold. raft.ErrCompacted: lo is at or before the mark at which the
	// log was opened, or was released; raft.ErrUnavailable: hi is beyond what was
	// appended. Any goroutine may call it, until Close.
	Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error)
	// Reserved says whether the file that is needed next is ready.
	Reserved() bool
	// Reserve makes it ready, which takes as long as writing a whole file. Where
	// nobody called it, Append does when it must. ErrNoSpace: try again later; any
	// other error is final. It may run beside every other method but Close and
	// itself.
	Reserve() error
	// Idle tells the log that nothing has been appended for a while: it makes
	// durable what is not yet, and leaves proof that the last append was.
	Idle() error
	// Close makes everything durable and releases the directory's lock.
	Close() error
}

// Format is the choice of a format for those who only choose: New and package wal/etcdwal
// have those that there are.
type Format interface {
	// Format names it for people.
	Format() string
}

// Backend creates and opens logs in one format.
type Backend interface {
	Format
	// Create makes a new log in dir, which must not exist, that begins behind m
	// and holds hs, whose commit is the index of m. It appears under its name only when
	// all of that is durable: a crash leaves no dir or the whole of it.
	Create(dir string, m Mark, hs raftpb.HardState) (Log, error)
	// Open recovers the log at mark m, which must be one that SetMark or Create
	// made durable. It cuts off a torn tail and nothing else.
	Open(dir string, m Mark) (Log, State, error)
	// Marks lists the durable marks that are covered by the log's committed
	// part, oldest first, or ErrNotFound. It changes nothing.
	Marks(dir string) ([]Mark, error)
}
