package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func seed(s uint64) *rand.Rand { return rand.New(rand.NewPCG(s, 0)) }

// sectors returns one sector for each letter, filled with it; '.' is a zero.
func sectors(letters string) []byte {
	var p []byte
	for _, l := range []byte(letters) {
		if l == '.' {
			l = 0
		}
		p = append(p, bytes.Repeat([]byte{l}, SectorSize)...)
	}
	return p
}

// letters is the reverse of sectors. A sector that is not of one letter is '?',
// and a part of a sector at the end is its letter in lower case.
func letters(p []byte) string {
	var s strings.Builder
	for chunk := range slices.Chunk(p, SectorSize) {
		l := chunk[0]
		if len(bytes.Trim(chunk, string(l))) > 0 {
			l = '?'
		}
		if l == 0 {
			l = '.'
		}
		if len(chunk) < SectorSize {
			l = bytes.ToLower([]byte{l})[0]
		}
		s.WriteByte(l)
	}
	return s.String()
}

// tree shows names, and content as letters: "a=XY d/ d/b=".
func tree(m *Mem) string {
	var all []string
	var add func(dir string)
	add = func(dir string) {
		for _, name := range m.Names(dir) {
			p := strings.TrimPrefix(dir+"/"+name, "/")
			if info, _ := m.Stat(p); info.Dir {
				all = append(all, p+"/")
				add(p)
			} else {
				all = append(all, p+"="+letters(m.ReadFile(p)))
			}
		}
	}
	add("")
	return strings.Join(all, " ")
}

// crashes returns all that can become of m in a crash. What Crash draws must be
// the same as what Crashes counts up, and both extremes must be among it.
func crashes(t *testing.T, m *Mem) []string {
	t.Helper()
	before := tree(m)
	all, drawn := map[string]bool{}, map[string]bool{}
	for c := range m.Crashes() {
		all[tree(c)] = true
	}
	for s := range uint64(2000) {
		drawn[tree(m.Crash(seed(s)))] = true
	}
	if a, d := slices.Sorted(maps.Keys(all)), slices.Sorted(maps.Keys(drawn)); !reflect.DeepEqual(a, d) {
		t.Fatalf("Crashes gives %q, Crash draws %q", a, d)
	}
	newest := tree(m.CrashBy(func(n int) int { return n - 1 }))
	if newest != before {
		t.Fatalf("with the newest of everything the crash leaves %q, seen before: %q", newest, before)
	}
	for _, one := range []string{newest, tree(m.CrashLosingAll())} {
		if !all[one] {
			t.Fatalf("%q is not among the outcomes", one)
		}
	}
	if after := tree(m); after != before || tree(m.CrashKeepingAll()) != before {
		t.Fatalf("a crash changed what was seen from %q to %q", before, after)
	}
	return slices.Sorted(maps.Keys(all))
}

