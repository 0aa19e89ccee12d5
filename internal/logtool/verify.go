package logtool

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// Owner is whose directory it is.
type Owner struct {
	ID   uint64 `json:"id"`
	Name string `json:"name"`
}

// Snapshot is the one at which the member's log begins when it starts.
type Snapshot struct {
	Mark
	// Bytes of the file. External: the state machine keeps its own data, and the
	// file is only a mark.
	Bytes    int64 `json:"bytes"`
	External bool  `json:"external,omitempty"`
}

// Verify reads the whole log, and in a member's directory also the identity and
// the snapshot at which the member would start. It changes nothing.
func Verify(fsys vfs.FS, p Place, progress Progress) (Report, error) {
	report, err := Read(fsys, p, nil, progress)
	if err != nil || report.Damage != nil {
		return report, err
	}
	problem := func(err error) { report.Problems = append(report.Problems, err.Error()) }
	marks, err := p.Format.backend(fsys).Marks(p.Dir)
	switch {
	case err != nil:
		problem(err)
	case len(marks) == 0:
		problem(errors.New("the log has no mark at which it could be opened: rebuild this member from its peers"))
	case p.Member != "":
		newest := marks[len(marks)-1]
		if report.Owner, report.Snapshot, err = checkMember(fsys, p.Member, newest); err != nil {
			problem(err)
		}
	}
	return report, nil
}

// checkMember reads the identity of a member and the whole snapshot of a mark.
func checkMember(fsys vfs.FS, member string, m wal.Mark) (*Owner, *Snapshot, error) {
	s, _, _, err := raftstore.Open(raftstore.Options{FS: snapshotsOnly{fsys}, Dir: member})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	id, ok := s.Identity()
	if !ok {
		return nil, nil, fmt.Errorf("%s has a log but no identity file: restore the file, or start with an empty directory", member)
	}
	owner := &Owner{ID: id.Node, Name: id.Name}
	r, err := s.OpenSnapshot(m.Term, m.Index)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return owner, nil, fmt.Errorf("the log begins behind index %d, whose snapshot cannot be used: %w; rebuild this member from its peers", m.Index, err)
	}
	return owner, &Snapshot{Mark: Mark{Index: m.Index, Term: m.Term}, Bytes: r.Size, External: r.Header.External}, nil
}

// snapshotsOnly shows a Store a member without logs, for the sake of its
// snapshots, and lets it change nothing.
type snapshotsOnly struct{ vfs.FS }

func (snapshotsOnly) MkdirAll(string) error            { return nil }
func (snapshotsOnly) SyncDir(string) error             { return nil }
func (snapshotsOnly) ReadDir(string) ([]string, error) { return nil, nil }
func (snapshotsOnly) Lock(string) (io.Closer, error)   { return unlocked{}, nil }

type unlocked struct{}

func (unlocked) Close() error { return nil }

// InUse says whether a process runs the member whose log it is: what that one is
// writing may look like damage.
func InUse(fsys vfs.FS, p Place) bool {
	if p.Member == "" {
		return false
	}
	path := filepath.Join(p.Member, "LOCK")
	if _, err := fsys.Stat(path); err != nil {
		return false
	}
	lock, err := fsys.Lock(path)
	if err == nil {
		_ = lock.Close()
	}
	return errors.Is(err, vfs.ErrLocked)
}
