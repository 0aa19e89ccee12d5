package node_test

import (
	"os"
	"syscall"
	"testing"
)

// BenchmarkFsync is the floor: what the disk gives to one writer of the size of
// one proposal, in the same run.
func BenchmarkFsync(b *testing.B) {
	f, err := os.CreateTemp(benchDir(b), "fsync")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(block, int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}
