package raftstore

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/octopii/octopii/internal/vfs/vfstest"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

// A damaged note of what a member without a log was is read as that of a member: it founds
// nothing, and no promise is made up.
func TestDamagedOriginFoundsNothing(t *testing.T) {
	body, err := (&octopiipb.Origin{Addresses: []string{"h:1"}}).Marshal()
	noError(t, err)
	whole := sealed(originMagic, originVersion, body)
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{
		"longer":     append(append([]byte(nil), whole...), 0),
		"shorter":    whole[:len(whole)-1],
		"flipped":    flipped,
		"no message": sealed(originMagic, originVersion, []byte{0xff}),
	} {
		if o, err := decodeOrigin(data); !errors.Is(err, wal.ErrCorrupt) || o.Member || len(o.Addresses) > 0 {
			t.Errorf("%s: %+v, %v; want ErrCorrupt and nothing else", name, o, err)
		}
		fs := vfstest.NewMem()
		noError(t, fs.MkdirAll("/data"))
		fs.WriteFile(filepath.Join("/data", originFile), data)
		s, err := openSides(Options{FS: fs, Dir: "/data", Backend: wal.New(wal.Options{FS: fs, SegmentBytes: 1 << 20})})
		noError(t, err)
		if o := s.Origin(); !o.Member || len(o.Addresses) > 0 || len(o.Rounds) > 0 {
			t.Errorf("%s: the store says %+v, want a member and nothing else", name, o)
		}
		noError(t, s.Close())
	}
}
