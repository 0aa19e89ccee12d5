package comeback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/octopii/octopii/internal/selfheal"
	"github.com/octopii/octopii/node"
	"github.com/octopii/octopii/transport"
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
		{node.ErrFormatLevel, selfheal.Passing},
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

// As many witnesses as are a majority of the voters are wanted, also where there are not so many
// addresses: of two voters the other one alone is none.
func TestWitnesses(t *testing.T) {
	for _, c := range []struct{ voters, addresses, want int }{
		{1, 1, 1}, {2, 1, 2}, {3, 2, 2}, {3, 1, 2}, {4, 3, 3}, {5, 4, 3},
		{0, 1, 1}, {0, 2, 2}, {0, 4, 3}, // how many voters there are is not known any more
	} {
		if got := (peers{Voters: c.voters}).witnesses(make([]string, c.addresses)); got != c.want {
			t.Errorf("%d voters, %d addresses: %d witnesses, want %d", c.voters, c.addresses, got, c.want)
		}
	}
}

// nobody is a Caller whose calls nobody answers.
type nobody struct{}

func (nobody) Address() string { return "self" }
func (nobody) Close() error    { return nil }
func (nobody) Call(context.Context, string, transport.Kind, transport.Message) ([]byte, error) {
	return nil, errors.New("nobody answers")
}

// A member that stopped because of what others said, which nobody proves, lives again after a
// while: several that were told so would wait for each other. One whose files are damaged waits
// on. Nothing is moved.
func TestHearsayLivesAgain(t *testing.T) {
	for cause, again := range map[error]bool{node.ErrRemoved: true, node.ErrAmnesia: true, node.ErrDiverged: true, node.ErrCorrupt: false} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "node", "wal", "0000000000000001"), 0o700); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			m := New(Config{Dir: dir, Node: "node", Join: []string{"other"}, Caller: func() (Caller, error) { return nobody{}, nil }})
			ctx, cancel := context.WithTimeout(t.Context(), 10*liveAgain)
			defer cancel()
			lives := 0
			err := m.Run(ctx, func(context.Context, Origin) error {
				if lives++; lives == 2 {
					return nil
				}
				return cause
			})
			if err != nil || (lives == 2) != again {
				t.Errorf("%v: it lived %d times, and ended with %v", cause, lives, err)
			}
			if kept, _ := m.quarantined(); kept != 0 {
				t.Errorf("%v: its files were moved", cause)
			}
		})
	}
}

// A member whose files may not be put aside, as that was done too often or a new copy of them
// has no room beside them, moves nothing and waits. It goes on by itself when an operator has
// made room.
func TestNoMoreIsPutAside(t *testing.T) {
	for name, c := range map[string]struct {
		kept        int
		bytes, free int64
	}{
		"too often":             {selfheal.KeptMax, 0, 0},
		"no room":               {0, 7, 6},
		"no room, but for once": {1, 7, 6},
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			m := New(Config{Dir: dir, Node: "node", Join: []string{"other"}, Caller: func() (Caller, error) { return nobody{}, nil }})
			var free atomic.Int64
			free.Store(c.free)
			m.space = func() (int64, int64) { return c.bytes, free.Load() }
			for i := range c.kept {
				if err := os.MkdirAll(filepath.Join(m.quarantineDir(), fmt.Sprint(i)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(m.nodeDir(), 0o700); err != nil {
				t.Fatal(err)
			}
			lives := make(chan bool, 2)
			ended := make(chan error, 1)
			go func() {
				ended <- m.Run(t.Context(), func(context.Context, Origin) error {
					if lives <- true; len(lives) == cap(lives) {
						return nil
					}
					return node.ErrGivenUp
				})
			}()
			<-time.After(time.Hour)
			if _, err := os.Stat(m.nodeDir()); err != nil || len(lives) != 1 || len(ended) > 0 {
				t.Fatalf("%s: after an hour it lived %d times, and its files: %v", name, len(lives), err)
			}
			if free.Store(c.bytes); c.kept == selfheal.KeptMax {
				if err := os.Remove(filepath.Join(m.quarantineDir(), "1")); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-ended; err != nil || len(lives) != 2 {
				t.Errorf("%s: with room it lived %d times, and ended with %v", name, len(lives), err)
			}
			if _, err := os.Stat(m.nodeDir()); err == nil {
				t.Errorf("%s: with room its files are where they were", name)
			}
		})
	}
}

// The files of a member take the room that they have on the disk.
func TestSpaceOfFiles(t *testing.T) {
	m := inDir(t.TempDir())
	if bytes, free := m.space(); bytes != 0 || free == 0 {
		t.Errorf("without files: %d bytes, %d free", bytes, free)
	}
	for _, name := range []string{"node/wal", "kv"} {
		dir := filepath.Join(m.cfg.Dir, name)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if bytes, _ := m.space(); bytes != 2<<20 {
		t.Errorf("two files of 1 MiB take %d bytes", bytes)
	}
}
