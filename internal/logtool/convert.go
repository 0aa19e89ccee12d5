package logtool

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/wal"
)

// convertSuffix is that of an unfinished new log. raftstore takes no notice of it,
// so that the member can start with the old one in the meantime.
const convertSuffix = ".convert"

// chunkBytes of entries are in memory at once. Tests make it smaller.
var chunkBytes uint64 = 1 << 20

// Conversion moves a stopped member to another format.
type Conversion struct {
	FS vfs.FS
	// Dir is a member's directory, or a data directory of octopiid.
	Dir string
	To  Format
	// Keep the old log, under a name that no member looks at.
	Keep bool
	// Say is told what is done, a sentence each; Progress how far a step is.
	Say      func(format string, args ...any)
	Progress func(step string, done, total int64)
}

// Convert writes the member's log anew in the other format, from its newest mark
// on, and lets it take the place of the old one. It may be interrupted at any
// point, and goes on where it was when it is called again; the member starts with
// the old log or the new one.
func Convert(c Conversion) error {
	p, err := Find(c.FS, c.Dir)
	if err != nil {
		return err
	}
	if p.Member == "" {
		return fmt.Errorf("convert: %s is a log by itself: name the directory of the member it belongs to, two levels up", p.Dir)
	}
	lock, err := c.FS.Lock(filepath.Join(p.Member, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("convert: %s: %w: stop the member first", p.Member, wal.ErrLocked)
	}
	if err != nil {
		return fmt.Errorf("convert: lock %s: %w", p.Member, err)
	}
	defer lock.Close()
	// Once more: until now the member may have been running.
	if p, err = Find(c.FS, p.Member); err != nil {
		return err
	}
	j := job{Conversion: c, place: p, from: p.Format.backend(c.FS), to: c.To.backend(c.FS)}
	if err := j.run(); err != nil {
		return fmt.Errorf("convert %s: %w", p.Dir, err)
	}
	return nil
}

// job is one call of Convert, under the member's lock.
type job struct {
	Conversion
	place    Place
	from, to wal.Backend
	// bytes of entries to copy, about.
	bytes int64
}

func (j *job) run() error {
	if err := j.judge(); err != nil {
		return err
	}
	if j.place.Format == j.To {
		if err := j.removeUnfinished(""); err != nil {
			return err
		}
		j.Say("%s is in the format %s", j.place.Dir, j.To)
		return j.retire(j.place.older)
	}
	unfinished := logPath(j.place.Member, j.place.seq+1) + convertSuffix
	if err := j.removeUnfinished(unfinished); err != nil {
		return err
	}
	if err := j.build(unfinished); err != nil {
		return err
	}
	return j.replace(unfinished)
}

// judge refuses a log that has lost something: the new one would hide that. In
// between it learns how much there is to copy.
func (j *job) judge() error {
	report, err := Verify(j.FS, j.place, j.step("reading the log"))
	if err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return err
	}
	if j.Keep {
		for _, seq := range append(j.place.older, j.place.seq) {
			kept := keptPath(j.place.Member, seq)
			if _, err := j.FS.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
				return errors.Join(fmt.Errorf("%s is in the way of the log that is to be kept: move it away", kept), err)
			}
		}
	}
	j.bytes = report.EntryBytes
	return nil
}

