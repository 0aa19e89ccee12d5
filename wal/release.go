package wal

import "github.com/octopii/octopii/internal/vfs"

// Release implements Log. A segment is not needed when the next one begins at or
// before index. Some are kept to be used again: under a name that says so, and
// durably, before a byte of them changes.
func (l *segmentedLog) Release(index uint64) error {
	if l.err != nil {
		return l.err
	}
	index = min(index, l.mark().Index)
	for len(l.marks) > 1 && l.marks[0].Index < index {
		l.marks = append(l.marks[:0], l.marks[1:]...)
	}
	released := l.readable.release(index)
	if l.readable.segments[0].begin <= index {
		for len(l.older) > 0 {
			err := l.opts.FS.Remove(segmentPath(l.dir, l.older[0]))
			if vfs.Refused(err) {
				break // the next Release tries again
			}
			if err != nil {
				return l.fail("release segments of", err)
			}
			l.older = l.older[1:]
		}
	}
	return l.fail("release segments of", l.free(released))
}

func (l *segmentedLog) free(released []*segment) error {
	if len(released) == 0 {
		return nil
	}
	room := l.spares.missing()
	var recycled []uint64
	for _, s := range released {
		idle, _ := l.readable.closeSegment(s) // it was synced, and its content counts no more
		if !idle || s.size != l.opts.SegmentBytes || len(recycled) >= room {
			if err := l.opts.FS.Remove(s.path); err != nil && !vfs.Refused(err) {
				return err
			}
			continue
		}
		n := l.spares.number()
		err := l.opts.FS.Rename(s.path, l.spares.path(n))
		if vfs.Refused(err) {
			continue // it stays under its name, as what was released may
		}
		if err != nil {
			return err
		}
		recycled = append(recycled, n)
	}
	if err := l.names.Sync(); err != nil {
		return err
	}
	for _, n := range recycled {
		l.spares.add(n)
	}
	return l.spares.tryOpen()
}
