package vfstest

import (
	"maps"
	"slices"
)

// SectorSize is what a disk writes as a whole: after a crash each sector that
// was written and not synced is the old one or the new one by itself.
const SectorSize = 512

// BlockSize is the unit in which a Mem gives out space.
const BlockSize = 4096

// block is never changed once it is part of a content, so that any number of
// contents, in any number of Mems, may share it.
type block [BlockSize]byte

var zeroBlock = new(block)

// content is what a file holds. A missing block reads as zeros and takes no
// space. Invariant: all bytes behind size are zero.
type content struct {
	size   int64
	blocks []*block
	// held counts the blocks that are there.
	held int64
}

func (c *content) clone() content {
	return content{size: c.size, blocks: slices.Clone(c.blocks), held: c.held}
}

func (c *content) block(i int64) *block {
	if i >= int64(len(c.blocks)) {
		return nil
	}
	return c.blocks[i]
}

func (c *content) setBlock(i int64, b *block) {
	if c.block(i) == b {
		return
	}
	for int64(len(c.blocks)) <= i {
		c.blocks = append(c.blocks, nil)
	}
	if c.blocks[i] != nil {
		c.held--
	}
	if b != nil {
		c.held++
	}
	c.blocks[i] = b
}

// copyOf returns a copy of block i that the caller may change.
func (c *content) copyOf(i int64) *block {
	b := new(block)
	if old := c.block(i); old != nil {
		*b = *old
	}
	return b
}

// read fills p from offset off on and returns how many bytes there were.
func (c *content) read(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for n := 0; n < len(p); {
		at := off + int64(n)
		b := c.block(at / BlockSize)
		if b == nil {
			b = zeroBlock
		}
		n += copy(p[n:], b[at%BlockSize:])
	}
	return len(p)
}

// truncate sets the size and clears what is behind it.
func (c *content) truncate(size int64) {
	c.size = size
	keep := (size + BlockSize - 1) / BlockSize
	for i := int64(len(c.blocks)) - 1; i >= keep; i-- {
		c.setBlock(i, nil)
	}
	c.blocks = c.blocks[:min(keep, int64(len(c.blocks)))]
	if tail := size % BlockSize; tail != 0 && c.block(keep-1) != nil {
		b := c.copyOf(keep - 1)
		clear(b[tail:])
		c.setBlock(keep-1, b)
	}
}

// change is one Write or Truncate that was not synced yet. It never changes.
type change struct {
	off, length int64
	data        []byte // nil: zeros
	// from and to are the sizes of the file before and after it.
	from, to int64
	truncate bool
}

func (ch change) end() int64 { return ch.off + ch.length }

// over writes the part of the change that falls on p, which begins at offset off.
func (ch change) over(p []byte, off int64) {
	lo, hi := max(off, ch.off), min(off+int64(len(p)), ch.end())
	switch {
	case lo >= hi:
	case ch.data == nil:
		clear(p[lo-off : hi-off])
	default:
		copy(p[lo-off:hi-off], ch.data[lo-ch.off:])
	}
}

func (c *content) apply(ch change) {
	if ch.truncate {
		c.truncate(ch.to)
		return
	}
	for i := ch.off / BlockSize; i*BlockSize < ch.end(); i++ {
		if ch.data == nil && ch.off <= i*BlockSize && (i+1)*BlockSize <= ch.end() {
			c.setBlock(i, zeroBlock)
			continue
		}
		b := c.copyOf(i)
		ch.over(b[:], i*BlockSize)
		c.setBlock(i, b)
	}
	c.size = max(c.size, ch.end())
}

// copySectors takes over from src all sectors that the change touched.
func (c *content) copySectors(src *content, ch change) {
	lo, hi := ch.off/SectorSize*SectorSize, (ch.end()+SectorSize-1)/SectorSize*SectorSize
	for i := lo / BlockSize; i*BlockSize < hi; i++ {
		start := i * BlockSize
		from, to := max(lo-start, 0), min(hi-start, BlockSize)
		if from == 0 && to == BlockSize {
			c.setBlock(i, src.block(i))
			continue
		}
		new := src.block(i)
		if new == nil {
			if c.block(i) == nil {
				continue
			}
			new = zeroBlock
		}
		b := c.copyOf(i)
		copy(b[from:to], new[from:to])
		c.setBlock(i, b)
	}
}

// file is the content of a file as programs see it and as the disk has it.
type file struct {
	cache, disk content
	// pending are the changes since the last Sync. What they did not touch is
	// equal in cache and disk, but for what a failed Sync dropped.
	pending []change
}

func (f *file) change(ch change) {
	f.cache.apply(ch)
	f.pending = append(f.pending, ch)
}

func (f *file) sync() {
	for _, ch := range f.pending {
		f.disk.copySectors(&f.cache, ch)
		if ch.from != ch.to || ch.end() > f.disk.size {
			f.disk.truncate(f.cache.size)
		}
	}
	f.pending = nil
}

// settle returns what is on the disk when the pending changes get there only as
// pick says. Its outcomes are, per sector, every state that the sector went
// through, and every size in steps of sizeStep.
func (f *file) settle(pick picker, sizeStep int64) content {
	c := f.disk.clone()
	touched := map[int64][]change{}
	for _, ch := range f.pending {
		for i := ch.off / BlockSize; i*BlockSize < ch.end(); i++ {
			touched[i] = append(touched[i], ch)
		}
	}
	var versions [][SectorSize]byte
	b := new(block)
	for _, i := range slices.Sorted(maps.Keys(touched)) {
		changed := false
		if old := c.block(i); old != nil {
			*b = *old
		} else {
			*b = block{}
		}
		for s := int64(0); s < BlockSize; s += SectorSize {
			versions = append(versions[:0], [SectorSize]byte(b[s:s+SectorSize]))
			for _, ch := range touched[i] {
				last := versions[len(versions)-1]
				ch.over(last[:], i*BlockSize+s)
				if last != versions[len(versions)-1] {
					versions = append(versions, last)
				}
			}
			if k := pick.of(len(versions)); k > 0 {
				copy(b[s:], versions[k][:])
				changed = true
			}
		}
		if changed {
			c.setBlock(i, b)
			b = new(block)
		}
	}
	c.truncate(f.settleSize(pick, sizeStep))
	return c
}

func (f *file) settleSize(pick picker, step int64) int64 {
	var resizes []change
	for _, ch := range f.pending {
		if ch.from != ch.to {
			resizes = append(resizes, ch)
		}
	}
	k := pick.of(len(resizes) + 1)
	if k == 0 {
		return f.disk.size
	}
	ch := resizes[k-1]
	between := (ch.to-1)/step - ch.from/step
	if ch.truncate || between == 0 || pick.of(2) == 1 {
		return ch.to
	}
	return (ch.from/step + 1 + int64(pick.of(int(between)))) * step
}

// evict forgets what is neither on the disk nor pending.
func (f *file) evict() {
	f.cache = f.disk.clone()
	for _, ch := range f.pending {
		f.cache.apply(ch)
	}
}
