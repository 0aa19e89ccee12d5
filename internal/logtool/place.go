package logtool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

// Format is a way in which a log is kept on disk.
type Format string

const (
	Native Format = "native"
	Etcd   Format = "etcd"
)

// Progress is told how many bytes are done, of how many.
type Progress func(done, total int64)

// segmentBytes is the size of a native segment; 0: the default. Tests make it
// smaller.
var segmentBytes int64

// backend opens and creates logs of a format.
func (f Format) backend(fsys vfs.FS) wal.Backend {
	if f == Etcd {
		return etcdwal.New(nil)
	}
	return wal.New(wal.Options{FS: fsys, SegmentBytes: segmentBytes})
}

// inspect reads a whole log of a format.
func (f Format) inspect(fsys vfs.FS, dir string, visit func(*wal.Record) error, progress Progress) (wal.Summary, error) {
	if f == Etcd {
		return etcdwal.Inspect(dir, visit, progress)
	}
	return wal.Inspect(fsys, dir, visit, progress)
}

// Place is a log that was found.
type Place struct {
	// Dir is the directory of the log itself.
	Dir    string `json:"dir"`
	Format Format `json:"format"`
	// Member is the directory of the member whose log it is. It is empty where a
	// log was named itself, and nothing is known of its snapshots.
	Member string `json:"member,omitempty"`

	// seq is the log's number in the member's directory, older are those below it,
	// which count no more.
	seq   uint64
	older []uint64
}

// Find returns the log that dir stands for: a member's directory, a data
// directory of octopiid, or the directory of one log. A member's log is the one
// with the highest number.
func Find(fsys vfs.FS, dir string) (Place, error) {
	dir = filepath.Clean(dir)
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return Place{}, fmt.Errorf("find a log: %w", err)
	}
	if format, err := formatOf(dir, names); err == nil {
		return Place{Dir: dir, Format: format}, nil
	} else if !errors.Is(err, wal.ErrNotFound) {
		return Place{}, err
	}
	for _, member := range []string{dir, filepath.Join(dir, "node")} {
		p, err := findOfMember(fsys, member)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
	}
	return Place{}, fmt.Errorf("find a log: %w in %s: name a member's directory (it holds wal), a data directory of octopiid (it holds node), or the directory of one log", wal.ErrNotFound, dir)
}

// findOfMember returns a member's log. The error is fs.ErrNotExist where member
// is no member's directory.
func findOfMember(fsys vfs.FS, member string) (Place, error) {
	names, err := fsys.ReadDir(filepath.Join(member, "wal"))
	if err != nil {
		return Place{}, fmt.Errorf("find a log: %w", err)
	}
	var seqs []uint64
	for _, name := range names {
		if seq, err := strconv.ParseUint(name, 16, 64); err == nil && len(name) == 16 {
			seqs = append(seqs, seq)
		}
	}
	if len(seqs) == 0 {
		return Place{}, fmt.Errorf("find a log: %w in %s: this member has not become part of a cluster yet", wal.ErrNotFound, member)
	}
	newest := len(seqs) - 1
	p := Place{Member: member, Dir: logPath(member, seqs[newest]), seq: seqs[newest], older: seqs[:newest]}
	if names, err = fsys.ReadDir(p.Dir); err != nil {
		return p, fmt.Errorf("find a log: %w", err)
	}
	if p.Format, err = formatOf(p.Dir, names); err != nil {
		return p, fmt.Errorf("find a log: %w", err)
	}
	return p, nil
}

func logPath(member string, seq uint64) string {
	return filepath.Join(member, "wal", fmt.Sprintf("%016x", seq))
}

// formatOf tells a log's format by the names of its files.
func formatOf(dir string, names []string) (Format, error) {
	native, etcd := false, false
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".seg":
			native = true
		case ".wal":
			etcd = etcd || strings.Contains(name, "-")
		}
	}
	switch {
	case native && etcd:
		return "", fmt.Errorf("%w: %s holds files of both formats, *.seg and *.wal: move those away that do not belong there", wal.ErrFormat, dir)
	case native:
		return Native, nil
	case etcd:
		return Etcd, nil
	}
	return "", fmt.Errorf("%w in %s: no *.seg of the native format and no *.wal of etcd's", wal.ErrNotFound, dir)
}
