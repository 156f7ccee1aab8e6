package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/egress"
	"github.com/doorward/doorward/plugins/sandbox"
	"github.com/doorward/doorward/sdk/abi"
)

// errVectors: some vectors failed; each has been told of.
var errVectors = errors.New("vectors failed")

func verifierTest(output *string) *cobra.Command {
	var record bool
	var only string
	var allow []string
	cmd := &cobra.Command{
		Use: "test [FILE.wasm|DIR]", Short: "Run a verifier's vectors in the sandbox, without a server", Args: atMostOne,
		ValidArgsFunction: completeSubject,
		Long: "Run a verifier on its vectors: those of its manifest, as an upload to a tenant without configuration\n" +
			"does, and those in vectors.json and *.vectors.json beside it. A directory's verifier is built first if its\n" +
			"source is newer. A file of vectors holds configuration, secrets and the time as a tenant would have them:\n\n" +
			`  {"config": {"alice": "$6$…"}, "secrets": {"PEPPER": "…"}, "now_ms": 59000, "vectors": [` + "\n" +
			`    {"name": "right", "request": {"credential": {"username": "alice", "password": "…"}},` + "\n" +
			`     "expect": {"decision": "accept", "subject": "alice"}},` + "\n" +
			`    {"name": "two steps", "steps": [{"request": …, "expect": {"decision": "challenge"}}, {"request": …, "expect": …}]}]}` + "\n\n" +
			"The second step gets the state of the first. http_fetch is answered from the vector's \"http\"; with --record\n" +
			"it reaches the network, and the file is written anew with what came back. Headers of requests are not kept.",
		RunE: func(cmd *cobra.Command, args []string) error {
			matches, err := regexp.Compile(only)
			if err != nil {
				return usage(fmt.Errorf("--run: %w", err))
			}
			var network *egress.Client
			if record {
				if network, err = egress.New(egress.Config{Allow: allow, Timeout: abi.HTTPTimeoutMS * time.Millisecond}); err != nil {
					return usage(err)
				}
			}
			s, e, suites, err := withVectors(cmd, args)
			if err != nil {
				return err
			}
			var all []map[string]any
			err = inSandbox(cmd.Context(), "sandbox", func(pool *sandbox.Pool) error {
				done := during(cmd, "compiling "+s.name)
				r, err := plugins.Rehearse(cmd.Context(), pool, e)
				done()
				if err != nil {
					return withHint(fmt.Errorf("%s: %w", s.name, err))
				}
				r.Record = network
				all, err = playAll(cmd.Context(), r, suites, matches, reporter(cmd, *output, e.Version.Limits))
				return err
			})
			if *output != "table" && (err == nil || errors.Is(err, errVectors)) {
				return errors.Join(show(cmd, *output, all), err)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&record, "record", false, "let http_fetch reach the network, and write what came back into the files of vectors")
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "with --record: a host:port that may be reached by plain http and at a private address")
	cmd.Flags().StringVar(&only, "run", "", "only vectors whose name this regular expression matches")
	return cmd
}

// namedSuite is a file of vectors, or the manifest.
type namedSuite struct {
	file string // "manifest" for that
	plugins.Suite
}

// withVectors is a module or project that was examined, with all its vectors.
func withVectors(cmd *cobra.Command, args []string) (s subject, e plugins.Examination, suites []namedSuite, err error) {
	if s, err = subjectOf(cmd, args); err != nil {
		return s, e, nil, err
	}
	if e, err = s.examine(); err != nil {
		return s, e, nil, err
	}
	suites, err = suitesOf(s, e)
	return s, e, suites, err
}

// suitesOf are the vectors of a verifier. It is an error when there are none.
func suitesOf(s subject, e plugins.Examination) ([]namedSuite, error) {
	manifest := namedSuite{file: "manifest"}
	for _, v := range e.Vectors {
		scene, err := plugins.SceneOf(v)
		if err != nil {
			return nil, err
		}
		manifest.Vectors = append(manifest.Vectors, scene)
	}
	suites := []namedSuite{manifest}
	files, err := s.vectorFiles()
	if err != nil {
		return nil, err
	}
	total := len(manifest.Vectors)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		suite, err := plugins.ReadSuite(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		total += len(suite.Vectors)
		suites = append(suites, namedSuite{file, suite})
	}
	if total == 0 {
		return nil, fmt.Errorf("there are no vectors for %s: write some into %s; see: doorward verifier test --help", s.name, filepath.Join(s.dir, vectorsFile))
	}
	return suites, nil
}

// playAll runs all vectors whose names match, and has each told of.
func playAll(ctx context.Context, r *plugins.Rehearsal, suites []namedSuite, matches *regexp.Regexp, tell func(file string, p plugins.Played)) (all []map[string]any, err error) {
	failed := 0
	for _, suite := range suites {
		recorded := false
		for i, scene := range suite.Vectors {
			if !matches.MatchString(scene.Name) {
				continue
			}
			played, err := r.Play(ctx, suite.Suite, scene)
			if err != nil {
				return nil, err
			}
			if played.Why != "" {
				failed++
			}
			if suite.file != "manifest" && len(played.HTTP) > 0 {
				suite.Vectors[i].HTTP, recorded = played.HTTP, true
			}
			tell(suite.file, played)
			all = append(all, map[string]any{"file": suite.file, "result": played})
		}
		if !recorded {
			continue
		}
		text, err := suite.Format()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(suite.file, text, 0o644); err != nil {
			return nil, err
		}
	}
	if failed > 0 {
		return all, fmt.Errorf("%w: %d of %d", errVectors, failed, len(all))
	}
	if len(all) == 0 {
		return nil, errors.New("no vector has such a name")
	}
	return all, nil
}

// reporter tells people of each vector as it has run.
func reporter(cmd *cobra.Command, output string, limits abi.Limits) func(string, plugins.Played) {
	out := cmd.OutOrStdout()
	if output != "table" {
		out = io.Discard
	}
	told := map[string]bool{}
	return func(file string, p plugins.Played) {
		file = filepath.Base(file)
		if p.Why == "" {
			last := p.Steps[len(p.Steps)-1]
			ends := cmp.Or(string(last.Decision), "fails, as it should")
			fmt.Fprintf(out, "ok    %s: %s: %s (%.1f ms, fuel %s)\n", file, p.Name, ends, last.DurationMS, share(last.Fuel, limits))
			return
		}
		fmt.Fprintf(out, "FAIL  %s: %s: %s\n", file, p.Name, p.Why)
		last := p.Steps[len(p.Steps)-1]
		if told[last.Error] { // a script that is wrong as a whole fails every vector alike
			fmt.Fprintln(out, "      as above")
			return
		}
		told[last.Error] = last.Error != ""
		tellTrace(out, last.Trace, last.Stack, p.Hint, limits)
	}
}

// lastCalls is how many calls a failure shows, from the end.
const lastCalls = 5

// tellTrace shows what a run did that failed, or was tried, in lines that each have
// a name, and one hint.
func tellTrace(out io.Writer, t plugins.Trace, stack []string, hint string, limits abi.Limits) {
	line := func(name, text string) { fmt.Fprintf(out, "      %-7s %s\n", name, text) }
	if len(stack) > 0 {
		line("stack", strings.Join(stack, " < "))
	}
	line("fuel", share(t.Fuel, limits))
	line("memory", fmt.Sprintf("%.1f of %d MiB", float64(t.MemoryKiB)/1024, limits.MemoryMiB))
	var calls []string
	for _, c := range t.HostCalls[max(0, len(t.HostCalls)-lastCalls):] {
		calls = append(calls, fmt.Sprintf("%s: %s (%d)", c.Name, c.Outcome, c.Result))
	}
	line("calls", orNone(strings.Join(calls, ", ")))
	for _, l := range t.Logs {
		line("log", l.Level+": "+l.Text)
	}
	if hint != "" {
		line("hint", hint)
	}
}

// share is fuel used, of what the limit gives.
func share(fuel int64, limits abi.Limits) string {
	most := plugins.FuelLimit(limits)
	return fmt.Sprintf("%d of %d, %.1f %%", fuel, most, 100*float64(fuel)/float64(most))
}
