package raftstore

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// The memory file: as the identity file, with an octopiipb.Memories. It is replaced as
// a whole. Nothing depends on its being there or up to date: it only adds to what
// members can find out.
const (
	memoriesFile   = "memory"
	memoryMagic    = "OCTOMEMO"
	memoryVersion  = 1
	memoryBytesMax = 1 << 20
)

// Memories returns what SaveMemories wrote last; nothing if there is no file. The error
// is wal.ErrCorrupt when the file is not what was written, as a crash may leave it.
func (s *Store) Memories() (octopiipb.Memories, error) {
	var m octopiipb.Memories
	path := filepath.Join(s.dir, memoriesFile)
	data, err := readSmallFile(s.fs, path, memoryBytesMax)
	if errors.Is(err, iofs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("raftstore: read %s: %w", path, err)
	}
	n, err := bodyBytes(data, memoryMagic, memoryBytesMax)
	if err == nil && len(data) != headBytes+n+crcBytes {
		err = fmt.Errorf("%w: %d bytes instead of %d", wal.ErrCorrupt, len(data), headBytes+n+crcBytes)
	}
	var body []byte
	if err == nil {
		body, err = unseal(data, memoryVersion)
	}
	if err == nil {
		err = m.Unmarshal(body)
	}
	if err != nil {
		return octopiipb.Memories{}, fmt.Errorf("raftstore: memory file %s: %w", path, err)
	}
	return m, nil
}

// SaveMemories replaces the memory file. With sync it is durable; without, it is so
// when the file system likes, and a crash may leave the old file, the new one, or one
// that Memories refuses. One goroutine at a time calls it, beside everything else.
func (s *Store) SaveMemories(m octopiipb.Memories, sync bool) error {
	body, err := m.Marshal()
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, memoriesFile)
	replace := vfs.ReplaceSoon
	if sync {
		replace = vfs.Replace
	}
	if err := replace(s.fs, path, sealed(memoryMagic, memoryVersion, body)); err != nil {
		return fmt.Errorf("raftstore: write %s: %w", path, err)
	}
	return nil
}
