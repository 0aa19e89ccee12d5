package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

func headerAt(term, index uint64) SnapshotHeader {
	return SnapshotHeader{
		Metadata:   raftpb.SnapshotMetadata{Term: term, Index: index, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}},
		Membership: octopiipb.Membership{Cluster: 7, Index: 3, Members: []octopiipb.Member{{ID: 1, Name: "a", Address: "h:1", Kind: octopiipb.Voter}}, Removed: []octopiipb.RemovedMember{{ID: 9}}},
	}
}

// writeSnapshot writes a snapshot in pieces of uneven size and returns its path.
func writeSnapshot(t testing.TB, dir string, h SnapshotHeader, data []byte) string {
	t.Helper()
	w, err := createSnapshot(vfs.OS, dir, h)
	noError(t, err)
	defer w.Abort()
	for piece := 1; len(data) > 0; piece = piece*3 + 1 {
		n := min(piece, len(data))
		_, err := w.Write(data[:n])
		noError(t, err)
		data = data[n:]
	}
	size, err := w.Commit()
	noError(t, err)
	path := filepath.Join(dir, nameOf(h).String())
	if info, err := vfs.OS.Stat(path); err != nil || info.Size != size {
		t.Fatalf("Commit said %d bytes, the file has %d (%v)", size, info.Size, err)
	}
	return path
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestSnapshotRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 1000, chunkBytesMax - 1, chunkBytesMax, chunkBytesMax + 1, 3*chunkBytesMax + 17} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			data := randomBytes(n)
			path := writeSnapshot(t, t.TempDir(), headerAt(2, 5), data)
			noError(t, verifySnapshot(vfs.OS, path))

			r, err := openSnapshot(vfs.OS, path)
			noError(t, err)
			if diff := cmp.Diff(headerAt(2, 5), r.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			noError(t, iotest.TestReader(r, data))
			noError(t, r.Close())

			r, err = openSnapshot(vfs.OS, path)
			noError(t, err)
			var all bytes.Buffer
			if written, err := r.WriteTo(&all); err != nil || written != int64(n) || !bytes.Equal(all.Bytes(), data) {
				t.Errorf("WriteTo wrote %d bytes (%v), want the %d that were written", written, err, n)
			}
			noError(t, r.Close())
		})
	}
}

func TestSnapshotExternal(t *testing.T) {
	dir := t.TempDir()
	h := headerAt(1, 1)
	h.External = true
	path := writeSnapshot(t, dir, h, nil)
	r, err := openSnapshot(vfs.OS, path)
	noError(t, err)
	if data, err := io.ReadAll(r); err != nil || len(data) != 0 || !r.Header.External {
		t.Errorf("read %d bytes, %v, external %v", len(data), err, r.Header.External)
	}
	noError(t, r.Close())
	w, err := createSnapshot(vfs.OS, dir, h)
	noError(t, err)
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("an external snapshot took data")
	}
	if _, err := w.Commit(); err == nil {
		t.Error("Commit after a failed Write returned nil")
	}
	w.Abort()
	damaged(t, path, func(check func(string, []byte), whole []byte) {
		check("data behind the header", append(whole, 0))
	})
}

// damaged lets damage make files out of a whole one, and expects of each that
// reading fails with wal.ErrCorrupt and gives out nothing but a true beginning.
func damaged(t *testing.T, path string, damage func(check func(what string, data []byte), whole []byte)) {
	t.Helper()
	whole, err := os.ReadFile(path)
	noError(t, err)
	r, err := openSnapshot(vfs.OS, path)
	noError(t, err)
	truth, err := io.ReadAll(r)
	noError(t, err)
	noError(t, r.Close())
	check := func(what string, data []byte) {
		t.Helper()
		noError(t, os.WriteFile(path, data, 0o600))
		err := verifySnapshot(vfs.OS, path)
		if !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "offset") {
			t.Fatalf("%s: %v, want wal.ErrCorrupt that names file and offset", what, err)
		}
		r, err := openSnapshot(vfs.OS, path)
		if err != nil {
			return
		}
		got, err := io.ReadAll(r)
		if !errors.Is(err, wal.ErrCorrupt) || !bytes.HasPrefix(truth, got) {
			t.Fatalf("%s: read %d bytes and %v, want a true beginning and wal.ErrCorrupt", what, len(got), err)
		}
		noError(t, r.Close())
	}
	damage(check, append([]byte(nil), whole...))
	noError(t, os.WriteFile(path, whole, 0o600))
	noError(t, verifySnapshot(vfs.OS, path))
}

