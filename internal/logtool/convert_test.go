package logtool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/internal/vfs/vfstest"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

// convert runs one conversion and returns what it said.
func convert(fsys vfs.FS, member string, to Format, keep bool) (said string, err error) {
	err = Convert(Conversion{
		FS: fsys, Dir: member, To: to, Keep: keep,
		Say:      func(text string, args ...any) { said += fmt.Sprintf(text+"\n", args...) },
		Progress: func(string, int64, int64) {},
	})
	return said, err
}

// wantConverted expects a member with one log, in that format.
func wantConverted(t testing.TB, member string, to Format, logs ...string) {
	t.Helper()
	names, err := vfs.OS.ReadDir(filepath.Join(member, "wal"))
	check(t, err)
	if !slices.Equal(names, logs) {
		t.Errorf("logs %q, want %q", names, logs)
	}
	if f := formatNow(t, vfs.OS, member); f != to {
		t.Errorf("the log is in the format %s, want %s", f, to)
	}
	wantMember(t, vfs.OS, member, made)
}

func TestConvert(t *testing.T) {
	for _, from := range formats {
		p := place(t, from)
		said, err := convert(vfs.OS, p.Member, other(from), false)
		check(t, err)
		if !strings.Contains(said, "1 marks among it") || !strings.Contains(said, "removed the old log") {
			t.Errorf("it did not say what it left behind:\n%s", said)
		}
		wantConverted(t, p.Member, other(from), "0000000000000002")
		// And back, kept this time; then once more, which changes nothing.
		_, err = convert(vfs.OS, p.Member, from, true)
		check(t, err)
		wantConverted(t, p.Member, from, "0000000000000002.old", "0000000000000003")
		_, err = convert(vfs.OS, p.Member, from, false)
		check(t, err)
		wantConverted(t, p.Member, from, "0000000000000002.old", "0000000000000003")
	}
}

// A log without entries behind its mark.
func TestConvertEmptyLog(t *testing.T) {
	for _, from := range formats {
		dir := t.TempDir()
		s, _, _, err := raftstore.Open(raftstore.Options{FS: vfs.OS, Dir: dir, Backend: from.backend(vfs.OS)})
		check(t, err)
		check(t, s.SetIdentity(raftstore.Identity{Node: 1, Incarnation: 1}))
		putSnapshot(t, s, headerAt(5, 2))
		check(t, s.Found(headerAt(5, 2), raftpb.HardState{Term: 4, Vote: 1, Commit: 5}))
		check(t, s.Close())
		_, err = convert(vfs.OS, dir, other(from), false)
		check(t, err)
		wantMember(t, vfs.OS, dir, content{Mark: 5, HardState: raftpb.HardState{Term: 4, Vote: 1, Commit: 5}, ConfState: headerAt(5, 2).Metadata.ConfState})
	}
}

