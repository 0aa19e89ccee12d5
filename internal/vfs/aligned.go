package vfs

import "unsafe"

// blockBytes is what a direct write is made of. No disk asks for more: their
// blocks have 512 or 4096 bytes.
const blockBytes = 4096

// Aligned returns n bytes of zeros that begin on a block of 4096. A WriteAt of
// whole blocks of such memory to an offset that is a whole block too may go to the
// disk as it is, which is the quickest; the same bytes from elsewhere are written
// as well.
func Aligned(n int) []byte { return AlignedIn(make([]byte, n+blockBytes-1))[:n:n] }

// AlignedIn returns what of p begins on a block.
func AlignedIn(p []byte) []byte {
	if len(p) == 0 || isAligned(p) {
		return p
	}
	skip := blockBytes - int(address(p)%blockBytes)
	return p[min(skip, len(p)):]
}

func isAligned(p []byte) bool { return address(p)%blockBytes == 0 }

func address(p []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(p))) }
