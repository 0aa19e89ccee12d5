package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"path/filepath"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// The identity file: magic, u32 version, u32 length, an octopiipb.Identity of
// that length, u32 checksum of all that. Numbers are little-endian and checksums
// CRC-32C, here as in snapshot files.
const (
	identityFile     = "identity"
	identityMagic    = "OCTOIDEN"
	identityVersion  = 2
	identityBytesMax = 64 << 10
	// headBytes is what stands before the message: magic, version and length.
	headBytes = 16
	crcBytes  = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Identity says whose a data directory is, for ever.
type Identity struct {
	// Node is the member's ID, not 0.
	Node uint64
	Name string
	// Incarnation is drawn when the directory is first used, not 0: the same
	// member with another one has lost its disk.
	Incarnation uint64
	// Cluster is the one whose log this directory has, or had; 0: it never had one. It is
	// durable before anything of the log is acknowledged.
	Cluster uint64
}

// readIdentity returns the identity of a data directory. The error is
// fs.ErrNotExist when the directory is new and wal.ErrCorrupt when the file is
// not what was written.
func readIdentity(fs vfs.FS, dir string) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := readSmallFile(fs, path, identityBytesMax)
	if err != nil {
		return Identity{}, fmt.Errorf("raftstore: read identity %s: %w", path, err)
	}
	id, err := decodeIdentity(data)
	if errors.Is(err, wal.ErrCorrupt) {
		return Identity{}, fmt.Errorf("raftstore: identity %s: %w; restore this file from a backup of this member; while a majority of the other members answers it may join again with an empty directory instead, else keep every file", path, err)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("raftstore: identity %s: %w", path, err)
	}
	return id, nil
}

// readSmallFile reads no more than a byte beyond bytesMax, which is enough for
// the decoder to see that the file is too large.
func readSmallFile(fs vfs.FS, path string, bytesMax int64) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, bytesMax+1))
}

// writeIdentity claims a data directory, which must have no identity yet. After
// a crash there is none, or the whole of it.
func writeIdentity(fs vfs.FS, dir string, id Identity) error {
	path := filepath.Join(dir, identityFile)
	if err := putIdentity(fs, path, id); err != nil {
		return fmt.Errorf("raftstore: write identity %s: %w", path, err)
	}
	return nil
}

func putIdentity(fs vfs.FS, path string, id Identity) error {
	data, err := encodeIdentity(id)
	if err != nil {
		return err
	}
	if _, err := fs.Stat(path); err == nil {
		return fmt.Errorf("%w: a data directory keeps its identity; use an empty one for another member", iofs.ErrExist)
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	return vfs.Replace(fs, path, data)
}

// prepareIdentity writes what replaceIdentity puts in place. Nothing else of that needs
// space.
func prepareIdentity(fs vfs.FS, dir string, id Identity) error {
	path := filepath.Join(dir, identityFile)
	data, err := encodeIdentity(id)
	if err == nil {
		err = vfs.Prepare(fs, path, data)
	}
	if err != nil {
		return fmt.Errorf("raftstore: write identity %s: %w", path, err)
	}
	return nil
}

// replaceIdentity puts the identity that was prepared in the place of the one before it.
// After a crash there is the whole of one of the two.
func replaceIdentity(fs vfs.FS, dir string) error {
	path := filepath.Join(dir, identityFile)
	if err := vfs.PutInPlace(fs, path); err != nil {
		return fmt.Errorf("raftstore: replace identity %s: %w", path, err)
	}
	return nil
}

func encodeIdentity(id Identity) ([]byte, error) {
	if id.Node == 0 || id.Incarnation == 0 {
		return nil, fmt.Errorf("node %d with incarnation %d: neither may be 0", id.Node, id.Incarnation)
	}
	m := octopiipb.Identity{Node: id.Node, Name: id.Name, Incarnation: id.Incarnation, Cluster: id.Cluster}
	body, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	data := sealed(identityMagic, identityVersion, body)
	if len(data) > identityBytesMax {
		return nil, fmt.Errorf("%d bytes, more than %d: choose a shorter name", len(data), identityBytesMax)
	}
	return data, nil
}

func decodeIdentity(data []byte) (Identity, error) {
	if len(data) > identityBytesMax {
		return Identity{}, fmt.Errorf("%w: larger than %d bytes", wal.ErrCorrupt, identityBytesMax)
	}
	n, err := bodyBytes(data, identityMagic, identityBytesMax)
	if err != nil {
		return Identity{}, err
	}
	if want := headBytes + n + crcBytes; len(data) != want {
		return Identity{}, fmt.Errorf("%w: %d bytes instead of %d", wal.ErrCorrupt, len(data), want)
	}
	body, err := unseal(data, identityVersion)
	if err != nil {
		return Identity{}, err
	}
	var m octopiipb.Identity
	if err := m.Unmarshal(body); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", wal.ErrCorrupt, err)
	}
	if m.Node == 0 || m.Incarnation == 0 {
		return Identity{}, fmt.Errorf("%w: node %d with incarnation %d", wal.ErrCorrupt, m.Node, m.Incarnation)
	}
	return Identity{Node: m.Node, Name: m.Name, Incarnation: m.Incarnation, Cluster: m.Cluster}, nil
}

// sealed puts a head before the body and the checksum of both behind it.
func sealed(magic string, version uint32, body []byte) []byte {
	data := make([]byte, 0, headBytes+len(body)+crcBytes)
	data = append(data, magic...)
	data = binary.LittleEndian.AppendUint32(data, version)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(body)))
	data = append(data, body...)
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

// bodyBytes reads a head and returns the length that it gives to the body.
func bodyBytes(head []byte, magic string, bytesMax uint32) (int, error) {
	if len(head) < headBytes {
		return 0, fmt.Errorf("%w: ends after %d bytes", wal.ErrCorrupt, len(head))
	}
	if !bytes.HasPrefix(head, []byte(magic)) {
		return 0, fmt.Errorf("%w: begins with %q instead of %q", wal.ErrCorrupt, head[:len(magic)], magic)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n > bytesMax {
		return 0, fmt.Errorf("%w: length %d is more than %d", wal.ErrCorrupt, n, bytesMax)
	}
	return int(n), nil
}

// unseal checks what sealed made and returns the body. The checksum goes first:
// every version has it in the same place, so that damage to the version is not
// taken for a newer one.
func unseal(data []byte, version uint32) ([]byte, error) {
	end := len(data) - crcBytes
	if sum := crc32.Checksum(data[:end], castagnoli); sum != binary.LittleEndian.Uint32(data[end:]) {
		return nil, fmt.Errorf("%w: wrong checksum", wal.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != version {
		return nil, errVersion(v, version)
	}
	return data[headBytes:end], nil
}

// adviceNewer is what to do about a file that is newer than this program.
const adviceNewer = "use the program that wrote it, or a newer one"

// errVersion refuses a file by its version, and says what to do.
func errVersion(is, reads uint32) error {
	if is < reads {
		return fmt.Errorf("format version %d, which no release wrote, and this program reads version %d: use the program that wrote it, or let the member join anew with an empty directory", is, reads)
	}
	return fmt.Errorf("format version %d, and this program reads version %d: %s", is, reads, adviceNewer)
}