// outcomes checks that a crash can leave just these.
func outcomes(t *testing.T, m *Mem, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := crashes(t, m); !reflect.DeepEqual(got, want) {
		t.Errorf("a crash leaves one of\n%s\nwant one of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// having returns a Mem with a durable file and a handle to it.
func having(t *testing.T, name, content string) (*Mem, vfs.File) {
	t.Helper()
	m := NewMem()
	m.WriteFile(name, sectors(content))
	return m, must[vfs.File](t)(m.OpenReadWrite(name))
}

func create(t *testing.T, m *Mem, name, content string) vfs.File {
	t.Helper()
	f := must[vfs.File](t)(m.Create(name))
	must[int](t)(f.Write(sectors(content)))
	check(t, f.Sync())
	return f
}

func writeAt(t *testing.T, f vfs.File, content string, sector int64) {
	t.Helper()
	must[int](t)(f.WriteAt(sectors(content), sector*SectorSize))
}

// Each test is named after the method and quotes the sentence of package vfs
// that it is about.

// Before Sync any subset of the sectors that were touched may hold the new bytes
// and the others the old ones; sectors that were not touched are safe.
func TestWriteSurvivesBySector(t *testing.T) {
	m, f := having(t, "f", "abcde")
	writeAt(t, f, "XYZ", 1)
	outcomes(t, m, "f=abcde", "f=aXcde", "f=abYde", "f=abcZe", "f=aXYde", "f=aXcZe", "f=abYZe", "f=aXYZe")
	check(t, f.Sync())
	outcomes(t, m, "f=aXYZe")
}

// The same where sectors lie in different blocks, and none is near the other.
func TestWriteSurvivesAcrossBlocks(t *testing.T) {
	m, f := having(t, "f", strings.Repeat("a", 24))
	writeAt(t, f, "X", 23)
	writeAt(t, f, "Y", 0)
	a := strings.Repeat("a", 22)
	outcomes(t, m, "f=a"+a+"a", "f=Y"+a+"a", "f=a"+a+"X", "f=Y"+a+"X")
}

// A sector is never mixed: a small write changes its sector as a whole, and
// takes along what an earlier write, synced or not, did to other bytes of it.
func TestSectorIsAtomic(t *testing.T) {
	m, f := having(t, "f", "aa")
	must[int](t)(f.WriteAt([]byte("XXXX"), SectorSize-2))
	seen := map[string]bool{}
	for c := range m.Crashes() {
		p := c.ReadFile("f")
		seen[string(p[SectorSize-3:SectorSize+3])] = true
	}
	want := map[string]bool{"aaaaaa": true, "aXXaaa": true, "aaaXXa": true, "aXXXXa": true}
	if !maps.Equal(seen, want) {
		t.Errorf("a crash leaves %v around the boundary, want %v", seen, want)
	}
}

// A sector written twice may be left as any of the three that it was.
func TestEveryVersionMaySurvive(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "b", 0)
	writeAt(t, f, "c", 0)
	outcomes(t, m, "f=a", "f=b", "f=c")
}

// Bytes that are overwritten with the value that they have are safe.
func TestSameBytesAreSafe(t *testing.T) {
	m, f := having(t, "f", "ab")
	writeAt(t, f, "aX", 0)
	outcomes(t, m, "f=ab", "f=aX")
}

// Where the file was extended there may be zeros; the size may be the old one,
// the new one, or one in between.
func TestExtendingWrite(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "XY", 1)
	got := map[string]bool{}
	for c := range m.Crashes() {
		got[tree(c)] = true
	}
	want := map[string]bool{}
	for _, s := range []string{"a", "a.", "aX", "a..", "aX.", "a.Y", "aXY"} {
		want["f="+s] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("a crash leaves one of %v, want %v", got, want)
	}
	odd := 0
	for s := range uint64(200) {
		p := m.Crash(seed(s)).ReadFile("f")
		if len(p) < SectorSize || len(p) > 3*SectorSize || !bytes.Equal(p[:SectorSize], sectors("a")) {
			t.Fatalf("seed %d: %d bytes, %s", s, len(p), letters(p))
		}
		if len(p)%SectorSize != 0 {
			odd++
		}
	}
	if odd == 0 {
		t.Error("no size in between two sectors was ever drawn")
	}
	check(t, f.Sync())
	outcomes(t, m, "f=aXY")
}

// A write behind the end leaves a hole of zeros, whatever survives.
func TestWriteBehindTheEnd(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "X", 2)
	got := map[string]bool{}
	for c := range m.Crashes() {
		got[tree(c)] = true
	}
	want := map[string]bool{"f=a": true, "f=a.": true, "f=a..": true, "f=a.X": true}
	if !maps.Equal(got, want) {
		t.Errorf("a crash leaves one of %v, want %v", got, want)
	}
}

// After Truncate the size is the old or the new one, and certainly the new one
// only after Sync.
func TestTruncate(t *testing.T) {
	m, f := having(t, "f", "abc")
	check(t, f.Truncate(SectorSize))
	got := map[string]bool{}
	for s := range uint64(500) {
		got[tree(m.Crash(seed(s)))] = true
	}
	for s := range got {
		if len(s) != len("f=a") && len(s) != len("f=abc") {
			t.Errorf("a size that is neither the old nor the new one: %s", s)
		}
	}
	if !got["f=a"] || !got["f=abc"] {
		t.Errorf("a crash leaves one of %v; want the cut and the whole file among it", got)
	}
	check(t, f.Sync())
	outcomes(t, m, "f=a")

	check(t, f.Truncate(3*SectorSize))
	outcomes(t, m, "f=a", "f=a..")
	check(t, f.Sync())
	outcomes(t, m, "f=a..")
}

// Sync makes durable all that was written or truncated before it, in whatever
// order and overlap.
func TestSyncMakesAllDurable(t *testing.T) {
	for s := range uint64(300) {
		rnd := seed(s)
		m, f := having(t, "f", "abcdefghijkl")
		for range 1 + rnd.IntN(8) {
			if rnd.IntN(3) == 0 {
				check(t, f.Truncate(rnd.Int64N(20*SectorSize)))
				continue
			}
			p := bytes.Repeat([]byte{byte(rnd.IntN(4))}, 1+rnd.IntN(6*SectorSize))
			must[int](t)(f.WriteAt(p, rnd.Int64N(20*SectorSize)))
		}
		want := m.ReadFile("f")
		check(t, f.Sync())
		for _, c := range []*Mem{m.CrashLosingAll(), m.Crash(rnd), m.CrashKeepingAll().CrashLosingAll()} {
			if !bytes.Equal(c.ReadFile("f"), want) {
				t.Fatalf("seed %d: a crash after Sync leaves %s, want %s", s, letters(c.ReadFile("f")), letters(want))
			}
		}
	}
}

// Close syncs nothing.
func TestCloseSyncsNothing(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "X", 0)
	check(t, f.Close())
	outcomes(t, m, "f=a", "f=X")
}

// Changes to different files and names may survive in any order.
func TestNoOrderBetweenFiles(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("a"))
	m.WriteFile("g", sectors("b"))
	for name, content := range map[string]string{"f": "X", "g": "Y"} {
		f := must[vfs.File](t)(m.OpenReadWrite(name))
		writeAt(t, f, content, 0)
	}
	outcomes(t, m, "f=a g=b", "f=X g=b", "f=a g=Y", "f=X g=Y")
}

// After Create the name is there only if SyncDir returned since: a synced file
// whose name was not synced is lost, and names are lost each by itself.
func TestCreate(t *testing.T) {
	m := NewMem()
	create(t, m, "f", "X")
	create(t, m, "g", "Y")
	outcomes(t, m, "", "f=X", "g=Y", "f=X g=Y")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "f=X g=Y")
}

// SyncDir says nothing of the content.
func TestSyncDirSyncsNoContent(t *testing.T) {
	m := NewMem()
	f := must[vfs.File](t)(m.Create("f"))
	writeAt(t, f, "X", 0)
	check(t, m.SyncDir("/"))
	if got := tree(m.CrashLosingAll()); got != "f=" {
		t.Errorf("a crash left %q", got)
	}
}

// SyncDir says nothing of the names in other directories, be they inside.
func TestSyncDirIsOfOneDirectory(t *testing.T) {
	m := NewMem()
	check(t, m.MkdirAll("d"))
	create(t, m, "d/f", "X")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "d/", "d/ d/f=X")
	check(t, m.SyncDir("/d"))
	outcomes(t, m, "d/ d/f=X")
}

// Each directory that MkdirAll made is there only if SyncDir of its own parent
// returned since.
func TestMkdirAll(t *testing.T) {
	m := NewMem()
	check(t, m.MkdirAll("a/b"))
	outcomes(t, m, "", "a/", "a/ a/b/")
	check(t, m.SyncDir("a"))
	outcomes(t, m, "", "a/ a/b/")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "a/ a/b/")
}

// The new name stands for the old file or the new one, never for a mixture; it
// is certainly the new one only after SyncDir.
func TestRenameReplaces(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("aaa"))
	create(t, m, "tmp", "XX")
	check(t, m.SyncDir("/"))
	check(t, m.Rename("tmp", "f"))
	outcomes(t, m, "f=aaa tmp=XX", "f=XX tmp=XX", "f=XX")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "f=XX")
}

// Rename does not sync content.
func TestRenameSyncsNoContent(t *testing.T) {
	m, f := having(t, "tmp", "a")
	writeAt(t, f, "X", 0)
	check(t, m.Rename("tmp", "f"))
	check(t, m.SyncDir("/"))
	outcomes(t, m, "f=a", "f=X")
}

// A durable file has its old name, its new one or both, even when it moves on.
func TestRenameLosesNoFile(t *testing.T) {
	m := NewMem()
	m.WriteFile("a", sectors("X"))
	check(t, m.Rename("a", "b"))
	outcomes(t, m, "a=X", "a=X b=X", "b=X")
	check(t, m.Rename("b", "c"))
	for _, got := range crashes(t, m) {
		if !strings.Contains(got, "X") {
			t.Errorf("two renames lost the file: %q", got)
		}
	}
	// A file that takes the old name in the meantime changes nothing of it.
	create(t, m, "a", "Y")
	for _, got := range crashes(t, m) {
		if !strings.Contains(got, "X") {
			t.Errorf("a file created under the old name lost the renamed one: %q", got)
		}
	}
}

