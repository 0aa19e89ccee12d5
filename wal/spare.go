package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/octopii/octopii/internal/vfs"
)

// sparesMax is how many released segments wait to be used again, where there is space. See
// spares.wanted.
const sparesMax = 16

// fillBytes is how much of a new file is written at once.
const fillBytes = 1 << 20

// bridgeBytes is what a bridge has room for beside the frame that it is made for. A bridge is
// a short segment, where there is no room for a whole one: a log that could not go on would be
// full for good, though nobody needs what it holds, as only what comes later frees it.
// bridgeSpareBytes stay free on the volume where the frame is a mark, or a mark covers the
// whole log, and the next mark frees the segments before the bridge.
const (
	bridgeBytes      = 64 << 10
	bridgeSpareBytes = 64 << 10
	// spareShare: a new segment leaves an eighth of its size to those small files, and to a
	// bridge for the largest append.
	spareShare = 8
)

// spares are files that are ready to become segments: new ones that were filled
// with zeros, and old ones, whose sectors carry another life. Writing into them
// takes no space and changes nothing but data, so that an fsync costs least.
type spares struct {
	fs   vfs.FS
	dir  string
	size int64

	// making is held while a file is made.
	making sync.Mutex
	// mu guards what follows.
	mu    sync.Mutex
	ready []uint64
	next  uint64
	// open is the first of ready; nil: it was not opened yet, or there is none.
	open vfs.File
}

func (p *spares) path(n uint64) string {
	return filepath.Join(p.dir, fmt.Sprintf("%016x%s", n, spareSuffix))
}

// adopt takes over what an earlier run left, and removes what is of no use.
func (p *spares) adopt(files listing) error {
	for _, name := range files.tmp {
		if err := p.fs.Remove(filepath.Join(p.dir, name)); err != nil {
			return err
		}
	}
	for _, seq := range files.rests {
		if err := p.fs.Remove(segmentPath(p.dir, seq)); err != nil {
			return err
		}
	}
	for _, n := range files.spares {
		p.next = max(p.next, n+1)
		useful, err := p.useful(p.path(n), files.segments[0])
		if err != nil {
			return err
		}
		if useful && len(p.ready) < p.wanted() {
			p.ready = append(p.ready, n)
			continue
		}
		if err := p.fs.Remove(p.path(n)); err != nil {
			return err
		}
	}
	return nil
}

// useful says whether a file has the right size, and is of no segment from the
// oldest on. It may have been begun as the next segment and never got its name:
// that one would take its sectors for its own. Or it has two names, where a crash
// undid one half of a rename: what is written under the one is seen under the
// other.
func (p *spares) useful(path string, oldest uint64) (bool, error) {
	f, err := p.fs.Open(path)
	if err != nil {
		return false, err
	}
	size, err := f.Size()
	if err != nil || size != p.size {
		return false, errors.Join(err, f.Close())
	}
	first := make(sector, sectorBytes)
	_, readErr := f.ReadAt(first, 0)
	if err := f.Close(); err != nil {
		return false, err
	}
	return readErr == nil && uint64(first.life()) < oldest, nil
}

// any says whether the file that is needed next is there, and open.
func (p *spares) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open != nil
}

// first returns the file that is to be opened next, if there is one.
func (p *spares) first() (n uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) == 0 {
		return 0, false
	}
	return p.ready[0], true
}

// close closes the file that is open ahead.
func (p *spares) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.open
	if p.open = nil; f == nil {
		return nil
	}
	return f.Close()
}

// number gives a new spare its name.
func (p *spares) number() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return p.next - 1
}

// wanted is how many files are kept ready: the one that is needed next, and others as long
// as the volume has as much space free as they take. Where it has less, others on it, as the
// database of a state machine, need that more.
func (p *spares) wanted() int {
	s, ok := p.fs.(vfs.Spacer)
	if !ok {
		return sparesMax
	}
	free, err := s.Free(p.dir)
	if err != nil {
		return sparesMax // nothing is known
	}
	return int(min(sparesMax, 1+free/p.size))
}

// trim removes files that are not wanted any more.
func (p *spares) trim() error {
	for {
		most := p.wanted() // more when one is removed
		p.mu.Lock()
		last := len(p.ready) - 1
		if last < most {
			p.mu.Unlock()
			return nil
		}
		n := p.ready[last] // never the first, which may be open
		p.ready = p.ready[:last]
		p.mu.Unlock()
		if err := p.fs.Remove(p.path(n)); vfs.Refused(err) {
			return nil // the next start finds it
		} else if err != nil {
			return err
		}
	}
}

// missing is how many files more are wanted.
func (p *spares) missing() int {
	room := p.wanted()
	p.mu.Lock()
	defer p.mu.Unlock()
	return room - len(p.ready)
}

func (p *spares) add(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, n)
}

