package etcdwal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// segment is one file of a log.
type segment struct {
	name string
	seq  uint64
	// first is the index after that of the entry that was written last when the
	// file was begun. It may be lower than that of the file before, where a new
	// leader overwrote a suffix.
	first uint64
}

// listSegments returns the files of the log in dir up to the newest, without a
// gap in their sequence: what is before a gap is a rest of Release.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, wal.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var segments []segment
	native := ""
	for _, e := range entries {
		s := segment{name: e.Name()}
		if strings.HasSuffix(s.name, ".seg") {
			native = s.name
		}
		if !strings.HasSuffix(s.name, ".wal") {
			continue
		}
		if _, err := fmt.Sscanf(s.name, "%016x-%016x.wal", &s.seq, &s.first); err != nil {
			continue
		}
		if n := len(segments); n > 0 && segments[n-1].seq+1 != s.seq {
			segments = segments[:0]
		}
		segments = append(segments, s)
	}
	if len(segments) > 0 {
		return segments, nil
	}
	if native != "" {
		return nil, fmt.Errorf("%w: %s belongs to a log in Octopii's native format, and etcd's was asked for: start with the native log, or rewrite this one with octopiictl log convert",
			wal.ErrFormat, native)
	}
	return nil, wal.ErrNotFound
}

// home is the position of the file with which reading begins when the log is
// opened at index: the last one that was begun at or before it. -1: none.
func home(segments []segment, index uint64) int {
	for i := len(segments) - 1; i >= 0; i-- {
		if segments[i].first <= index {
			return i
		}
	}
	return -1
}

// scanned is what scan gathers on its way through the log.
type scanned struct {
	// mark is the one to open at, with its ConfState once found.
	mark  wal.Mark
	state raftpb.HardState
	// terms of the entries behind the mark, without a gap.
	//
	// A mark whose entry the log does not hold, or holds with another term, is that
	// of a snapshot that came from the leader and replaced the whole log. What was
	// written before such a mark counts no more, also where it lies behind the mark.
	terms []uint64
	// others are the marks behind mark.
	others []walpb.Snapshot
	// found: the mark itself has been read.
	found bool
	// termAtMark is the term of the entry at the mark's index; 0: the log has none.
	termAtMark uint64
	// torn: the newest file ends in the middle of a record.
	torn bool
}

// scan reads the log at mark m as Open will and changes nothing. etcd's own way
// of reading cuts off what it cannot read before anybody may judge it, does not
// miss a mark that is not there, and panics on records of a wrong type.
func scan(dir string, m wal.Mark) (scanned, error) {
	s := scanned{mark: m}
	segments, err := listSegments(dir)
	if err != nil {
		return s, err
	}
	from := home(segments, m.Index)
	if from < 0 {
		return s, fmt.Errorf("%w: the log begins behind the mark: open it at one of Marks", wal.ErrCorrupt)
	}
	s.torn, err = readSegments(dir, segments[from:], func(_ int, rec *walpb.Record) error { return s.record(rec) })
	var damage *wal.CorruptError
	if errors.As(err, &damage) {
		damage.Intact, damage.Known = s.last(), s.state.Commit
	}
	if err != nil {
		return s, err
	}
	return s, s.check()
}

// last is the index of the last entry, or that of the mark.
func (s *scanned) last() uint64 { return s.mark.Index + uint64(len(s.terms)) }

// record takes the next record of the log.
func (s *scanned) record(rec *walpb.Record) error {
	switch rec.Type {
	case etcd.EntryType:
		var e raftpb.Entry
		if err := e.Unmarshal(rec.Data); err != nil {
			return err
		}
		return s.entry(e.Index, e.Term)
	case etcd.StateType:
		s.state = raftpb.HardState{}
		return s.state.Unmarshal(rec.Data)
	case etcd.SnapshotType:
		var snap walpb.Snapshot
		if err := snap.Unmarshal(rec.Data); err != nil {
			return err
		}
		return s.snapshot(snap)
	case etcd.MetadataType, etcd.CrcType:
		return nil
	}
	return fmt.Errorf("record of unknown type %d", rec.Type)
}

// entry replaces all entries from its index on.
func (s *scanned) entry(index, term uint64) error {
	if index <= s.mark.Index {
		s.terms = s.terms[:0]
		s.termAtMark = 0
		if index == s.mark.Index {
			s.termAtMark = term
		}
		return nil
	}
	offset := index - s.mark.Index - 1
	if offset > uint64(len(s.terms)) {
		return fmt.Errorf("entry %d follows entry %d", index, s.last())
	}
	s.terms = append(s.terms[:offset], term)
	return nil
}

