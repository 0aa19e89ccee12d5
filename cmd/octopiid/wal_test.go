package main

import (
	"bytes"
	encoding "encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lone is the command of a member that is a cluster by itself.
func lone(dir string, more ...string) []string {
	return append([]string{"start", "--data-dir", dir, "--bootstrap", "--found-after", "0", "--log-level", "info",
		"--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0"}, more...)
}

// A directory keeps the format of its log. Who names the other one is told both
// ways out.
func TestLogFormats(t *testing.T) {
	t.Parallel()
	for made, other := range map[string]string{"native": "etcd", "etcd": "native"} {
		t.Run(made, func(t *testing.T) {
			dir := t.TempDir()
			p := spawn(t, nil, lone(dir, "--wal", made)...)
			c := client(t, nil, p.waitReady().Client)
			if _, err := c.Put(t.Context(), "k", "v"); err != nil {
				t.Fatal(err)
			}
			p.stop()

			p = spawn(t, nil, lone(dir, "--wal="+other, "--log-level=error")...)
			expectEnd(t, p, exitFailure, "--wal="+made)
			if text := p.text(); !strings.Contains(text, "octopiictl log convert") {
				t.Errorf("stderr does not say how to convert the log: %s", text)
			}

			p = spawn(t, []string{"OCTOPII_WAL=" + made}, lone(dir)...)
			c = client(t, nil, p.waitReady().Client)
			if r, err := c.Get(t.Context(), "k"); err != nil || len(r.Kvs) != 1 {
				t.Errorf("the key is read back as %v, %v", r, err)
			}
			p.stop()
		})
	}
}

// A log of a version to come is no log in another format: it names the version.
func TestStartOnUnknownVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	p.waitReady()
	p.stop()
	segments, err := filepath.Glob(filepath.Join(dir, "node", "wal", "*", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	encoding.LittleEndian.PutUint32(data[24:], 3)
	table := crc32.MakeTable(crc32.Castagnoli)
	encoding.LittleEndian.PutUint32(data, crc32.Update(crc32.Checksum(data[32:40], table), table, data[4:512]))
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	p = spawn(t, nil, lone(dir, "--log-level=error")...)
	expectEnd(t, p, exitFailure, "version 3 of the log; this program knows version 2")
	if text := p.text(); strings.Contains(text, "--wal") || strings.Contains(text, "corrupt") {
		t.Errorf("stderr calls it another format, or damage: %s", text)
	}
}

// A member whose log was damaged says where, does not start, and changes nothing.
func TestStartOnDamagedLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := spawn(t, nil, lone(dir)...)
	c := client(t, nil, p.waitReady().Client)
	for i := range 20 {
		if _, err := c.Put(t.Context(), "k", fmt.Sprintf("value-%d-", i)); err != nil {
			t.Fatal(err)
		}
	}
	p.stop()
	segments, err := filepath.Glob(filepath.Join(dir, "node", "wal", "*", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := max(bytes.Index(data, []byte("value-8-")), bytes.Index(data, []byte("value-9-")))
	if at < 0 {
		t.Fatal("the log does not hold what was written")
	}
	data[at] ^= 1
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}

	p = spawn(t, nil, lone(dir, "--log-level=error")...)
	expectEnd(t, p, exitFailure, segments[0]+" at offset ")
	if text := p.text(); !strings.Contains(text, "corrupt") || !strings.Contains(text, "entries ") {
		t.Errorf("stderr does not name the damage and the entries: %s", text)
	}
	now, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, now) {
		t.Error("the damaged segment was changed")
	}
}