func TestSnapshotDamage(t *testing.T) {
	for name, n := range map[string]int{"empty": 0, "small": 150} {
		t.Run(name, func(t *testing.T) {
			path := writeSnapshot(t, t.TempDir(), headerAt(2, 5), randomBytes(n))
			damaged(t, path, func(check func(string, []byte), whole []byte) {
				for n := range whole {
					check(fmt.Sprintf("cut at %d of %d", n, len(whole)), whole[:n])
				}
				for bit := range len(whole) * 8 {
					whole[bit/8] ^= 1 << (bit % 8)
					check(fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8), whole)
					whole[bit/8] ^= 1 << (bit % 8)
				}
				check("one byte more", append(whole, 0))
				check("twice", append(whole, whole...))
			})
		})
	}
}

func TestSnapshotDamageOfChunks(t *testing.T) {
	path := writeSnapshot(t, t.TempDir(), headerAt(2, 5), randomBytes(2*chunkBytesMax+100))
	damaged(t, path, func(check func(string, []byte), whole []byte) {
		frame := chunkHeadBytes + chunkBytesMax
		first := len(whole) - sectionHeadBytes - sectionTailBytes - (chunkHeadBytes + 100) - 2*frame
		without := append(append([]byte(nil), whole[:first]...), whole[first+frame:]...)
		check("without the first chunk", without)
		swapped := append([]byte(nil), whole...)
		copy(swapped[first:], whole[first+frame:first+2*frame])
		copy(swapped[first+frame:], whole[first:first+frame])
		check("chunks swapped", swapped)
		check("cut between chunks", whole[:first+frame])
		check("header alone", whole[:first])
	})
}

func TestSnapshotOfNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	newer := newRaw(snapshotVersion + 1)
	for want, file := range map[string][]byte{
		"version 3, and this program reads version 2: use the program that wrote it, or a newer one": newer.out.Bytes(),
		// A file of before sections has a length where the checksum is now.
		"version 1, which no release wrote": sealed(snapshotMagic, 1, []byte("whatever")),
	} {
		noError(t, os.WriteFile(path, file, 0o600))
		if _, err := openSnapshot(vfs.OS, path); err == nil || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that is not wal.ErrCorrupt and says %q", err, want)
		}
	}
}

func TestSnapshotUnderAnotherName(t *testing.T) {
	dir := t.TempDir()
	path := writeSnapshot(t, dir, headerAt(2, 5), []byte("x"))
	other := filepath.Join(dir, snapshotName{Term: 2, Index: 6}.String())
	noError(t, os.Rename(path, other))
	if err := verifySnapshot(vfs.OS, other); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("%v, want wal.ErrCorrupt", err)
	}
}

func TestListSnapshots(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []snapshotName{{3, 10}, {2, 300}, {1, 4}, {4, 10}} {
		writeSnapshot(t, dir, headerAt(n.Term, n.Index), []byte("x"))
	}
	w, err := createSnapshot(vfs.OS, dir, headerAt(9, 9))
	noError(t, err)
	for _, other := range []string{"1-2.snap", "000000000000000A-0000000000000001.snap", "readme", "0000000000000001-0000000000000001.snap.bak"} {
		noError(t, os.WriteFile(filepath.Join(dir, other), nil, 0o600))
	}
	got, err := listSnapshots(vfs.OS, dir)
	noError(t, err)
	if want := []snapshotName{{2, 300}, {4, 10}, {3, 10}, {1, 4}}; !reflect.DeepEqual(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	w.Abort()
	if _, err := listSnapshots(vfs.OS, filepath.Join(dir, "missing")); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("a missing directory: %v, want fs.ErrNotExist", err)
	}
}

