package raftstore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// temporariesMax bounds the files of one snapshot that are written at once.
const temporariesMax = 100

// snapshotName is the name of a snapshot file.
type snapshotName struct{ Term, Index uint64 }

func (n snapshotName) String() string { return fmt.Sprintf("%016x-%016x.snap", n.Term, n.Index) }

func parseSnapshotName(name string) (snapshotName, bool) {
	var n snapshotName
	_, err := fmt.Sscanf(name, "%16x-%16x.snap", &n.Term, &n.Index)
	// Sscanf is generous: the name must be the one that String gives.
	return n, err == nil && n.String() == name
}

func nameOf(h SnapshotHeader) snapshotName {
	return snapshotName{Term: h.Metadata.Term, Index: h.Metadata.Index}
}

// listSnapshots returns the snapshots of a directory, newest first.
func listSnapshots(fs vfs.FS, dir string) ([]snapshotName, error) {
	files, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("raftstore: list snapshots in %s: %w", dir, err)
	}
	var names []snapshotName
	for _, f := range files {
		if n, ok := parseSnapshotName(f); ok {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b snapshotName) int {
		return cmp.Or(cmp.Compare(b.Index, a.Index), cmp.Compare(b.Term, a.Term))
	})
	return names, nil
}

// removeTemporary removes what unfinished snapshots left. Nobody may be writing
// one.
func removeTemporary(fs vfs.FS, dir string) error {
	files, err := fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("raftstore: list snapshots in %s: %w", dir, err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f, ".tmp") {
			continue
		}
		if err := fs.Remove(filepath.Join(dir, f)); err != nil {
			return fmt.Errorf("raftstore: remove an unfinished snapshot: %w", err)
		}
	}
	return nil
}

// SnapshotWriter writes one snapshot file. One goroutine calls it, and ends
// with Commit or Abort. The first error is final.
type SnapshotWriter struct {
	fs         vfs.FS
	dir        string
	temp, path string
	file       vfs.File
	// sections frames what is written; nil: what comes is framed, and written as it is.
	sections *sectionWriter
	// mark is the whole content of an external snapshot, which Commit writes; nil: it is none.
	mark *bytes.Buffer
	// size of the file so far.
	size int64
	// err is why nothing more is written; nil while all is well.
	err error
}

// createSnapshot begins a snapshot under a temporary name of its own, so that
// several may be written at once, even of the same index.
func createSnapshot(fs vfs.FS, dir string, h SnapshotHeader) (*SnapshotWriter, error) {
	w := &SnapshotWriter{fs: fs, dir: dir, path: filepath.Join(dir, nameOf(h).String())}
	if h.External {
		w.mark = new(bytes.Buffer)
		w.sections = &sectionWriter{w: w.mark}
	} else if err := w.createFile(); err != nil {
		return nil, err
	} else {
		w.sections = &sectionWriter{w: fileWriter{w}}
	}
	if err := w.sections.begin(h); err != nil {
		err = w.fail(err)
		w.Abort()
		return nil, err
	}
	return w, nil
}

// receiveSnapshot begins the file of a snapshot that comes as it is to be in the file.
func receiveSnapshot(fs vfs.FS, dir string, h SnapshotHeader) (*SnapshotWriter, error) {
	w := &SnapshotWriter{fs: fs, dir: dir, path: filepath.Join(dir, nameOf(h).String())}
	if err := w.createFile(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *SnapshotWriter) createFile() (err error) {
	if w.file, w.temp, err = createTemporary(w.fs, w.path); err != nil {
		return fmt.Errorf("raftstore: create snapshot %s: %w", w.path, err)
	}
	return nil
}

// createTemporary counts names up instead of drawing them: what a simulation
// does must not depend on chance.
func createTemporary(fs vfs.FS, path string) (vfs.File, string, error) {
	for i := range temporariesMax {
		temp := fmt.Sprintf("%s.%d.tmp", path, i)
		f, err := fs.Create(temp)
		if !errors.Is(err, iofs.ErrExist) {
			return f, temp, err
		}
	}
	return nil, "", fmt.Errorf("%d unfinished files of it are there: restart to remove them", temporariesMax)
}

// Write adds to the snapshot's data. It returns an error for an external one.
func (w *SnapshotWriter) Write(p []byte) (int, error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case w.sections == nil:
		return fileWriter{w}.Write(p)
	case w.mark != nil:
		return 0, w.fail(errors.New("an external snapshot has no data"))
	}
	n, err := w.sections.Write(p)
	return n, w.fail(err)
}

// fileWriter writes to the file itself.
type fileWriter struct{ *SnapshotWriter }

func (w fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	return n, w.fail(err)
}

func (w *SnapshotWriter) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("raftstore: write snapshot %s: %w", w.path, err)
	}
	return w.err
}

// Commit ends the snapshot and gives it its name, in place of one of the same
// index and term. When it returns nil, all of it is durable; size is that of the
// file in bytes. After an error there is no telling, and what it can it removes.
func (w *SnapshotWriter) Commit() (size int64, err error) {
	defer func() {
		if err != nil {
			w.Abort()
		}
	}()
	if w.err == nil && w.sections != nil {
		_ = w.fail(w.sections.end(w.mark != nil))
	}
	if w.err != nil {
		return 0, w.err
	}
	publish := w.publish
	if w.mark != nil {
		publish = w.publishMark
	}
	if err := publish(); err != nil {
		return 0, w.fail(err)
	}
	w.err = fmt.Errorf("raftstore: snapshot %s: %w", w.path, iofs.ErrClosed)
	return w.size, nil
}

