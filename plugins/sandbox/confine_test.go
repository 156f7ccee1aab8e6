package sandbox_test

import (
	"slices"
	"testing"

	"github.com/doorward/doorward/plugins/sandbox"
)

// What is refused is what a real worker tried and was refused.
func TestAWorkerIsRefusedWhatItMustNotDo(t *testing.T) {
	p := newPool(t, sandbox.Config{Workers: 1})
	refused, open, err := p.Confinement(t.Context())
	want := []string{"write", "socket", "exec", "signal", "ptrace", "fork"}
	if err != nil || !slices.Equal(refused, want) || len(open) > 0 {
		t.Fatalf("refused %v, open %v, %v; want all of %v refused", refused, open, err, want)
	}
}
