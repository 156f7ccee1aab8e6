//go:build race

package main

// raceEnabled: the race detector multiplies memory, so bounds on it do not hold.
const raceEnabled = true
