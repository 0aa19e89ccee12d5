package node_test

import (
	"flag"
	"testing"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Every segment is allocated whole: small ones keep the tests quick. What is
	// measured has the real ones.
	if flag.Lookup("test.bench").Value.String() == "" {
		etcdwal.SegmentSizeBytes = 1 << 20
	}
	goleak.VerifyTestMain(m)
}
