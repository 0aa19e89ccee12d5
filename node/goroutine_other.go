//go:build !amd64 && !arm64

package node

// goroutineID tells the calling goroutine from all others that live.
func goroutineID() uintptr { return goroutineNumber() }
