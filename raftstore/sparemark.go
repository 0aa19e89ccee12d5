package raftstore

import (
	"errors"
	iofs "io/fs"
	"path/filepath"

	"github.com/octopii/octopii/internal/vfs"
)

// A mark, which is the file of an external snapshot, has some hundred bytes, and a full disk
// stays full without it: the log gives nothing back before a newer mark is in place. So the
// directory of the snapshots has a small file ready, whose block a mark can be written to. Once
// the newer mark is in place, the older one that goes becomes the next such file.

const (
	spareMarkName = "mark.spare"
	// spareMarkBytes is a block of a file system: so much fits into the file whatever it has.
	spareMarkBytes = 4096
)

// publishMark writes a mark and gives it its name.
func (w *SnapshotWriter) publishMark() error {
	data := w.mark.Bytes()
	err := w.createFile()
	if err == nil {
		_, err = fileWriter{w}.Write(data)
	}
	if err == nil {
		err = w.publish()
	}
	if vfs.Full(err) && len(data) <= spareMarkBytes {
		w.removeFile()
		err = w.publishIntoSpare(data, err)
	}
	if err == nil {
		w.err, w.size = nil, int64(len(data))
		makeSpareMark(w.fs, w.dir)
	}
	return err
}

// publishIntoSpare writes a mark into the file that is kept ready, and gives that its name.
// full is why it could not be written elsewhere.
func (w *SnapshotWriter) publishIntoSpare(data []byte, full error) error {
	spare := filepath.Join(w.dir, spareMarkName)
	f, err := w.fs.OpenReadWrite(spare)
	if err != nil {
		return full
	}
	// No older name may stand for it when its content changes.
	err = w.fs.SyncDir(w.dir)
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := w.fs.Rename(spare, w.path); err != nil {
		return err
	}
	return w.fs.SyncDir(w.dir)
}

// makeSpareMark makes the file, if it is not there and there is room for it.
func makeSpareMark(fs vfs.FS, dir string) {
	path := filepath.Join(dir, spareMarkName)
	f, err := fs.Create(path)
	if err != nil {
		return // it is there, or there is no room
	}
	if _, err = f.Write(make([]byte, spareMarkBytes)); err == nil {
		err = f.Sync()
	}
	if errors.Join(err, f.Close()) != nil {
		_ = fs.Remove(path)
	}
}

// recycle has a snapshot that is to be removed take the place of the file that is kept ready,
// if there is none and it is a mark. It says whether it did.
func recycle(fs vfs.FS, path string) bool {
	spare := filepath.Join(filepath.Dir(path), spareMarkName)
	if _, err := fs.Stat(spare); !errors.Is(err, iofs.ErrNotExist) {
		return false
	}
	r, err := openSnapshot(fs, path)
	if err != nil {
		return false
	}
	_ = r.Close() // it was only read
	return r.Header.External && r.Size <= spareMarkBytes && fs.Rename(path, spare) == nil
}
