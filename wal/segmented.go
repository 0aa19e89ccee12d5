package wal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
)

// segmentBytesDefault is small enough to be zeroed in the time of some appends,
// and large enough that a new one is rarely needed.
const segmentBytesDefault = 16 << 20

// Options of the native log. The zero value of every field is a good choice.
type Options struct {
	// FS is where the log is. nil: the machine's file system.
	FS vfs.FS
	// SegmentBytes is the size of a segment, in whole blocks of 4096. A larger
	// append gets a segment of its own size. 0: 16 MiB.
	SegmentBytes int64
	// Rand gives the salt of a new log. nil: crypto/rand.
	Rand io.Reader
}

// Segmented is the Backend of the native format. Its methods may be called from
// any goroutine, for one directory by one at a time.
type Segmented struct {
	opts Options
}

var _ Backend = (*Segmented)(nil)

// New returns the Backend of the native format.
func New(opts Options) *Segmented {
	if opts.FS == nil {
		opts.FS = vfs.OS
	}
	if opts.SegmentBytes == 0 {
		opts.SegmentBytes = segmentBytesDefault
	}
	opts.SegmentBytes = max(4*blockBytes, (opts.SegmentBytes+blockBytes-1)/blockBytes*blockBytes)
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	return &Segmented{opts: opts}
}

// Format implements Format.
func (b *Segmented) Format() string { return "native" }

// Create makes a new log. It returns fs.ErrExist when there is a dir, and
// ErrNoSpace when the system gives it no file, for the reasons that ErrNoSpace names.
func (b *Segmented) Create(dir string, m Mark, hs raftpb.HardState) (Log, error) {
	dir = filepath.Clean(dir)
	l, err := b.create(dir, m, hs)
	if err != nil {
		return nil, fmt.Errorf("wal: create %s: %w", dir, err)
	}
	return l, nil
}

