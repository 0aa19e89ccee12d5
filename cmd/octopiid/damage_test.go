package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// One bit of a value changes in the database of a member that is stopped, and of one
// that runs: it is never served, and the member is rebuilt from the others.
func TestFlippedBitIsNeverServed(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, "--scrub-interval", "500ms")
	c := client(t, nil, cl.endpoints...)
	const text = "a value like no other"
	until(t, func(ctx context.Context) error {
		_, err := c.Put(ctx, "precious", text)
		return err
	})
	for i, running := range []bool{false, true} {
		victim := i + 1
		cl.put(c, fmt.Sprint("round ", i))
		old := cl.id(0, memberName(victim))
		// A clean end brings everything into the file.
		cl.processes[victim].stop()
		if running {
			cl.start(victim)
			cl.processes[victim].waitReady()
		}
		flipBit(t, filepath.Join(cl.dataDir(victim), "kv", "db"), text)
		if !running {
			cl.start(victim)
		}
		by := client(t, nil, cl.endpoints[victim])
		until(t, func(ctx context.Context) error {
			resp, err := by.Get(ctx, "precious", clientv3.WithSerializable())
			if err == nil && len(resp.Kvs) == 1 && string(resp.Kvs[0].Value) != text {
				t.Fatalf("it served %q", resp.Kvs[0].Value)
			}
			now := cl.id(0, memberName(victim))
			if now == old || now == 0 {
				return errors.New("it is not rebuilt yet")
			}
			return err
		})
		cl.waitReplaced(victim, old, fmt.Sprint("round ", i))
		if log := cl.processes[victim].text(); !strings.Contains(log, "the database is damaged") {
			t.Errorf("its log does not name the damage:\n%s", log)
		}
	}
}

// The identity files of two of three members are damaged. Each says which file to restore,
// nothing is moved, and with the files restored all are back.
func TestTwoDamagedIdentitiesAreRestored(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	cl.put(client(t, nil, cl.endpoints...), "kept")
	for _, p := range cl.processes {
		p.stop()
	}
	whole := map[string][]byte{}
	for i := range 2 {
		file := filepath.Join(cl.dataDir(i), "node", "identity")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole[file] = data
		damage(t, file)
	}
	for i := range cl.processes {
		cl.start(i)
	}
	for i := range 2 {
		cl.waitLog(i, "restore the damaged files")
		file := filepath.Join(cl.dataDir(i), "node", "identity")
		if !strings.Contains(cl.processes[i].text(), "identity "+file+": ") {
			t.Errorf("it does not name %s:\n%s", file, cl.processes[i].text())
		}
		cl.processes[i].stop()
	}
	for file, data := range whole {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		cl.start(i)
	}
	cl.waitReady()
	for i := range cl.processes {
		if v := get(t, client(t, nil, cl.endpoints[i]), "k"); v != "kept" {
			t.Errorf("%s reads %q; want kept", memberName(i), v)
		}
		if kept, _ := filepath.Glob(filepath.Join(cl.dataDir(i), "quarantine", "*")); len(kept) > 0 {
			t.Errorf("%s put its files aside: %v", memberName(i), kept)
		}
	}
}

// flipBit changes a bit of every copy of a text in a file.
func flipBit(t *testing.T, path, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for at := 0; ; at++ {
		i := bytes.Index(data[at:], []byte(text))
		if i < 0 {
			break
		}
		at += i
		copies++
		if _, err := f.WriteAt([]byte{text[0] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil || copies == 0 {
		t.Fatalf("%s: %d copies, %v", path, copies, err)
	}
}
