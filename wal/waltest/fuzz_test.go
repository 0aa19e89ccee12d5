package waltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

// fuzzSegmentBytes keeps the inputs small.
const fuzzSegmentBytes = 16 << 10

// fuzzLog is a log of two segments, which were used before or not.
func fuzzLog(t testing.TB, closed bool) *vfstest.Mem {
	mem := newMem(t)
	s := &subject{backend: nativeOf(mem, fuzzSegmentBytes), dir: dir}
	check(t, sequence(
		func() error { return s.create(1) },
		func() error { return s.add(10, 600) },
		func() error { return s.add(700) },
		s.commit,
		func() error { return s.setMark(2) },
		func() error { return s.replace(1, 300) },
	))
	if closed {
		check(t, s.close())
	}
	return mem.CrashLosingAll()
}

// FuzzRecover changes the files of a log as its input says, or replaces them:
// nothing panics, what is refused stays as it is, and what is opened can be
// opened again. mend sets the checksums right first, to get behind them.
func FuzzRecover(f *testing.F) {
	var bases [2]image
	for i := range bases {
		bases[i] = imageOf(fuzzLog(f, i == 0))
	}
	paths := slices.DeleteFunc(bases[0].paths(), func(p string) bool { return filepath.Ext(p) != ".seg" })
	rnd := rand.New(rand.NewPCG(9, 9))
	for i := range 40 {
		var edits []byte
		for range 1 + rnd.IntN(3) {
			// In the first sector of some block.
			at := rnd.IntN(4*len(paths))*blockBytes + rnd.IntN(120)
			edits = append(edits, byte(at), byte(at>>8), byte(at>>16), 1, byte(rnd.Uint32()))
		}
		f.Add(edits, uint16(0), i%2 == 0, i%4 > 0)
	}
	f.Add([]byte{}, uint16(5000), true, false)
	f.Add([]byte("OCTOPWAL"), uint16(1), true, true)
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16, closed, mend bool) {
		base := bases[0]
		if !closed {
			base = bases[1]
		}
		// An input of one byte to cut replaces a file, a longer one shortens the last.
		files := map[string][]byte{}
		for _, path := range paths {
			files[path] = bytes.Clone(base[path])
		}
		last := paths[len(paths)-1]
		if cut == 1 {
			files[last] = bytes.Clone(edits)
		} else {
			edit(paths, files, edits)
			files[last] = files[last][:max(0, len(files[last])-int(cut))]
		}
		mem := vfstest.NewMem()
		for path, data := range files {
			if mend {
				data = mended(data)
			}
			mem.WriteFile(path, data)
		}
		before := imageOf(mem)
		if _, err := wal.Inspect(mem, dir, func(*wal.Record) error { return nil }, nil); err != nil && !errors.Is(err, wal.ErrVersion) {
			t.Errorf("Inspect: %v", err)
		}
		b := nativeOf(mem, fuzzSegmentBytes)
		got, l, err := recoverLog(b, dir)
		if err != nil {
			if l == nil && got.state.Last == 0 {
				wantSame(t, before, imageOf(mem))
			}
			return
		}
		if err := got.consistent(); err != nil {
			t.Error(err)
		}
		check(t, l.Close())
		again, l, err := recoverLog(b, dir)
		check(t, err)
		if again.state.Last != got.state.Last {
			t.Errorf("the log ended at %d, and then at %d", got.state.Last, again.state.Last)
		}
		check(t, l.Close())
	})
}

// edit changes bytes: each edit is a place of three bytes, a length, and the
// bytes.
func edit(paths []string, files map[string][]byte, edits []byte) {
	for len(edits) > 4 {
		at := int(edits[0]) | int(edits[1])<<8 | int(edits[2])<<16
		n := min(int(edits[3]), len(edits)-4)
		for _, path := range paths {
			if at < len(files[path]) {
				copy(files[path][at:], edits[4:4+n])
				break
			}
			at -= len(files[path])
		}
		edits = edits[4+n:]
	}
}

// mended sets the checksums of all sectors right, so that the fuzzer gets behind
// them.
func mended(data []byte) []byte {
	data = bytes.Clone(data)
	if len(data) < sectorBytes {
		return data
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	salt := crc32.Checksum(data[32:40], table)
	for off := 0; off+sectorBytes <= len(data); off += sectorBytes {
		sector := data[off:][:sectorBytes]
		if bytes.Count(sector, []byte{0}) < sectorBytes {
			binary.LittleEndian.PutUint32(sector, crc32.Update(salt, table, sector[4:]))
		}
	}
	return data
}
