package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	octopiipb "github.com/octopii/octopii/proto"
	"github.com/octopii/octopii/wal"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// goldenHeader is that of the snapshot in docs/FORMATS.md.
func goldenHeader() SnapshotHeader {
	return SnapshotHeader{
		Metadata: raftpb.SnapshotMetadata{Index: 9, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}},
		Membership: octopiipb.Membership{Cluster: 0x77, Index: 8, Removed: []octopiipb.RemovedMember{{ID: 5, Incarnation: 0x55}},
			Members: []octopiipb.Member{
				{ID: 1, Name: "a", Address: "h:1", Kind: octopiipb.Voter, Incarnation: 0x11},
				{ID: 2, Name: "b", Address: "h:2", Kind: octopiipb.Learner, Promote: true},
			},
			Settings: octopiipb.Settings{FailoverByTimeout: true, Format: 2}},
		Terms: []octopiipb.TermStart{{First: 1, Term: 1}, {First: 2, Term: 3}},
		Sums:  []uint64{0xa, 0, 0},
	}
}

// golden compares bytes with a file of hexadecimal ones, 16 a line.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	var dump strings.Builder
	for at := 0; at < len(data); at += 16 {
		dump.WriteString(hex.Dump(data[at:min(at+16, len(data))])[10:])
	}
	path := filepath.Join("testdata", name)
	if *rewrite {
		noError(t, os.WriteFile(path, []byte(dump.String()), 0o600))
	}
	want, err := os.ReadFile(path)
	noError(t, err)
	if diff := cmp.Diff(string(want), dump.String()); diff != "" {
		t.Errorf("the format has changed: raise the version, and say so in docs/FORMATS.md (-want +got):\n%s", diff)
	}
}

