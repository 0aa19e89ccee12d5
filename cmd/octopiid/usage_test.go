package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Wrong usage ends with status 2, and one line that says what to do.
func TestUsageErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "empty")
	for name, c := range map[string]struct {
		env, args []string
		want      string
	}{
		"unknown command":   {nil, []string{"bogus"}, "bogus"},
		"unknown flag":      {nil, []string{"start", "--bogus"}, "--bogus"},
		"argument":          {nil, []string{"start", "here"}, "here"},
		"no directory":      {nil, []string{"start"}, "--data-dir"},
		"neither":           {nil, []string{"start", "--data-dir", dir}, "--bootstrap"},
		"both":              {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--join", "a:1"}, "not both"},
		"wait and found":    {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--wait"}, "leave --bootstrap and --join out"},
		"missing file":      {nil, []string{"start", "--config", "/does/not/exist"}, "/does/not/exist"},
		"too many members":  {nil, []string{"dev", "--nodes", "7"}, "--nodes 7"},
		"log format":        {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--wal", "x"}, "use native or etcd"},
		"log format of dev": {[]string{"OCTOPII_WAL=x"}, []string{"dev"}, "use native or etcd"},
		"stall limit":       {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--disk-stall-limit", "60ns"}, "--disk-stall-limit 60ns"},
		"request timeout":   {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--request-timeout", "7ms"}, "--request-timeout 7ms"},
		"stall of answers":  {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--answer-stall-timeout", "0"}, "--answer-stall-timeout 0s"},
		"no streams":        {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--max-concurrent-streams", "0"}, "--max-concurrent-streams 0"},
		"few answer bytes":  {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--answer-bytes-max", "4096"}, "--answer-bytes-max 4096"},
		"no members at all": {nil, []string{"dev", "--nodes", "0"}, "--nodes 0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := spawn(t, c.env, c.args...)
			expectEnd(t, p, exitUsage, c.want)
			if _, err := os.Stat(dir); err == nil {
				t.Error("wrong usage made a directory")
			}
		})
	}
}

// expectEnd expects a status and one line with want in it.
func expectEnd(t *testing.T, p *process, status int, want string) {
	t.Helper()
	if got := p.waitEnd(); got != status {
		t.Errorf("status %d; want %d", got, status)
	}
	text := p.text()
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, want) {
		t.Errorf("stderr:\n%s\nwant one line with %q", text, want)
	}
}

// What is in the way of a well-called start ends it with status 1.
func TestStartFailures(t *testing.T) {
	running := filepath.Join(t.TempDir(), "running")
	first := spawn(t, nil, "start", "--data-dir", running, "--bootstrap", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0").waitReady()
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer metrics.Close()
	any := "127.0.0.1:0"
	for name, c := range map[string]struct {
		dir, client, peer, metrics, want string
	}{
		"directory in use":       {running, any, any, "", "--data-dir " + running + " is in use"},
		"client address in use":  {t.TempDir(), first.Client, any, "", "--client-addr " + first.Client},
		"peer address in use":    {t.TempDir(), any, first.Peer, "", "--peer-addr " + first.Peer},
		"metrics address in use": {t.TempDir(), any, any, metrics.Addr().String(), "--metrics-addr"},
	} {
		t.Run(name, func(t *testing.T) {
			p := spawn(t, nil, "start", "--data-dir", c.dir, "--bootstrap", "--log-level", "error", "--lock-timeout", "0",
				"--client-addr", c.client, "--peer-addr", c.peer, "--metrics-addr", c.metrics)
			expectEnd(t, p, exitFailure, c.want)
		})
	}
}

// A damaged database is named, and nothing is served from it.
func TestStartOnDamagedStore(t *testing.T) {
	dir := t.TempDir()
	args := []string{"start", "--data-dir", dir, "--bootstrap", "--log-level", "error", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0"}
	store := filepath.Join(dir, "kv", "db")
	if err := os.MkdirAll(filepath.Dir(store), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, []byte(strings.Repeat("damage", 4000)), 0o600); err != nil {
		t.Fatal(err)
	}
	expectEnd(t, spawn(t, nil, args...), exitFailure, store)
}
