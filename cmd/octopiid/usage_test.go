package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Wrong usage ends with status 2, and one line that says what to do.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "empty")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, args []string
		want      string
	}{
		"unknown command":     {nil, []string{"bogus"}, "see octopiid --help"},
		"unknown flag":        {nil, []string{"start", "--bogus"}, "--bogus; see octopiid start --help"},
		"argument":            {nil, []string{"start", "here"}, "here"},
		"directory is a file": {nil, []string{"start", "--data-dir", file, "--bootstrap"}, "--data-dir " + file + " is a file; name a directory"},
		"below a file":        {nil, []string{"start", "--data-dir", file + "/x", "--bootstrap"}, "a part of this path is a file"},
		"joins itself":        {nil, []string{"start", "--data-dir", dir, "--peer-addr", "127.0.0.1:1", "--join", "localhost:1"}, "nobody but this member itself"},
		"one address twice":   {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--client-addr", "127.0.0.1:1", "--peer-addr", "localhost:1"}, "--client-addr and --peer-addr are both"},
		"bad boolean":         {[]string{"OCTOPII_BOOTSTRAP=maybe"}, []string{"start", "--data-dir", dir}, "OCTOPII_BOOTSTRAP"},
		"no directory":        {nil, []string{"start"}, "--data-dir"},
		"neither":             {nil, []string{"start", "--data-dir", dir}, "--bootstrap"},
		"no cluster":          {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--not-of", "x"}, "--not-of"},
		"found before":        {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--found-after", "-1s"}, "--found-after"},
		"wait and found":      {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--wait"}, "leave --bootstrap and --join out"},
		"missing file":        {nil, []string{"start", "--config", "/does/not/exist"}, "/does/not/exist"},
		"too many members":    {nil, []string{"dev", "--nodes", "7"}, "--nodes 7"},
		"log format":          {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--wal", "x"}, "use native or etcd"},
		"log format of dev":   {[]string{"OCTOPII_WAL=x"}, []string{"dev"}, "use native or etcd"},
		"stall limit":         {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--disk-stall-limit", "60ns"}, "--disk-stall-limit 60ns"},
		"request timeout":     {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--request-timeout", "7ms"}, "--request-timeout 7ms"},
		"stall of answers":    {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--answer-stall-timeout", "0"}, "--answer-stall-timeout 0s"},
		"no streams":          {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--max-concurrent-streams", "0"}, "--max-concurrent-streams 0"},
		"few answer bytes":    {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--answer-bytes-max", "4096"}, "--answer-bytes-max 4096"},
		"few request bytes":   {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--incoming-bytes-max", "4096"}, "--incoming-bytes-max 4096"},
		"slow requests":       {nil, []string{"start", "--data-dir", dir, "--bootstrap", "--incoming-timeout", "0"}, "--incoming-timeout 0s"},
		"no members at all":   {nil, []string{"dev", "--nodes", "0"}, "--nodes 0"},
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
	t.Parallel()
	running := filepath.Join(t.TempDir(), "running")
	first := spawn(t, nil, "start", "--data-dir", running, "--bootstrap", "--found-after", "0", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0").waitReady()
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer metrics.Close()
	any := "127.0.0.1:0"
	for name, c := range map[string]struct {
		dir, client, peer, metrics, want string
	}{
		"directory in use":        {running, any, any, "", "--data-dir " + running + " is in use"},
		"client address in use":   {t.TempDir(), first.Client, any, "", "--client-addr " + first.Client},
		"peer address in use":     {t.TempDir(), any, first.Peer, "", "--peer-addr " + first.Peer},
		"address of no interface": {t.TempDir(), any, "192.0.2.1:25999", "", "this machine has no such address"},
		"metrics address in use":  {t.TempDir(), any, any, metrics.Addr().String(), "--metrics-addr"},
	} {
		t.Run(name, func(t *testing.T) {
			p := spawn(t, nil, "start", "--data-dir", c.dir, "--bootstrap", "--found-after", "0", "--log-level", "error", "--lock-timeout", "0",
				"--client-addr", c.client, "--peer-addr", c.peer, "--metrics-addr", c.metrics)
			expectEnd(t, p, exitFailure, c.want)
		})
	}
}

// A damaged database is named, and nothing is served from it.
func TestStartOnDamagedStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	args := []string{"start", "--data-dir", dir, "--bootstrap", "--found-after", "0", "--log-level", "error", "--client-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0"}
	store := filepath.Join(dir, "kv", "db")
	if err := os.MkdirAll(filepath.Dir(store), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, []byte(strings.Repeat("damage", 4000)), 0o600); err != nil {
		t.Fatal(err)
	}
	expectEnd(t, spawn(t, nil, args...), exitFailure, store)
}

// What the system says of an address to listen on is said with what to change.
func TestListenErrors(t *testing.T) {
	for want, err := range map[string]error{
		"the host a cannot be resolved (no such host); correct the name": &net.DNSError{Name: "a", Err: "no such host"},
		"stop the process that uses it":                                  syscall.EADDRINUSE,
		"0.0.0.0 together with --advertise-peer-addr":                    syscall.EADDRNOTAVAIL,
		"choose a port above 1023":                                       syscall.EACCES,
		"--peer-addr a:1: listen: too many open files":                   syscall.EMFILE,
	} {
		if got := listenError("peer-addr", "a:1", &net.OpError{Op: "listen", Err: err}).Error(); !strings.Contains(got, want) {
			t.Errorf("%q; want %q in it", got, want)
		}
	}
}

// Certificates that cannot be read are named by their flags.
func TestStartWithoutCertificates(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none.pem")
	for _, flags := range [][]string{
		{"--peer-cert-file", none, "--peer-key-file", none, "--peer-ca-file", none},
		{"--client-cert-file", none, "--client-key-file", none},
	} {
		args := append(lone(t.TempDir()), "--log-level", "error")
		expectEnd(t, spawn(t, nil, append(args, flags...)...), exitFailure, flags[0])
	}
}

// Every program says which build it is.
func TestVersion(t *testing.T) {
	var out, errs strings.Builder
	if code := run(t.Context(), []string{"--version"}, nil, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "octopiid version ") || errs.Len() > 0 {
		t.Errorf("status %d, %q, %q", code, out.String(), errs.String())
	}
}

func TestRepeatedKey(t *testing.T) {
	for line, want := range map[string]string{
		`{"a":1,"b":{"a":2},"c":[1]}`: "",
		`{"a":1,"b":2,"a":3}`:         "a",
		`octopiid: no JSON`:           "",
	} {
		if got := repeatedKey([]byte(line)); got != want {
			t.Errorf("%s: %q; want %q", line, got, want)
		}
	}
}

// An error of several parts is told on one line that keeps them apart.
func TestErrorIsOneLine(t *testing.T) {
	err := errors.Join(errors.New("start it again"), fmt.Errorf("node: the disk\n\n fails"))
	if got, want := oneLine(err), "start it again; node: the disk; fails"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
