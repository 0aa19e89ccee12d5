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

// The origin file, by a reader that is written from docs/FORMATS.md alone. One of a newer
// version is refused by name: what it says is not known.
func TestOriginAsDrawn(t *testing.T) {
	fs := vfstest.NewMem()
	noError(t, fs.MkdirAll("/data"))
	open := func() (sides, error) {
		return openSides(Options{FS: fs, Dir: "/data", Backend: wal.New(wal.Options{FS: fs, SegmentBytes: 1 << 20})})
	}
	s, err := open()
	noError(t, err)
	want := octopiipb.Origin{
		Member: true, Replaces: 3, Addresses: []string{"h:1"},
		Rounds: []octopiipb.Round{{Cluster: 7, Members: []octopiipb.Member{{ID: 1, Kind: octopiipb.Voter}}, Settings: octopiipb.Settings{Format: 1}}},
		Rival:  &octopiipb.Rival{Cluster: 8, Member: 3, Voters: 5, Addresses: []string{"h:3"}, Since: 300},
		NotOf:  []uint64{9}, Founded: 301, FoundedCluster: 7, GivenUp: []uint64{4},
		RemovedBy: 2, RemovedAt: "h:2", ForgotBy: 6, Forgot: "index 9",
	}
	noError(t, s.SetOrigin(want))
	noError(t, s.Close())
	path := filepath.Join("/data", originFile)
	data := fs.ReadFile(path)
	golden(t, "origin.hex", data)
	smallAsDrawn(t, data, "OCTOORIG", 2, "\x08\x01"+"\x10\x03"+"\x1a\x03h:1"+ // member, replaces, addresses
		"\x22\x0c\x08\x07\x12\x04\x08\x01\x20\x01\x1a\x02\x10\x01"+ // rounds{cluster, members{ID, kind}, settings{format}}
		"\x82\x01\x0e\x08\x08\x10\x03\x18\x05\x22\x03h:3\x28\xac\x02"+ // rival{cluster, member, voters, addresses, since}
		"\x8a\x01\x01\x09"+"\x90\x01\xad\x02"+"\x98\x01\x07"+"\xa2\x01\x01\x04"+ // not_of, founded, founded_cluster, given_up
		"\xa8\x01\x02"+"\xb2\x01\x03h:2"+"\xb8\x01\x06"+"\xc2\x01\x07index 9") // removed_by and _at, forgot_by, forgot
	s, err = open()
	noError(t, err)
	if got := s.Origin(); got.String() != want.String() {
		t.Errorf("read as %v, want %v", got, want)
	}
	noError(t, s.Close())

	body, err := unseal(data, originVersion)
	noError(t, err)
	fs.WriteFile(path, sealed(originMagic, originVersion+1, body))
	if _, err := open(); err == nil || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), "version 3") || !strings.Contains(err.Error(), "use the program that wrote it, or a newer one") {
		t.Errorf("of a newer version: %v, want its version and what to do", err)
	}
}
