package raftstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// HasLog says, without opening it, whether a directory of a Store has a log, or may have
// one: what cannot be read may be one. One that was begun and not finished is none.
func HasLog(dir string) bool {
	logs, err := os.ReadDir(filepath.Join(dir, "wal"))
	return err != nil && !errors.Is(err, fs.ErrNotExist) ||
		slices.ContainsFunc(logs, func(e fs.DirEntry) bool { return filepath.Ext(e.Name()) != ".tmp" })
}
