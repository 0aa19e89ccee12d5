package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user without rights of its own.
const nobody = 65534

// under starts a member's process below limits that a shell sets.
func (c *cluster) under(i int, limits string) {
	args := append([]string{"-c", limits + `; exec "$0" "$@"`, binary}, c.args[i]...)
	c.processes[i] = spawnAs(c.t, exec.Command("bash", args...), nil, c.args[i]...)
}

// as starts a member's process as another user.
func (c *cluster) as(i int, user uint32) {
	cmd := exec.Command(binary, c.args[i]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	c.processes[i] = spawnAs(c.t, cmd, nil, c.args[i]...)
}

// An error that may pass, at the start of all three members: each ends with one line
// that says what to change, nothing is moved, and all is there when it has passed.
func TestErrorsThatPass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		start func(cl *cluster, i int) // with the obstacle
		lift  func(cl *cluster, i int) // before the start without it
		says  []string
	}{
		"no descriptors": {
			start: func(cl *cluster, i int) { cl.under(i, "ulimit -n 10") },
			says:  []string{"ulimit -n", "10"},
		},
		"few descriptors": {
			start: func(cl *cluster, i int) { cl.under(i, "ulimit -n 64") },
			says:  []string{"ulimit -n", "64"},
		},
		"no memory": {
			start: func(cl *cluster, i int) { cl.under(i, "ulimit -v 4000000") },
			says:  []string{"cannot allocate memory", "ulimit -v", "kv/db"},
		},
		"a database of somebody else": {
			start: func(cl *cluster, i int) {
				giveAway(cl.t, cl.dataDir(i))
				if err := os.Chmod(filepath.Join(cl.dataDir(i), "kv", "db"), 0o400); err != nil {
					cl.t.Fatal(err)
				}
				cl.as(i, nobody)
			},
			says: []string{"permission denied", "kv/db", "the right to"},
		},
		"a database that cannot be read": {
			start: func(cl *cluster, i int) {
				giveAway(cl.t, cl.dataDir(i))
				if err := os.Chmod(filepath.Join(cl.dataDir(i), "kv", "db"), 0); err != nil {
					cl.t.Fatal(err)
				}
				cl.as(i, nobody)
			},
			says: []string{"permission denied", "kv/db", "the right to"},
		},
		"a log that cannot be read": {
			start: func(cl *cluster, i int) {
				giveAway(cl.t, cl.dataDir(i))
				if err := os.Chmod(filepath.Join(cl.dataDir(i), "node", "wal"), 0o300); err != nil {
					cl.t.Fatal(err)
				}
				cl.as(i, nobody)
			},
			lift: func(cl *cluster, i int) {
				if err := os.Chmod(filepath.Join(cl.dataDir(i), "node", "wal"), 0o700); err != nil {
					cl.t.Fatal(err)
				}
			},
			says: []string{"permission denied", "node/wal", "the right to"},
		},
		"a disk mounted read-only": {
			start: func(cl *cluster, i int) { remount(cl.t, cl.dataDir(i), "ro"); cl.start(i) },
			lift:  func(cl *cluster, i int) { remount(cl.t, cl.dataDir(i), "rw") },
			says:  []string{"read-only file system", "mount"},
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			if os.Geteuid() != 0 && strings.HasPrefix(name, "a ") {
				t.Skip("only root can become somebody else")
			}
			var cl *cluster
			if strings.Contains(name, "mounted") {
				cl = startClusterIn(t, smallDisks(t, 160))
			} else {
				cl = startCluster(t)
			}
			cl.put(client(t, nil, cl.endpoints...), "before")
			for _, p := range cl.processes {
				p.stop()
			}
			for i := range cl.processes {
				c.start(cl, i)
			}
			for i, p := range cl.processes {
				if status := p.waitEnd(); status != exitFailure {
					t.Errorf("%s ended with status %d, want %d", memberName(i), status, exitFailure)
				}
				lines := strings.Split(strings.TrimSpace(p.text()), "\n")
				last := lines[len(lines)-1]
				for _, want := range c.says {
					if !strings.HasPrefix(last, "octopiid: ") || !strings.Contains(last, want) {
						t.Errorf("%s: its last words are %q, which lack %q", memberName(i), last, want)
					}
				}
				if _, err := os.Stat(filepath.Join(cl.dataDir(i), "quarantine")); err == nil {
					t.Errorf("%s put its files aside", memberName(i))
				}
			}
			for i := range cl.processes {
				if c.lift != nil {
					c.lift(cl, i)
				}
				cl.start(i)
			}
			cl.waitReady()
			for _, endpoint := range cl.endpoints {
				if got := get(t, client(t, nil, endpoint), "k"); got != "before" {
					t.Errorf("%s reads %q; want before", endpoint, got)
				}
			}
		})
	}
}

// giveAway makes nobody the owner of all files in a directory, and lets it get there.
func giveAway(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
	for up := filepath.Dir(dir); err == nil && up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		err = os.Chmod(up, 0o755)
	}
	if err == nil {
		err = os.Chmod(filepath.Dir(binary), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remount(t *testing.T, dir, how string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount %s %s: %v: %s", dir, how, err, out)
	}
}

// Clients, and strangers at the address for members, hold more idle connections than the
// process may open files, at all three members: others are served, and the log goes on and
// gets its files.
func TestIdleConnections(t *testing.T) {
	for _, limit := range []int{112, 256} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			idleConnections(t, limit)
		})
	}
}

func idleConnections(t *testing.T, limit int) {
	cl := startCluster(t)
	addresses := slices.Clone(cl.endpoints)
	for i, p := range cl.processes {
		addresses = append(addresses, cl.args[i][slices.Index(cl.args[i], "--peer-addr")+1])
		p.stop()
		cl.under(i, fmt.Sprintf("ulimit -n %d", limit))
	}
	cl.waitReady()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, address := range addresses {
		for range 400 {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		}
	}
	w := &writer{c: client(t, nil, cl.endpoints...), value: strings.Repeat("v", 256<<10)}
	for range 200 {
		until(t, w.put)
	}
	for _, endpoint := range cl.endpoints {
		waitServed(t, endpoint, "w000001")
	}
	cl.mustLive()
	for i, p := range cl.processes {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err == nil && len(open) > limit-16 {
			t.Errorf("%s has %d files open", memberName(i), len(open))
		}
		if strings.Contains(p.text(), "too many open files") {
			t.Errorf("%s had no descriptors left", memberName(i))
		}
		if !strings.Contains(p.text(), "as many connections as there may be") {
			t.Errorf("%s says nothing of its connections", memberName(i))
		}
	}
}