func (b *Segmented) create(dir string, m Mark, hs raftpb.HardState) (Log, error) {
	fsys := b.opts.FS
	if hs.Commit != m.Index {
		return nil, fmt.Errorf("%w: commit index %d and a mark at %d, where the log begins", errInput, hs.Commit, m.Index)
	}
	if _, err := fsys.Stat(dir); err == nil {
		return nil, fmt.Errorf("%w: open it, or remove it to start over", fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tmp := dir + tmpSuffix
	if err := fsys.RemoveAll(tmp); err != nil {
		return nil, err
	}
	err := b.build(tmp, m, hs, b.opts.SegmentBytes)
	if vfs.Full(err) && b.opts.SegmentBytes > bridgeBytes && fsys.RemoveAll(tmp) == nil {
		err = b.build(tmp, m, hs, bridgeBytes) // the mark covers it, and so it goes on
	}
	if err != nil {
		// Best effort: the next Create does it again.
		_ = fsys.RemoveAll(tmp)
		if vfs.Refused(err) {
			err = noSpace(err)
		}
		return nil, err
	}
	names, err := vfs.OpenDir(fsys, filepath.Dir(dir))
	if vfs.Refused(err) {
		err = noSpace(err)
	}
	if err != nil {
		return nil, err
	}
	l, err := b.publish(names, tmp, dir, m)
	return l, errors.Join(err, names.Close())
}

// publish gives a log that was built its name and opens it. names is the directory of
// both. Where the system refuses to open it, it has its name no more.
func (b *Segmented) publish(names *vfs.Dir, tmp, dir string, m Mark) (*segmentedLog, error) {
	if err := b.opts.FS.Rename(tmp, dir); err != nil {
		return nil, err
	}
	if err := names.Sync(); err != nil {
		return nil, err
	}
	l, _, err := b.open(dir, m)
	if !vfs.Refused(err) {
		return l, err
	}
	if undo := b.opts.FS.Rename(dir, tmp); undo != nil {
		return nil, errors.Join(err, undo)
	}
	if undo := names.Sync(); undo != nil {
		return nil, errors.Join(err, undo)
	}
	return nil, noSpace(err)
}

// build makes the whole log durable under a name that nobody opens. Its segment has so many
// bytes, or more if it must.
func (b *Segmented) build(tmp string, m Mark, hs raftpb.HardState, segmentBytes int64) (err error) {
	fsys := b.opts.FS
	var salt [8]byte
	if _, err := io.ReadFull(b.opts.Rand, salt[:]); err != nil {
		return fmt.Errorf("draw the salt: %w", err)
	}
	if err := fsys.MkdirAll(tmp); err != nil {
		return err
	}
	f, err := fsys.Create(segmentPath(tmp, 1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var e encoder
	begin := frame{seq: 1, kinds: kindBegin | kindMarks, last: m.Index, lastTerm: m.Term, hard: hs, marks: []Mark{m}}
	h := header{salt: le.Uint64(salt[:]), seq: 1, frame: 1, size: max(segmentBytes, begin.beginsSegmentOf(0))}
	end, sum, err := beginSegment(f, &e, h, &begin)
	if err != nil {
		return err
	}
	last := begin
	last.seq, last.previous, last.kinds, last.marks = 2, sum, kindEnd, nil
	blocks, _ := e.encode(&last, nil, saltSum(h.salt), uint32(h.seq), end)
	if _, err := f.WriteAt(blocks, end); err != nil {
		return err
	}
	if err := writeZeros(f, end+int64(len(blocks)), h.size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return fsys.SyncDir(tmp)
}

// slackBytes at the end of a segment are for marks and not for entries, so that a
// full disk does not keep a log from being released.
const slackBytes = 2 * blockBytes

// beginsSegmentOf is the size of a segment that this frame begins and that has
// room for one of so many bytes, the slack, and an end mark.
func (f *frame) beginsSegmentOf(bytes int64) int64 {
	return blockBytes + blocksFor(len(encodeMarks(f.marks))) + bytes + slackBytes + blockBytes
}

// beginSegment writes the header and the first frame, at once. It returns where
// the next one goes, and the frame's checksum.
func beginSegment(f vfs.File, e *encoder, h header, begin *frame) (int64, uint32, error) {
	blocks, sum := e.encode(begin, nil, saltSum(h.salt), uint32(h.seq), blockBytes)
	all := vfs.Aligned(blockBytes + len(blocks))
	h.encode(all[:blockBytes])
	copy(all[blockBytes:], blocks)
	_, err := f.WriteAt(all, 0)
	return int64(len(all)), sum, err
}

// Open recovers the log at m, which must be one of Marks. It cuts off a torn
// tail, which it has made sure nobody was told of, and nothing else: before it
// returns a CorruptError it has changed nothing. Other errors: ErrNotFound,
// ErrLocked, ErrFormat, ErrVersion, and those of the operating system.
func (b *Segmented) Open(dir string, m Mark) (Log, State, error) {
	dir = filepath.Clean(dir)
	l, state, err := b.open(dir, m)
	if err != nil {
		return nil, State{}, fmt.Errorf("wal: open %s at mark %d: %w", dir, m.Index, err)
	}
	return l, state, nil
}

func (b *Segmented) open(dir string, m Mark) (_ *segmentedLog, _ State, err error) {
	if _, err := list(b.opts.FS, dir); err != nil {
		return nil, State{}, err
	}
	lock, err := b.opts.FS.Lock(filepath.Join(dir, lockName))
	if errors.Is(err, vfs.ErrLocked) {
		err = ErrLocked
	}
	if err != nil {
		return nil, State{}, err
	}
	c := scan{fs: b.opts.FS, dir: dir, found: found{after: m.Index}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close(0), lock.Close())
		}
	}()
	files, err := list(b.opts.FS, dir)
	if err != nil {
		return nil, State{}, err
	}
	if err := c.open(files.segments, m.Index, true); err != nil {
		return nil, State{}, err
	}
	if err := c.run(); err != nil {
		return nil, State{}, err
	}
	if err := c.checkMark(m); err != nil {
		return nil, State{}, err
	}
	l, err := newLog(b.opts, dir, lock, &c, files)
	if err != nil {
		return nil, State{}, err
	}
	return l, State{HardState: c.hard, Last: c.last, Terms: c.terms}, nil
}

// checkMark says whether the log can be opened at m.
func (c *scan) checkMark(m Mark) error {
	newest := c.newest()
	if c.last < m.Index {
		return newest.corrupt(c.at, c.last, m.Index, fmt.Sprintf("the log ends at entry %d, before the mark at %d", c.last, m.Index))
	}
	if c.hard.Commit > c.last {
		return newest.corrupt(c.at, c.last, c.hard.Commit, fmt.Sprintf("the log ends at entry %d, but %d was committed", c.last, c.hard.Commit))
	}
	for i := range c.marks {
		if c.marks[i].Index == m.Index && c.marks[i].Term == m.Term {
			if c.afterTerm == m.Term {
				return nil
			}
			return newest.corrupt(c.at, m.Index, c.last, fmt.Sprintf("entry %d has term %d, and the mark there %d", m.Index, c.afterTerm, m.Term))
		}
	}
	return fmt.Errorf("%w: no mark was set at index %d and term %d: open the log at one of its marks", errInput, m.Index, m.Term)
}

// noMark is why a log that begins behind an index can be opened at none of its
// marks: damage to the segments before it, or that they are gone.
func (c *scan) noMark(begin uint64, damage error) error {
	intact := uint64(0) // what is in the newest mark's snapshot
	if n := len(c.marks); n > 0 {
		intact = c.marks[n-1].Index
	}
	var found *CorruptError
	if errors.As(damage, &found) {
		found.Intact, found.Known = intact, begin
	}
	if damage != nil {
		return damage
	}
	return c.segments[0].corrupt(0, intact, begin, fmt.Sprintf("the log begins behind entry %d, and not with the mark at %d", begin, intact))
}

// Marks lists the marks that the log can be opened at; there is at least one, or
// what is missing is a CorruptError. It reads the newest segment, and the
// beginnings of the others.
func (b *Segmented) Marks(dir string) ([]Mark, error) {
	dir = filepath.Clean(dir)
	marks, err := b.marks(dir)
	if err != nil {
		return nil, fmt.Errorf("wal: list the marks of %s: %w", dir, err)
	}
	return marks, nil
}

func (b *Segmented) marks(dir string) (_ []Mark, err error) {
	files, err := list(b.opts.FS, dir)
	if err != nil {
		return nil, err
	}
	newest := files.segments[len(files.segments)-1]
	c := scan{fs: b.opts.FS, dir: dir}
	s, err := openSegment(c.fs, dir, newest, false)
	if err != nil {
		return nil, err
	}
	c.segments = []*segment{s}
	defer func() { err = errors.Join(err, c.close(0)) }()
	if err := c.run(); err != nil {
		return nil, err
	}
	// What was released since does not count. A later segment may begin at a lower
	// index, where a new leader replaced the end of the log.
	begin := s.begin
	var damage error
	for i := len(files.segments) - 2; i >= 0; i-- {
		older, err := openSegment(c.fs, dir, files.segments[i], false)
		if err != nil {
			damage = err // what lies before it cannot be opened either
			break
		}
		begin = min(begin, older.begin)
		if err := older.file.Close(); err != nil {
			return nil, err
		}
	}
	var marks []Mark
	for _, m := range c.marks {
		if m.Index >= begin {
			marks = append(marks, m)
		}
	}
	if len(marks) == 0 {
		return nil, c.noMark(begin, damage)
	}
	return marks, nil
}
