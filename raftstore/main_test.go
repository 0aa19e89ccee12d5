package raftstore

import (
	"testing"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Every segment is allocated whole: small ones keep the tests quick.
	etcdwal.SegmentSizeBytes = 1 << 20
	goleak.VerifyTestMain(m)
}
