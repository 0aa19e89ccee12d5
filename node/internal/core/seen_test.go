package core

import (
	"testing"

	"pgregory.net/rapid"
)

// seen is a map, as long as what comes is not too old.
func TestSeenIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s seen
		model := map[uint64]seenState{}
		starts := []uint64{1, 1 << 50, 1 << 60}
		high := map[uint64]uint64{}
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			start := rapid.SampledFrom(starts).Draw(t, "life")
			at := max(high[start], start)
			back := rapid.Uint64Range(0, min(at-start, seenWindow-1)).Draw(t, "back")
			id := at - back + rapid.SampledFrom([]uint64{0, 1, 2, 70, seenWindow - 1, seenWindow, 3 * seenWindow}).Draw(t, "on")
			high[start] = max(high[start], id)
			if rapid.Bool().Draw(t, "pass") && model[id] != fresh {
				s.pass(id)
				model[id] = passed
			}
			want := model[id]
			if high[start]-id >= seenWindow {
				want = forgotten
			}
			if got := s.take(id); got != want {
				t.Fatalf("request %d is %d, want %d", id, got, want)
			}
			if want == fresh {
				model[id] = taken
			}
		}
	})
}

// What is too old to be known is never fresh.
func TestSeenForgetsNothing(t *testing.T) {
	var s seen
	for id := uint64(1); id <= 3*seenWindow; id++ {
		if was := s.take(id); was != fresh {
			t.Fatalf("request %d is not fresh, but %d", id, was)
		}
	}
	for id := uint64(1); id <= 3*seenWindow; id++ {
		want := taken
		if id <= 2*seenWindow {
			want = forgotten
		}
		if was := s.take(id); was != want {
			t.Fatalf("request %d is %d, want %d", id, was, want)
		}
	}
}
