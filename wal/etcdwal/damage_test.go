package etcdwal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// sectorBytes is what a disk writes as a whole.
const sectorBytes = 512

// tornLog is a log whose last append may be torn.
type tornLog struct {
	dir, tail string
	// The newest file before and after the last append, and how much of it was
	// used.
	before, after         []byte
	usedBefore, usedAfter int64
	others                map[string][]byte
	// acknowledged entries, and those of the last append.
	acknowledged, last []raftpb.Entry
}

func makeTornLog(t *testing.T) tornLog {
	t.Helper()
	l, dir := create(t)
	next := uint64(2)
	for ; len(segmentNames(t, dir)) < 2 || usedBytes(t, dir) < 2000; next++ {
		check(t, l.Append([]wal.Batch{batch(hard(2, next), entriesOf(2, next, next))}))
	}
	torn := tornLog{dir: dir, acknowledged: entriesOf(2, 2, next-1), last: entriesOf(2, next, next+5)}
	names := segmentNames(t, dir)
	torn.tail = names[len(names)-1]
	torn.usedBefore = usedBytes(t, dir)
	torn.before = files(t, dir)[torn.tail]
	check(t, l.Append([]wal.Batch{batch(hard(2, next), torn.last)}))
	torn.usedAfter = usedBytes(t, dir)
	torn.others = files(t, dir)
	torn.after = torn.others[torn.tail]
	delete(torn.others, torn.tail)
	check(t, l.Close())
	return torn
}

// open recovers the log with another newest file, and expects every entry that
// was acknowledged and perhaps some of the last append; then it must be usable.
func (torn tornLog) open(t *testing.T, what string, tail []byte) {
	t.Helper()
	writeDir(t, torn.dir, torn.others)
	check(t, os.WriteFile(filepath.Join(torn.dir, torn.tail), tail, 0o600))
	wantMarks(t, torn.dir, markAt(1, 1))
	l, state, err := New(nil).Open(torn.dir, markAt(1, 1))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got := allEntries(t, l, 1, state)
	n, acknowledged := len(got), len(torn.acknowledged)
	all := append(torn.acknowledged[:acknowledged:acknowledged], torn.last...)
	if n < acknowledged || n > len(all) {
		t.Fatalf("%s: %d entries, of which %d were acknowledged and %d written", what, n, acknowledged, len(all))
	}
	if !sameEntries(all[:n], got) {
		t.Fatalf("%s: entries (-want +got):\n%s", what, cmp.Diff(all[:n], got))
	}
	next := uint64(n) + 2
	check(t, l.Append([]wal.Batch{batch(hard(3, next), entriesOf(3, next, next))}))
	check(t, l.Close())
	l, state = open(t, torn.dir, markAt(1, 1))
	wantState(t, l, markAt(1, 1), state, hard(3, next), append(all[:n:n], entriesOf(3, next, next)...))
	check(t, l.Close())
}

func TestTornTailCut(t *testing.T) {
	torn := makeTornLog(t)
	step := max(1, (torn.usedAfter-torn.usedBefore)/40)
	for cut := torn.usedBefore; cut <= torn.usedAfter; cut += step {
		torn.open(t, fmt.Sprintf("cut at %d of %d", cut, torn.usedAfter), torn.after[:cut])
	}
}

// Any of the sectors that the last append touched may hold their old content.
func TestTornTailSectors(t *testing.T) {
	torn := makeTornLog(t)
	first := torn.usedBefore / sectorBytes
	sectors := int((torn.usedAfter-1)/sectorBytes - first + 1)
	if sectors < 3 || sectors > 7 {
		t.Fatalf("the last append touches %d sectors: change its size to make it 3-7", sectors)
	}
	for subset := range 1 << sectors {
		tail := append([]byte(nil), torn.before...)
		for s := range sectors {
			if subset>>s&1 == 1 {
				from := (first + int64(s)) * sectorBytes
				copy(tail[from:from+sectorBytes], torn.after[from:])
			}
		}
		torn.open(t, fmt.Sprintf("sectors %0*b of %d", sectors, subset, sectors), tail)
	}
}