// removeUnfinished removes what other conversions left, except one.
func (j *job) removeUnfinished(except string) error {
	dir := filepath.Dir(j.place.Dir)
	names, err := j.FS.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if !strings.HasSuffix(name, convertSuffix) || path == except {
			continue
		}
		j.Say("removing %s, which an interrupted conversion left and which is of no use any more", path)
		if err := j.remove(path); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a log for good: nothing of it may come back into what will have
// its name.
func (j *job) remove(path string) error {
	if err := j.FS.RemoveAll(path); err != nil {
		return err
	}
	return j.FS.SyncDir(filepath.Dir(path))
}

// build makes the new log whole under its unfinished name.
func (j *job) build(path string) (err error) {
	marks, err := j.from.Marks(j.place.Dir)
	if err != nil {
		return err
	}
	mark := marks[len(marks)-1] // judge has seen that there is one
	src, err := openSide(j.from, j.place.Dir, mark)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	src.state.HardState.Commit = max(src.state.HardState.Commit, mark.Index)
	j.Say("the new log begins at the newest mark, index %d of term %d; what is older, %d marks among it, is not taken along", mark.Index, mark.Term, len(marks)-1)
	dst, err := j.resume(path, src)
	if err == nil && dst == nil {
		dst, err = j.begin(path, src)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(j.copy(src, dst), dst.close()); err != nil {
		if errors.Is(err, wal.ErrNoSpace) {
			err = fmt.Errorf("%w; free some space and run this again: it goes on where it stopped", err)
		}
		return err
	}
	return j.confirm(path, src)
}

// side is an open log with what it held when it was opened.
type side struct {
	log   wal.Log
	mark  wal.Mark
	state wal.State
}

func openSide(b wal.Backend, dir string, mark wal.Mark) (*side, error) {
	l, state, err := b.Open(dir, mark)
	if err != nil {
		return nil, err
	}
	return &side{log: l, mark: mark, state: state}, nil
}

func (s *side) close() error { return s.log.Close() }

// begin creates the new log. Its hard state commits the mark and no more: the
// entries that the true one commits are not there yet.
func (j *job) begin(path string, src *side) (*side, error) {
	hs := src.state.HardState
	hs.Commit = src.mark.Index
	l, err := j.to.Create(path, src.mark, hs)
	if err != nil {
		return nil, err
	}
	return &side{log: l, mark: src.mark, state: wal.State{HardState: hs, Last: src.mark.Index}}, nil
}

// resume opens what an interrupted conversion left, and makes sure that it is the
// beginning of what there is to copy; nil, nil: there is nothing to go on with.
func (j *job) resume(path string, src *side) (*side, error) {
	if _, err := j.FS.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	dst, err := j.openUnfinished(path, src)
	if err == nil {
		if err = j.compare(src, dst, dst.state.Last, "comparing what is there"); err != nil {
			err = errors.Join(err, dst.close())
		}
	}
	if err == nil {
		j.Say("going on with %s, which holds entries up to %d of %d", path, dst.state.Last, src.state.Last)
		return dst, nil
	}
	if !contradicts(err) {
		return nil, err
	}
	j.Say("removing %s, which an interrupted conversion left, and beginning anew: %v", path, err)
	return nil, j.remove(path)
}

// errContradicts: the new log is not what the old one says.
var errContradicts = errors.New("it is not what the old log says")

func contradicts(err error) bool {
	for _, target := range []error{errContradicts, wal.ErrCorrupt, wal.ErrFormat, wal.ErrVersion, wal.ErrNotFound} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// openUnfinished opens the new log at its newest mark, which must be that of the
// old one.
func (j *job) openUnfinished(path string, src *side) (*side, error) {
	marks, err := j.to.Marks(path)
	if err != nil {
		return nil, err
	}
	if len(marks) == 0 || !sameMark(marks[len(marks)-1], src.mark) {
		return nil, fmt.Errorf("%w: it does not begin at the mark at %d", errContradicts, src.mark.Index)
	}
	dst, err := openSide(j.to, path, src.mark)
	if err != nil {
		return nil, err
	}
	got, want := dst.state, src.state
	if got.Last > want.Last || got.HardState.Commit > want.HardState.Commit || got.HardState.Term > want.HardState.Term {
		err := fmt.Errorf("%w: it goes up to entry %d, commit %d, term %d, and the old one to entry %d, commit %d, term %d", errContradicts,
			got.Last, got.HardState.Commit, got.HardState.Term, want.Last, want.HardState.Commit, want.HardState.Term)
		return nil, errors.Join(err, dst.close())
	}
	return dst, nil
}

func sameMark(a, b wal.Mark) bool {
	return a.Index == b.Index && a.Term == b.Term && a.ConfState.Equivalent(b.ConfState) == nil
}

// copy appends what the new log lacks, and at the end the hard state.
func (j *job) copy(src, dst *side) error {
	progress := j.step("copying")
	var copied int64
	for next, last := dst.state.Last+1, src.state.Last; next <= last; {
		entries, err := src.log.Entries(next, last+1, chunkBytes)
		if err != nil {
			return err
		}
		if err := dst.log.Append([]wal.Batch{{Entries: entries}}); err != nil {
			return err
		}
		next += uint64(len(entries))
		copied += dataBytes(entries)
		progress(min(copied, j.bytes), j.bytes)
	}
	if dst.state.HardState == src.state.HardState {
		return nil
	}
	return dst.log.Append([]wal.Batch{{HardState: src.state.HardState}})
}

func dataBytes(entries []raftpb.Entry) (n int64) {
	for i := range entries {
		n += int64(len(entries[i].Data))
	}
	return n
}

// confirm reads the new log as a member would and compares all of it.
func (j *job) confirm(path string, src *side) (err error) {
	dst, err := j.openUnfinished(path, src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.close()) }()
	if got, want := dst.state, src.state; got.HardState != want.HardState || got.Last != want.Last {
		return fmt.Errorf("%w: it ends at entry %d with %+v, and not at %d with %+v", errContradicts, got.Last, got.HardState, want.Last, want.HardState)
	}
	return j.compare(src, dst, src.state.Last, "comparing both logs")
}

// compare reads the entries up to last from both sides.
func (j *job) compare(src, dst *side, last uint64, step string) error {
	progress := j.step(step)
	var compared int64
	for next := src.mark.Index + 1; next <= last; {
		want, err := src.log.Entries(next, last+1, chunkBytes)
		if err != nil {
			return err
		}
		got, err := dst.log.Entries(next, next+uint64(len(want)), math.MaxUint64)
		if err != nil {
			return err
		}
		if len(got) != len(want) {
			return fmt.Errorf("%w: %d entries from %d on instead of %d", errContradicts, len(got), next, len(want))
		}
		for i := range want {
			if !sameEntry(want[i], got[i]) {
				return fmt.Errorf("%w: entry %d is another one", errContradicts, want[i].Index)
			}
		}
		next += uint64(len(want))
		compared += dataBytes(want)
		progress(min(compared, j.bytes), j.bytes)
	}
	return nil
}

func sameEntry(a, b raftpb.Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
}

// replace gives the new log its number, which is higher than that of the old one:
// from then on it counts. Only then may the old one go.
func (j *job) replace(unfinished string) error {
	seq := j.place.seq + 1
	path := logPath(j.place.Member, seq)
	if err := j.FS.Rename(unfinished, path); err != nil {
		return err
	}
	if err := j.FS.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	j.Say("%s holds the log in the format %s", path, j.To)
	return j.retire(append(j.place.older, j.place.seq))
}

// retire removes logs that count no more, or puts them aside.
func (j *job) retire(seqs []uint64) error {
	for _, seq := range seqs {
		path := logPath(j.place.Member, seq)
		if !j.Keep {
			if err := j.remove(path); err != nil {
				return err
			}
			j.Say("removed the old log %s", path)
			continue
		}
		kept := keptPath(j.place.Member, seq)
		if err := j.FS.Rename(path, kept); err != nil {
			return err
		}
		if err := j.FS.SyncDir(filepath.Dir(kept)); err != nil {
			return err
		}
		j.Say("kept the old log as %s", kept)
	}
	return nil
}

func keptPath(member string, seq uint64) string { return logPath(member, seq) + ".old" }

// step gives the progress of one step a name.
func (j *job) step(name string) Progress {
	if j.Progress == nil {
		return func(int64, int64) {}
	}
	return func(done, total int64) { j.Progress(name, done, total) }
}
