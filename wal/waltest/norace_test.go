//go:build !race

package waltest

const raceEnabled = false
