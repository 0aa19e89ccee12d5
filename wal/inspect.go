package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
)

// Record is what Inspect tells of one frame.
type Record struct {
	// Segment is the name of the file, Offset where in it the frame begins, Size
	// how many bytes it takes.
	Segment      string
	Offset, Size int64
	Sequence     uint64
	// Kinds are the names of what is in it, with commas between.
	Kinds string
	// Last is the index of the last entry of the log from here on.
	Last      uint64
	HardState raftpb.HardState
	Marks     []Mark
	// Entries are valid until visit returns.
	Entries []raftpb.Entry
}

// Summary is what Inspect tells of a whole log.
type Summary struct {
	// Segments that were read, and their bytes; Spares are ready to be the next.
	Segments, Spares int
	Bytes            int64
	// Torn: the last write did not become whole, and will be cut off. TornAt says
	// where.
	Torn   bool
	TornAt string
	// Ended: the log was idle or closed; its end is proven.
	Ended bool
	// Damage is what makes the log ErrCorrupt; nil if nothing does.
	Damage *CorruptError
}

// Inspect reads a log from its first segment to its last and changes nothing;
// of a log that is in use it may call what is being written a torn write. fsys is
// where dir is; nil: the machine's file system. visit is called for every frame that
// is whole, and ends everything with an error; progress is told how many bytes of
// all have been read. Either may be nil. Damage is in the summary and no error; what
// visit returned is, ErrNotFound, ErrVersion, and those of the operating system.
func Inspect(fsys vfs.FS, dir string, visit func(*Record) error, progress func(read, total int64)) (sum Summary, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("wal: inspect %s: %w", dir, err)
		}
	}()
	if fsys == nil {
		fsys = vfs.OS
	}
	files, err := list(fsys, dir)
	sum.Spares, sum.Segments = len(files.spares), len(files.segments)
	if errors.As(err, &sum.Damage) {
		return sum, nil
	}
	if err != nil {
		return sum, err
	}
	for _, seq := range files.segments {
		info, err := fsys.Stat(segmentPath(dir, seq))
		if err != nil {
			return sum, err
		}
		sum.Bytes += info.Size
	}
	c := scan{fs: fsys, dir: dir}
	if visit != nil {
		c.visit = func(s *segment, off, size int64, f *frame) error {
			r, err := recordOf(s, off, size, f)
			if err != nil {
				return err
			}
			return visit(r)
		}
	}
	var read int64
	c.read = func(n int64) {
		if read += n; progress != nil && read < sum.Bytes {
			progress(read, sum.Bytes)
		}
	}
	err = errors.Join(c.inspect(files), c.close(0))
	sum.Ended = c.ended
	if sum.Torn = c.torn > 0; sum.Torn {
		sum.TornAt = fmt.Sprintf("%s at offset %d", segmentName(files.segments[len(files.segments)-1]), c.at)
	}
	if c.stop == nil && errors.As(err, &sum.Damage) {
		return sum, nil
	}
	if err == nil && progress != nil {
		progress(sum.Bytes, sum.Bytes) // what a window had already read counts too
	}
	return sum, err
}

// inspect opens what can be opened and reads up to the first damage.
func (c *scan) inspect(files listing) error {
	var damage error
	for _, seq := range files.segments {
		s, err := openSegment(c.fs, c.dir, seq, false)
		if err != nil {
			damage = err
			break
		}
		c.segments = append(c.segments, s)
	}
	if len(c.segments) == 0 {
		return damage
	}
	if damage != nil {
		// What comes before the segment without a beginning is read as if it were
		// not the last: up to its own end.
		err := c.run()
		var found *CorruptError
		if errors.As(damage, &found) {
			found.Intact = c.last
		}
		if c.stop != nil {
			return err
		}
		return damage
	}
	return c.run()
}

func recordOf(s *segment, off, size int64, f *frame) (*Record, error) {
	r := &Record{
		Segment: filepath.Base(s.path), Offset: off, Size: size, Sequence: f.seq,
		Kinds: f.kinds.String(), Last: f.last, HardState: f.hard, Marks: f.marks,
	}
	err := f.eachEntry(func(e raftpb.Entry) { r.Entries = append(r.Entries, e) })
	return r, err
}

func (k kinds) String() string {
	var names []string
	for i, name := range kindNames {
		if k&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "hard state"
	}
	return strings.Join(names, ",")
}

func segmentName(seq uint64) string { return filepath.Base(segmentPath("", seq)) }
