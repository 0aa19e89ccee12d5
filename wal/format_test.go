package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// goldenLog is the log that docs/FORMATS.md draws.
func goldenLog(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "wal")
	b := New(Options{SegmentBytes: 32 << 10, Rand: strings.NewReader("saltsalt")})
	l := must[Log](t)(b.Create(dir, Mark{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{7}}}, raftpb.HardState{Term: 1, Commit: 1}))
	check(t, l.Append([]Batch{{
		Entries:   []raftpb.Entry{{Index: 2, Term: 2}, {Index: 3, Term: 2, Data: []byte("hello")}},
		HardState: raftpb.HardState{Term: 2, Vote: 7, Commit: 1},
	}}))
	check(t, l.Append([]Batch{{
		Entries:   []raftpb.Entry{{Index: 3, Term: 3, Data: bytes.Repeat([]byte("x"), 600)}},
		HardState: raftpb.HardState{Term: 3, Commit: 2},
	}}))
	check(t, l.Append([]Batch{{HardState: raftpb.HardState{Term: 3, Commit: 3}}}))
	check(t, l.SetMark(Mark{Index: 3, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{7}}}))
	check(t, l.Close())
	return dir
}

func TestGoldenSegment(t *testing.T) {
	data := must[[]byte](t)(os.ReadFile(filepath.Join(goldenLog(t), "0000000000000001.seg")))
	var dump strings.Builder
	for off := 0; off < len(data); off += sectorBytes {
		if s := data[off : off+sectorBytes]; !bytes.Equal(s, zeros[:sectorBytes]) {
			for at := 0; at < sectorBytes; at += 16 {
				if line := s[at : at+16]; at == 0 || !bytes.Equal(line, zeros[:16]) {
					d := make([]byte, 4)
					binary.BigEndian.PutUint32(d, uint32(off+at))
					dump.WriteString(hex.EncodeToString(d) + "  " + strings.TrimRight(hex.Dump(line)[10:], "\n") + "\n")
				}
			}
		}
	}
	const golden = "testdata/segment.hex"
	if *rewrite {
		check(t, os.MkdirAll(filepath.Dir(golden), 0o755))
		check(t, os.WriteFile(golden, []byte(dump.String()), 0o644))
	}
	want := must[[]byte](t)(os.ReadFile(golden))
	if diff := cmp.Diff(string(want), dump.String()); diff != "" {
		t.Errorf("the format has changed: raise the version, and say so in docs/FORMATS.md (-want +got):\n%s", diff)
	}
}

// A second reader, written from docs/FORMATS.md alone.
func TestFormatAsDrawn(t *testing.T) {
	data := must[[]byte](t)(os.ReadFile(filepath.Join(goldenLog(t), "0000000000000001.seg")))
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	table := crc32.MakeTable(crc32.Castagnoli)
	if string(data[16:24]) != "OCTOPWAL" || u32(data[24:]) != 2 || u64(data[48:]) != uint64(len(data)) {
		t.Fatalf("header %x", data[:80])
	}
	salt := crc32.Checksum(data[32:40], table)
	life := uint32(u64(data[40:]))
	sector := func(n int) []byte {
		s := data[n*512:][:512]
		if got := crc32.Update(salt, table, s[4:]); got != u32(s) || u32(s[4:]) != life || u32(s[8:])&0x7fffffff != uint32(n) {
			t.Fatalf("sector %d: checksum %x of %x, life %d", n, u32(s), got, u32(s[4:]))
		}
		return s
	}
	sector(0)
	next, previous := u64(data[56:]), u32(data[64:])
	var story []string
	for at := 8; ; {
		s := sector(at)
		body := append([]byte(nil), s[16:]...)
		n := (72 + int(u32(body[12:])) + 495) / 496
		sums := crc32.Update(0, table, s[:4])
		for i := 1; i < n; i++ {
			s := sector(at + i)
			body = append(body, s[16:]...)
			sums = crc32.Update(sums, table, s[:4])
		}
		if u64(body) != next || u32(body[8:]) != previous {
			t.Fatalf("frame %d behind %x, want %d behind %x", u64(body), u32(body[8:]), next, previous)
		}
		kind := u32(body[16:])
		line := []string{kinds(kind).String()}
		p := body[72:]
		if kind&4 != 0 {
			count := u32(p)
			for p = p[4:]; count > 0; count-- {
				line = append(line, "mark", num(u64(p)), num(u64(p[8:])))
				p = p[20+u32(p[16:]):]
			}
		}
		for i := uint64(0); i < uint64(u32(body[20:])); i++ {
			size := u32(p[12:])
			line = append(line, "entry", num(u64(body[24:])+i), num(u64(p)), num(uint64(size)))
			p = p[16+size:]
		}
		line = append(line, "last", num(u64(body[32:])), num(u64(body[40:])), "hard", num(u64(body[48:])), num(u64(body[56:])), num(u64(body[64:])))
		story = append(story, strings.Join(line, " "))
		if kind&16 != 0 {
			break
		}
		at += (n + 7) / 8 * 8
		next, previous = next+1, sums
	}
	want := []string{
		"mark,begin mark 1 1 last 1 1 hard 1 0 1",
		"entries entry 2 2 0 entry 3 2 5 last 3 2 hard 2 7 1",
		"entries,truncates entry 3 3 600 last 3 3 hard 3 0 2",
		"mark mark 3 3 last 3 3 hard 3 0 3",
		"end last 3 3 hard 3 0 3",
	}
	if diff := cmp.Diff(want, story); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A version, or a kind of frame, that is not known is refused by its name, and is
// neither damage nor another format; the files stay as they are.
func TestUnknownVersion(t *testing.T) {
	salt := saltSum(le.Uint64([]byte("saltsalt")))
	change := func(data []byte, off int, value uint32) {
		le.PutUint32(data[off:], value)
		s := sector(data[off/sectorBytes*sectorBytes:][:sectorBytes])
		le.PutUint32(s, checksum(salt, s))
	}
	for name, c := range map[string]struct {
		off   int
		value uint32
		want  string
	}{
		"newer version":          {24, 3, "version 3 of the log; this program knows version 2: use the one that wrote it, or a newer one"},
		"version of before":      {24, 1, "version 1 of the log, which no release wrote; this program knows version 2"},
		"kinds of a frame":       {2*blockBytes + sectorHeader + 16, 1 | 64, "a frame of kinds 0x41; this program knows 0x3f"},
		"kinds of a first frame": {blockBytes + sectorHeader + 16, 12 | 1<<31, "a frame of kinds 0x8000000c; this program knows 0x3f"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := goldenLog(t)
			path := filepath.Join(dir, "0000000000000001.seg")
			data := must[[]byte](t)(os.ReadFile(path))
			change(data, c.off, c.value)
			check(t, os.WriteFile(path, data, 0o600))
			b := New(Options{})
			_, marksErr := b.Marks(dir)
			_, _, openErr := b.Open(dir, Mark{Index: 3, Term: 3})
			sum, inspectErr := Inspect(b.opts.FS, dir, nil, nil)
			for what, err := range map[string]error{"Marks": marksErr, "Open": openErr, "Inspect": inspectErr} {
				if !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s returned %v, want ErrVersion with %q and the file", what, err, c.want)
				}
			}
			if sum.Damage != nil {
				t.Errorf("it is called damaged: %v", sum.Damage)
			}
			if now := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(now, data) {
				t.Error("the file was changed")
			}
		})
	}
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }
