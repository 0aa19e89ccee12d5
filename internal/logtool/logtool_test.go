package logtool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/raftstore"
	"github.com/octopii/octopii/wal"
)

func TestMain(m *testing.M) {
	etcd.SegmentSizeBytes = 32 << 10
	segmentBytes = 32 << 10
	chunkBytes = 4 << 10
	goleak.VerifyTestMain(m)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func headerAt(index, term uint64) raftstore.SnapshotHeader {
	return raftstore.SnapshotHeader{Metadata: raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}}}
}

// entriesOf are entries of one term; every tenth changes the configuration.
func entriesOf(term, lo, hi uint64) []raftpb.Entry {
	var entries []raftpb.Entry
	for i := lo; i <= hi; i++ {
		e := raftpb.Entry{Index: i, Term: term, Data: fmt.Appendf(nil, "entry %d of term %d%s", i, term, strings.Repeat(".", 300))}
		if i%10 == 0 {
			e.Type = raftpb.EntryConfChangeV2
		}
		entries = append(entries, e)
	}
	return entries
}

// content is what a member knows.
type content struct {
	Mark      uint64
	HardState raftpb.HardState
	ConfState raftpb.ConfState
	Entries   []raftpb.Entry
}

// What makeMember makes: marks at 1 and 40, entries up to 120, of which term 3
// took the place of some of term 2, and 110 of them committed.
var made = content{
	Mark:      40,
	HardState: raftpb.HardState{Term: 3, Vote: 2, Commit: 110},
	ConfState: headerAt(40, 2).Metadata.ConfState,
	Entries:   append(entriesOf(2, 41, 89), entriesOf(3, 90, 120)...),
}

func putSnapshot(t testing.TB, s *raftstore.Store, h raftstore.SnapshotHeader) {
	t.Helper()
	w, err := s.CreateSnapshot(h)
	check(t, err)
	_, err = w.Write([]byte("the state"))
	check(t, err)
	_, err = w.Commit()
	check(t, err)
}

// makeMember makes a member's directory as raftstore does.
func makeMember(t testing.TB, fsys vfs.FS, dir string, f Format) {
	t.Helper()
	s, _, writer, err := raftstore.Open(raftstore.Options{FS: fsys, Dir: dir, Backend: f.backend(fsys)})
	check(t, err)
	check(t, s.SetIdentity(raftstore.Identity{Node: 0xa, Name: "n1", Incarnation: 7}))
	putSnapshot(t, s, headerAt(1, 1))
	check(t, s.Found(headerAt(1, 1), raftpb.HardState{Term: 1, Commit: 1}))
	write := func(term, commit, lo, hi uint64) {
		check(t, writer.Append([]wal.Batch{{Entries: entriesOf(term, lo, hi), HardState: raftpb.HardState{Term: term, Vote: 2, Commit: commit}}}))
	}
	for i := uint64(2); i < 100; i += 7 {
		write(2, min(i, 80), i, i+6)
	}
	putSnapshot(t, s, headerAt(40, 2))
	check(t, writer.Mark(headerAt(40, 2)))
	write(3, 85, 90, 99)
	write(3, 110, 100, 120)
	check(t, s.Close())
}

// formatNow is the format of the log that the member would start with.
func formatNow(t testing.TB, fsys vfs.FS, dir string) Format {
	t.Helper()
	p, err := Find(fsys, dir)
	check(t, err)
	return p.Format
}

// wantMember starts a member, as far as its log goes.
func wantMember(t testing.TB, fsys vfs.FS, dir string, want content) {
	t.Helper()
	s, view, _, err := raftstore.Open(raftstore.Options{FS: fsys, Dir: dir, Backend: formatNow(t, fsys, dir).backend(fsys)})
	check(t, err)
	got := content{Mark: view.Start().Metadata.Index}
	got.HardState, got.ConfState, err = view.InitialState()
	check(t, err)
	first, err := view.FirstIndex()
	check(t, err)
	last, err := view.LastIndex()
	check(t, err)
	if last >= first {
		got.Entries, err = view.Entries(first, last+1, 1<<62)
		check(t, err)
	}
	check(t, s.Close())
	if !reflect.DeepEqual(want, got) { // much faster than cmp
		t.Fatalf("the member knows (-want +got):\n%s", cmp.Diff(want, got))
	}
}