// publish gives the file its name. Its content goes first: a name must never
// stand for a part.
func (w *SnapshotWriter) publish() error {
	if err := w.file.Sync(); err != nil {
		return err
	}
	file := w.file
	w.file = nil
	if err := file.Close(); err != nil {
		return err
	}
	if err := w.fs.Rename(w.temp, w.path); err != nil {
		return err
	}
	w.temp = ""
	return w.fs.SyncDir(w.dir)
}

// Abort gives up what was written. After Commit or Abort it does nothing.
func (w *SnapshotWriter) Abort() {
	_ = w.fail(errors.New("aborted"))
	w.removeFile()
}

// removeFile is best effort: what stays is removed at the next start.
func (w *SnapshotWriter) removeFile() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
	if w.temp != "" {
		_ = w.fs.Remove(w.temp)
		w.temp = ""
	}
}

// SnapshotReader reads one snapshot file. One goroutine calls it. It holds one
// chunk in memory, and hands out no byte that it has not verified.
type SnapshotReader struct {
	Header SnapshotHeader
	// Size of the file in bytes.
	Size int64

	fs   vfs.FS
	path string
	file vfs.File
	sections
	// chunk is what was verified and not yet handed out.
	chunk []byte
	// puncher gives back the space of what was handed out, up to released so far; nil: it
	// is kept.
	puncher  vfs.HolePuncher
	released int64
	// err is what Read returns when chunk is empty: io.EOF when all is done.
	err error
}

// releaseBytes is how much is handed out before its space is given back.
const releaseBytes = 1 << 20

// Path is where the file is.
func (r *SnapshotReader) Path() string { return r.path }

// Release has the file give its space back from here on while it is read. Nobody can
// read it any more then: it is found damaged. The error says that the system cannot, and
// the file is as it was.
func (r *SnapshotReader) Release() error {
	puncher, ok := r.fs.(vfs.HolePuncher)
	if !ok {
		return fmt.Errorf("raftstore: give the space of snapshot %s back: %w", r.path, errors.ErrUnsupported)
	}
	if err := puncher.PunchHole(r.path, 0, 1); err != nil {
		return fmt.Errorf("raftstore: give the space of snapshot %s back: %w", r.path, err)
	}
	r.puncher = puncher
	return nil
}

// release gives the space of what was handed out back.
func (r *SnapshotReader) release() error {
	if r.puncher == nil || r.offset-r.released < releaseBytes {
		return nil
	}
	if err := r.puncher.PunchHole(r.path, r.released, r.offset-r.released); err != nil {
		return r.fail(err)
	}
	r.released = r.offset
	return nil
}

// openSnapshot opens a snapshot file and verifies its header. The error is
// fs.ErrNotExist when there is none and wal.ErrCorrupt when it is damaged.
func openSnapshot(fs vfs.FS, path string) (*SnapshotReader, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("raftstore: open snapshot %s: %w", path, err)
	}
	r := &SnapshotReader{fs: fs, path: path, file: f}
	r.r = f
	if err := r.open(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

func (r *SnapshotReader) open() error {
	var err error
	if r.Size, err = r.file.Size(); err != nil {
		return r.fail(err)
	}
	if r.Header, r.head, err = r.header(); err != nil {
		return r.fail(err)
	}
	if name, ok := parseSnapshotName(filepath.Base(r.path)); ok && name != nameOf(r.Header) {
		return r.fail(fmt.Errorf("%w: holds snapshot %v", wal.ErrCorrupt, nameOf(r.Header)))
	}
	if r.Header.External {
		r.err = io.EOF
	}
	return nil
}

// Raw returns what writes the file as it is, every byte of it verified before it is written.
// It takes the place of Read.
func (r *SnapshotReader) Raw() io.WriterTo { return rawFile{r} }

type rawFile struct{ *SnapshotReader }

func (r rawFile) WriteTo(w io.Writer) (int64, error) {
	n, err := r.copyTo(w)
	return n, r.fail(err)
}

// Read implements io.Reader. It returns io.EOF only when the whole file was
// there and right.
func (r *SnapshotReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: it writes chunk by chunk what Read would
// return.
func (r *SnapshotReader) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for {
		if err := r.fill(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
		n, err := w.Write(r.chunk)
		written += int64(n)
		r.chunk = r.chunk[n:]
		if err != nil {
			return written, err
		}
	}
}

// Close gives the file back.
func (r *SnapshotReader) Close() error { return r.file.Close() }

// fill makes sure that there is something to hand out, or returns why not.
func (r *SnapshotReader) fill() error {
	if len(r.chunk) > 0 {
		return nil
	}
	if r.err != nil {
		return r.err
	}
	if err := r.release(); err != nil {
		return err
	}
	for len(r.chunk) == 0 {
		p, err := r.next()
		if err == nil && p == pieceEnd {
			if err = r.finish(); err == nil {
				err = io.EOF
			}
		}
		if err == io.EOF {
			r.err = err
			return err
		}
		if err != nil {
			return r.fail(err)
		}
		if r.kind == sectionState {
			r.chunk = r.data
		}
	}
	return nil
}

// fail makes the first error final.
func (r *SnapshotReader) fail(err error) error {
	if err != nil {
		r.err = fmt.Errorf("raftstore: read snapshot %s at offset %d: %w", r.path, r.offset, err)
	}
	return r.err
}

// verifySnapshot reads a whole snapshot file, a chunk at a time.
func verifySnapshot(fs vfs.FS, path string) error {
	r, err := openSnapshot(fs, path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}
