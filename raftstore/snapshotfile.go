package raftstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// A snapshot file:
//
//	"OCTOSNAP"  u32 version  u32 length  SnapshotHeader  u32 crc of all that
//	u32 length  u32 crc of length and bytes  bytes          any number of times
//	u32 0       u64 sum of all lengths  u32 crc of both     and nothing more
//
// Every checksum continues the one before it, so that chunks that are right by
// themselves, but not at their place, are found out. Of an external snapshot there
// is only the first line.
const (
	snapshotMagic          = "OCTOSNAP"
	snapshotVersion        = 1
	snapshotHeaderBytesMax = 4 << 20
	chunkBytesMax          = 256 << 10
	chunkHeadBytes         = 8
	endBytes               = 16
	// temporariesMax bounds the files of one snapshot that are written at once.
	temporariesMax = 100
)

// snapshotName is the name of a snapshot file.
type snapshotName struct{ Term, Index uint64 }

func (n snapshotName) String() string { return fmt.Sprintf("%016x-%016x.snap", n.Term, n.Index) }

func parseSnapshotName(name string) (snapshotName, bool) {
	var n snapshotName
	_, err := fmt.Sscanf(name, "%16x-%16x.snap", &n.Term, &n.Index)
	// Sscanf is generous: the name must be the one that String gives.
	return n, err == nil && n.String() == name
}

func nameOf(h octopiipb.SnapshotHeader) snapshotName {
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
	external   bool
	// chunk is the frame of the next chunk: its head, then what was written.
	chunk []byte
	// size of the file so far, and total of the data in it.
	size, total int64
	// crc is the last checksum that was written.
	crc uint32
	// err is why nothing more is written; nil while all is well.
	err error
}

// createSnapshot begins a snapshot under a temporary name of its own, so that
// several may be written at once, even of the same index.
func createSnapshot(fs vfs.FS, dir string, h octopiipb.SnapshotHeader) (*SnapshotWriter, error) {
	path := filepath.Join(dir, nameOf(h).String())
	header, err := h.Marshal()
	if err == nil && len(header) > snapshotHeaderBytesMax {
		err = fmt.Errorf("header of %d bytes, more than %d", len(header), snapshotHeaderBytesMax)
	}
	if err != nil {
		return nil, fmt.Errorf("raftstore: create snapshot %s: %w", path, err)
	}
	w := &SnapshotWriter{fs: fs, dir: dir, path: path, external: h.External}
	if w.file, w.temp, err = createTemporary(fs, path); err != nil {
		return nil, fmt.Errorf("raftstore: create snapshot %s: %w", path, err)
	}
	head := sealed(snapshotMagic, snapshotVersion, header)
	w.crc = lastChecksum(head)
	if err := w.put(head); err != nil {
		w.Abort()
		return nil, err
	}
	if !w.external {
		w.chunk = make([]byte, chunkHeadBytes, chunkHeadBytes+chunkBytesMax)
	}
	return w, nil
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
	if w.external && w.err == nil {
		return 0, w.fail(errors.New("an external snapshot has no data"))
	}
	written := 0
	for len(p) > 0 && w.err == nil {
		n := min(len(p), cap(w.chunk)-len(w.chunk))
		w.chunk = append(w.chunk, p[:n]...)
		p = p[n:]
		written += n
		if len(w.chunk) == cap(w.chunk) {
			w.flush()
		}
	}
	return written, w.err
}

// flush writes the chunk that was gathered, if there is one.
func (w *SnapshotWriter) flush() {
	n := len(w.chunk) - chunkHeadBytes
	if n == 0 || w.err != nil {
		return
	}
	binary.LittleEndian.PutUint32(w.chunk, uint32(n))
	w.crc = chunkSum(w.crc, w.chunk[:4], w.chunk[chunkHeadBytes:])
	binary.LittleEndian.PutUint32(w.chunk[4:], w.crc)
	w.total += int64(n)
	_ = w.put(w.chunk)
	w.chunk = w.chunk[:chunkHeadBytes]
}

func chunkSum(crc uint32, length, data []byte) uint32 {
	return crc32.Update(crc32.Update(crc, castagnoli, length), castagnoli, data)
}

// lastChecksum is the one at the end of what sealed made.
func lastChecksum(b []byte) uint32 { return binary.LittleEndian.Uint32(b[len(b)-crcBytes:]) }

