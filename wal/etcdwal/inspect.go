package etcdwal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcd "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/wal"
)

// Inspect reads a whole log, from its first file, and changes nothing. visit gets
// every record up to the first damage, progress the bytes read so far of all;
// either may be nil. The error is what visit returned, wal.ErrNotFound, or one of
// the operating system; damage is in the summary. Summary.Ended is never set: the
// format has no proof of that.
//
// It sees more than Open does: etcd's format ends a file where a length reads as
// zero, and Inspect looks whether anything stands behind that.
func Inspect(dir string, visit func(*wal.Record) error, progress func(read, total int64)) (wal.Summary, error) {
	p := &inspector{dir: filepath.Clean(dir), visit: visit, progress: progress}
	if err := p.inspect(); err != nil {
		return p.summary, fmt.Errorf("etcdwal: inspect %s: %w", dir, err)
	}
	return p.summary, nil
}

// inspector is one reading of a log.
type inspector struct {
	dir      string
	segments []segment
	sizes    []int64
	visit    func(*wal.Record) error
	progress func(read, total int64)

	summary wal.Summary
	// rec is what visit gets; its HardState is the last one read.
	rec   wal.Record
	entry [1]raftpb.Entry
	mark  [1]wal.Mark
	// last is the index of the last entry, or of a mark beyond it. Until one was
	// read it is what the name of the first file says, and nothing is built on it.
	last    uint64
	started bool
	// terms of the entries, without a gap, up to last.
	terms []wal.TermRun
	// known is the highest index that last ever was.
	known uint64
	// done are the bytes of the files before the current one.
	done int64
}

// damage is an error about the content of the log, not about reading it.
type damage struct{ error }

func (p *inspector) inspect() error {
	if err := p.list(); err != nil {
		return err
	}
	var crc uint32
	for i := range p.segments {
		offset, err := p.segment(i, &crc)
		var d damage
		if errors.As(err, &d) {
			p.damaged(i, offset, d.error)
			return nil
		}
		if err != nil {
			return err
		}
		p.done += p.sizes[i]
		p.tell(0)
		if i == len(p.segments)-1 {
			p.checkCommit(i, offset)
		}
	}
	return nil
}

// list finds the files and how large they are.
func (p *inspector) list() error {
	var err error
	if p.segments, err = listSegments(p.dir); err != nil {
		return err
	}
	for _, s := range p.segments {
		info, err := os.Stat(filepath.Join(p.dir, s.name))
		if err != nil {
			return err
		}
		p.sizes = append(p.sizes, info.Size())
		p.summary.Bytes += info.Size()
	}
	p.summary.Segments = len(p.segments)
	if first := p.segments[0].first; first > 0 {
		p.last = first - 1
	}
	names, err := os.ReadDir(p.dir)
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".tmp") {
			p.summary.Spares++
		}
	}
	return err
}

