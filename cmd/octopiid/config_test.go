package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func load(t testing.TB, args, environ []string, file string) (config, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "octopii.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags, environ)
}

func TestConfigPrecedence(t *testing.T) {
	got, err := load(t,
		[]string{"--name", "flag", "--join", "a:1,b:2"},
		[]string{"OCTOPII_NAME=env", "OCTOPII_DATA_DIR=/env", "OCTOPII_JOIN=c:3", "OCTOPII_WAL=etcd", "OCTOPII_DISK_STALL_LIMIT=30s", "HOME=/root"},
		"name: file\ndata-dir: /file\nclient-addr: 127.0.0.1:1\nbootstrap: true\n")
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		Name: "flag", DataDir: "/env", ClientAddr: "127.0.0.1:1", PeerAddr: "127.0.0.1:2380",
		Bootstrap: true, Join: []string{"a:1", "b:2"}, WAL: "etcd", LogLevel: "info",
		DiskStallLimit: 30 * time.Second, LockTimeout: 30 * time.Second, FoundAfter: 5 * time.Second,
		ScrubInterval: 24 * time.Hour,

		RequestTimeout:       7 * time.Second,
		MaxConcurrentStreams: 1000,
		AnswerStallTimeout:   30 * time.Second,
		IncomingTimeout:      10 * time.Second,
		PeerAllowedSANs:      []string{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags before environment before file before defaults (-want +got):\n%s", diff)
	}
}

// A flag wins even when it is given its default value.
func TestConfigFlagAtItsDefault(t *testing.T) {
	got, err := load(t, []string{"--data-dir", "d", "--bootstrap=false", "--peer-addr", "127.0.0.1:2380"},
		[]string{"OCTOPII_BOOTSTRAP=true", "OCTOPII_PEER_ADDR=127.0.0.1:9"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Bootstrap || got.PeerAddr != "127.0.0.1:2380" {
		t.Errorf("the environment won over flags: %+v", got)
	}
}

func TestConfigLists(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		file    string
	}{
		"environment": {[]string{"OCTOPII_JOIN=a:1,b:2"}, ""},
		"file, list":  {nil, "join: [a:1, b:2]"},
		"file, text":  {nil, "join: a:1,b:2"},
	} {
		got, err := load(t, []string{"--data-dir", "d"}, c.environ, c.file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]string{"a:1", "b:2"}, got.Join); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args, environ []string
		file, want    string
	}{
		"unknown key":         {nil, nil, "datadir: x", `"datadir"`},
		"nested key":          {nil, nil, "client:\n  addr: x", `"client.addr"`},
		"file in a file":      {nil, nil, "config: x", `"config"`},
		"no YAML":             {nil, nil, "{", "--config"},
		"no bool":             {nil, []string{"OCTOPII_BOOTSTRAP=maybe"}, "", `OCTOPII_BOOTSTRAP: "maybe" is no bool; use true or false`},
		"no number":           {nil, []string{"OCTOPII_EXPECT=three"}, "", `OCTOPII_EXPECT: "three" is no number; name a whole number such as 3`},
		"no duration":         {nil, []string{"OCTOPII_LOCK_TIMEOUT=7"}, "", `OCTOPII_LOCK_TIMEOUT: "7" is no duration; name a duration such as 30s or 5m`},
		"no bool in a file":   {nil, nil, "bootstrap: maybe", `bootstrap in `},
		"no number in a file": {nil, nil, "disk-reserve: much", `disk-reserve in `},
		"a duration in ns":    {nil, nil, "request-timeout: 7", `request-timeout in `},
		"scheme":              {[]string{"--join", "http://a:1"}, nil, "", "without a scheme"},
		"bare IPv6":           {[]string{"--join", "fe80::1:2380"}, nil, "", "[::1]:2379"},
		"join without a port": {[]string{"--join", "a:0"}, nil, "", "name the port"},
		"join every address":  {[]string{"--join", "0.0.0.0:1"}, nil, "", "name a host"},
		"no data directory":   {nil, nil, "", "--data-dir"},
		"no port":             {[]string{"--client-addr", "here"}, nil, "", "--client-addr"},
		"bad port":            {[]string{"--peer-addr", "a:99999"}, nil, "", "--peer-addr"},
		"any host":            {[]string{"--peer-addr", "0.0.0.0:1"}, nil, "", "--advertise-peer-addr"},
		"any host advertised": {[]string{"--peer-addr", "0.0.0.0:1", "--advertise-peer-addr", "0.0.0.0:1"}, nil, "", "--advertise-peer-addr"},
		"no host advertised":  {[]string{"--advertise-client-addr", ":1"}, nil, "", "--advertise-client-addr"},
		"no lock timeout":     {[]string{"--lock-timeout", "-1s"}, nil, "", "--lock-timeout"},
		"join without a host": {[]string{"--join", ":1"}, nil, "", "--join"},
		"log format":          {[]string{"--wal", "bolt"}, nil, "", "use native or etcd"},
		"level":               {[]string{"--log-level", "loud"}, nil, "", "--log-level"},
		"half of peer TLS":    {[]string{"--peer-cert-file", "x"}, nil, "", "--peer-key-file"},
		"half of client TLS":  {[]string{"--client-ca-file", "x"}, nil, "", "--client-cert-file"},
	} {
		t.Run(name, func(t *testing.T) {
			args := c.args
			if name != "no data directory" {
				args = append(args, "--data-dir", "d")
			}
			if _, err := load(t, args, c.environ, c.file); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one that names %s", err, c.want)
			}
		})
	}
}