// Two writers of one snapshot, a crash of a third, and an aborted fourth.
func TestSnapshotWritersSideBySide(t *testing.T) {
	dir := t.TempDir()
	var writers []*SnapshotWriter
	for range 4 {
		w, err := createSnapshot(vfs.OS, dir, headerAt(2, 5))
		noError(t, err)
		_, err = w.Write([]byte("same"))
		noError(t, err)
		writers = append(writers, w)
	}
	writers[3].Abort()
	writers[3].Abort()
	if _, err := writers[3].Write([]byte("x")); err == nil {
		t.Error("Write after Abort returned nil")
	}
	for _, w := range writers[:2] {
		_, err := w.Commit()
		noError(t, err)
		if _, err := w.Commit(); !errors.Is(err, iofs.ErrClosed) {
			t.Errorf("second Commit returned %v, want fs.ErrClosed", err)
		}
		w.Abort()
	}
	path := filepath.Join(dir, snapshotName{2, 5}.String())
	noError(t, verifySnapshot(vfs.OS, path))
	noError(t, writers[2].file.Close())
	noError(t, removeTemporary(vfs.OS, dir))
	names, err := vfs.OS.ReadDir(dir)
	noError(t, err)
	if len(names) != 1 {
		t.Errorf("the directory holds %q, want the snapshot alone", names)
	}
	noError(t, verifySnapshot(vfs.OS, path))
}

func TestTooManyTemporaries(t *testing.T) {
	dir := t.TempDir()
	for i := range temporariesMax {
		noError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%v.%d.tmp", snapshotName{2, 5}, i)), nil, 0o600))
	}
	if _, err := createSnapshot(vfs.OS, dir, headerAt(2, 5)); err == nil {
		t.Fatal("one more was made")
	}
	noError(t, removeTemporary(vfs.OS, dir))
	writeSnapshot(t, dir, headerAt(2, 5), nil)
}

func TestSnapshotMemoryIsBounded(t *testing.T) {
	const total = 64 << 20
	dir := t.TempDir()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w, err := createSnapshot(vfs.OS, dir, headerAt(2, 5))
	noError(t, err)
	piece := make([]byte, 1<<20)
	for range total / len(piece) {
		_, err := w.Write(piece)
		noError(t, err)
	}
	_, err = w.Commit()
	noError(t, err)
	noError(t, verifySnapshot(vfs.OS, filepath.Join(dir, snapshotName{2, 5}.String())))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("a snapshot of %d MiB took %d KiB of memory: a few chunks were expected", total>>20, got>>10)
	}
}

// faultyFile fails once so many bytes are written, and at Sync if that is 0.
type faultyFile struct {
	vfs.File
	room *int
}

var errFault = errors.New("fault")

func (f faultyFile) Write(p []byte) (int, error) {
	if *f.room -= len(p); *f.room < 0 {
		return 0, errFault
	}
	return f.File.Write(p)
}

func (f faultyFile) Sync() error {
	if *f.room == 0 {
		return errFault
	}
	return f.File.Sync()
}

type faultyFS struct {
	vfs.FS
	room *int
}

func (f faultyFS) Create(path string) (vfs.File, error) {
	file, err := f.FS.Create(path)
	return faultyFile{file, f.room}, err
}

func TestSnapshotWriteFails(t *testing.T) {
	dir := t.TempDir()
	data := randomBytes(200)
	size := len(newRaw(snapshotVersion).header(t, headerAt(2, 5)).state(data).bytes())
	for room := 0; room <= size; room += 1 + size/40 {
		writeFailing(t, dir, data, room)
	}
	writeFailing(t, dir, data, size)
}

// raw writes snapshot files as docs/FORMATS.md has them, and others that are wrong.
type raw struct {
	out   bytes.Buffer
	crc   uint32
	total uint64
}

func newRaw(version uint32) *raw {
	r := new(raw)
	return r.sum(binary.LittleEndian.AppendUint32([]byte("OCTOSNAP"), version))
}

// sum writes what has its checksum behind it.
func (r *raw) sum(b []byte) *raw {
	r.crc = crc32.Update(r.crc, castagnoli, b)
	r.out.Write(b)
	r.out.Write(binary.LittleEndian.AppendUint32(nil, r.crc))
	return r
}