var formats = []Format{Native, Etcd}

func other(f Format) Format {
	if f == Native {
		return Etcd
	}
	return Native
}

func TestFind(t *testing.T) {
	for _, f := range formats {
		data := t.TempDir()
		member := filepath.Join(data, "node")
		makeMember(t, vfs.OS, member, f)
		log := filepath.Join(member, "wal", "0000000000000001")
		for dir, want := range map[string]Place{
			data:       {Dir: log, Format: f, Member: member, seq: 1},
			member:     {Dir: log, Format: f, Member: member, seq: 1},
			log:        {Dir: log, Format: f},
			log + "//": {Dir: log, Format: f},
		} {
			got, err := Find(vfs.OS, dir)
			check(t, err)
			if len(got.older) == 0 {
				got.older = nil
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Place{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", dir, diff)
			}
		}
		// The highest number counts, and nothing that is not one.
		for _, name := range []string{"000000000000000a", "000000000000000b.convert", "000000000000000b.old", "b"} {
			check(t, os.CopyFS(filepath.Join(member, "wal", name), os.DirFS(log)))
		}
		if got, err := Find(vfs.OS, data); err != nil || got.seq != 10 || len(got.older) != 1 {
			t.Errorf("found log %+v, %v; want number 10", got, err)
		}
		check(t, os.WriteFile(filepath.Join(log, "0000000000000001-0000000000000001.wal"), nil, 0o600))
		check(t, os.WriteFile(filepath.Join(log, "0000000000000001.seg"), nil, 0o600))
		if _, err := Find(vfs.OS, log); !errors.Is(err, wal.ErrFormat) {
			t.Errorf("%v, want wal.ErrFormat", err)
		}
	}
}

func TestFindNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(vfs.OS, dir); !errors.Is(err, wal.ErrNotFound) || !strings.Contains(err.Error(), "name a member's directory") {
		t.Errorf("%v, want wal.ErrNotFound and what to do", err)
	}
	if _, err := Find(vfs.OS, filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
	check(t, os.MkdirAll(filepath.Join(dir, "node", "wal"), 0o700))
	if _, err := Find(vfs.OS, dir); !errors.Is(err, wal.ErrNotFound) || !strings.Contains(err.Error(), "not become part of a cluster") {
		t.Errorf("%v, want that the member has no log yet", err)
	}
}

// place makes a member and finds its log.
func place(t testing.TB, f Format) Place {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "member")
	makeMember(t, vfs.OS, dir, f)
	p, err := Find(vfs.OS, dir)
	check(t, err)
	return p
}

func TestVerify(t *testing.T) {
	for _, f := range formats {
		p := place(t, f)
		var read, total int64
		r, err := Verify(vfs.OS, p, func(done, all int64) { read, total = done, all })
		check(t, err)
		if !r.Whole() || r.Err() != nil || read != total || total != r.Bytes || r.Bytes == 0 {
			t.Errorf("%s: %+v after %d of %d bytes, want a whole log", f, r, read, total)
		}
		if r.Segments < 2 || r.Frames < 16 || r.Ended != (f == Native) {
			t.Errorf("%s: %d segments, %d frames, ended %v", f, r.Segments, r.Frames, r.Ended)
		}
		r.Segments, r.Spares, r.Bytes, r.Frames, r.Ended = 0, 0, 0, 0, false
		// The log from mark 1 on is kept, for the older snapshot.
		want := Report{
			Place: p, Entries: 119, Replaced: 10, First: 2, Last: 120, ConfChanges: 13,
			Terms:     []TermRun{{First: 2, Term: 2}, {First: 90, Term: 3}},
			Marks:     []Mark{{Index: 1, Term: 1}, {Index: 40, Term: 2}},
			HardState: HardState{Term: 3, Vote: 2, Commit: 110},
			Owner:     &Owner{ID: 0xa, Name: "n1"},
			Snapshot:  &Snapshot{Mark: Mark{Index: 40, Term: 2}, Bytes: r.Snapshot.Bytes},
		}
		for _, e := range append(entriesOf(2, 2, 99), entriesOf(3, 90, 120)...) {
			want.EntryBytes += int64(len(e.Data))
		}
		if diff := cmp.Diff(want, r, cmp.AllowUnexported(Place{})); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", f, diff)
		}
		wantMember(t, vfs.OS, p.Member, made)
	}
}