// segment reads one file. offset is where its records end, or the damage begins.
func (p *inspector) segment(i int, crc *uint32) (offset int64, err error) {
	f, err := os.Open(filepath.Join(p.dir, p.segments[i].name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	d := etcd.NewDecoder(fileutil.NewFileReader(f))
	d.UpdateCRC(*crc)
	for {
		offset = d.LastOffset()
		var rec walpb.Record
		err := d.Decode(&rec)
		switch {
		case errors.Is(err, io.EOF):
			*crc = d.LastCRC()
			return offset, p.end(i, f, offset)
		case errors.Is(err, io.ErrUnexpectedEOF) && i == len(p.segments)-1:
			p.torn(i, offset, "the record there is not complete")
			return offset, nil
		case isSystem(err):
			return offset, err
		case err != nil:
			return offset, damage{err}
		}
		if rec.Type == etcd.CrcType {
			// The first file has nothing to be checked against.
			if last := d.LastCRC(); last != 0 && last != rec.Crc {
				return offset, damage{fmt.Errorf("%w: the file does not continue the one before it", etcd.ErrCRCMismatch)}
			}
			d.UpdateCRC(rec.Crc)
		}
		p.rec.Segment, p.rec.Offset, p.rec.Size = p.segments[i].name, offset, d.LastOffset()-offset
		if err := p.record(&rec); err != nil {
			return offset, err
		}
		p.tell(d.LastOffset())
	}
}

func isSystem(err error) bool {
	var system *os.PathError
	return errors.As(err, &system)
}

// record takes the next record and shows it.
func (p *inspector) record(rec *walpb.Record) error {
	p.rec.Sequence++
	p.rec.Entries, p.rec.Marks = nil, nil
	var err error
	switch rec.Type {
	case etcd.MetadataType:
		p.rec.Kinds = "metadata"
	case etcd.CrcType:
		p.rec.Kinds = "begin"
	case etcd.EntryType:
		err = p.takeEntry(rec.Data)
	case etcd.StateType:
		p.rec.Kinds = "hard state"
		p.rec.HardState = raftpb.HardState{}
		err = p.rec.HardState.Unmarshal(rec.Data)
	case etcd.SnapshotType:
		err = p.takeMark(rec.Data)
	default:
		err = fmt.Errorf("record of unknown type %d", rec.Type)
	}
	if err != nil {
		return damage{err}
	}
	p.rec.Last = p.last
	if p.visit == nil {
		return nil
	}
	return p.visit(&p.rec)
}

func (p *inspector) takeEntry(data []byte) error {
	e := &p.entry[0]
	*e = raftpb.Entry{}
	if err := e.Unmarshal(data); err != nil {
		return err
	}
	if e.Index == 0 || p.started && e.Index > p.last+1 {
		return fmt.Errorf("entry %d follows entry %d", e.Index, p.last)
	}
	p.rec.Kinds = "entries"
	if p.started && e.Index <= p.last {
		p.rec.Kinds = "entries,truncates"
	}
	p.rec.Entries = p.entry[:]
	p.cut(e.Index)
	if n := len(p.terms); n == 0 || p.terms[n-1].Term != e.Term {
		p.terms = append(p.terms, wal.TermRun{First: e.Index, Term: e.Term})
	}
	p.reach(e.Index)
	return nil
}

// cut forgets the terms from index on.
func (p *inspector) cut(index uint64) {
	n := len(p.terms)
	for n > 0 && p.terms[n-1].First >= index {
		n--
	}
	p.terms = p.terms[:n]
}

func (p *inspector) reach(last uint64) {
	p.last, p.started = last, true
	p.known = max(p.known, last)
}

// takeMark takes a mark. One whose entry the log does not hold, or holds with
// another term, is that of a snapshot that replaced the log.
func (p *inspector) takeMark(data []byte) error {
	m, err := decodeMark(data)
	if err != nil {
		return err
	}
	p.rec.Kinds = "mark"
	p.mark[0] = m
	p.rec.Marks = p.mark[:]
	term, held := p.termAt(m.Index)
	switch {
	case m.Index == 0:
		// etcd begins every log with this one; it says nothing.
	case !p.started || m.Index > p.last, held && term != m.Term:
		p.terms = p.terms[:0]
		p.reach(m.Index)
	}
	return nil
}

// termAt is the term of an entry that was read and not replaced.
func (p *inspector) termAt(index uint64) (term uint64, held bool) {
	if index > p.last {
		return 0, false
	}
	for _, r := range p.terms {
		if r.First > index {
			break
		}
		term, held = r.Term, true
	}
	return term, held
}

// end judges what stands behind the last record of a file, which reads as one of
// length zero.
func (p *inspector) end(i int, f *os.File, offset int64) error {
	last := i == len(p.segments)-1
	if !last && offset < p.sizes[i] {
		// Only the newest file has room left: the others were cut to their size.
		return damage{errors.New("zeros where the next record should be")}
	}
	at, err := p.nonZero(f, offset)
	if err != nil {
		return err
	}
	if at >= 0 {
		p.torn(i, offset, fmt.Sprintf("zeros where a record may have been, and other bytes from offset %d on; "+
			"this format cannot tell whether that was a write cut short or one that was acknowledged", at))
	}
	return nil
}

// nonZero is the offset of the first byte from offset on that is not zero; -1: none.
func (p *inspector) nonZero(f *os.File, offset int64) (int64, error) {
	buf := make([]byte, 256<<10)
	for {
		n, err := f.ReadAt(buf, offset)
		for i, b := range buf[:n] {
			if b != 0 {
				return offset + int64(i), nil
			}
		}
		offset += int64(n)
		p.tell(offset)
		if errors.Is(err, io.EOF) {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
	}
}

func (p *inspector) torn(i int, offset int64, why string) {
	p.summary.Torn = true
	p.summary.TornAt = fmt.Sprintf("%s at offset %d: %s", p.segments[i].name, offset, why)
}

// checkCommit finds entries missing at the end that were committed.
func (p *inspector) checkCommit(i int, offset int64) {
	if commit := p.rec.HardState.Commit; commit > p.last {
		p.damaged(i, offset, fmt.Errorf("entries up to %d are committed and the last one is %d", commit, p.last))
	}
}

// damaged notes where reading ended. The name of a later file tells how far the
// log went when it was begun.
func (p *inspector) damaged(i int, offset int64, why error) {
	d := &wal.CorruptError{
		Segment: filepath.Join(p.dir, p.segments[i].name),
		Offset:  offset,
		Intact:  p.last,
		Known:   max(p.known, p.rec.HardState.Commit),
		Reason:  why.Error(),
	}
	for _, s := range p.segments[i+1:] {
		if s.first > 0 {
			d.Known = max(d.Known, s.first-1)
		}
	}
	p.summary.Damage = d
}

func (p *inspector) tell(inFile int64) {
	if p.progress != nil {
		p.progress(p.done+inFile, p.summary.Bytes)
	}
}
