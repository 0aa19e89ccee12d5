package vfs

import "testing"

func TestAligned(t *testing.T) {
	for _, n := range []int{0, 1, blockBytes - 1, blockBytes, 5*blockBytes + 3, 1 << 20} {
		if p := Aligned(n); len(p) != n || cap(p) != n || n > 0 && !isAligned(p) {
			t.Errorf("Aligned(%d) returned %d bytes with room for %d at %#x", n, len(p), cap(p), address(p))
		}
	}
	p := Aligned(3 * blockBytes)
	for _, c := range []struct{ from, to, want int }{
		{0, 3 * blockBytes, 3 * blockBytes},
		{1, 3 * blockBytes, 2 * blockBytes},
		{blockBytes - 1, 2 * blockBytes, blockBytes},
		{1, blockBytes, 0},
		{1, 100, 0},
		{7, 7, 0},
	} {
		if got := AlignedIn(p[c.from:c.to]); len(got) != c.want || len(got) > 0 && !isAligned(got) {
			t.Errorf("AlignedIn of bytes %d to %d returned %d bytes, want %d", c.from, c.to, len(got), c.want)
		}
	}
}