// A reader that is written from docs/FORMATS.md alone, and knows no message.
func TestSnapshotAsDrawn(t *testing.T) {
	path := writeSnapshot(t, t.TempDir(), goldenHeader(), []byte("state"))
	data, err := os.ReadFile(path)
	noError(t, err)
	golden(t, "snapshot.hex", data)

	table, u32 := crc32.MakeTable(crc32.Castagnoli), binary.LittleEndian.Uint32
	crc := uint32(0)
	take := func(n int) []byte {
		if len(data) < n {
			t.Fatalf("%d bytes are left, want %d", len(data), n)
		}
		b := data[:n]
		data = data[n:]
		return b
	}
	sealed := func(n int) []byte {
		b := take(n)
		if crc = crc32.Update(crc, table, b); crc != u32(take(4)) {
			t.Fatalf("wrong checksum behind %x", b)
		}
		return b
	}
	if b := sealed(12); string(b[:8]) != "OCTOSNAP" || u32(b[8:]) != 2 {
		t.Fatalf("preamble %x", b)
	}
	sections := map[byte]string{}
	for {
		head := sealed(4)
		if head[1] != 1 || head[2] != 0 || head[3] != 0 {
			t.Fatalf("head %x", head)
		}
		if head[0] == 255 {
			break
		}
		var body []byte
		for {
			n := take(4)
			if u32(n) == 0 {
				total := take(8)
				if crc = crc32.Update(crc32.Update(crc, table, n), table, total); crc != u32(take(4)) || binary.LittleEndian.Uint64(total) != uint64(len(body)) {
					t.Fatalf("section %d of %d bytes ends with %x", head[0], len(body), total)
				}
				break
			}
			sum, chunk := take(4), take(int(u32(n)))
			if crc = crc32.Update(crc32.Update(crc, table, n), table, chunk); crc != u32(sum) {
				t.Fatalf("wrong checksum of a chunk of section %d", head[0])
			}
			body = append(body, chunk...)
		}
		sections[head[0]] = string(body)
	}
	if len(data) > 0 {
		t.Errorf("%x follows the end", data)
	}
	want := map[byte]string{
		// metadata{conf_state{voters 1, learners 2, auto_leave}, index, term}, terms, sums
		1: "\x0a\x0c\x0a\x06\x08\x01\x10\x02\x28\x00\x10\x09\x18\x03" + "\x1a\x04\x08\x01\x10\x01" + "\x1a\x04\x08\x02\x10\x03" +
			"\x22\x18\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		// cluster, index, members, settings, removed
		2: "\x08\x77\x10\x08" + "\x1a\x0e\x08\x01\x12\x01a\x1a\x03h:1\x20\x01\x30\x11" + "\x1a\x0e\x08\x02\x12\x01b\x1a\x03h:2\x20\x02\x38\x01" +
			"\x32\x04\x08\x01\x10\x02" + "\x3a\x04\x08\x05\x10\x55",
		240: "state",
	}
	if diff := cmp.Diff(want, sections); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A section that is new is not written below its format level.
func TestSectionsHaveLevels(t *testing.T) {
	sectionLevels[sectionState] = 3
	defer func() { sectionLevels[sectionState] = 1 }()
	h := goldenHeader()
	if _, err := WriteSnapshot(io.Discard, h, strings.NewReader("state")); err == nil || !strings.Contains(err.Error(), "written from format level 3 on, and the cluster's is 2") {
		t.Errorf("at level 2: %v", err)
	}
	if _, err := WriteSnapshot(io.Discard, h, nil); err != nil {
		t.Errorf("a snapshot without it: %v", err)
	}
	h.Membership.Settings.Format = 3
	if _, err := WriteSnapshot(io.Discard, h, strings.NewReader("state")); err != nil {
		t.Errorf("at level 3: %v", err)
	}
}

// The identity file, by a reader that is written from docs/FORMATS.md alone.
func TestIdentityAsDrawn(t *testing.T) {
	data, err := encodeIdentity(Identity{Node: 0xa1, Name: "north", Incarnation: 0xb2, Cluster: 0xc3})
	noError(t, err)
	golden(t, "identity.hex", data)
	// node, name, incarnation, cluster
	smallAsDrawn(t, data, "OCTOIDEN", 2, "\x08\xa1\x01\x12\x05north\x18\xb2\x01\x20\xc3\x01")
}

// smallAsDrawn reads a small file by docs/FORMATS.md alone: magic, version, length of the
// message, message, checksum of all that.
func smallAsDrawn(t *testing.T, data []byte, magic string, version uint32, message string) {
	t.Helper()
	u32, body := binary.LittleEndian.Uint32, data[16:len(data)-4]
	if string(data[:8]) != magic || u32(data[8:]) != version || int(u32(data[12:])) != len(body) ||
		u32(data[len(data)-4:]) != crc32.Checksum(data[:len(data)-4], crc32.MakeTable(crc32.Castagnoli)) {
		t.Errorf("%x", data)
	}
	if string(body) != message {
		t.Errorf("the message is\n%q, want\n%q", body, message)
	}
}

// An unknown section that need not be read is skipped, and its checksums count all the same.
// On its way to another member it stays where it is, byte for byte.
func TestUnknownOptionalSections(t *testing.T) {
	file := newRaw(snapshotVersion).header(t, headerAt(2, 5)).
		section(3, 0, []byte("sessions")).section(200, 0, nil).
		state([]byte("the state")).section(241, 0, bytes.Repeat([]byte("x"), 100)).bytes()
	r, err := openSnapshot(memoryFS{data: file}, "s")
	noError(t, err)
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "the state" {
		t.Errorf("read %q, %v", got, err)
	}
	if diff := cmp.Diff(headerAt(2, 5), r.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	for at := range file {
		file[at]++
		if err := verifySnapshot(memoryFS{data: file}, "s"); err == nil {
			t.Fatalf("byte %d is another one, and nothing is wrong", at)
		}
		file[at]--
	}
	r, err = openSnapshot(memoryFS{data: file}, "s")
	noError(t, err)
	var sent, stored bytes.Buffer
	_, err = r.Raw().WriteTo(&sent)
	noError(t, err)
	s, err := ReadSnapshotStream(&sent)
	noError(t, err)
	n, err := s.WriteTo(&stored)
	if err != nil || n != int64(len(file)) || !bytes.Equal(stored.Bytes(), file) {
		t.Errorf("%d bytes arrive of %d, %v:\n%x\nof\n%x", n, len(file), err, stored.Bytes(), file)
	}
}

// What must be read and is not known is refused by its number, and is not damage.
func TestUnknownMandatorySections(t *testing.T) {
	begun := func() *raw { return newRaw(snapshotVersion).header(t, headerAt(2, 5)) }
	for want, file := range map[string][]byte{
		"section 3 is unknown":               begun().section(3, 1, []byte("x")).state(nil).bytes(),
		"section 241 is unknown":             begun().state(nil).section(241, 1, nil).bytes(),
		"section 7 has the unknown flags 02": begun().section(7, 2, nil).state(nil).bytes(),
	} {
		err := verifySnapshot(memoryFS{data: file}, "s")
		if err == nil || errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "use the program that wrote it, or a newer one") {
			t.Errorf("%v, want %q and what to do", err, want)
		}
		s, err := ReadSnapshotStream(bytes.NewReader(file))
		if err == nil {
			_, err = s.WriteTo(io.Discard)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("as a stream: %v, want %q", err, want)
		}
	}
}

// Sections that are whole, and no snapshot all the same.
func TestSectionsThatCannotBe(t *testing.T) {
	begun := func() *raw { return newRaw(snapshotVersion).header(t, headerAt(2, 5)) }
	external := headerAt(2, 5)
	external.External = true
	membership, err := external.Membership.Marshal()
	noError(t, err)
	large := newRaw(snapshotVersion).header(t, headerAt(2, 5)).head(9, 0)
	for range sectionsBytesMax / chunkBytesMax {
		large.chunk(make([]byte, chunkBytesMax))
	}
	for want, file := range map[string][]byte{
		"no section 1 or 2 before section 255": newRaw(snapshotVersion).bytes(),
		"no section 1 or 2 before section 240": newRaw(snapshotVersion).section(2, 1, membership).state(nil).bytes(),
		"the state machine has a section: fal": begun().bytes(),
		"the state machine has a section: tru": newRaw(snapshotVersion).header(t, external).state(nil).bytes(),
		"section 2 behind section 2":           begun().section(2, 1, membership).state(nil).bytes(),
		"section 7 behind section 9":           begun().section(9, 0, nil).section(7, 0, nil).state(nil).bytes(),
		"section 0 behind section 2":           begun().section(0, 0, nil).state(nil).bytes(),
		"section 1: ":                          newRaw(snapshotVersion).section(1, 1, []byte{0xff}).bytes(),
		"section 2: ":                          newRaw(snapshotVersion).section(2, 1, []byte{0xff}).bytes(),
		"before the state machine's data":      large.tail().state(nil).bytes(),
		"chunk of 262145 bytes":                begun().head(240, 1).chunk(make([]byte, chunkBytesMax+1)).tail().bytes(),
		"goes on behind its end":               append(begun().state(nil).bytes(), 0),
	} {
		if err := verifySnapshot(memoryFS{data: file}, "s"); !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want wal.ErrCorrupt and %q", err, want)
		}
	}
	if _, err := ReadSnapshotStream(bytes.NewReader(newRaw(snapshotVersion).header(t, external).bytes())); err == nil {
		t.Error("an external snapshot is taken from another member")
	}
}

