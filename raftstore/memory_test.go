package raftstore

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

func TestMemories(t *testing.T) {
	fs := vfstest.NewMem()
	if err := fs.MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	s := &Store{files: &files{fs: fs, dir: "/data"}}
	if m, err := s.Memories(); err != nil || len(m.Of) != 0 {
		t.Fatalf("of a new directory: %v, %v", m, err)
	}
	for i, sync := range []bool{false, true, false} {
		want := octopiipb.Memories{Of: []octopiipb.MemoryOf{{Member: 3, Memory: octopiipb.Memory{Term: 2, Match: uint64(7 + i), Commit: 6}}}}
		if err := s.SaveMemories(want, sync); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Memories(); err != nil || m.String() != want.String() {
			t.Fatalf("got %v, %v, want %v", m, err, want)
		}
	}
	path := filepath.Join("/data", memoriesFile)
	data := fs.Image()[path]
	for i := range data {
		damaged := append([]byte(nil), data...)
		damaged[i] ^= 1
		fs.WriteFile(path, damaged)
		if m, err := s.Memories(); !errors.Is(err, wal.ErrCorrupt) || len(m.Of) != 0 {
			t.Fatalf("with a bit flipped in byte %d: %v, %v", i, m, err)
		}
		fs.WriteFile(path, data[:i])
		if m, err := s.Memories(); !errors.Is(err, wal.ErrCorrupt) || len(m.Of) != 0 {
			t.Fatalf("cut to %d bytes: %v, %v", i, m, err)
		}
	}
}