func (r *raw) head(kind, flags byte) *raw { return r.sum([]byte{kind, flags, 0, 0}) }

func (r *raw) chunk(data []byte) *raw {
	n := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
	r.crc = crc32.Update(crc32.Update(r.crc, castagnoli, n), castagnoli, data)
	r.out.Write(n)
	r.out.Write(binary.LittleEndian.AppendUint32(nil, r.crc))
	r.out.Write(data)
	r.total += uint64(len(data))
	return r
}

func (r *raw) tail() *raw {
	b := binary.LittleEndian.AppendUint64(make([]byte, 4), r.total)
	r.total = 0
	return r.sum(b)
}

// section is a whole one of a chunk, or none if there is no data.
func (r *raw) section(kind, flags byte, data []byte) *raw {
	if r.head(kind, flags); len(data) > 0 {
		r.chunk(data)
	}
	return r.tail()
}

// header are the first two sections.
func (r *raw) header(t testing.TB, h SnapshotHeader) *raw {
	t.Helper()
	meta, err := (&octopiipb.SnapshotMeta{Metadata: h.Metadata, External: h.External, Terms: h.Terms, Sums: h.Sums}).Marshal()
	noError(t, err)
	ms, err := h.Membership.Marshal()
	noError(t, err)
	return r.section(1, 1, meta).section(2, 1, ms)
}

func (r *raw) state(data []byte) *raw { return r.section(240, 1, data) }
func (r *raw) end() *raw              { return r.head(255, 1) }
func (r *raw) bytes() []byte {
	r.end()
	return r.out.Bytes()
}

// writeFailing expects that a writer with this much room says what went wrong
// and leaves nothing.
func writeFailing(t *testing.T, dir string, data []byte, room int) {
	t.Helper()
	left := room
	w, err := createSnapshot(faultyFS{vfs.OS, &left}, dir, headerAt(2, 5))
	if err == nil {
		_, _ = w.Write(data)
		_, err = w.Commit()
		w.Abort()
	}
	if !errors.Is(err, errFault) {
		t.Errorf("room for %d bytes: %v, want the fault", room, err)
	}
	names, err := vfs.OS.ReadDir(dir)
	noError(t, err)
	if len(names) != 0 {
		t.Fatalf("room for %d bytes: %q is left", room, names)
	}
}

// FuzzSnapshotFile reads a file that holds anything: no byte is handed out that
// was not verified, and what is wrong is called damaged or of another version.
func FuzzSnapshotFile(f *testing.F) {
	path := writeSnapshot(f, f.TempDir(), headerAt(2, 5), []byte("some data"))
	whole, err := os.ReadFile(path)
	noError(f, err)
	begun := newRaw(snapshotVersion).header(f, headerAt(2, 5)).out.Bytes()
	f.Add(whole)
	f.Add(whole[:40])
	f.Add(append(whole[:len(whole):len(whole)], 0))
	f.Add(whole[preambleBytes:])
	f.Add(whole[len(begun):])
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		// As it is, behind a right preamble, and behind a right header.
		for _, before := range [][]byte{nil, newRaw(snapshotVersion).out.Bytes(), begun} {
			readAnything(t, append(before[:len(before):len(before)], data...))
		}
	})
}

// readAnything returns what can be read of a file, and the error.
func readAnything(t *testing.T, file []byte) (got []byte, err error) {
	defer func() {
		other := len(file) >= preambleBytes && bytes.HasPrefix(file, []byte(snapshotMagic)) && binary.LittleEndian.Uint32(file[8:]) != snapshotVersion
		if err != nil && !errors.Is(err, wal.ErrCorrupt) && !other && !strings.Contains(err.Error(), adviceNewer) {
			t.Errorf("%x: %v, want wal.ErrCorrupt", file, err)
		}
		if again := verifySnapshot(memoryFS{data: file}, "s"); (err == nil) != (again == nil) {
			t.Errorf("reading returned %v, and verifying %v", err, again)
		}
	}()
	r, err := openSnapshot(memoryFS{data: file}, "s")
	if err != nil {
		return nil, err
	}
	got, err = io.ReadAll(r)
	if len(got) > len(file) {
		t.Errorf("read %d bytes out of a file of %d", len(got), len(file))
	}
	return got, err
}

