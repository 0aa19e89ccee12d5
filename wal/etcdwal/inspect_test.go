package etcdwal

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// inspected is what Inspect showed of a log, in memory.
type inspected struct {
	records []wal.Record
	entries []raftpb.Entry
	summary wal.Summary
}

func inspect(t *testing.T, dir string) inspected {
	t.Helper()
	var got inspected
	var read, total int64
	before := files(t, dir)
	summary, err := Inspect(dir, func(r *wal.Record) error {
		for _, e := range r.Entries {
			got.entries = append(got.entries[:e.Index-2], e)
		}
		c := *r
		c.Entries = append([]raftpb.Entry(nil), r.Entries...)
		c.Marks = append([]wal.Mark(nil), r.Marks...)
		got.records = append(got.records, c)
		return nil
	}, func(r, all int64) {
		if r < read || all < r {
			t.Errorf("progress went from %d to %d of %d", read, r, all)
		}
		read, total = r, all
	})
	check(t, err)
	got.summary = summary
	if summary.Damage == nil && (read != total || total != summary.Bytes) {
		t.Errorf("read %d of %d bytes; the summary says %d", read, total, summary.Bytes)
	}
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Error("Inspect changed the log")
	}
	return got
}

// longLog is a closed log of several files, with a suffix that was replaced and
// a second mark.
func longLog(t *testing.T) (dir string, entries []raftpb.Entry) {
	t.Helper()
	l, dir := create(t)
	check(t, l.Append([]wal.Batch{batch(hard(1, 1), entriesOf(1, 2, 9))}))
	check(t, l.Append([]wal.Batch{batch(hard(2, 5), entriesOf(2, 6, 12))}))
	check(t, l.SetMark(markAt(5, 1)))
	next := uint64(13)
	for ; len(segmentNames(t, dir)) < 4; next++ {
		check(t, l.Append([]wal.Batch{batch(hard(2, next-1), entriesOf(2, next, next))}))
	}
	check(t, l.Append([]wal.Batch{batch(hard(2, next-1), entriesOf(2, next, next))}))
	check(t, l.Close())
	return dir, append(entriesOf(1, 2, 5), entriesOf(2, 6, next)...)
}

func TestInspect(t *testing.T) {
	dir, entries := longLog(t)
	got := inspect(t, dir)
	if !sameEntries(entries, got.entries) {
		t.Errorf("entries (-want +got):\n%s", cmp.Diff(entries, got.entries))
	}
	if got.summary.Segments != 4 || got.summary.Torn || got.summary.Damage != nil {
		t.Errorf("summary %+v, want 4 whole files", got.summary)
	}
	last := uint64(0)
	var marks []wal.Mark
	for i, r := range got.records {
		if r.Sequence != uint64(i)+1 {
			t.Errorf("record %d has sequence %d", i+1, r.Sequence)
		}
		if i > 0 && r.Segment == got.records[i-1].Segment && r.Offset != got.records[i-1].Offset+got.records[i-1].Size {
			t.Errorf("record %d at offset %d, not behind the one before it", i+1, r.Offset)
		}
		if len(r.Entries) > 0 {
			e := r.Entries[0]
			want := "entries"
			if e.Index == 6 && e.Term == 2 {
				want = "entries,truncates"
			}
			if r.Kinds != want {
				t.Errorf("entry %d of term %d is of kind %s, want %s", e.Index, e.Term, r.Kinds, want)
			}
			last = e.Index
		}
		for _, m := range r.Marks {
			last = max(last, m.Index)
			marks = append(marks, m)
		}
		if r.Last != last {
			t.Errorf("record %d: the log ends at %d, want %d", i+1, r.Last, last)
		}
	}
	// etcd begins with a mark at 0. That of a log without entries is written twice.
	want := []wal.Mark{{}, markAt(1, 1), markAt(1, 1), markAt(5, 1)}
	if diff := cmp.Diff(want, marks); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
	if hs := got.records[len(got.records)-1].HardState; hs != hard(2, last-1) {
		t.Errorf("last hard state %+v", hs)
	}
}