// When the directories differ, the old name is certainly gone only after SyncDir
// of the old one, and the new one there only after SyncDir of the new one.
func TestRenameToOtherDirectory(t *testing.T) {
	start := func() *Mem {
		m := NewMem()
		m.WriteFile("d/f", sectors("X"))
		m.WriteFile("e/other", nil)
		check(t, m.Rename("d/f", "e/f"))
		return m
	}
	m := start()
	outcomes(t, m, "d/ d/f=X e/ e/other=", "d/ d/f=X e/ e/f=X e/other=", "d/ e/ e/f=X e/other=")
	check(t, m.SyncDir("e"))
	outcomes(t, m, "d/ d/f=X e/ e/f=X e/other=", "d/ e/ e/f=X e/other=")
	check(t, m.SyncDir("d"))
	outcomes(t, m, "d/ e/ e/f=X e/other=")

	// The order of the two matters: nobody promised the new name here.
	m = start()
	check(t, m.SyncDir("d"))
	outcomes(t, m, "d/ e/ e/other=", "d/ e/ e/f=X e/other=")
}

// A directory is never under two names.
func TestRenameDirectory(t *testing.T) {
	m := NewMem()
	m.WriteFile("tmp/f", sectors("X"))
	check(t, m.Rename("tmp", "d"))
	outcomes(t, m, "d/ d/f=X", "tmp/ tmp/f=X")
	check(t, m.Rename("d", "tmp"))
	check(t, m.Rename("tmp", "e"))
	for _, got := range crashes(t, m) {
		if strings.Count(got, "X") != 1 {
			t.Errorf("the directory is there %d times: %q", strings.Count(got, "X"), got)
		}
	}
	check(t, m.SyncDir("/"))
	outcomes(t, m, "e/ e/f=X")
}

// A removed name may be back until SyncDir; its content is then what it was.
func TestRemove(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("X"))
	check(t, m.Remove("f"))
	outcomes(t, m, "", "f=X")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "")
}

// A name that is given to another file stands for the old one, for none or for
// the new one.
func TestRemoveAndCreate(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("X"))
	check(t, m.Remove("f"))
	create(t, m, "f", "Y")
	outcomes(t, m, "", "f=X", "f=Y")
}

// What is written to a file under its new name shows under the old one when that
// is what survives: the trap of recycled log files.
func TestRecycledFile(t *testing.T) {
	m := NewMem()
	m.WriteFile("1.seg", sectors("X"))
	check(t, m.Rename("1.seg", "2.seg"))
	f := must[vfs.File](t)(m.OpenReadWrite("2.seg"))
	writeAt(t, f, "Y", 0)
	check(t, f.Sync())
	outcomes(t, m, "1.seg=Y", "1.seg=Y 2.seg=Y", "2.seg=Y")
}

// After RemoveAll any part may be back, until SyncDir of the parent.
func TestRemoveAll(t *testing.T) {
	m := NewMem()
	m.WriteFile("d/f", sectors("X"))
	m.WriteFile("d/g", sectors("Y"))
	check(t, m.RemoveAll("d"))
	outcomes(t, m, "", "d/", "d/ d/f=X", "d/ d/g=Y", "d/ d/f=X d/g=Y")
	check(t, m.SyncDir("/"))
	outcomes(t, m, "")
}

// A crash frees the locks, and so does the end of the process.
func TestCrashFreesLocks(t *testing.T) {
	m := NewMem()
	must[any](t)(m.Lock("lock"))
	for _, c := range []*Mem{m.Crash(seed(0)), m.CrashKeepingAll(), m.Clone()} {
		check(t, must[interface{ Close() error }](t)(c.Lock("lock")).Close())
	}
	if _, err := m.Lock("lock"); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("the lock in the Mem itself is free: %v", err)
	}
}

// Reading something back proves nothing: what a killed process wrote is still
// unsynced for the next one, and Sync of the next one saves it.
func TestKillIsNotSync(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "X", 0)
	check(t, m.Rename("f", "g"))
	k := m.CrashKeepingAll()
	if got := tree(k); got != "g=X" {
		t.Errorf("after the kill there is %q", got)
	}
	outcomes(t, k, "f=a", "f=X", "g=a", "g=X", "f=a g=a", "f=X g=X")
	check(t, must[vfs.File](t)(k.OpenReadWrite("g")).Sync())
	check(t, k.SyncDir("/"))
	outcomes(t, k, "g=X")
}

