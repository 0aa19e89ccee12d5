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
