//go:build !race

package sessions_test

// modelSeeds is how many random lives the model is compared over; -rapid.checks
// says otherwise, and -rapid.seed repeats the one that a failure names.
const modelSeeds = 2000
