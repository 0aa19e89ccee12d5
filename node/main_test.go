package node_test

import (
	"os"
	"testing"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Every segment is allocated whole: small ones keep the tests quick.
	if os.Getenv("OCTOPII_BENCH") == "" {
		etcdwal.SegmentSizeBytes = 1 << 20
	}
	goleak.VerifyTestMain(m)
}
