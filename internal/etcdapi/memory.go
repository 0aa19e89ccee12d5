package etcdapi

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

// memoryUnknownBytes is assumed where the system does not say what there is.
const memoryUnknownBytes = 1 << 30

// memoryBytes is the memory that this process may have: the least of what GOMEMLIMIT,
// the container and the machine allow.
func memoryBytes() int64 {
	all := int64(math.MaxInt64)
	if limit := debug.SetMemoryLimit(-1); limit > 0 {
		all = min(all, limit)
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			if limit, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil && limit > 0 {
				all = min(all, limit)
			}
		}
	}
	if total := machineBytes(); total > 0 {
		all = min(all, total)
	}
	if all == math.MaxInt64 {
		return memoryUnknownBytes
	}
	return all
}

// machineBytes is the memory of the machine; 0 where the system does not say it.
func machineBytes() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b) // MemTotal: N kB
	if len(fields) < 2 || string(fields[0]) != "MemTotal:" {
		return 0
	}
	kilobytes, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return kilobytes << 10
}
