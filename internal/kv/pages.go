package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// What this file knows of bbolt's pages: one begins with its number (8 bytes),
// its kind (2), the count of its elements (2) and that of the pages it goes on
// in (4). An element of 16 bytes follows for each key. In a branch it has the
// offset of the key from the element (4), the size of the key (4) and the page
// below (8); in a leaf flags (4), offset (4), and the sizes of key and value.
const (
	pageHeaderBytes = 16
	elementBytes    = 16
	branchPage      = 1
	leafPage        = 2
	// bucketFlag marks an element of a leaf that is a bucket.
	bucketFlag        = 1
	bucketHeaderBytes = 16
)

// pageWalk checks that every page of a database is of a kind that can be, is
// below one parent only, and has the keys that its parent expects, and hands the
// records to visit. It reads the file, and not the memory that it is mapped to, and
// so an error of reading is an error, and not a fault.
type pageWalk struct {
	ctx       context.Context
	file      io.ReaderAt
	pageBytes int64
	// seen tells which pages are in use, by number.
	seen []bool
	// visit gets the records of all buckets but the list of buckets, each bucket in
	// the order of its keys. Its errors end the walk.
	visit func(bucket string, key, value []byte) error
	// pace, if there is one, is called with how many bytes are read next.
	pace func(ctx context.Context, bytes int) error
}

// keyRange bounds the keys of a page: min <= key < end. nil: no bound.
type keyRange struct{ min, end []byte }

// walk visits a page of a bucket, "" being the list of buckets, and those below it.
// It ends, as no page is visited twice.
func (w *pageWalk) walk(bucket string, number uint64, within keyRange) error {
	page, err := w.read(number)
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	kind := binary.NativeEndian.Uint16(page[8:])
	if kind != branchPage && kind != leafPage {
		return damage("page %d: there is no kind %d", number, kind)
	}
	elements, err := elementsOf(page, kind, within)
	if err != nil {
		return damage("page %d: %w", number, err)
	}
	if kind == leafPage {
		return w.leaf(bucket, elements)
	}
	if len(elements) == 0 {
		return damage("page %d: there is none below it", number)
	}
	for i, e := range elements {
		below := keyRange{e.key, within.end}
		if i+1 < len(elements) {
			below.end = elements[i+1].key
		}
		if err := w.walk(bucket, e.page, below); err != nil {
			return err
		}
	}
	return nil
}

// leaf visits the records in a leaf, or the buckets in the list of buckets. The value
// of one is its root page (8 bytes), a sequence (8) and, if that root is 0, a leaf in
// the value itself.
func (w *pageWalk) leaf(bucket string, elements []element) error {
	for _, e := range elements {
		isBucket := e.flags == bucketFlag
		switch {
		case e.flags != 0 && !isBucket:
			return damage("bucket %q: the record % x has the flags %x", bucket, e.key, e.flags)
		case isBucket != (bucket == ""):
			return damage("bucket %q: there is a record among the buckets, or a bucket among the records", bucket)
		}
		var err error
		if isBucket {
			err = w.bucket(string(e.key), e.value)
		} else {
			err = w.visit(bucket, e.key, e.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *pageWalk) bucket(name string, value []byte) error {
	if name == "" || len(value) < bucketHeaderBytes {
		return damage("bucket %q has %d bytes", name, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.walk(name, root, keyRange{})
	}
	leaf := value[bucketHeaderBytes:]
	if len(leaf) < pageHeaderBytes || binary.NativeEndian.Uint16(leaf[8:]) != leafPage {
		return damage("bucket %q holds no leaf", name)
	}
	elements, err := elementsOf(leaf, leafPage, keyRange{})
	if err != nil {
		return damage("bucket %q: %w", name, err)
	}
	return w.leaf(name, elements)
}

// read returns a page with those that it goes on in, and marks all of them as
// in use.
func (w *pageWalk) read(number uint64) ([]byte, error) {
	if number < 2 || number >= uint64(len(w.seen)) {
		return nil, damage("it is none of the %d pages", len(w.seen))
	}
	header := make([]byte, pageHeaderBytes)
	if _, err := w.file.ReadAt(header, int64(number)*w.pageBytes); err != nil {
		return nil, err
	}
	if id := binary.NativeEndian.Uint64(header); id != number {
		return nil, damage("it says that it is page %d", id)
	}
	more := uint64(binary.NativeEndian.Uint32(header[12:]))
	for p := number; p <= number+more; p++ {
		if p >= uint64(len(w.seen)) || w.seen[p] {
			return nil, damage("it goes on in page %d, which is in use or behind the end", p)
		}
		w.seen[p] = true
	}
	page := make([]byte, int64(more+1)*w.pageBytes)
	if err := w.ctx.Err(); err != nil {
		return nil, err
	}
	if w.pace != nil {
		if err := w.pace(w.ctx, len(page)); err != nil {
			return nil, err
		}
	}
	_, err := w.file.ReadAt(page, int64(number)*w.pageBytes)
	return page, err
}

// element is one of a page: of a branch it has key and page, of a leaf the rest.
type element struct {
	key, value []byte
	page       uint64
	flags      uint32
}

// elementsOf returns the elements of a page, whose keys must ascend within their
// bounds.
func elementsOf(page []byte, kind uint16, within keyRange) ([]element, error) {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderBytes+count*elementBytes > len(page) {
		return nil, fmt.Errorf("it has no room for %d keys", count)
	}
	elements := make([]element, count)
	for i := range elements {
		b := page[pageHeaderBytes+i*elementBytes:]
		u32 := binary.NativeEndian.Uint32
		e := &elements[i]
		offset, keySize, valueSize := uint64(u32(b)), uint64(u32(b[4:])), uint64(0)
		if kind == leafPage {
			e.flags, offset, keySize, valueSize = u32(b), keySize, uint64(u32(b[8:])), uint64(u32(b[12:]))
		} else {
			e.page = binary.NativeEndian.Uint64(b[8:])
		}
		if offset+keySize+valueSize > uint64(len(b)) {
			return nil, fmt.Errorf("key %d is behind its end", i)
		}
		e.key, e.value = b[offset:offset+keySize], b[offset+keySize:offset+keySize+valueSize]
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return nil, fmt.Errorf("key %d does not ascend", i)
		}
	}
	if count > 0 && (bytes.Compare(elements[0].key, within.min) < 0 || within.end != nil && bytes.Compare(elements[count-1].key, within.end) >= 0) {
		return nil, fmt.Errorf("its keys belong to another page")
	}
	return elements, nil
}
