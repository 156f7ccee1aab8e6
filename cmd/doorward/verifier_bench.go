package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/sandbox"
)

var benchColumns = []string{"vector", "step", "instance", "p50_ms", "p99_ms", "own_p50_ms", "fuel", "memory_kib"}

func verifierBench(output *string) *cobra.Command {
	var count int
	var only string
	cmd := &cobra.Command{
		Use: "bench [FILE.wasm|DIR]", Short: "Measure what a login costs on this machine", Args: atMostOne,
		ValidArgsFunction: completeSubject,
		Long: "Run each vector many times, one after the other, in instances that are set back after each login, as\n" +
			"logins do where the module allows it, and in instances made anew. p50 and p99 are of a whole step as the\n" +
			"server waits for it; own is without the host's functions (a password's hash is their work). fuel and memory\n" +
			"are the most of any run.",
		RunE: func(cmd *cobra.Command, args []string) error {
			matches, err := regexp.Compile(only)
			if err != nil {
				return usage(fmt.Errorf("--run: %w", err))
			}
			if count < 1 {
				return usage(errors.New("--count is at least 1"))
			}
			s, e, suites, err := withVectors(cmd, args)
			if err != nil {
				return err
			}
			var rows []map[string]any
			done := during(cmd, "measuring "+s.name)
			defer done()
			for _, way := range []struct{ name, part string }{{"set back", "sandbox"}, {"fresh", freshSandbox}} {
				name := way.name
				if e.Fresh && name == "set back" {
					continue
				}
				err := inSandbox(cmd.Context(), way.part, func(pool *sandbox.Pool) error {
					r, err := plugins.Rehearse(cmd.Context(), pool, e)
					if err != nil {
						return withHint(fmt.Errorf("%s: %w", s.name, err))
					}
					some, err := measure(cmd.Context(), r, suites, matches, name, count)
					rows = append(rows, some...)
					return err
				})
				if err != nil {
					return err
				}
			}
			return show(cmd, *output, rows, benchColumns...)
		},
	}
	cmd.Flags().IntVarP(&count, "count", "n", 200, "how often each vector is run")
	cmd.Flags().StringVar(&only, "run", "", "only vectors whose name this regular expression matches")
	return cmd
}

// measure runs each vector count times, after one that is not counted, and makes a
// row of each of its steps.
func measure(ctx context.Context, r *plugins.Rehearsal, suites []namedSuite, matches *regexp.Regexp, instance string, count int) ([]map[string]any, error) {
	var rows []map[string]any
	for _, suite := range suites {
		for _, scene := range suite.Vectors {
			if !matches.MatchString(scene.Name) {
				continue
			}
			first, err := r.Play(ctx, suite.Suite, scene)
			if err != nil {
				return nil, err
			}
			if first.Why != "" {
				return nil, fmt.Errorf("vector %q fails: %s; see: doorward verifier test", first.Name, first.Why)
			}
			runs := make([][]plugins.PlayedStep, len(first.Steps))
			for range count {
				played, err := r.Play(ctx, suite.Suite, scene)
				if err != nil {
					return nil, err
				}
				for i, step := range played.Steps {
					runs[i] = append(runs[i], step)
				}
			}
			for i, steps := range runs {
				rows = append(rows, row(first.Name, i+1, instance, steps))
			}
		}
	}
	if len(rows) == 0 {
		return nil, errors.New("no vector has such a name")
	}
	return rows, nil
}

func row(vector string, step int, instance string, runs []plugins.PlayedStep) map[string]any {
	var whole, own []float64
	var fuel int64
	var memory int
	for _, r := range runs {
		host := 0.0
		for _, c := range r.HostCalls {
			host += c.DurationMS
		}
		whole, own = append(whole, r.DurationMS), append(own, r.DurationMS-host)
		fuel, memory = max(fuel, r.Fuel), max(memory, r.MemoryKiB)
	}
	slices.Sort(whole)
	slices.Sort(own)
	milliseconds := func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
	return map[string]any{
		"vector": vector, "step": float64(step), "instance": instance, "runs": len(runs),
		"p50_ms": milliseconds(nearestRank(whole, 50)), "p99_ms": milliseconds(nearestRank(whole, 99)), "own_p50_ms": milliseconds(nearestRank(own, 50)),
		"fuel": float64(fuel), "memory_kib": float64(memory),
	}
}

// nearestRank is a percentile of a sorted list.
func nearestRank(sorted []float64, p int) float64 {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