// What --expect waits for must be possible.
func TestExpectErrors(t *testing.T) {
	for name, c := range map[string]struct {
		peer, join, expect string
		want               string // empty: it is taken
	}{
		"all":                   {"a:1", "a:1,b:1,c:1", "3", ""},
		"all others":            {"a:1", "b:1,c:1", "3", ""},
		"own name differs":      {"10.0.0.1:1", "a:1,b:1,c:1", "3", ""},
		"one too few":           {"a:1", "a:1,b:1", "3", "--expect 3: --join and this member's own address, a:1, are 2 members"},
		"own spelled otherwise": {"127.0.0.1:1", "localhost:1,b:1", "3", "are 2 members"},
		"twice":                 {"a:1", "a:1,b:1,b:1", "3", "twice, as b:1 and as b:1"},
		"twice, case":           {"a:1", "a:1,b:1,B.:1", "3", "twice, as b:1 and as B.:1"},
		"twice, port":           {"a:1", "a:1,b:1,b:01", "3", "twice, as b:1 and as b:01"},
		"twice, IPv6":           {"a:1", "a:1,[::1]:1,[0:0::1]:1", "3", "twice, as [::1]:1 and as [0:0::1]:1"},
		"twice, IPv4 as IPv6":   {"a:1", "a:1,10.0.0.1:1,[::ffff:10.0.0.1]:1", "3", "twice"},
		"no addresses":          {"a:1", "", "1", "give it with --join"},
		"negative":              {"a:1", "a:1", "-1", "give it with --join"},
		"port of the system":    {"a:0", "b:1,c:1", "3", "name a port"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(t, []string{"--data-dir", "d", "--peer-addr", c.peer, "--join", c.join, "--expect", c.expect}, nil, "")
			if err == nil {
				err = cfg.checkFounding()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v; want %q", err, c.want)
			}
		})
	}
}

// Once its directory is initialized a member expects nobody: one address that is right is
// enough to find the others.
func TestExpectIsForTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	cfg, err := load(t, []string{"--data-dir", dir, "--peer-addr", "a:1", "--join", "b:1", "--expect", "3"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.checkFounding(); err == nil {
		t.Error("an empty directory expects three and names two, and is taken")
	}
	if err := os.MkdirAll(filepath.Join(cfg.nodeDir(), "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cfg.checkFounding(); err != nil {
		t.Errorf("an initialized directory: %v", err)
	}
}

// FuzzConfigFile starts with a file that holds anything: what is wrong with it is
// said, and what is taken passes every check.
func FuzzConfigFile(f *testing.F) {
	f.Add("name: a\ndata-dir: d\njoin: [a:1, b:2]\nbootstrap: true\nlog-level: debug\nwal: etcd\n")
	f.Add("join: a:1,b:2\npeer-addr: 0.0.0.0:1\nadvertise-peer-addr: a:1\nmetrics-addr: :9000\n")
	f.Add("peer-cert-file: a\npeer-key-file: b\npeer-ca-file: c\nclient-cert-file: d\nclient-key-file: e\n")
	f.Add("datadir: x")
	f.Add("config: x")
	f.Add("client:\n  addr: x")
	f.Add("{")
	f.Add("- a\n- b")
	f.Add("1: 2")
	f.Add("name: {a: b}")
	f.Add("bootstrap: maybe")
	f.Add("join: [[a:1]]")
	f.Add("client-addr: 2379")
	f.Add("x: &x [*x]")
	f.Fuzz(func(t *testing.T, file string) {
		c, err := load(t, []string{"--data-dir", "d"}, nil, file)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		if err := c.check(); err != nil || c.DataDir != "d" {
			t.Errorf("%q was taken, and is wrong: %v", file, err)
		}
		if again, err := load(t, []string{"--data-dir", "d"}, nil, file); err != nil || !cmp.Equal(c, again) {
			t.Errorf("%q is read as %+v, and then as %+v, %v", file, c, again, err)
		}
	})
}

func TestJoinMayHaveBlanks(t *testing.T) {
	f := pflag.NewFlagSet("start", pflag.ContinueOnError)
	addFlags(f)
	if err := f.Parse([]string{"--data-dir", "d", "--join", "a:1, b:2 ,c:3"}); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(f, nil)
	if err != nil || !slices.Equal(c.Join, []string{"a:1", "b:2", "c:3"}) {
		t.Errorf("--join: %q, %v", c.Join, err)
	}
}