// copyOf copies a directory.
func copyOf(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "member")
	check(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// wantResumed expects that an interrupted conversion left a member that starts,
// and completes it.
func wantResumed(t testing.TB, what, member string, to Format, runs bool) (wentOn bool) {
	t.Helper()
	if runs {
		wantMember(t, vfs.OS, member, made)
	}
	said, err := convert(vfs.OS, member, to, false)
	if err != nil {
		t.Fatalf("%s: %v\n%s", what, err, said)
	}
	wantConverted(t, member, to, "0000000000000002")
	return strings.Contains(said, "going on with")
}

// A conversion that is killed before any one of its file operations leaves a
// member that starts, and the next one completes it. Those of etcd's log are not
// among them, for it knows no other file system than the machine's: see
// TestConvertStopped.
func TestConvertKilled(t *testing.T) {
	for _, from := range formats {
		base := place(t, from).Member
		wentOn := 0
		for n := 0; ; n++ {
			member := copyOf(t, base)
			_, err := convert(vfstest.NewFaulty(vfs.OS, vfstest.CrashAfter(n)), member, other(from), false)
			if err == nil {
				t.Logf("from %s: %d operations, went on with an unfinished log %d times", from, n, wentOn)
				break
			}
			if !errors.Is(err, vfstest.ErrCrashed) {
				t.Fatalf("from %s, operation %d: %v", from, n, err)
			}
			// Every other time the member runs in between.
			if wantResumed(t, fmt.Sprintf("from %s, operation %d", from, n), member, other(from), n%2 == 0) {
				wentOn++
			}
		}
		if wentOn == 0 {
			t.Errorf("from %s: no conversion was resumed", from)
		}
	}
}

// stopping is a backend that fails from its nth call on that creates a log or
// appends to one; nothing says whether that call took effect.
type stopping struct {
	wal.Backend
	n int
}

type stoppingLog struct {
	wal.Log
	b *stopping
}

var errStopped = errors.New("stopped")

func (b *stopping) after(err error) error {
	if b.n--; b.n <= 0 {
		return errors.Join(err, errStopped)
	}
	return err
}

func (b *stopping) Create(dir string, m wal.Mark, hs raftpb.HardState) (wal.Log, error) {
	l, err := b.Backend.Create(dir, m, hs)
	if err = b.after(err); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &stoppingLog{l, b}, nil
}

func (b *stopping) Open(dir string, m wal.Mark) (wal.Log, wal.State, error) {
	l, state, err := b.Backend.Open(dir, m)
	return &stoppingLog{l, b}, state, err
}

func (l *stoppingLog) Append(batches []wal.Batch) error { return l.b.after(l.Log.Append(batches)) }

// convertWith is Convert with other backends.
func convertWith(t testing.TB, fsys vfs.FS, member string, to Format, change func(j *job)) error {
	p, err := Find(fsys, member)
	check(t, err)
	lock, err := fsys.Lock(filepath.Join(member, "LOCK"))
	if err != nil {
		return err
	}
	defer lock.Close()
	j := job{place: p, from: p.Format.backend(fsys), to: to.backend(fsys)}
	j.Conversion = Conversion{FS: fsys, To: to, Say: func(string, ...any) {}}
	change(&j)
	return j.run()
}

// A conversion that ends between any two writes to the new log.
func TestConvertStopped(t *testing.T) {
	for _, from := range formats {
		base := place(t, from).Member
		for n := 1; ; n++ {
			member := copyOf(t, base)
			err := convertWith(t, vfs.OS, member, other(from), func(j *job) { j.to = &stopping{Backend: j.to, n: n} })
			if err == nil {
				t.Logf("from %s: %d writes", from, n-1)
				break
			}
			if !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			what := fmt.Sprintf("from %s, write %d", from, n)
			if !wantResumed(t, what, member, other(from), n%2 == 0) {
				t.Errorf("%s: it did not go on with what was there", what)
			}
		}
	}
}

// The power is lost, with native logs on both sides: a disk that forgets is only
// there for them.
func TestConvertPowerLost(t *testing.T) {
	base := vfstest.NewMem()
	makeMember(t, base, "member", Native)
	run := func(fsys vfs.FS) error {
		return convertWith(t, fsys, "member", Native, func(j *job) {
			if j.place.seq == 1 {
				j.To = "another"
			}
		})
	}
	for n := 0; ; n++ {
		disk := base.Clone()
		err := run(vfstest.NewFaulty(disk, vfstest.CrashAfter(n)))
		if err != nil && !errors.Is(err, vfstest.ErrCrashed) {
			t.Fatal(err)
		}
		for seed := range uint64(3) {
			after := disk.CrashLosingAll()
			if seed > 0 {
				after = disk.Crash(rand.New(rand.NewPCG(uint64(n), seed)))
			}
			wantMember(t, after.Clone(), "member", made)
			if err := run(after); err != nil {
				t.Fatalf("operation %d, seed %d: %v", n, seed, err)
			}
			wantMember(t, after, "member", made)
			if names := after.Names("member/wal"); !slices.Equal(names, []string{"0000000000000002"}) {
				t.Fatalf("operation %d, seed %d: logs %q", n, seed, names)
			}
		}
		if err == nil {
			t.Logf("%d operations", n)
			break
		}
	}
}

// unfinished makes what an interrupted conversion could have left.
func unfinished(t *testing.T, p Place, m wal.Mark, hs raftpb.HardState, entries []raftpb.Entry) {
	t.Helper()
	first := hs
	first.Commit = m.Index
	l, err := other(p.Format).backend(vfs.OS).Create(logPath(p.Member, 2)+convertSuffix, m, first)
	check(t, err)
	check(t, l.Append([]wal.Batch{{Entries: entries, HardState: hs}}))
	check(t, l.Close())
}

func TestConvertGoesOn(t *testing.T) {
	mark := wal.Mark{Index: 40, Term: 2, ConfState: made.ConfState}
	for _, c := range []struct {
		name    string
		mark    wal.Mark
		hs      raftpb.HardState
		entries []raftpb.Entry
		goesOn  bool
	}{
		{"nothing copied", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, nil, true},
		{"a part", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, made.Entries[:30], true},
		{"of an earlier term", mark, raftpb.HardState{Term: 2, Vote: 1, Commit: 50}, made.Entries[:30], true},
		{"all", mark, made.HardState, made.Entries, true},
		{"an entry of another term", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, entriesOf(2, 41, 95), false},
		{"an entry with other data", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, []raftpb.Entry{{Index: 41, Term: 2, Data: []byte("x")}}, false},
		{"too many entries", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, append(made.Entries[:80:80], entriesOf(3, 121, 121)...), false},
		{"too much committed", mark, raftpb.HardState{Term: 3, Vote: 2, Commit: 111}, made.Entries, false},
		{"a later term", mark, raftpb.HardState{Term: 4, Vote: 2, Commit: 40}, nil, false},
		{"another mark", wal.Mark{Index: 39, Term: 2, ConfState: made.ConfState}, raftpb.HardState{Term: 3, Vote: 2, Commit: 39}, nil, false},
		{"another configuration", wal.Mark{Index: 40, Term: 2}, raftpb.HardState{Term: 3, Vote: 2, Commit: 40}, nil, false},
	} {
		for _, from := range formats {
			p := place(t, from)
			unfinished(t, p, c.mark, c.hs, c.entries)
			said, err := convert(vfs.OS, p.Member, other(from), false)
			check(t, err)
			if goesOn := strings.Contains(said, "going on with"); goesOn != c.goesOn || goesOn == strings.Contains(said, "beginning anew") {
				t.Errorf("%s, from %s: went on: %v\n%s", c.name, from, goesOn, said)
			}
			wantConverted(t, p.Member, other(from), "0000000000000002")
		}
	}
}

// What cannot even be opened is no reason to fail.
func TestConvertUnfinishedRubbish(t *testing.T) {
	for _, from := range formats {
		p := place(t, from)
		path := logPath(p.Member, 2) + convertSuffix
		check(t, os.CopyFS(path, os.DirFS(p.Dir))) // of the wrong format
		check(t, os.Mkdir(logPath(p.Member, 9)+convertSuffix, 0o700))
		said, err := convert(vfs.OS, p.Member, other(from), false)
		check(t, err)
		if !strings.Contains(said, "beginning anew") || !strings.Contains(said, "of no use any more") {
			t.Errorf("it did not say what it removed:\n%s", said)
		}
		wantConverted(t, p.Member, other(from), "0000000000000002")
	}
}

func TestConvertRefuses(t *testing.T) {
	for _, from := range formats {
		p := place(t, from)
		if _, err := convert(vfs.OS, p.Dir, other(from), false); err == nil || !strings.Contains(err.Error(), "name the directory of the member") {
			t.Errorf("%v, want that a log by itself is not converted", err)
		}
		check(t, os.Mkdir(p.Dir+".old", 0o700))
		if _, err := convert(vfs.OS, p.Member, other(from), true); err == nil || !strings.Contains(err.Error(), "in the way") {
			t.Errorf("%v, want that the name of the kept log is taken", err)
		}
		check(t, os.Remove(p.Dir+".old"))

		s, _, _, err := raftstore.Open(raftstore.Options{FS: vfs.OS, Dir: p.Member, Backend: from.backend(vfs.OS)})
		check(t, err)
		if _, err := convert(vfs.OS, p.Member, other(from), false); !errors.Is(err, wal.ErrLocked) || !strings.Contains(err.Error(), "stop the member first") {
			t.Errorf("%v, want that the member runs", err)
		}
		check(t, s.Close())

		damage(t, p)
		if _, err := convert(vfs.OS, p.Member, other(from), false); !errors.Is(err, wal.ErrCorrupt) || !strings.Contains(err.Error(), ".wal at offset") && !strings.Contains(err.Error(), ".seg at offset") {
			t.Errorf("%v, want the damage", err)
		}
		if names, err := vfs.OS.ReadDir(filepath.Join(p.Member, "wal")); err != nil || len(names) != 1 {
			t.Errorf("logs %q, %v: a refused conversion left something", names, err)
		}
	}
}