func (s *scanned) snapshot(snap walpb.Snapshot) error {
	if snap.Index > s.mark.Index {
		s.others = append(s.others, snap)
	}
	if snap.Index != s.mark.Index {
		return nil
	}
	if snap.Term != s.mark.Term {
		return fmt.Errorf("the mark has term %d, not %d", snap.Term, s.mark.Term)
	}
	// Only the first one can replace the log: see Log.Release for the others.
	if !s.found && s.termAtMark != s.mark.Term {
		s.terms = s.terms[:0]
	}
	if snap.ConfState != nil {
		s.mark.ConfState = *snap.ConfState
	}
	s.found = true
	return nil
}

// check judges what can only be judged at the end.
func (s *scanned) check() error {
	if !s.found {
		return fmt.Errorf("%w: there is no such mark: open it at one of Marks", wal.ErrCorrupt)
	}
	if s.state.Commit > s.last() {
		return fmt.Errorf("%w: entries up to %d are committed and the last one is %d", wal.ErrCorrupt, s.state.Commit, s.last())
	}
	for _, o := range s.others {
		if o.Index <= s.state.Commit && s.terms[o.Index-s.mark.Index-1] != o.Term {
			return fmt.Errorf("%w: the snapshot of mark %d replaced the log: open it there", wal.ErrCorrupt, o.Index)
		}
	}
	return nil
}

// scanMarks reads the whole log for its marks.
func scanMarks(dir string) ([]wal.Mark, error) {
	segments, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	var marks []wal.Mark
	var state raftpb.HardState
	_, err = readSegments(dir, segments, func(at int, rec *walpb.Record) error {
		switch rec.Type {
		case etcd.StateType:
			state = raftpb.HardState{}
			return state.Unmarshal(rec.Data)
		case etcd.SnapshotType:
			m, err := decodeMark(rec.Data)
			// Reading would begin in a later file than the mark is in.
			if h := home(segments, m.Index); err == nil && m.Index > 0 && h >= 0 && h <= at {
				marks = append(marks, m)
			}
			return err
		}
		return nil
	})
	var damage *wal.CorruptError
	if errors.As(err, &damage) {
		// The entries were not looked at: Open tells which of them are whole.
		return nil, fmt.Errorf("%w: %s at offset %d: %s", wal.ErrCorrupt, damage.Segment, damage.Offset, damage.Reason)
	}
	if err != nil {
		return nil, err
	}
	marks = slices.DeleteFunc(marks, func(m wal.Mark) bool { return m.Index > state.Commit })
	slices.SortStableFunc(marks, func(a, b wal.Mark) int { return cmp.Compare(a.Index, b.Index) })
	return slices.CompactFunc(marks, func(a, b wal.Mark) bool { return a.Index == b.Index && a.Term == b.Term }), nil
}

func decodeMark(data []byte) (wal.Mark, error) {
	var snap walpb.Snapshot
	if err := snap.Unmarshal(data); err != nil {
		return wal.Mark{}, err
	}
	m := wal.Mark{Index: snap.Index, Term: snap.Term}
	if snap.ConfState != nil {
		m.ConfState = *snap.ConfState
	}
	return m, nil
}

// readSegments gives every record to visit, with the position of its file. It
// reports whether the last file ends in the middle of a record; that any other
// one does is damage.
func readSegments(dir string, segments []segment, visit func(at int, rec *walpb.Record) error) (torn bool, err error) {
	var crc uint32
	for i, s := range segments {
		path := filepath.Join(dir, s.name)
		offset, err := readSegment(path, &crc, func(rec *walpb.Record) error { return visit(i, rec) })
		if errors.Is(err, io.ErrUnexpectedEOF) && i == len(segments)-1 {
			return true, nil
		}
		var system *os.PathError
		if errors.As(err, &system) || vfs.MayPass(err) {
			return false, err
		}
		if err != nil {
			return false, &wal.CorruptError{Segment: path, Offset: offset, Reason: err.Error()}
		}
	}
	return false, nil
}

// readSegment gives every record of one file to visit. crc is the checksum up to
// the file and then up to its end; offset is that of the record that failed.
func readSegment(path string, crc *uint32, visit func(*walpb.Record) error) (offset int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	d := etcd.NewDecoder(fileutil.NewFileReader(f))
	d.UpdateCRC(*crc)
	for {
		offset = d.LastOffset()
		var rec walpb.Record
		err = d.Decode(&rec)
		if errors.Is(err, io.EOF) {
			*crc = d.LastCRC()
			return offset, nil
		}
		if err == nil && rec.Type == etcd.CrcType {
			// The first file that is read has nothing to be checked against.
			if last := d.LastCRC(); last != 0 && last != rec.Crc {
				err = etcd.ErrCRCMismatch
			}
			d.UpdateCRC(rec.Crc)
		}
		if err != nil {
			return offset, err
		}
		if err := visit(&rec); err != nil {
			// Not wrapped: a message that ends too early is no torn tail here, where
			// the checksum is right.
			return offset, fmt.Errorf("cannot be what was written: %v", err)
		}
	}
}
