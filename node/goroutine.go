package node

import (
	"bytes"
	"runtime"
	"strconv"
)

// goroutineNumber is what goroutineID is where there is no assembly for it: the number
// in the first line of a stack trace, as in "goroutine 18 [running]:". It takes about
// a microsecond.
func goroutineNumber() uintptr {
	var buf [64]byte
	trace := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	number, _, _ := bytes.Cut(trace, []byte(" "))
	n, _ := strconv.ParseUint(string(number), 10, 64)
	return uintptr(n)
}
