//go:build race

package sessions_test

// modelSeeds is how many random lives the model is compared over; -rapid.checks
// says otherwise. They run in fake time, one goroutine after another, so
// the race detector has little to find in them; it has failed a check of its own
// over two thousand (tsan_rtl.cpp:346). "make test" runs them without it too.
const modelSeeds = 200
