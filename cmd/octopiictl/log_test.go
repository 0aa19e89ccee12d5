package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
	"github.com/octopii/octopii/wal/etcdwal"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// backends by the name of their format.
var backends = map[string]wal.Backend{
	"native": wal.New(wal.Options{SegmentBytes: 64 << 10}),
	"etcd":   etcdwal.New(nil),
}

// data is a data directory with a member's log of entries 2 to 5, of which 4 and
// 5 were written twice.
func data(t *testing.T, format string) (dir, log string) {
	t.Helper()
	dir = t.TempDir()
	s, _, writer, err := raftstore.Open(raftstore.Options{Dir: filepath.Join(dir, "node"), Backend: backends[format]})
	check(t, err)
	check(t, s.SetIdentity(raftstore.Identity{Node: 0xa, Name: "n1", Incarnation: 1}))
	h := raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{0xa}}}, External: true}
	w, err := s.CreateSnapshot(h)
	check(t, err)
	_, err = w.Commit()
	check(t, err)
	check(t, s.Found(h, raftpb.HardState{Term: 1, Commit: 1}))
	entries := func(term uint64, indexes ...uint64) (all []raftpb.Entry) {
		for _, i := range indexes {
			all = append(all, raftpb.Entry{Index: i, Term: term, Data: fmt.Appendf(nil, "entry %d", i)})
		}
		return all
	}
	first := entries(1, 2, 3, 4, 5)
	first[1].Type = raftpb.EntryConfChangeV2
	check(t, writer.Append([]wal.Batch{{Entries: first, HardState: raftpb.HardState{Term: 1, Vote: 0xa, Commit: 3}}}))
	check(t, writer.Append([]wal.Batch{{Entries: entries(2, 4, 5), HardState: raftpb.HardState{Term: 2, Vote: 0xa, Commit: 4}}}))
	check(t, s.Close())
	return dir, filepath.Join(dir, "node", "wal", "0000000000000001")
}

