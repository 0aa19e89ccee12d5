package core

import (
	"testing"

	"pgregory.net/rapid"
)

// seen is a set, as long as what comes is not too old.
func TestSeenIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s seen
		taken := map[uint64]bool{}
		starts := []uint64{1, 1 << 50, 1 << 60}
		high := map[uint64]uint64{}
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			start := rapid.SampledFrom(starts).Draw(t, "life")
			at := max(high[start], start)
			back := rapid.Uint64Range(0, min(at-start, seenWindow-1)).Draw(t, "back")
			id := at - back + rapid.SampledFrom([]uint64{0, 1, 2, 70, seenWindow - 1, seenWindow, 3 * seenWindow}).Draw(t, "on")
			if new := s.take(id); new == taken[id] && max(high[start], id)-id < seenWindow {
				t.Fatalf("request %d is new: %v; taken before: %v", id, new, taken[id])
			}
			taken[id] = true
			high[start] = max(high[start], id)
		}
	})
}

// What is too old to be known was taken.
func TestSeenForgetsNothing(t *testing.T) {
	var s seen
	for id := uint64(1); id <= 3*seenWindow; id++ {
		if !s.take(id) {
			t.Fatalf("request %d is not new", id)
		}
	}
	for id := uint64(1); id <= 3*seenWindow; id++ {
		if s.take(id) {
			t.Fatalf("request %d is new again", id)
		}
	}
}
