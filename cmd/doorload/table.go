package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func tableCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "table RESULTS FILE...",
		Short: "Write what go test -bench has printed into the tables of Markdown files",
		Long: "RESULTS is the output of go test -bench, with lines \"name: value\" about the machine.\n" +
			"A table in FILE stands between comments, and the first says what is in it:\n\n" +
			"  <!-- bench Validate/(.*)/(.*)/hit\n" +
			"  sessions | mode | µs = µs | × bare = ×bare\n" +
			"  -->\n" +
			"  <!-- /bench -->\n\n" +
			"A row is each benchmark whose whole name matches; a column is a group of the match,\n" +
			"or \"heading = unit\" a figure. \"bench machine\" is the sentence about the machine.\n\n" +
			"Nothing is written when a benchmark has failed, when a table finds no row, or when\n" +
			"the bare handler against itself (unit bare:bare) does not read 0.9 to 1.1: then the\n" +
			"run does not count.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("table takes the results and one or more Markdown files")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read results: %w", err)
			}
			defer file.Close()
			r, err := readResults(file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return r.into(args[1:])
		},
	}
}

// results is what benchmarks have printed.
type results struct {
	about map[string]string // of the machine
	rows  []benchmark
}

type benchmark struct {
	name   string            // without "Benchmark" and the number of processors
	figure map[string]string // by unit
}

// readResults takes what counts. An error names what does not.
func readResults(in io.Reader) (*results, error) {
	r := &results{about: map[string]string{}}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL"):
			return nil, fmt.Errorf("a benchmark has failed: %s", line)
		case strings.HasPrefix(line, "Benchmark") && len(fields) > 3:
			one := readBenchmark(fields)
			r.keep(one)
		default:
			if name, value, found := strings.Cut(line, ": "); found {
				r.about[name] = strings.TrimSpace(value)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for _, one := range r.rows {
		text, compared := one.figure["bare:bare"]
		if itself, err := strconv.ParseFloat(text, 64); compared && (err != nil || itself < 0.9 || itself > 1.1) {
			return nil, fmt.Errorf("%s does not count: the bare handler against itself was %s; run it again when the machine is quieter, and append what it prints", one.name, text)
		}
	}
	return r, nil
}

// keep takes a row in the place of an earlier one of the same benchmark: each has
// its baseline in itself, so one that did not count can be run again alone.
func (r *results) keep(one benchmark) {
	if i := slices.IndexFunc(r.rows, func(old benchmark) bool { return old.name == one.name }); i >= 0 {
		r.rows[i] = one
		return
	}
	r.rows = append(r.rows, one)
}

// readBenchmark reads "BenchmarkName-2  N  value unit  value unit …".
func readBenchmark(fields []string) benchmark {
	name := strings.TrimPrefix(fields[0], "Benchmark")
	if cut := strings.LastIndexByte(name, '-'); cut > 0 {
		name = name[:cut]
	}
	one := benchmark{name, map[string]string{}}
	for i := 2; i+1 < len(fields); i += 2 {
		one.figure[fields[i+1]] = fields[i]
	}
	return one
}

// tableMarks finds a table: what is in it, and what is there now.
var tableMarks = regexp.MustCompile(`(?s)<!-- bench (\S+)\n?(.*?)-->\n(.*?)<!-- /bench -->`)

// into puts the tables into all files, or into none.
func (r *results) into(files []string) error {
	texts := make([]string, len(files))
	for i, file := range files {
		old, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read table: %w", err)
		}
		if texts[i], err = r.fill(string(old)); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for i, file := range files {
		if err := os.WriteFile(file, []byte(texts[i]), 0o644); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

// fill returns text with its tables made anew.
func (r *results) fill(text string) (string, error) {
	if !tableMarks.MatchString(text) {
		return "", errors.New(`it has no "<!-- bench … -->" and "<!-- /bench -->"`)
	}
	var failed error
	text = tableMarks.ReplaceAllStringFunc(text, func(found string) string {
		parts := tableMarks.FindStringSubmatch(found)
		body, err := r.table(parts[1], strings.TrimSpace(parts[2]))
		failed = errors.Join(failed, err)
		return found[:strings.Index(found, "-->\n")+len("-->\n")] + body + "<!-- /bench -->"
	})
	return text, failed
}

// table is one table, or the sentence about the machine.
func (r *results) table(of, columns string) (string, error) {
	if of == "machine" {
		return r.machine()
	}
	names, err := regexp.Compile("^(?:" + of + ")$")
	if err != nil {
		return "", fmt.Errorf("table %s: %w", of, err)
	}
	var out strings.Builder
	heads := strings.Split(columns, "|")
	line := func(cell func(i int, head, unit string, figure bool) string) {
		for i, column := range heads {
			head, unit, figure := strings.Cut(column, "=")
			fmt.Fprintf(&out, "| %s ", cell(i, strings.TrimSpace(head), strings.TrimSpace(unit), figure))
		}
		out.WriteString("|\n")
	}
	line(func(_ int, head, _ string, _ bool) string { return head })
	line(func(int, string, string, bool) string { return "---" })
	rows := 0
	for _, one := range r.rows {
		match := names.FindStringSubmatch(one.name)
		if match == nil {
			continue
		}
		rows++
		match = slices.DeleteFunc(match[1:], func(group string) bool { return group == "" }) // of the other alternatives
		line(func(i int, _, unit string, figure bool) string {
			switch {
			case figure && one.figure[unit] != "":
				return readable(one.figure[unit])
			case figure:
				return "–"
			case i < len(match):
				return readable(match[i])
			}
			return one.name
		})
	}
	if rows == 0 {
		return "", fmt.Errorf("table %s: no benchmark of that name was run", of)
	}
	return out.String(), nil
}

// machine says where the figures are from.
func (r *results) machine() (string, error) {
	for _, name := range []string{"date", "command", "cpu", "cores", "go", "etcd"} {
		if r.about[name] == "" {
			return "", fmt.Errorf("the results have no line %q", name+": ")
		}
	}
	return fmt.Sprintf("%s, `%s`: %s, %s cores, Go %s, etcd %s.\n", r.about["date"], r.about["command"],
		r.about["cpu"], r.about["cores"], strings.TrimPrefix(r.about["go"], "go"), strings.TrimPrefix(r.about["etcd"], "v")), nil
}

// readable groups the digits of a number, three significant ones of a small one;
// what is no number stays.
func readable(text string) string {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	if n > -1000 && n < 1000 {
		return strconv.FormatFloat(n, 'g', 3, 64)
	}
	digits := strconv.FormatFloat(n, 'f', 0, 64)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