func TestLogShow(t *testing.T) {
	dir, log := data(t, "native")
	lines := "log " + log + ` (native)
SEGMENT OFFSET SIZE SEQUENCE INDEXES TERMS ENTRIES BYTES CONF TERM VOTE COMMIT KINDS
0000000000000001.seg 4096  512 1 -   -  0 0  0 1 0 1 mark,begin: 1 of term 1
0000000000000001.seg 8192  512 2 2-5 1  4 28 1 1 a 3 entries
0000000000000001.seg 12288 512 3 4-5 2  2 14 0 2 a 4 entries,truncates
0000000000000001.seg 16384 512  4 -   -  0 0  0 2 a 4 end
4 frames in 1 segments, 65536 bytes; entries: 4, from 2 to 5, and 2 that were replaced; terms 1-2; term 2, vote a, commit 4; end: whole, with an end mark that proves it`
	expect(t, 0, lines, "log", "show", dir)
	expect(t, 0, lines, "log", "show", filepath.Join(dir, "node"))
	expect(t, 0, lines, "log", "show", log)
	expect(t, 0, "log "+log+` (native)
SEGMENT OFFSET INDEX TERM BYTES TYPE
0000000000000001.seg 8192  3 1 7 conf change
0000000000000001.seg 8192  4 1 7 normal
stopped at the limit after 3 frames; what follows was not read`, "log", "show", "--entries", "--from", "3", "--to", "4", "--limit", "2", dir)

	dir, log = data(t, "etcd")
	var out, errs strings.Builder
	if status := run([]string{"log", "show", "--from", "4", dir}, &out, &errs); status != 0 {
		t.Fatal(errs.String())
	}
	for _, want := range []string{
		"log " + log + " (etcd)\n",
		"0000000000000000-0000000000000000.wal",
		"entries,truncates\n",
		"entries: 4, from 2 to 5, and 2 that were replaced",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// Every line of JSON is an object of its own, with one key.
func TestLogShowJSON(t *testing.T) {
	for format := range backends {
		dir, log := data(t, format)
		var out, errs strings.Builder
		if status := run([]string{"log", "show", "--entries", "-o", "json", dir}, &out, &errs); status != 0 {
			t.Fatal(errs.String())
		}
		var keys []string
		var indexes []uint64
		for line := range strings.Lines(out.String()) {
			var object map[string]struct {
				Dir       string
				Index     uint64
				HardState struct{ Commit uint64 }
			}
			check(t, json.Unmarshal([]byte(line), &object))
			for key, value := range object {
				keys = append(keys, key)
				switch key {
				case "log":
					if value.Dir != log {
						t.Errorf("log %s, want %s", value.Dir, log)
					}
				case "entry":
					indexes = append(indexes, value.Index)
				case "summary":
					if value.HardState.Commit != 4 {
						t.Errorf("commit %d, want 4", value.HardState.Commit)
					}
				}
			}
		}
		if got := strings.Join(keys, " "); got != "log entry entry entry entry entry entry summary" {
			t.Errorf("%s: lines %s", format, got)
		}
		if got := fmt.Sprint(indexes); got != "[2 3 4 5 4 5]" {
			t.Errorf("%s: entries %s", format, got)
		}
	}
}

func TestLogVerify(t *testing.T) {
	dir, log := data(t, "native")
	expect(t, 0, "log "+log+` (native)
member     a n1, in `+filepath.Join(dir, "node")+`
segments   1 with 65536 bytes, and 0 spare
frames     4
entries    4, from 2 to 5, and 2 that were replaced; 42 bytes of data and 1 conf changes with those that were replaced
terms      1 from 2, 2 from 4
marks      1 of term 1
hard state term 2, vote a, commit 4
snapshot   index 1 of term 1, 104 bytes, of a state machine that keeps its own data
end        whole, with an end mark that proves it
result     whole`, "log", "verify", dir)
}

// Damage is shown where it is, and is an exit status of its own.
func TestLogDamage(t *testing.T) {
	for format := range backends {
		dir, log := data(t, format)
		names, err := filepath.Glob(filepath.Join(log, "*[gl]"))
		check(t, err)
		content, err := os.ReadFile(names[0])
		check(t, err)
		at := strings.Index(string(content), "entry 3")
		content[at] ^= 1
		check(t, os.WriteFile(names[0], content, 0o600))
		for _, command := range []string{"show", "verify"} {
			for _, output := range []string{"table", "json"} {
				var out, errs strings.Builder
				if status := run([]string{"log", command, "-o", output, dir}, &out, &errs); status != exitFailed {
					t.Errorf("%s %s: exit status %d, want %d", format, command, status, exitFailed)
				}
				for _, text := range []string{out.String(), errs.String()} {
					if !strings.Contains(text, names[0]) || !strings.Contains(text, "offset") {
						t.Errorf("%s %s: it does not name the file and the offset:\n%s", format, command, text)
					}
				}
				if !strings.Contains(errs.String(), "rebuild this member from its peers") {
					t.Errorf("%s %s: it does not say what to do:\n%s", format, command, errs.String())
				}
			}
		}
		expect(t, exitFailed, "", "log", "convert", "--to", map[string]string{"native": "etcd", "etcd": "native"}[format], dir)
	}
}

func TestLogConvert(t *testing.T) {
	dir, log := data(t, "native")
	wals := filepath.Dir(log)
	expect(t, 0, `the new log begins at the newest mark, index 1 of term 1; what is older, 0 marks among it, is not taken along
`+wals+`/0000000000000002 holds the log in the format etcd
kept the old log as `+log+`.old
start octopiid with --wal=etcd from now on`, "log", "convert", "--to", "etcd", "--keep", dir)
	expect(t, 0, wals+"/0000000000000002 is in the format etcd start octopiid with --wal=etcd from now on", "log", "convert", "--to", "etcd", dir)
	var out, errs strings.Builder
	if status := run([]string{"log", "verify", dir}, &out, &errs); status != 0 || !strings.Contains(out.String(), "0000000000000002 (etcd)") {
		t.Errorf("exit status %d\n%s%s", status, out.String(), errs.String())
	}
}

func TestLogUsage(t *testing.T) {
	dir, _ := data(t, "native")
	for _, args := range [][]string{
		{"log"},
		{"log", "show"},
		{"log", "verify", dir, dir},
		{"log", "show", "--from", "3", "--to", "2", dir},
		{"log", "show", "--limit", "-1", dir},
		{"log", "convert", dir},
		{"log", "convert", "--to", "other", dir},
	} {
		expect(t, exitUsage, "", args...)
	}
	expect(t, exitFailed, "", "log", "show", t.TempDir())
}

// A bar appears when a step takes long, and only then; it goes away at the end.
func TestProgress(t *testing.T) {
	var out strings.Builder
	now := time.Now()
	p := &progress{w: &out, now: func() time.Time { return now }}
	p.update("reading", 1<<20, 4<<20)
	p.done()
	if out.Len() > 0 {
		t.Errorf("a bar for a step that was soon over: %q", out.String())
	}
	p.update("reading", 0, 4<<20)
	now = now.Add(progressAfter)
	p.update("reading", 2<<20, 4<<20)
	if !strings.Contains(out.String(), "reading") || !strings.Contains(out.String(), "50%") {
		t.Errorf("no bar: %q", out.String())
	}
	p.done()
	if !strings.HasSuffix(out.String(), "\r") {
		t.Errorf("the bar stays: %q", out.String())
	}
	if quiet := newProgress(&out); quiet.now != nil {
		t.Error("a bar on what is no terminal")
	}
}
