package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// files is what the sides of a Store share: where its files are, and the log in force as
// far as it is read. Its methods may be called from any goroutine.
type files struct {
	fs      vfs.FS
	dir     string
	backend wal.Backend
	// external: snapshots are marks without data.
	external bool
	reader   reader
}

func (f *files) makeDirs() error {
	for _, d := range []string{f.snapDir(), f.walDir()} {
		if err := f.fs.MkdirAll(d); err != nil {
			return fmt.Errorf("raftstore: make %s: %w", d, err)
		}
	}
	for _, d := range []string{f.dir, filepath.Dir(f.dir)} {
		if err := f.fs.SyncDir(d); err != nil {
			return fmt.Errorf("raftstore: sync %s: %w", d, err)
		}
	}
	return nil
}

func (f *files) snapDir() string { return filepath.Join(f.dir, "snap") }
func (f *files) walDir() string  { return filepath.Join(f.dir, "wal") }

// logs returns the numbers of the logs in order and removes unfinished ones. A
// log takes the place of the one before it when a snapshot was installed.
func (f *files) logs() ([]uint64, error) {
	names, err := f.fs.ReadDir(f.walDir())
	if err != nil {
		return nil, fmt.Errorf("raftstore: list logs: %w", err)
	}
	var seqs []uint64
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := f.fs.RemoveAll(filepath.Join(f.walDir(), name)); err != nil {
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

func (f *files) logPath(seq uint64) string {
	return filepath.Join(f.walDir(), fmt.Sprintf("%016x", seq))
}

func (f *files) snapPath(term, index uint64) string {
	return filepath.Join(f.snapDir(), snapshotName{Term: term, Index: index}.String())
}

// removeLogs removes the logs before seq.
func (f *files) removeLogs(seq uint64) error {
	seqs, err := f.logs()
	if vfs.Refused(err) {
		return nil // the next start does it
	}
	if err != nil {
		return err
	}
	for _, old := range seqs {
		if old >= seq {
			break
		}
		if err := f.fs.RemoveAll(f.logPath(old)); err != nil && !vfs.Refused(err) {
			return fmt.Errorf("raftstore: remove an old log: %w", err)
		}
	}
	return nil
}

// removeSnapshots removes the snapshots before index.
func (f *files) removeSnapshots(index uint64) error {
	names, err := listSnapshots(f.fs, f.snapDir())
	if vfs.Refused(err) {
		return nil // the next mark does it
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Index >= index {
			continue
		}
		path := filepath.Join(f.snapDir(), n.String())
		if recycle(f.fs, path) {
			continue
		}
		// A mark may remove them at the same time.
		if err := f.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !vfs.Refused(err) {
			return fmt.Errorf("raftstore: remove an old snapshot: %w", err)
		}
	}
	return nil
}
