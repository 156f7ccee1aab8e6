package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `date: 2026-01-02
command: make bench
go: go1.26.8
etcd: v3.7.3
cores: 2
goos: linux
cpu: Some Processor
BenchmarkValidate/10000/cached/hit-2   	   3	  34.04 bare-µs	   1.074 bare:bare	  62.25 µs	  1.829 ×bare
BenchmarkValidate/10000/cached/miss-2  	   3	  34.04 bare-µs	   0.974 bare:bare	  190.5 µs	  5.611 ×bare
BenchmarkCreate-2                      	   1	  25312 store/s
PASS
`

const document = `before
<!-- bench machine -->
<!-- /bench -->
<!-- bench Validate/(.*)/(.*)/(?:(hit)|(miss))
sessions | mode | asked | × bare = ×bare | etcd = etcd-B
-->
old
<!-- /bench -->
<!-- bench (Create)
| store = store/s
-->
<!-- /bench -->
after
`

const written = `before
<!-- bench machine -->
2026-01-02, ` + "`make bench`" + `: Some Processor, 2 cores, Go 1.26.8, etcd 3.7.3.
<!-- /bench -->
<!-- bench Validate/(.*)/(.*)/(?:(hit)|(miss))
sessions | mode | asked | × bare = ×bare | etcd = etcd-B
-->
| sessions | mode | asked | × bare | etcd |
| --- | --- | --- | --- | --- |
| 10,000 | cached | hit | 1.83 | – |
| 10,000 | cached | miss | 5.61 | – |
<!-- /bench -->
<!-- bench (Create)
| store = store/s
-->
|  | store |
| --- | --- |
| Create | 25,312 |
<!-- /bench -->
after
`

// table runs "doorload table" on results and a document, and returns the exit
// code, what it said, and the document afterwards.
func table(t *testing.T, results, document string) (code int, said, after string) {
	t.Helper()
	dir := t.TempDir()
	from, into := filepath.Join(dir, "results"), filepath.Join(dir, "doc.md")
	for name, text := range map[string]string{from: results, into: document} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var errs strings.Builder
	code = execute(t.Context(), []string{"table", from, into}, strings.NewReader(""), io.Discard, &errs)
	text, err := os.ReadFile(into)
	if err != nil {
		t.Fatal(err)
	}
	return code, errs.String(), string(text)
}

func TestATableIsMadeOfWhatBenchmarksPrinted(t *testing.T) {
	code, said, after := table(t, printed, document)
	if code != 0 || after != written {
		t.Errorf("code %d, %s\n%s", code, said, after)
	}
	if code, _, again := table(t, printed, after); code != 0 || again != written {
		t.Errorf("made anew: code %d\n%s", code, again)
	}
}

func TestABenchmarkThatWasRunAgainTakesItsOwnPlace(t *testing.T) {
	first := strings.Replace(printed, "1.074 bare:bare	  62.25 µs", "1.174 bare:bare	  99.99 µs", 1)
	again := "BenchmarkValidate/10000/cached/hit-2   	   3	  34.04 bare-µs	   1.074 bare:bare	  62.25 µs	  1.829 ×bare\n"
	if code, said, after := table(t, first+again, document); code != 0 || after != written {
		t.Errorf("code %d, %s\n%s", code, said, after)
	}
}

func TestWhatDoesNotCountIsNotWritten(t *testing.T) {
	for name, c := range map[string]struct{ results, document, says string }{
		"a baseline that does not agree with itself": {strings.Replace(printed, "1.074 bare:bare", "1.174 bare:bare", 1), document, "does not count"},
		"a benchmark that failed":                    {printed + "--- FAIL: BenchmarkLogin\n", document, "has failed"},
		"a table without rows":                       {printed, document + "<!-- bench Revoke\n-->\n<!-- /bench -->\n", "no benchmark of that name"},
		"a machine that is not named":                {strings.Replace(printed, "cpu: ", "", 1), document, `no line "cpu: "`},
		"a file without tables":                      {printed, "nothing\n", "it has no"},
	} {
		t.Run(name, func(t *testing.T) {
			code, said, after := table(t, c.results, c.document)
			if code != 1 || !strings.Contains(said, c.says) || after != c.document {
				t.Errorf("code %d, %s\n%s", code, said, after)
			}
		})
	}
}
