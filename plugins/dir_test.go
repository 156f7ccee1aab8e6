package plugins_test

import (
	"testing"

	"github.com/doorward/doorward/plugins"
	"github.com/doorward/doorward/plugins/artifacttest"
)

// newDir returns an empty artifact directory for one test.
func newDir(t testing.TB) *plugins.Dir {
	t.Helper()
	d, err := plugins.NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADirectorySitsTheExam(t *testing.T) {
	artifacttest.Run(t, func(t *testing.T) plugins.Artifacts { return newDir(t) })
}