// What a crash left is durable, and nothing of it is still to happen.
func TestAfterACrashAllIsDurable(t *testing.T) {
	m, f := having(t, "f", "ab")
	writeAt(t, f, "XY", 0)
	create(t, m, "g", "Z")
	for s := range uint64(50) {
		c := m.Crash(seed(s))
		outcomes(t, c, tree(c))
	}
}

func TestClonesShareNothing(t *testing.T) {
	m, f := having(t, "d/f", "abcdefghijkl")
	writeAt(t, f, "X", 0)
	c := m.Clone()
	was := tree(c)
	writeAt(t, f, "ZZ", 0)
	check(t, f.Truncate(SectorSize))
	check(t, m.Rename("d/f", "d/g"))
	if got := tree(c); got != was {
		t.Errorf("the clone went from %q to %q", was, got)
	}
	was = tree(m)
	g := must[vfs.File](t)(c.OpenReadWrite("d/f"))
	writeAt(t, g, "YY", 1)
	check(t, g.Sync())
	check(t, c.RemoveAll("d"))
	if got := tree(m); got != was {
		t.Errorf("the original went from %q to %q", was, got)
	}
}

// busy does much of everything, by its seed.
func busy(t *testing.T, s uint64) *Mem {
	rnd := seed(s)
	m := NewMem()
	check(t, m.MkdirAll("a"))
	check(t, m.MkdirAll("b"))
	name := func() string { return fmt.Sprintf("%c/%d", 'a'+rune(rnd.IntN(2)), rnd.IntN(5)) }
	for range 200 {
		switch p := name(); rnd.IntN(9) {
		case 0, 1:
			if f, err := m.Create(p); err == nil {
				must[int](t)(f.Write(sectors("ab")))
				check(t, f.Close())
			}
		case 2, 3, 4:
			if f, err := m.OpenReadWrite(p); err == nil {
				writeAt(t, f, string(rune('A'+rnd.IntN(26))), int64(rnd.IntN(20)))
				if rnd.IntN(3) == 0 {
					check(t, f.Sync())
				}
				check(t, f.Close())
			}
		case 5:
			m.Rename(p, name())
		case 6:
			m.Remove(p)
		case 7:
			check(t, m.SyncDir(p[:1]))
		case 8:
			check(t, m.SyncDir("/"))
		}
	}
	return m
}

// The same calls and seed give the same disk, also from a clone; other seeds
// give others.
func TestCrashIsDeterministic(t *testing.T) {
	for s := range uint64(30) {
		m := busy(t, s)
		first := m.Crash(seed(s)).Image()
		for _, again := range []*Mem{m.Crash(seed(s)), m.Clone().Crash(seed(s)), busy(t, s).Crash(seed(s))} {
			if !reflect.DeepEqual(again.Image(), first) {
				t.Fatalf("seed %d gave two disks", s)
			}
		}
		kinds := map[string]bool{}
		for other := range uint64(20) {
			kinds[fmt.Sprint(m.Crash(seed(other)).Image())] = true
		}
		if len(kinds) < 5 {
			t.Errorf("busy %d: 20 seeds gave %d disks", s, len(kinds))
		}
	}
}

// Large writes are drawn whole but for little and lost but for little, too.
func TestCrashHasMoods(t *testing.T) {
	m, f := having(t, "f", strings.Repeat("a", 128))
	writeAt(t, f, strings.Repeat("X", 128), 0)
	var few, half, most int
	for s := range uint64(100) {
		switch n := strings.Count(tree(m.Crash(seed(s))), "X"); {
		case n < 20:
			few++
		case n > 108:
			most++
		case n > 40 && n < 88:
			half++
		}
	}
	if few < 10 || half < 10 || most < 10 {
		t.Errorf("of 100 crashes %d kept little, %d half, %d nearly all", few, half, most)
	}
}

