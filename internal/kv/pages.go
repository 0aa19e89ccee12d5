package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
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
// below one parent only, and has the keys that its parent expects. bbolt ends
// the process when it opens one that is not so.
type pageWalk struct {
	file      io.ReaderAt
	pageBytes int64
	// seen tells which pages are in use, by number.
	seen []bool
}

// keyRange bounds the keys of a page: min <= key < end. nil: no bound.
type keyRange struct{ min, end []byte }

// verifyPages checks the pages of all buckets.
func verifyPages(tx *bbolt.Tx, file io.ReaderAt) error {
	pageBytes := int64(tx.DB().Info().PageSize)
	w := &pageWalk{file: file, pageBytes: pageBytes, seen: make([]bool, tx.Size()/pageBytes)}
	return w.walk(uint64(tx.Cursor().Bucket().Root()), keyRange{})
}

// walk visits a page and those below it. It ends, as no page is visited twice.
func (w *pageWalk) walk(number uint64, within keyRange) error {
	page, err := w.read(number)
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	kind := binary.NativeEndian.Uint16(page[8:])
	if kind != branchPage && kind != leafPage {
		return fmt.Errorf("page %d: there is no kind %d", number, kind)
	}
	keys, err := keysOf(page, kind, within)
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	if kind == leafPage {
		return w.buckets(page, keys)
	}
	if len(keys) == 0 {
		return fmt.Errorf("page %d: there is none below it", number)
	}
	for i, key := range keys {
		below := keyRange{key, within.end}
		if i+1 < len(keys) {
			below.end = keys[i+1]
		}
		element := page[pageHeaderBytes+i*elementBytes:]
		if err := w.walk(binary.NativeEndian.Uint64(element[8:]), below); err != nil {
			return err
		}
	}
	return nil
}

// buckets visits the buckets in a leaf. The value of one is its root page (8
// bytes), a sequence (8) and, if that root is 0, a leaf in the value itself.
func (w *pageWalk) buckets(page []byte, keys [][]byte) error {
	for i, key := range keys {
		element := page[pageHeaderBytes+i*elementBytes:]
		if binary.NativeEndian.Uint32(element)&bucketFlag == 0 {
			continue
		}
		begin := int(binary.NativeEndian.Uint32(element[4:])) + len(key)
		value := element[begin : begin+int(binary.NativeEndian.Uint32(element[12:]))]
		if err := w.bucket(value); err != nil {
			return fmt.Errorf("bucket %q: %w", key, err)
		}
	}
	return nil
}

func (w *pageWalk) bucket(value []byte) error {
	if len(value) < bucketHeaderBytes {
		return fmt.Errorf("it has %d bytes", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.walk(root, keyRange{})
	}
	leaf := value[bucketHeaderBytes:]
	if len(leaf) < pageHeaderBytes || binary.NativeEndian.Uint16(leaf[8:]) != leafPage {
		return fmt.Errorf("it holds no leaf")
	}
	keys, err := keysOf(leaf, leafPage, keyRange{})
	if err != nil {
		return err
	}
	return w.buckets(leaf, keys)
}

// read returns a page with those that it goes on in, and marks all of them as
// in use.
func (w *pageWalk) read(number uint64) ([]byte, error) {
	if number >= uint64(len(w.seen)) {
		return nil, fmt.Errorf("there are only %d pages", len(w.seen))
	}
	header := make([]byte, pageHeaderBytes)
	if _, err := w.file.ReadAt(header, int64(number)*w.pageBytes); err != nil {
		return nil, err
	}
	if id := binary.NativeEndian.Uint64(header); id != number {
		return nil, fmt.Errorf("it says that it is page %d", id)
	}
	more := uint64(binary.NativeEndian.Uint32(header[12:]))
	for p := number; p <= number+more; p++ {
		if p >= uint64(len(w.seen)) || w.seen[p] {
			return nil, fmt.Errorf("it goes on in page %d, which is in use or behind the end", p)
		}
		w.seen[p] = true
	}
	page := make([]byte, int64(more+1)*w.pageBytes)
	_, err := w.file.ReadAt(page, int64(number)*w.pageBytes)
	return page, err
}

// keysOf returns the keys of a page, which must ascend within their bounds.
func keysOf(page []byte, kind uint16, within keyRange) ([][]byte, error) {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderBytes+count*elementBytes > len(page) {
		return nil, fmt.Errorf("it has no room for %d keys", count)
	}
	keys := make([][]byte, count)
	for i := range keys {
		element := page[pageHeaderBytes+i*elementBytes:]
		offset, size, value := binary.NativeEndian.Uint32(element), binary.NativeEndian.Uint32(element[4:]), uint32(0)
		if kind == leafPage {
			offset, size, value = size, binary.NativeEndian.Uint32(element[8:]), binary.NativeEndian.Uint32(element[12:])
		}
		if uint64(offset)+uint64(size)+uint64(value) > uint64(len(element)) {
			return nil, fmt.Errorf("key %d is behind its end", i)
		}
		keys[i] = element[offset : offset+size]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
			return nil, fmt.Errorf("key %d does not ascend", i)
		}
	}
	if count > 0 && (bytes.Compare(keys[0], within.min) < 0 || within.end != nil && bytes.Compare(keys[count-1], within.end) >= 0) {
		return nil, fmt.Errorf("its keys belong to another page")
	}
	return keys, nil
}
