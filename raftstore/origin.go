package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// The origin file has the form of the identity file, around an octopiipb.Origin. It is
// written anew as a whole.
const (
	originFile    = "origin"
	originMagic   = "OCTOORIG"
	originVersion = 2
)

// Origin returns what was written last. One that cannot be read says that the directory
// belonged to a member: the safe half of what it may have said.
func (s *Store) Origin() octopiipb.Origin { return s.origin }

// SetOrigin is durable when it returns; an error leaves the one before. Call it from one
// goroutine.
func (s *Store) SetOrigin(o octopiipb.Origin) error {
	if err := s.writeOrigin(o); err != nil {
		return fmt.Errorf("raftstore: write %s: %w", filepath.Join(s.dir, originFile), err)
	}
	s.origin = o
	return nil
}

func (s *Store) writeOrigin(o octopiipb.Origin) error {
	body, err := o.Marshal()
	if err != nil {
		return err
	}
	return vfs.Replace(s.fs, filepath.Join(s.dir, originFile), sealed(originMagic, originVersion, body))
}

func (s *Store) readOrigin() error {
	data, err := readSmallFile(s.fs, filepath.Join(s.dir, originFile), identityBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftstore: read %s: %w", filepath.Join(s.dir, originFile), err)
	}
	if s.origin, err = decodeOrigin(data); errors.Is(err, wal.ErrCorrupt) {
		s.origin, err = octopiipb.Origin{Member: true}, nil
	}
	return err
}

func decodeOrigin(data []byte) (o octopiipb.Origin, err error) {
	n, err := bodyBytes(data, originMagic, identityBytesMax)
	if err != nil {
		return o, err
	}
	if want := headBytes + n + crcBytes; len(data) != want {
		return o, fmt.Errorf("%w: %d bytes instead of %d", wal.ErrCorrupt, len(data), want)
	}
	body, err := unseal(data, originVersion)
	if err != nil {
		return o, err
	}
	if err := o.Unmarshal(body); err != nil {
		return octopiipb.Origin{}, fmt.Errorf("%w: %w", wal.ErrCorrupt, err)
	}
	return o, nil
}