// After an error of Sync any part may be lost, and a later Sync that succeeds
// proves nothing about it.
func TestDropUnsynced(t *testing.T) {
	m, f := having(t, "f", "abc")
	writeAt(t, f, "XYZ", 0)
	m.DropUnsynced("f", nil)
	if got := tree(m); got != "f=XYZ" {
		t.Errorf("programs see %q; Linux keeps the pages", got)
	}
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=abc")
	// What is written again is safe again, and only that.
	writeAt(t, f, "Y", 1)
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=aYc")

	evicted := m.Clone()
	evicted.Evict("f")
	if got := tree(evicted); got != "f=aYc" {
		t.Errorf("after Evict programs see %q", got)
	}
	// What is pending stays in memory.
	pending := m.Clone()
	writeAt(t, must[vfs.File](t)(pending.OpenReadWrite("f")), "Q", 3)
	pending.Evict("f")
	if got := tree(pending); got != "f=aYcQ" {
		t.Errorf("after Evict with a pending write programs see %q", got)
	}
	if got := tree(m.CrashKeepingAll()); got != "f=XYZ" {
		t.Errorf("a kill changed what programs see to %q", got)
	}

	seen := map[string]bool{}
	for s := range uint64(100) {
		m, f := having(t, "f", "ab")
		writeAt(t, f, "XY", 0)
		m.DropUnsynced("f", seed(s))
		check(t, f.Sync())
		seen[tree(m.CrashLosingAll())] = true
	}
	if len(seen) != 4 {
		t.Errorf("a failed sync left one of %v; want any of the four", seen)
	}
}

// outcomesOnDisk is outcomes where programs see something else than the disk has.
func outcomesOnDisk(t *testing.T, m *Mem, want string) {
	t.Helper()
	for s := range uint64(20) {
		if got := tree(m.Crash(seed(s))); got != want {
			t.Fatalf("seed %d: a crash leaves %q, want %q", s, got, want)
		}
	}
}

func TestDropUnsyncedSize(t *testing.T) {
	m, f := having(t, "f", "a")
	writeAt(t, f, "XY", 1)
	m.DropUnsynced("f", nil)
	writeAt(t, f, "b", 0)
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=b")
	writeAt(t, f, "Z", 2)
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=b.Z")
	check(t, f.Truncate(SectorSize))
	check(t, f.Sync())
	outcomesOnDisk(t, m, "f=b")
}

// After an error of SyncDir nothing is known of any name, and calling it again
// proves nothing.
func TestDropUnsyncedNames(t *testing.T) {
	m := NewMem()
	m.WriteFile("f", sectors("X"))
	check(t, m.Rename("f", "g"))
	m.DropUnsynced("/", nil)
	check(t, m.SyncDir("/"))
	if got := tree(m); got != "g=X" {
		t.Errorf("programs see %q", got)
	}
	outcomesOnDisk(t, m, "f=X")
	create(t, m, "h", "Y")
	check(t, m.SyncDir("/"))
	outcomesOnDisk(t, m, "f=X h=Y")
}

func TestWriteFileIsDurable(t *testing.T) {
	m := NewMem()
	check(t, m.MkdirAll("d/e"))
	f := create(t, m, "d/e/f", "abc")
	writeAt(t, f, "X", 0)
	m.WriteFile("d/e/f", sectors("Y"))
	outcomes(t, m, "d/ d/e/ d/e/f=Y")
	if p := make([]byte, 1); must[int](t)(f.ReadAt(p, 0)) != 1 || p[0] != 'Y' {
		t.Errorf("an open handle reads %q", p)
	}
	if m.ReadFile("none") != nil || m.Names("none") != nil || m.ReadFile("d") != nil {
		t.Error("something was read where nothing is")
	}
	check(t, must[vfs.File](t)(m.Create("empty")).Close())
	if m.ReadFile("empty") == nil {
		t.Error("an empty file reads as none")
	}
}

func BenchmarkClone(b *testing.B) {
	m := NewMem()
	m.WriteFile("log", bytes.Repeat([]byte{1}, 300<<10))
	b.ReportAllocs()
	for b.Loop() {
		m.Clone()
	}
}

func BenchmarkCrash(b *testing.B) {
	m := NewMem()
	m.WriteFile("log", bytes.Repeat([]byte{1}, 300<<10))
	f := must[vfs.File](b)(m.OpenReadWrite("log"))
	must[int](b)(f.WriteAt(bytes.Repeat([]byte{2}, 64<<10), 4096))
	b.ReportAllocs()
	for b.Loop() {
		m.Crash(seed(1))
	}
}
