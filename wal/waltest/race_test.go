//go:build race

package waltest

const raceEnabled = true
