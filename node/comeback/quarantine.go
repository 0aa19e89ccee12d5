package comeback

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
)

func (m *Member) nodeDir() string { return filepath.Join(m.cfg.Dir, m.cfg.Node) }

// quarantineDir holds what was put aside, a directory for each time.
func (m *Member) quarantineDir() string { return filepath.Join(m.cfg.Dir, "quarantine") }

// quarantined counts what was put aside, and says how long ago it was last.
func (m *Member) quarantined() (count int, newest time.Duration) {
	entries, err := os.ReadDir(m.quarantineDir())
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		// A clock that was set back makes one of the future: how old it is nobody knows.
		if age := time.Since(info.ModTime()).Abs(); count == 0 || age < newest {
			newest = age
		}
		count++
	}
	return count, newest
}

// names are those of a member's files in its directory, the log first.
func (m *Member) names() []string { return append([]string{m.cfg.Node}, m.cfg.Files...) }

// spaceOfFiles is how many bytes of its volume a member's files take, and how many are free
// there; what cannot be looked at counts as nothing, and as no bound.
func (m *Member) spaceOfFiles() (bytes, free int64) {
	for _, name := range m.names() {
		_ = filepath.WalkDir(filepath.Join(m.cfg.Dir, name), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return nil
			}
			defer f.Close()
			has, _ := vfs.Allocated(f)
			bytes += has
			return nil
		})
	}
	free = math.MaxInt64
	if dir, err := os.Open(m.cfg.Dir); err == nil {
		defer dir.Close()
		if _, n, err := vfs.Space(dir); err == nil {
			free = n
		}
	}
	return bytes, free
}

// partExt ends the name of a quarantine directory that does not have all files yet.
const partExt = ".part"

// putAside moves the files of a member out of the way. Nothing but comeBack calls it.
func (m *Member) putAside(cause error, other *node.OtherClusterError, known peers) error {
	if other != nil { // first: who starts without a log must find its cluster
		if err := m.write(known); err != nil {
			return errors.Join(cause, err)
		}
	}
	aside := filepath.Join(m.quarantineDir(), time.Now().UTC().Format("20060102T150405.000Z"))
	if err := os.MkdirAll(aside+partExt, 0o700); err != nil {
		return errors.Join(cause, err)
	}
	if err := m.moveAside(aside + partExt); err != nil {
		return errors.Join(cause, err)
	}
	m.lg.Error("this member's files are put aside, and it joins again as a new member; remove them when it has caught up",
		zap.String("files", aside), zap.Error(cause))
	return nil
}

// moveAside moves what is there of a member's files to part, the log first, and takes part's
// extension away. It can be repeated after a crash.
func (m *Member) moveAside(part string) error {
	for _, name := range m.names() {
		if err := vfs.OS.Rename(filepath.Join(m.cfg.Dir, name), filepath.Join(part, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, dir := range []string{part, m.cfg.Dir} {
		if err := vfs.OS.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := vfs.OS.Rename(part, strings.TrimSuffix(part, partExt)); err != nil {
		return err
	}
	return vfs.OS.SyncDir(m.quarantineDir())
}

// endAside ends what a kill of putAside left: half of a member's files are of no use. Where
// nothing was moved yet the member decides anew.
func (m *Member) endAside() error {
	entries, err := os.ReadDir(m.quarantineDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		part := filepath.Join(m.quarantineDir(), e.Name())
		if filepath.Ext(part) != partExt || os.Remove(part) == nil { // it was empty
			continue
		}
		err = errors.Join(err, m.moveAside(part))
	}
	return err
}

// WasMember says whether the files beside an empty log are those of an older life: a
// member of a cluster was here, and none is founded. What cannot be read may be such files.
func (m *Member) WasMember() bool {
	_, err := os.Stat(m.peersFile())
	kept, keptErr := os.ReadDir(m.quarantineDir())
	return !errors.Is(err, fs.ErrNotExist) || len(kept) > 0 || keptErr != nil && !errors.Is(keptErr, fs.ErrNotExist)
}
