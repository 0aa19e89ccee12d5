package raftstore

import (
	"errors"
	"path/filepath"
	"strings"
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
	data := fs.ReadFile(path)
	if len(data) == 0 {
		t.Fatal("there is no file to damage")
	}
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

// The memory file, by a reader that is written from docs/FORMATS.md alone. One of a newer
// version is no damage, and named.
func TestMemoryAsDrawn(t *testing.T) {
	fs := vfstest.NewMem()
	noError(t, fs.MkdirAll("/data"))
	s := &Store{files: &files{fs: fs, dir: "/data"}}
	of := octopiipb.Memory{Term: 5, Match: 9, Commit: 8, MatchTerm: 4, CommitTerm: 3}
	noError(t, s.SaveMemories(octopiipb.Memories{Of: []octopiipb.MemoryOf{{Member: 0xa1, Memory: of}}}, true))
	path := filepath.Join("/data", memoriesFile)
	data := fs.ReadFile(path)
	golden(t, "memory.hex", data)
	// of{member, memory{term, match, commit, match_term, commit_term}}
	smallAsDrawn(t, data, "OCTOMEMO", 1, "\x0a\x0f"+"\x08\xa1\x01"+"\x12\x0a\x08\x05\x10\x09\x18\x08\x20\x04\x28\x03")
	if m, err := s.Memories(); err != nil || len(m.Of) != 1 || m.Of[0].Member != 0xa1 || m.Of[0].Memory != of {
		t.Errorf("read as %v, %v", m, err)
	}
	body, err := unseal(data, memoryVersion)
	noError(t, err)
	fs.WriteFile(path, sealed(memoryMagic, memoryVersion+1, body))
	if m, err := s.Memories(); err == nil || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), "version 2") || len(m.Of) != 0 {
		t.Errorf("of a newer version: %v, %v", m, err)
	}
}