// FuzzSnapshotSections reads a file whose first two sections are right, and whose pieces behind
// them are what a list says: each a byte for what it is, one for its length or the kind of a
// section, and the data of a chunk. So the fuzzer gets behind the checksums.
func FuzzSnapshotSections(f *testing.F) {
	const mandatory, optional, chunk, unchained, tail, wrongTail, rest = 0, 1, 2, 3, 4, 5, 6
	state, end := []byte{mandatory, 240}, []byte{mandatory, 255}
	list := func(pieces ...[]byte) []byte { return slices.Concat(pieces...) }
	a, b := []byte{chunk, 2, 'a', 'b'}, []byte{chunk, 1, 'c'}
	f.Add(list(state, a, b, []byte{tail, 0}, end))
	f.Add(list(state, []byte{tail, 0}, end))
	f.Add(list(end))
	f.Add(list(state, a, end))
	f.Add(list([]byte{optional, 7}, a, []byte{tail, 0}, state, b, []byte{tail, 0}, []byte{optional, 250}, a, []byte{tail, 0}, end))
	f.Add(list([]byte{mandatory, 7}, a, []byte{tail, 0}, state, b, []byte{tail, 0}, end))
	f.Add(list(state, a, []byte{tail, 0}, state, b, []byte{tail, 0}, end))
	f.Add(list([]byte{optional, 7}, a, []byte{tail, 0}, []byte{optional, 7}, a, []byte{tail, 0}, state, []byte{tail, 0}, end))
	f.Add(list(state, a, []byte{unchained, 1, 'c'}, []byte{tail, 0}, end))
	f.Add(list(state, a, []byte{wrongTail, 0}, end))
	f.Add(list(state, a, []byte{tail, 0}, end, b))
	f.Add(list(state, a, []byte{rest, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, list []byte) {
		r := newRaw(snapshotVersion).header(t, headerAt(2, 5))
		var want []byte
		// right: all was so far. open is the section that has begun, last the one before it.
		right, whole, open, last, hasState := true, false, byte(0), byte(2), false
		for len(list) >= 2 {
			what, n := list[0]%(rest+1), list[1]
			list = list[2:]
			var data []byte
			if what == chunk || what == unchained || what == rest {
				data = list[:min(int(n), len(list))]
				list = list[len(data):]
				if len(data) == 0 {
					continue
				}
			}
			right, whole = right && !whole, false
			switch what {
			case mandatory, optional:
				known := n == 240 || n == 255
				right = right && open == 0 && n > last && (known || what == optional)
				if r.head(n, 1-what); right {
					last, open, hasState = n, n, hasState || n == 240
					if n == 255 {
						right = hasState
						whole, open = right, 0
					}
				}
			case chunk, unchained:
				if what == unchained {
					r.crc++
				}
				r.chunk(data)
				if right = right && what == chunk && open != 0; right && open == 240 {
					want = append(want, data...)
				}
			case tail, wrongTail:
				r.total += uint64(what - tail)
				r.tail()
				right = right && open != 0 && what == tail
				open = 0
			case rest:
				right = false
				r.out.Write(data)
			}
		}
		got, err := readAnything(t, r.out.Bytes())
		if !bytes.Equal(got, want) || (err == nil) != whole {
			t.Errorf("read %x, %v; want %x, whole %v", got, err, want, whole)
		}
	})
}

// memoryFS has one file, which can be read.
type memoryFS struct {
	vfs.FS
	data []byte
}

func (m memoryFS) Open(string) (vfs.File, error) {
	return memoryFile{Reader: bytes.NewReader(m.data), size: int64(len(m.data))}, nil
}

type memoryFile struct {
	vfs.File
	*bytes.Reader
	size int64
}

func (f memoryFile) Read(p []byte) (int, error)              { return f.Reader.Read(p) }
func (f memoryFile) ReadAt(p []byte, off int64) (int, error) { return f.Reader.ReadAt(p, off) }
func (f memoryFile) Size() (int64, error)                    { return f.size, nil }
func (f memoryFile) Close() error                            { return nil }