// flip changes one bit of a file.
func flip(t testing.TB, path string, offset int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	data[offset] ^= 1
	check(t, os.WriteFile(path, data, 0o600))
}

// damage flips a bit of the first entry of the first segment and returns the
// frame.
func damage(t testing.TB, p Place) Frame {
	t.Helper()
	var hit Frame
	_, err := Read(vfs.OS, p, func(f *Frame) error {
		if f.Entries == 0 {
			return nil
		}
		hit = *f
		return ErrStop
	}, nil)
	check(t, err)
	flip(t, filepath.Join(p.Dir, hit.Segment), hit.Offset+100)
	return hit
}

func TestVerifyDamage(t *testing.T) {
	for _, f := range formats {
		p := place(t, f)
		hit := damage(t, p)
		r, err := Verify(vfs.OS, p, nil)
		check(t, err)
		d := r.Damage
		if d == nil || d.Segment != filepath.Join(p.Dir, hit.Segment) || d.Offset < hit.Offset || d.Offset >= hit.Offset+hit.Size || d.Intact != 1 || d.Known < 2 {
			t.Errorf("%s: damage %+v, want it within %+v", f, d, hit)
		}
		if !errors.Is(r.Err(), wal.ErrCorrupt) {
			t.Errorf("%s: %v, want wal.ErrCorrupt", f, r.Err())
		}
	}
}

// What the log needs beside itself is verified too.
func TestVerifyMember(t *testing.T) {
	for _, c := range []struct {
		name    string
		harm    func(member string) error
		problem string
	}{
		{"no snapshot", func(m string) error {
			return os.Remove(filepath.Join(m, "snap", "0000000000000002-0000000000000028.snap"))
		}, "whose snapshot cannot be used"},
		{"a damaged snapshot", func(m string) error {
			flip(t, filepath.Join(m, "snap", "0000000000000002-0000000000000028.snap"), 60)
			return nil
		}, "whose snapshot cannot be used"},
		{"no identity", func(m string) error { return os.Remove(filepath.Join(m, "identity")) }, "no identity file"},
		{"a damaged identity", func(m string) error { flip(t, filepath.Join(m, "identity"), 20); return nil }, "identity"},
	} {
		p := place(t, Native)
		check(t, c.harm(p.Member))
		r, err := Verify(vfs.OS, p, nil)
		check(t, err)
		if r.Whole() || r.Damage != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], c.problem) {
			t.Errorf("%s: %+v", c.name, r)
		}
		// The log by itself is whole.
		alone, err := Find(vfs.OS, p.Dir)
		check(t, err)
		if r, err := Verify(vfs.OS, alone, nil); err != nil || !r.Whole() {
			t.Errorf("%s: the log alone: %+v, %v", c.name, r, err)
		}
	}
}

func TestReadStops(t *testing.T) {
	for _, f := range formats {
		n := 0
		r, err := Read(vfs.OS, place(t, f), func(*Frame) error {
			if n++; n == 3 {
				return ErrStop
			}
			return nil
		}, nil)
		if err != nil || !r.Partial || n != 3 {
			t.Errorf("%s: %d frames, %v, %+v", f, n, err, r)
		}
	}
}

func TestInUse(t *testing.T) {
	p := place(t, Native)
	if InUse(vfs.OS, p) {
		t.Error("a closed member is in use")
	}
	s, _, _, err := raftstore.Open(raftstore.Options{FS: vfs.OS, Dir: p.Member, Backend: Native.backend(vfs.OS)})
	check(t, err)
	defer s.Close()
	if !InUse(vfs.OS, p) {
		t.Error("an open member is not in use")
	}
}