// A log whose oldest files are gone is whole.
func TestInspectReleased(t *testing.T) {
	l, dir := create(t)
	next := uint64(2)
	for ; len(segmentNames(t, dir)) < 4; next++ {
		check(t, l.Append([]wal.Batch{batch(hard(2, next), entriesOf(2, next, next))}))
	}
	check(t, l.SetMark(markAt(next-1, 2)))
	check(t, l.Release(next-1))
	check(t, l.Close())
	if n := len(segmentNames(t, dir)); n >= 4 {
		t.Fatalf("%d files, Release removed none", n)
	}
	var last uint64
	summary, err := Inspect(dir, func(r *wal.Record) error {
		if last > 0 && len(r.Entries) > 0 && r.Entries[0].Index != last+1 {
			t.Errorf("entry %d behind entry %d", r.Entries[0].Index, last)
		}
		last = r.Last
		return nil
	}, nil)
	check(t, err)
	if summary.Damage != nil || last != next-1 {
		t.Errorf("%+v up to entry %d, want a whole log up to %d", summary, last, next-1)
	}
}

// harmed copies the files of a log and changes one.
func harmed(whole map[string][]byte, name string, harm func([]byte) []byte) map[string][]byte {
	content := maps.Clone(whole)
	content[name] = harm(bytes.Clone(whole[name]))
	return content
}

func TestInspectDamage(t *testing.T) {
	dir, entries := longLog(t)
	whole := files(t, dir)
	// hit is the record of the last entry in the second file.
	var hit wal.Record
	for _, r := range inspect(t, dir).records {
		if r.Segment == segmentNames(t, dir)[1] && len(r.Entries) > 0 {
			hit = r
		}
	}
	for _, c := range []struct {
		name   string
		harm   func(b []byte) []byte
		reason string
	}{
		{"a flipped bit", func(b []byte) []byte { b[hit.Offset+hit.Size/2] ^= 1; return b }, "crc"},
		{"a zeroed length", func(b []byte) []byte { clear(b[hit.Offset : hit.Offset+8]); return b }, "zeros where the next record should be"},
		{"an older file cut short", func(b []byte) []byte { return b[:hit.Offset+9] }, "EOF"},
	} {
		writeDir(t, dir, harmed(whole, hit.Segment, c.harm))
		d := inspect(t, dir).summary.Damage
		if d == nil {
			t.Errorf("%s: no damage", c.name)
			continue
		}
		want := filepath.Join(dir, hit.Segment)
		if d.Segment != want || d.Offset != hit.Offset || d.Intact != hit.Last-1 || !strings.Contains(d.Reason, c.reason) {
			t.Errorf("%s: damage %+v, want it in %s at %d behind entry %d: %s", c.name, d, want, hit.Offset, hit.Last-1, c.reason)
		}
		if last := entries[len(entries)-1].Index; d.Known <= d.Intact || d.Known > last {
			t.Errorf("%s: %d is known and %d intact, of %d", c.name, d.Known, d.Intact, last)
		}
	}
}

func TestInspectTornTail(t *testing.T) {
	dir, _ := longLog(t)
	whole := files(t, dir)
	records := inspect(t, dir).records
	newest := records[len(records)-1]
	for _, c := range []struct {
		harm func(b []byte) []byte
		why  string
	}{
		{func(b []byte) []byte { return b[:newest.Offset+10] }, "not complete"},
		{func(b []byte) []byte { clear(b[newest.Offset : newest.Offset+8]); return b }, "cannot tell"},
	} {
		writeDir(t, dir, harmed(whole, newest.Segment, c.harm))
		got := inspect(t, dir).summary
		if !got.Torn || got.Damage != nil || !strings.HasPrefix(got.TornAt, newest.Segment) || !strings.Contains(got.TornAt, c.why) {
			t.Errorf("%+v, want a torn tail: %s", got, c.why)
		}
	}
}

func TestInspectCommittedEntriesMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	w, err := etcd.Create(nil, dir, nil)
	check(t, err)
	check(t, w.SaveSnapshot(snapshotOf(markAt(1, 1))))
	check(t, w.Save(hard(1, 9), entriesOf(1, 2, 5)))
	check(t, w.Close())
	if d := inspect(t, dir).summary.Damage; d == nil || d.Intact != 5 || d.Known != 9 {
		t.Errorf("damage %+v, want entries 6 to 9 missing", d)
	}
}

func TestInspectErrors(t *testing.T) {
	if _, err := Inspect(t.TempDir(), nil, nil); !errors.Is(err, wal.ErrNotFound) {
		t.Errorf("%v, want wal.ErrNotFound", err)
	}
	dir, _ := longLog(t)
	if _, err := Inspect(dir, func(*wal.Record) error { return os.ErrDeadlineExceeded }, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want what visit returned", err)
	}
}