// take returns a file of at least so many bytes, which is its caller's.
func (p *spares) take(size int64) (path string, f vfs.File, err error) {
	if err := p.make(); err != nil {
		return "", nil, err
	}
	p.mu.Lock()
	f, path = p.open, p.path(p.ready[0])
	p.mu.Unlock()
	if size > p.size {
		if err := p.extend(f, size); err != nil {
			return "", nil, err // it stays ready, and is closed with the log
		}
	}
	p.mu.Lock()
	p.open, p.ready = nil, p.ready[1:]
	p.mu.Unlock()
	return path, f, nil
}

// extend makes room for an append that is larger than a segment.
func (p *spares) extend(f vfs.File, size int64) error {
	err := writeZeros(f, p.size, size)
	if full(err) {
		return noSpace(errors.Join(err, f.Truncate(p.size)))
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

// make makes a spare if there is none, and opens the one that is needed next: whether
// there is a descriptor for it shows while there is room for what is under way.
func (p *spares) make() error {
	p.making.Lock()
	defer p.making.Unlock()
	if p.any() {
		return nil
	}
	if _, ok := p.first(); !ok {
		if err := p.leaves(p.size, p.size/spareShare); err != nil {
			return err
		}
		n := p.number()
		if err := p.makeFile(n, p.size); err != nil {
			return err
		}
		p.add(n)
	}
	return p.openFirst()
}

// openFirst opens the first spare. The caller holds making, and none is open.
func (p *spares) openFirst() error {
	n, ok := p.first()
	if !ok {
		return nil
	}
	f, err := p.fs.OpenReadWrite(p.path(n))
	if vfs.Refused(err) {
		return noSpace(err)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.open = f
	p.mu.Unlock()
	return nil
}

// tryOpen opens the first spare if none is open, there is one, and nobody makes one now.
// That it cannot be opened shows at the next attempt.
func (p *spares) tryOpen() error {
	if !p.making.TryLock() {
		return nil
	}
	defer p.making.Unlock()
	if p.any() {
		return nil
	}
	if err := p.openFirst(); !errors.Is(err, ErrNoSpace) {
		return err
	}
	return nil
}

// bridge makes and opens a file of so many bytes, less than a spare has, if that leaves some
// space for the small files beside the log, without which nothing can be released.
func (p *spares) bridge(size, leave int64) (path string, f vfs.File, err error) {
	p.making.Lock()
	defer p.making.Unlock()
	if err := p.leaves(size, leave); err != nil {
		return "", nil, err
	}
	n := p.number()
	if err := p.makeFile(n, size); err != nil {
		return "", nil, err
	}
	f, err = p.fs.OpenReadWrite(p.path(n))
	if vfs.Refused(err) {
		return "", nil, noSpace(errors.Join(err, p.fs.Remove(p.path(n))))
	}
	return p.path(n), f, err
}

// leaves says whether a file of so many bytes leaves spare bytes of the volume.
func (p *spares) leaves(size, spare int64) error {
	s, ok := p.fs.(vfs.Spacer)
	if !ok {
		return nil
	}
	if free, err := s.Free(p.dir); err == nil && free < size+spare {
		return fmt.Errorf("%w: %w: %d bytes are free on the volume, and a file of %d must leave %d", ErrNoSpace, syscall.ENOSPC, free, size, spare)
	}
	return nil
}

// makeFile makes a new spare of so many bytes.
func (p *spares) makeFile(n uint64, size int64) error {
	tmp := filepath.Join(p.dir, fmt.Sprintf("%016x%s", n, tmpSuffix))
	err := p.fill(tmp, size)
	if err == nil {
		err = p.fs.Rename(tmp, p.path(n))
	}
	if vfs.Refused(err) {
		// Nothing of the log is in it. Should the removal fail, the next Open does it.
		if removeErr := p.fs.Remove(tmp); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		return noSpace(err)
	}
	return err
}

// fill makes a file of zeros that has its blocks, and knows it after a crash.
func (p *spares) fill(tmp string, size int64) error {
	f, err := p.fs.Create(tmp)
	if err != nil {
		return err
	}
	// In pieces: the appends that go on meanwhile wait for what is on its way to the
	// disk before them.
	for from := int64(0); from < size && err == nil; from += fillBytes {
		if err = writeZeros(f, from, min(from+fillBytes, size)); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}

// give removes all spares.
func (p *spares) give() error {
	p.making.Lock()
	defer p.making.Unlock()
	if err := p.close(); err != nil {
		return err
	}
	p.mu.Lock()
	ready := p.ready
	p.ready = nil
	p.mu.Unlock()
	for _, n := range ready {
		if err := p.fs.Remove(p.path(n)); err != nil && !vfs.Refused(err) { // the next start finds it
			return err
		}
	}
	return nil
}

func noSpace(err error) error { return fmt.Errorf("%w: %w", ErrNoSpace, err) }
