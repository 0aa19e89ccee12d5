package main

import (
	"slices"
	"testing"
	"time"
)

// A leader whose disk gets full hands over at once, and again after cooldowns that double up to
// their bound, also where the disk has room for moments. It begins anew when it had room.
func TestFullLeaderBacksOff(t *testing.T) {
	var p handOverBackoff
	var at []time.Duration
	for now := time.Duration(0); now < 5*time.Minute; now += spacePoll {
		full := now >= time.Second && now%(10*spacePoll) != 0
		if p.next(full, full) {
			at = append(at, now.Round(time.Second))
		}
	}
	if want := []time.Duration{1, 3, 7, 15, 31, 63, 123, 183, 243}; !slices.EqualFunc(at, want, func(a, b time.Duration) bool { return a == b*time.Second }) {
		t.Errorf("it hands over after %v; want %v seconds", at, want)
	}
	if p.next(true, false) {
		t.Error("it hands over where nobody has more room")
	}
	for range handOverBackoffMax / spacePoll {
		p.next(false, false)
	}
	if !p.next(true, true) || p.cooldown != handOverBackoffMin {
		t.Errorf("full again after it had room for long: the next cooldown is %v, want %v", p.cooldown, handOverBackoffMin)
	}
}
