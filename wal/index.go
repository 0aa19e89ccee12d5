package wal

import "sort"

// pointBytes is how far apart two points of an index are at least.
const pointBytes = 64 << 10

// point says where an entry is: in a frame that begins at off.
type point struct {
	index   uint64
	seq     uint64
	off     int64
	segment *segment
}

// index finds frames by the indexes of entries. It does not name every frame: a
// reader goes from a point to the next frame by frame. Where a suffix of the log
// was replaced there is a point, so that what lies between two points in the file
// holds the entries between them in the log.
type index struct {
	points []point
}

// add takes in a frame of entries behind all others.
func (x *index) add(p point, truncates bool) {
	if truncates {
		x.cut(p.index)
	} else if n := len(x.points); n > 0 {
		if last := x.points[n-1]; last.segment == p.segment && p.off-last.off < pointBytes {
			return
		}
	}
	x.points = append(x.points, p)
}

// cut forgets the points at or behind first.
func (x *index) cut(first uint64) {
	for n := len(x.points); n > 0 && x.points[n-1].index >= first; n-- {
		x.points = x.points[:n-1]
	}
}

// find returns the point to begin with for an entry, and the index at which the
// next one takes over; 0: none does.
func (x *index) find(want uint64) (p point, next uint64, ok bool) {
	i := sort.Search(len(x.points), func(i int) bool { return x.points[i].index > want })
	if i == 0 {
		return point{}, 0, false
	}
	if i < len(x.points) {
		next = x.points[i].index
	}
	return x.points[i-1], next, true
}

// drop forgets what is in a segment that goes; segments go oldest first.
func (x *index) drop(s *segment) {
	n := 0
	for n < len(x.points) && x.points[n].segment == s {
		n++
	}
	x.points = append(x.points[:0], x.points[n:]...)
}