func (w *SnapshotWriter) put(b []byte) error {
	_, err := w.file.Write(b)
	w.size += int64(len(b))
	return w.fail(err)
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
	if !w.external {
		w.flush()
	}
	if w.err != nil {
		return 0, w.err
	}
	if !w.external {
		end := binary.LittleEndian.AppendUint64(make([]byte, 4, endBytes), uint64(w.total))
		end = binary.LittleEndian.AppendUint32(end, crc32.Update(w.crc, castagnoli, end))
		if err := w.put(end); err != nil {
			return 0, err
		}
	}
	if err := w.publish(); err != nil {
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
	// Best effort: what stays is removed at the next start.
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
	Header octopiipb.SnapshotHeader
	// Size of the file in bytes.
	Size int64

	fs   vfs.FS
	path string
	file vfs.File
	// offset is how far the file has been read, and total how much data that was.
	offset, total int64
	// crc is the last checksum that was read and found right.
	crc uint32
	// chunk is what was verified and not yet handed out, in buf.
	chunk, buf []byte
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
	head := make([]byte, headBytes)
	if err := r.take(head); err != nil {
		return err
	}
	n, err := bodyBytes(head, snapshotMagic, snapshotHeaderBytesMax)
	if err != nil {
		return r.fail(err)
	}
	if int64(n+crcBytes) > r.Size-r.offset {
		return r.corrupt("ends within the header")
	}
	data := append(head, make([]byte, n+crcBytes)...)
	if err := r.take(data[headBytes:]); err != nil {
		return err
	}
	body, err := unseal(data, snapshotVersion)
	if err != nil {
		return r.fail(err)
	}
	r.crc = lastChecksum(data)
	if err := r.Header.Unmarshal(body); err != nil {
		return r.corrupt(err.Error())
	}
	if name, ok := parseSnapshotName(filepath.Base(r.path)); ok && name != nameOf(r.Header) {
		return r.corrupt(fmt.Sprintf("holds snapshot %v", nameOf(r.Header)))
	}
	if r.Header.External {
		return r.end()
	}
	return nil
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
	var head [chunkHeadBytes]byte
	if err := r.take(head[:4]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 {
		return r.readEnd()
	}
	if n > chunkBytesMax {
		return r.corrupt(fmt.Sprintf("chunk of %d bytes, more than %d", n, chunkBytesMax))
	}
	if err := r.take(head[4:]); err != nil {
		return err
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n)
	}
	data := r.buf[:n]
	if err := r.take(data); err != nil {
		return err
	}
	if r.crc = chunkSum(r.crc, head[:4], data); r.crc != binary.LittleEndian.Uint32(head[4:]) {
		return r.corrupt("wrong checksum of a chunk")
	}
	r.chunk = data
	r.total += int64(n)
	return nil
}

// readEnd reads what follows the length of the end chunk.
func (r *SnapshotReader) readEnd() error {
	var end [endBytes]byte
	if err := r.take(end[4:]); err != nil {
		return err
	}
	if crc32.Update(r.crc, castagnoli, end[:12]) != binary.LittleEndian.Uint32(end[12:]) {
		return r.corrupt("wrong checksum of the end")
	}
	if total := binary.LittleEndian.Uint64(end[4:]); total != uint64(r.total) {
		return r.corrupt(fmt.Sprintf("%d bytes of data instead of %d", r.total, total))
	}
	if err := r.end(); err != nil {
		return err
	}
	return r.err
}

// end expects the end of the file, and makes it that of the data.
func (r *SnapshotReader) end() error {
	var more [1]byte
	n, err := io.ReadFull(r.file, more[:])
	if n > 0 {
		return r.corrupt("goes on behind its end")
	}
	if err != io.EOF {
		return r.fail(err)
	}
	r.err = io.EOF
	return nil
}

// take reads exactly len(b) bytes.
func (r *SnapshotReader) take(b []byte) error {
	n, err := io.ReadFull(r.file, b)
	r.offset += int64(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return r.corrupt("ends too early")
	}
	return r.fail(err)
}

func (r *SnapshotReader) corrupt(what string) error {
	return r.fail(fmt.Errorf("%w: %s", wal.ErrCorrupt, what))
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
