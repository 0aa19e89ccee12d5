package kv

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// bbolt has no checksums on the pages that hold records, so every record has one
// of its own, which covers the name of its bucket, its key and its value: a value
// that changed, a key that changed, and a record that moved are all found.
//
// The values of the key and the lease bucket are protobuf messages. Their checksum
// follows as one more field, which etcd's own readers skip. The values of the meta
// bucket have fixed lengths, on which etcd's readers insist: there, the checksum is
// a record of its own under sumPrefix and the key.

const (
	// sealBytes is the length of what seal appends: a tag of two bytes and the
	// checksum.
	sealBytes = 2 + 8
	// sumBytes is the length of a checksum, and of the record under contentKey.
	sumBytes     = 8
	contentBytes = 2 * 8
)

// sealTag is the protobuf tag of field 1000 with the wire type fixed64.
var sealTag = [2]byte{0xc1, 0x3e}

var (
	// sumPrefix begins the keys of checksums in the meta bucket.
	sumPrefix = []byte("octopii.sum/")
	// contentKey holds the content of the key bucket, in the meta bucket.
	contentKey = []byte("octopii.content")
)

// recordSum is the checksum of a record.
func recordSum(bucket, key, value []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	// The lengths keep a byte from moving from one part to the next.
	var lengths [2 * 4]byte
	binary.LittleEndian.PutUint32(lengths[:], uint32(len(bucket)))
	binary.LittleEndian.PutUint32(lengths[4:], uint32(len(key)))
	_, _ = d.Write(lengths[:]) // a hash takes everything
	_, _ = d.Write(bucket)
	_, _ = d.Write(key)
	_, _ = d.Write(value)
	return d.Sum64()
}

// seal returns value with its checksum behind it.
func seal(bucket, key, value []byte) (sealed []byte, sum uint64) {
	sum = recordSum(bucket, key, value)
	sealed = make([]byte, 0, len(value)+sealBytes)
	sealed = append(sealed, value...)
	sealed = append(sealed, sealTag[:]...)
	return binary.LittleEndian.AppendUint64(sealed, sum), sum
}

// unseal returns the value that seal was given.
func unseal(bucket, key, sealed []byte) (value []byte, sum uint64, err error) {
	n := len(sealed) - sealBytes
	if n < 0 || [2]byte(sealed[n:]) != sealTag {
		return nil, 0, fmt.Errorf("%w: the record % x of bucket %q has no checksum", ErrDamaged, key, bucket)
	}
	sum = binary.LittleEndian.Uint64(sealed[n+len(sealTag):])
	if recordSum(bucket, key, sealed[:n]) != sum {
		return nil, 0, fmt.Errorf("%w: the record % x of bucket %q does not match its checksum", ErrDamaged, key, bucket)
	}
	return sealed[:n:n], sum, nil
}

// sumKey is where the checksum of a record of the meta bucket lies.
func sumKey(key []byte) []byte {
	return append(append(make([]byte, 0, len(sumPrefix)+len(key)), sumPrefix...), key...)
}

// metaSum encodes the checksum of a record of the meta bucket.
func metaSum(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint64(nil, recordSum(schema.Meta.Name(), key, value))
}

// checkMeta compares a record of the meta bucket with its checksum; nil stands for
// a record that is not there.
func checkMeta(key, value, sum []byte) error {
	switch {
	case value == nil && sum == nil:
		return nil
	case value == nil:
		return fmt.Errorf("%w: the record %q of bucket %q is missing", ErrDamaged, key, schema.Meta.Name())
	case len(sum) != sumBytes:
		return fmt.Errorf("%w: the record %q of bucket %q has no checksum", ErrDamaged, key, schema.Meta.Name())
	case binary.LittleEndian.Uint64(sum) != recordSum(schema.Meta.Name(), key, value):
		return fmt.Errorf("%w: the record %q of bucket %q does not match its checksum", ErrDamaged, key, schema.Meta.Name())
	}
	return nil
}

// content sums up the key bucket: the number of its records, and the sum of their
// checksums, modulo 2^64. It does not depend on the order in which they came. It
// is stored with every commit, and so records that are missing, or of an earlier
// commit, are found although each of them matches its own checksum.
type content struct{ records, sum uint64 }

func (c *content) add(sum uint64)    { c.records++; c.sum += sum }
func (c *content) remove(sum uint64) { c.records--; c.sum -= sum }

func (c content) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.records), c.sum)
}

// contentFrom returns what bytes made; the zero content for nil.
func contentFrom(b []byte) (content, error) {
	if b == nil {
		return content{}, nil
	}
	if len(b) != contentBytes {
		return content{}, fmt.Errorf("%w: % x is no content", ErrDamaged, b)
	}
	return content{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}