// wantCorrupt expects that Open and what it refuses leave everything as it is.
func wantCorrupt(t *testing.T, what, dir string, m wal.Mark) {
	t.Helper()
	before := files(t, dir)
	if _, _, err := New(nil).Open(dir, m); !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("%s: Open returned %v, want wal.ErrCorrupt", what, err)
	}
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("%s: Open changed the log:\n%s", what, diff)
	}
}

func TestDamageIsReported(t *testing.T) {
	torn := makeTornLog(t)
	names := segmentNames(t, torn.dir)
	whole := files(t, torn.dir)
	damage := func(what, name string, change func([]byte) []byte) {
		t.Helper()
		writeDir(t, torn.dir, whole)
		path := filepath.Join(torn.dir, name)
		data := change(append([]byte(nil), whole[name]...))
		check(t, os.WriteFile(path, data, 0o600))
		wantCorrupt(t, what, torn.dir, markAt(1, 1))
		_, err := New(nil).Marks(torn.dir)
		if err != nil && !errors.Is(err, wal.ErrCorrupt) {
			t.Errorf("%s: Marks returned %v", what, err)
		}
	}
	flip := func(at int64) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x10; return b }
	}
	damage("data in the newest file", names[len(names)-1], flip(torn.usedBefore-200))
	damage("data in an old file", names[0], flip(3000))
	// Who reads the error must learn where it is, and what is whole before it.
	var where *wal.CorruptError
	_, _, err := New(nil).Open(torn.dir, markAt(1, 1))
	if !errors.As(err, &where) || filepath.Base(where.Segment) != names[0] || where.Offset == 0 || where.Offset > 3000 || where.Intact < 2 || where.Intact > 20 {
		t.Errorf("data in an old file: %v, want a wal.CorruptError that says where", err)
	}
	damage("old file cut", names[0], func(b []byte) []byte { return b[:len(b)-100] })
	damage("old file zeroed at its end", names[0], func(b []byte) []byte { clear(b[len(b)-1024:]); return b })
	damage("old file zeroed in the middle", names[0], func(b []byte) []byte { clear(b[4096:8192]); return b })
	damage("old file zeroed", names[0], func(b []byte) []byte { clear(b); return b })

	writeDir(t, torn.dir, whole)
	check(t, os.Remove(filepath.Join(torn.dir, names[0])))
	wantCorrupt(t, "old file missing", torn.dir, markAt(1, 1))
}

// The commit index says that more was there than there is. etcd's own reading
// does not compare the two.
func TestCommitBeyondEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := New(nil).Create(dir, markAt(1, 1), hard(1, 9))
	if err == nil {
		l.Close()
	}
	if !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("%v, want wal.ErrCorrupt", err)
	}
}

// What etcd's checksums do not cover may be lost without a word; all that can be
// asked is that Open neither panics nor makes entries up.
func TestAnyByteDamaged(t *testing.T) {
	torn := makeTornLog(t)
	truth := append(torn.acknowledged, torn.last...)
	for name, data := range map[string][]byte{"newest": torn.after, "oldest": torn.others[segmentNames(t, torn.dir)[0]]} {
		file := torn.tail
		if name == "oldest" {
			file = segmentNames(t, torn.dir)[0]
		}
		for at := 0; at < min(len(data), int(torn.usedAfter)); at += 13 {
			whole := map[string][]byte{torn.tail: torn.after}
			for n, d := range torn.others {
				whole[n] = d
			}
			whole[file] = append([]byte(nil), data...)
			whole[file][at] ^= 1 << (at % 8)
			writeDir(t, torn.dir, whole)
			l, state, err := New(nil).Open(torn.dir, markAt(1, 1))
			if err != nil {
				if !errors.Is(err, wal.ErrCorrupt) {
					t.Errorf("%s file, byte %d: %v, want wal.ErrCorrupt or none", name, at, err)
				}
				continue
			}
			got := allEntries(t, l, 1, state)
			n := len(got)
			if n > len(truth) || !sameEntries(truth[:n], got) {
				t.Errorf("%s file, byte %d: %d entries that were never written so", name, at, n)
			}
			check(t, l.Close())
		}
	}
}
