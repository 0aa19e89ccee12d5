package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/wal"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var someIdentity = Identity{Node: 0xabcdef, Name: "north", Incarnation: 1 << 63}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := readIdentity(vfs.OS, dir); !errors.Is(err, iofs.ErrNotExist) {
		t.Fatalf("a new directory: %v, want fs.ErrNotExist", err)
	}
	// What a crash left of the first attempt.
	noError(t, os.WriteFile(filepath.Join(dir, "identity.tmp"), []byte("OCTO"), 0o600))
	if _, err := readIdentity(vfs.OS, dir); !errors.Is(err, iofs.ErrNotExist) {
		t.Fatalf("a directory with a temporary file: %v, want fs.ErrNotExist", err)
	}
	noError(t, writeIdentity(vfs.OS, dir, someIdentity))
	got, err := readIdentity(vfs.OS, dir)
	noError(t, err)
	if got != someIdentity {
		t.Errorf("read %+v, wrote %+v", got, someIdentity)
	}
	if err := writeIdentity(vfs.OS, dir, Identity{Node: 1, Incarnation: 1}); !errors.Is(err, iofs.ErrExist) {
		t.Errorf("second write: %v, want fs.ErrExist", err)
	}
	names, err := vfs.OS.ReadDir(dir)
	noError(t, err)
	if len(names) != 1 {
		t.Errorf("the directory holds %q, want the identity alone", names)
	}
}

func TestIdentityRefused(t *testing.T) {
	for name, id := range map[string]Identity{
		"no node":        {Incarnation: 1},
		"no incarnation": {Node: 1},
		"long name":      {Node: 1, Incarnation: 1, Name: strings.Repeat("x", identityBytesMax)},
	} {
		dir := t.TempDir()
		if err := writeIdentity(vfs.OS, dir, id); err == nil {
			t.Errorf("%s: written", name)
		}
		if _, err := readIdentity(vfs.OS, dir); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s: left something behind: %v", name, err)
		}
	}
}

func TestIdentityDamage(t *testing.T) {
	whole, err := encodeIdentity(someIdentity)
	noError(t, err)
	dir := t.TempDir()
	path := filepath.Join(dir, identityFile)
	wantCorrupt := func(what string, data []byte) {
		t.Helper()
		noError(t, os.WriteFile(path, data, 0o600))
		_, err := readIdentity(vfs.OS, dir)
		if !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want wal.ErrCorrupt that names the file", what, err)
		}
	}
	for n := range whole {
		wantCorrupt("truncated", whole[:n])
	}
	for bit := range len(whole) * 8 {
		flipped := append([]byte(nil), whole...)
		flipped[bit/8] ^= 1 << (bit % 8)
		wantCorrupt("one bit flipped", flipped)
	}
	wantCorrupt("longer", append(append([]byte(nil), whole...), 0))
	wantCorrupt("much longer", append(append([]byte(nil), whole...), make([]byte, identityBytesMax)...))
	wantCorrupt("no message", sealed(identityMagic, identityVersion, []byte{0xff}))
	wantCorrupt("no node", sealed(identityMagic, identityVersion, nil))

	for version, want := range map[uint32]string{
		identityVersion + 1: "version 3, and this program reads version 2: use the program that wrote it, or a newer one",
		1:                   "version 1, which no release wrote",
	} {
		noError(t, os.WriteFile(path, sealed(identityMagic, version, []byte("whatever")), 0o600))
		if _, err := readIdentity(vfs.OS, dir); err == nil || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("version %d: %v, want an error that is not wal.ErrCorrupt and says %q", version, err, want)
		}
	}
}

// FuzzIdentity reads a file that holds anything, and the same under a right head
// and checksum: an error says that it is damaged or of another version, what is
// read is what would be written, and the file stays as it is.
func FuzzIdentity(f *testing.F) {
	whole, err := encodeIdentity(someIdentity)
	noError(f, err)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add(whole[headBytes : len(whole)-crcBytes])
	f.Add(whole[headBytes : len(whole)-crcBytes-2])
	f.Add(append([]byte("OCTOSNAP"), whole[8:]...))
	f.Add(append(whole[:len(whole):len(whole)], 0))
	f.Add(sealed(identityMagic, identityVersion+1, nil))
	f.Add([]byte{0x08, 1})
	f.Add([]byte{0x18, 1})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum keeps mutations out, so try the body under a right one too.
		for _, file := range [][]byte{data, sealed(identityMagic, identityVersion, data)} {
			mem := vfstest.NewMem()
			mem.WriteFile("/d/"+identityFile, file)
			id, err := readIdentity(mem, "/d")
			if now := mem.ReadFile("/d/" + identityFile); !bytes.Equal(now, file) {
				t.Errorf("reading made %x of %x", now, file)
			}
			if err != nil {
				other := len(file) > headBytes && bytes.HasPrefix(file, []byte(identityMagic)) && binary.LittleEndian.Uint32(file[8:]) != identityVersion
				if !errors.Is(err, wal.ErrCorrupt) && !other {
					t.Errorf("%x: %v, want wal.ErrCorrupt", file, err)
				}
				continue
			}
			if id.Node == 0 || id.Incarnation == 0 {
				t.Errorf("read %+v", id)
			}
			mem = vfstest.NewMem()
			noError(t, mem.MkdirAll("/d"))
			noError(t, writeIdentity(mem, "/d", id))
			if got, err := readIdentity(mem, "/d"); err != nil || got != id {
				t.Errorf("read %+v, and after writing it %+v, %v", id, got, err)
			}
		}
	})
}
