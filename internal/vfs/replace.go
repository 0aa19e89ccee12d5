package vfs

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// tempExt ends the name of a file that is to take the place of another one.
const tempExt = ".tmp"

// Prepare makes data durable beside path, for PutInPlace. Nothing that comes after it needs
// space.
func Prepare(fsys FS, path string, data []byte) error {
	return writeTemp(fsys, path, data, File.Sync)
}

// PutInPlace gives the file that Prepare wrote its name. After a crash the name stands for
// what it was before or for all of what was prepared, and for the latter once PutInPlace
// returned nil.
func PutInPlace(fsys FS, path string) error {
	if err := fsys.Rename(path+tempExt, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// Replace is Prepare and PutInPlace.
func Replace(fsys FS, path string, data []byte) error {
	if err := Prepare(fsys, path, data); err != nil {
		return err
	}
	return PutInPlace(fsys, path)
}

// ReplaceSoon is Replace without a sync: it is durable when the file system likes. A crash
// may leave the old file, the new one, or one that has neither's content.
func ReplaceSoon(fsys FS, path string, data []byte) error {
	if err := writeTemp(fsys, path, data, func(File) error { return nil }); err != nil {
		return err
	}
	return fsys.Rename(path+tempExt, path)
}

// writeTemp writes the file that takes path's place, and then calls sync.
func writeTemp(fsys FS, path string, data []byte, sync func(File) error) error {
	temp := path + tempExt
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = sync(f)
	}
	return errors.Join(err, f.Close())
}