// All three ways lead to the same bytes: a file, a snapshot that is only sent, and the file of
// the one that it is sent to. A stream that breaks off leaves none.
func TestSnapshotsAreTheSameEverywhere(t *testing.T) {
	for _, n := range []int{0, 5, chunkBytesMax, 2*chunkBytesMax + 9} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			dir, data := t.TempDir(), randomBytes(n)
			path := writeSnapshot(t, dir, goldenHeader(), data)
			file, err := os.ReadFile(path)
			noError(t, err)
			var sent bytes.Buffer
			size, err := WriteSnapshot(&sent, goldenHeader(), bytes.NewReader(data))
			if err != nil || size != int64(len(file)) || !bytes.Equal(sent.Bytes(), file) {
				t.Fatalf("it is sent as %d bytes, %v, and its file has %d", size, err, len(file))
			}
			receive := func(body io.Reader) error {
				s, err := ReadSnapshotStream(body)
				if err != nil {
					return err
				}
				w, err := receiveSnapshot(vfs.OS, dir, s.Header)
				noError(t, err)
				defer w.Abort()
				if _, err := s.WriteTo(w); err != nil {
					return err
				}
				_, err = w.Commit()
				return err
			}
			noError(t, os.Remove(path))
			for _, cut := range []int{0, 11, preambleBytes, 100, len(file) / 2, len(file) - sectionHeadBytes, len(file) - 1} {
				if err := receive(bytes.NewReader(file[:cut])); !errors.Is(err, wal.ErrCorrupt) {
					t.Errorf("cut at %d of %d: %v", cut, len(file), err)
				}
				if _, err := os.Stat(path); err == nil {
					t.Fatalf("cut at %d of %d: there is a file", cut, len(file))
				}
			}
			noError(t, receive(&sent))
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, file) {
				t.Errorf("%d bytes arrive of %d, %v", len(got), len(file), err)
			}
		})
	}
}
