package kv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// revisionBytes is the length of a key in the key bucket: the main and the sub
// revision, and an underscore between them. A tombstone has one byte more.
const revisionBytes = 8 + 1 + 8

// ErrDamaged: the file holds what this package did not write. It is returned only
// for bytes that were read in full and do not match a checksum, or each other.
var ErrDamaged = errors.New("the database is damaged")

// damage is an error that says so. Errors of reading are none: they may pass.
func damage(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// verifyFile reads the whole database at path, and verifies its pages, its records
// and their number. A file that does not exist is fs.ErrNotExist. Nobody may write
// to it meanwhile.
func verifyFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // nothing was written
	m, err := newestMeta(file)
	if err != nil {
		return err
	}
	return verifyTree(context.Background(), file, m, nil)
}

// verifyStopped is verifyFile for a file of which at most one commit is under way,
// which leaves the pages of the last one alone. It returns damage only.
func verifyStopped(file *os.File) error {
	for range 3 {
		before, err := newestMeta(file)
		if err == nil {
			err = verifyTree(context.Background(), file, before, nil)
		}
		if !errors.Is(err, ErrDamaged) {
			return nil
		}
		if after, e := newestMeta(file); e != nil || after.txid == before.txid {
			return err
		}
	}
	return nil
}

// meta is what bbolt's page 0 or 1 says of a commit. They take turns.
type meta struct {
	pageBytes int64
	// root is the page of the list of buckets, and pages how many there are in all.
	root, pages, txid uint64
}

// bbolt's constants. See also pages.go.
const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaBytes   = 64
	metaPage    = 4
	noFreelist  = ^uint64(0)
)

// newestMeta returns the last commit of a file. One of the two may be half written;
// bbolt goes on from the other.
func newestMeta(file io.ReaderAt) (newest meta, err error) {
	// The size of a page is in the first one, or, if that is damaged, unknown: the
	// sizes are tried.
	found := false
	for pageBytes := int64(1024); pageBytes <= 64<<10; pageBytes *= 2 {
		for page := range int64(2) {
			m, ok, err := metaAt(file, page, pageBytes)
			switch {
			case err != nil && !errors.Is(err, io.EOF):
				return meta{}, err
			case err == nil && ok && (!found || m.txid > newest.txid):
				newest, found = m, true
			}
		}
	}
	if !found {
		return meta{}, damage("it has no whole page that says where its buckets are")
	}
	return newest, nil
}

// metaAt reads one of them; ok is false if it is not whole.
func metaAt(file io.ReaderAt, page, pageBytes int64) (m meta, ok bool, err error) {
	b := make([]byte, pageHeaderBytes+metaBytes)
	if _, err := file.ReadAt(b, page*pageBytes); err != nil {
		return meta{}, false, err
	}
	header, body := b[:pageHeaderBytes], b[pageHeaderBytes:]
	sum := fnv.New64a()
	_, _ = sum.Write(body[:metaBytes-8]) // a hash takes everything
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	m = meta{pageBytes: int64(u32(body[8:])), root: u64(body[16:]), pages: u64(body[40:]), txid: u64(body[48:])}
	ok = u32(body) == metaMagic && u32(body[4:]) == metaVersion && u64(body[56:]) == sum.Sum64() &&
		m.pageBytes == pageBytes && u64(body[32:]) == noFreelist &&
		u64(header) == uint64(page) && binary.NativeEndian.Uint16(header[8:]) == metaPage
	return m, ok, nil
}

// verifyTree reads all pages of a commit, and verifies them and their records. pace,
// which may be nil, is called with the size of each read, and ends it with an error.
func verifyTree(ctx context.Context, file *os.File, m meta, pace func(ctx context.Context, bytes int) error) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if size := int64(m.pages) * m.pageBytes; size > info.Size() || int64(m.pages) < 0 || size < 0 {
		return damage("it is cut off and has %d of %d bytes", info.Size(), size)
	}
	v := &verifier{meta: make(map[string][]byte)}
	w := &pageWalk{ctx: ctx, file: file, pageBytes: m.pageBytes, seen: make([]bool, m.pages), visit: v.visit, pace: pace}
	if err := w.walk("", m.root, keyRange{}); err != nil {
		return err
	}
	return v.finish()
}

// verifier verifies records one after another.
type verifier struct {
	content content
	// meta are the records of the meta bucket.
	meta map[string][]byte
}

func (v *verifier) visit(bucket string, key, value []byte) error {
	switch bucket {
	case string(schema.Meta.Name()):
		v.meta[string(key)] = bytes.Clone(value)
		return nil
	case string(schema.Key.Name()), string(schema.Lease.Name()):
	default:
		return damage("there is no bucket %q", bucket)
	}
	value, sum, err := unseal([]byte(bucket), key, value)
	if err != nil {
		return err
	}
	if bucket == string(schema.Key.Name()) {
		v.content.add(sum)
		err = verifyRevision(key, value)
	} else {
		err = new(leasepb.Lease).Unmarshal(value)
	}
	if err != nil {
		return damage("bucket %q: %w", bucket, err)
	}
	return nil
}

// finish verifies what depends on all records.
func (v *verifier) finish() error {
	for key, value := range v.meta {
		of, isSum := bytes.CutPrefix([]byte(key), sumPrefix)
		var err error
		if isSum {
			err = checkMeta(of, v.meta[string(of)], value)
		} else {
			err = checkMeta([]byte(key), value, v.meta[string(sumKey([]byte(key)))])
		}
		if err == nil && !isSum {
			err = verifyMeta([]byte(key), value)
		}
		if err != nil {
			return err
		}
	}
	stored, err := contentFrom(v.meta[string(contentKey)])
	switch {
	case err != nil:
		return err
	case stored != v.content:
		return damage("it has %d revisions with the checksum %016x, and was written with %d and %016x: some are lost, or of an earlier time",
			v.content.records, v.content.sum, stored.records, stored.sum)
	}
	return nil
}

// verifyRevision checks one record of the key bucket.
func verifyRevision(key, value []byte) error {
	if len(key) != revisionBytes && len(key) != revisionBytes+1 || key[8] != '_' {
		return fmt.Errorf("% x is no revision", key)
	}
	if key[0]&0x80 != 0 || key[9]&0x80 != 0 {
		return fmt.Errorf("revision % x is negative", key)
	}
	if err := new(mvccpb.KeyValue).Unmarshal(value); err != nil {
		return fmt.Errorf("revision % x: %w", key, err)
	}
	return nil
}

// verifyMeta checks one record of the meta bucket.
func verifyMeta(key, value []byte) error {
	switch {
	case bytes.Equal(key, appliedKey):
		if _, ok := positionFrom(value); !ok {
			return damage("% x is no applied index", value)
		}
	case bytes.Equal(key, schema.ScheduledCompactKeyName), bytes.Equal(key, schema.FinishedCompactKeyName):
		if len(value) != revisionBytes || value[8] != '_' || value[0]&0x80 != 0 {
			return damage("% x is no compacted revision", value)
		}
	case bytes.HasPrefix(key, memberPrefix):
		if err := new(pb.Member).Unmarshal(value); err != nil {
			return damage("member record %q: %w", key, err)
		}
	}
	return nil
}

// isNoSpace: a disk, or a quota, is full.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
