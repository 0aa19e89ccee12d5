package comeback

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/node"
)

// inDir is a member that may found, and has its files in dir.
func inDir(dir string) *Member {
	return New(Config{Dir: dir, Node: "node", Files: []string{"kv"}, Bootstrap: true})
}

// A member that was put aside founds nothing, wherever it is killed in its next life: what is
// left of a log that was begun is none, and a folder that cannot be read is not an empty one.
func TestWhoWasAMemberFoundsNothing(t *testing.T) {
	for name, prepare := range map[string]func(m *Member) error{
		"nothing": func(*Member) error { return nil },
		"an unfinished log": func(m *Member) error {
			return os.MkdirAll(filepath.Join(m.nodeDir(), "wal", "0000000000000001.tmp"), 0o700)
		},
		"an empty folder of logs": func(m *Member) error { return os.MkdirAll(filepath.Join(m.nodeDir(), "wal"), 0o700) },
		"a log": func(m *Member) error {
			return os.MkdirAll(filepath.Join(m.nodeDir(), "wal", "0000000000000001"), 0o700)
		},
	} {
		for trace, leave := range map[string]func(m *Member) error{
			"files that were put aside": func(m *Member) error { return os.MkdirAll(filepath.Join(m.quarantineDir(), "a"), 0o700) },
			"no folder of such files":   func(m *Member) error { return os.WriteFile(m.quarantineDir(), nil, 0o600) },
			"the addresses of others":   func(m *Member) error { return os.WriteFile(m.peersFile(), []byte("{}"), 0o600) },
		} {
			m := inDir(t.TempDir())
			if err := errors.Join(prepare(m), leave(m)); err != nil {
				t.Fatal(err)
			}
			if o := m.Origin(); o.Bootstrap || o.Expect != 0 {
				t.Errorf("%s, and %s: it may found a cluster: %+v", name, trace, o)
			}
		}
	}
	m := inDir(t.TempDir())
	if !m.Origin().Bootstrap {
		t.Error("a new directory founds nothing")
	}
}

// A kill between the steps by which files are put aside leaves a member whose files are all
// where they were, or all aside, and one directory for the one cause.
func TestQuarantineThatWasKilled(t *testing.T) {
	steps := []func(m *Member, part string) error{
		func(_ *Member, part string) error { return os.MkdirAll(part, 0o700) },
		func(m *Member, part string) error { return os.Rename(m.nodeDir(), filepath.Join(part, "node")) },
		func(m *Member, part string) error {
			return os.Rename(filepath.Join(m.cfg.Dir, "kv"), filepath.Join(part, "kv"))
		},
		func(_ *Member, part string) error { return os.Rename(part, strings.TrimSuffix(part, partExt)) },
	}
	for killed := range len(steps) + 1 {
		m := inDir(filepath.Join(t.TempDir(), "a[b"))
		for _, dir := range []string{m.nodeDir(), filepath.Join(m.cfg.Dir, "kv")} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range steps[:killed] {
			if err := step(m, filepath.Join(m.quarantineDir(), "now"+partExt)); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.endAside(); err != nil {
			t.Fatalf("killed after %d steps: %v", killed, err)
		}
		var left []string
		for _, dir := range []string{m.nodeDir(), filepath.Join(m.cfg.Dir, "kv"), filepath.Join(m.quarantineDir(), "now", "node"), filepath.Join(m.quarantineDir(), "now", "kv")} {
			if _, err := os.Stat(dir); err == nil {
				rest, _ := filepath.Rel(m.cfg.Dir, dir)
				left = append(left, rest)
			}
		}
		want, kept := []string{"node", "kv"}, 0
		if killed > 1 {
			want, kept = []string{"quarantine/now/node", "quarantine/now/kv"}, 1
		}
		if !slices.Equal(left, want) {
			t.Errorf("killed after %d steps: %v is left; want %v", killed, left, want)
		}
		if n, _ := m.quarantined(); n != kept {
			t.Errorf("killed after %d steps: %d directories are kept; want %d", killed, n, kept)
		}
	}
}

// A clock that was set back does not keep a member from coming back.
func TestQuarantineOfTheFuture(t *testing.T) {
	m := inDir(t.TempDir())
	aside := filepath.Join(m.quarantineDir(), "a")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]time.Time{"ahead": time.Now().Add(24 * time.Hour), "behind": time.Now().Add(-24 * time.Hour)} {
		if err := os.Chtimes(aside, at, at); err != nil {
			t.Fatal(err)
		}
		if n, newest := m.quarantined(); n != 1 || newest < time.Hour {
			t.Errorf("a day %s: %d, the newest %v old; want 1, of a day", name, n, newest)
		}
	}
}

// Of several memberships that come before the first is written, the newest is kept.
func TestNewestMembershipIsKept(t *testing.T) {
	m := inDir(t.TempDir())
	for index := range uint64(5) {
		m.MembershipChanged(node.Membership{Index: index + 1})
	}
	if got := <-m.memberships; got.Index != 5 || len(m.memberships) > 0 {
		t.Errorf("kept is the membership at %d, and %d more; want that at 5", got.Index, len(m.memberships))
	}
}

// The peers file is replaced as a whole: whatever ends the process meanwhile, or fills the
// disk, leaves the old one or the new one.
func TestPeersFileIsReplaced(t *testing.T) {
	m := inDir(t.TempDir())
	old, next := peers{Cluster: "7", Member: "1", Peers: []string{"a:1"}}, peers{Cluster: "7", Member: "1", Peers: []string{"b:1", "c:1"}}
	if err := m.write(old); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(m.peersFile())
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "kept") // the same file, by another name
	if err := os.Link(m.peersFile(), kept); err != nil {
		t.Fatal(err)
	}
	if err := m.write(next); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(kept); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the old file was written to: %q, %v; want %q", now, err, before)
	}
	if got := m.peers(); len(got.Peers) != 2 {
		t.Errorf("the new file has %+v; want %+v", got, next)
	}
}

// What an error of a member means for its files. Who was given up before it had a vote joins
// anew, with a log or without: nobody counts on that.
func TestCauses(t *testing.T) {
	m := inDir(t.TempDir())
	if err := os.MkdirAll(filepath.Join(m.nodeDir(), "wal", "0000000000000001"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.cfg.IsDamage = func(err error) bool { return errors.Is(err, os.ErrInvalid) }
	for _, c := range []struct {
		err  error
		want selfheal.Cause
	}{
		{errors.New("anything"), selfheal.Passing},
		{os.ErrInvalid, selfheal.Lost},
		{errors.Join(os.ErrInvalid, syscall.ENOSPC), selfheal.Passing},
		{node.ErrDiskStalled, selfheal.Passing},
		{node.ErrAmnesia, selfheal.Lost},
		{node.ErrCorrupt, selfheal.Lost},
		{node.ErrDiverged, selfheal.Lost},
		{node.ErrOtherCluster, selfheal.Foreign},
		{node.ErrRemoved, selfheal.Removed},
		{fmt.Errorf("%w: %w", node.ErrGivenUp, node.ErrRemoved), selfheal.Refused},
	} {
		if got := m.causeOf(c.err); got != c.want {
			t.Errorf("%v: cause %d, want %d", c.err, got, c.want)
		}
	}
}
